//! `hearth ls`: functions, or with `--instances` the microVMs behind them.

use crate::args::Ls;
use crate::client::function::Configuration;
use crate::client::observe::Instance;
use crate::client::{Client, ClientError};
use crate::failure::Failure;
use crate::output::{Output, Stream, Tone, size, span_of_seconds};

/// Runs the command.
pub(crate) fn run(client: &Client, ls: &Ls, output: Output) -> Result<(), Failure> {
    let (found, headings, none) = if ls.instances {
        (client.instances()?, INSTANCE_HEADINGS, "no microVMs")
    } else {
        (
            client.functions()?,
            FUNCTION_HEADINGS,
            "no functions; `hearth deploy DIR` makes one",
        )
    };
    if output.json {
        output.value(&found)?;
        return Ok(());
    }
    if found.is_empty() {
        output.note(none);
        return Ok(());
    }
    let mut rows = Vec::new();
    let mut remarks = Vec::new();
    for item in found {
        rows.push(if ls.instances {
            instance_row(&understood(client, item)?)
        } else {
            let function = understood(client, item)?;
            remarks.extend(remark(&function));
            function_row(&function)
        });
    }
    let text = output.table(headings, &rows);
    let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
    output.line(&output.paint(Stream::Stdout, Tone::Strong, head))?;
    output.line(body)?;
    for remark in remarks {
        output.note(&output.foreign(Stream::Stderr, &remark));
    }
    Ok(())
}

/// Why a function does not serve what was deployed last, or what its deploy does.
fn remark(function: &Configuration) -> Option<String> {
    let name = &function.function_name;
    if function.is_under_way() {
        return Some(format!("{name}: {}", function.phase()?));
    }
    let why = function.failure()?;
    Some(if function.state == "Failed" {
        format!("{name} failed: {why}")
    } else if function.hearth.init_failed.is_some() {
        format!("{name}: its init failed, and each invocation tries it again: {why}")
    } else {
        format!("{name}: the last update failed and what was deployed before it serves: {why}")
    })
}

fn understood<T: serde::de::DeserializeOwned>(
    client: &Client,
    item: serde_json::Value,
) -> Result<T, ClientError> {
    serde_json::from_value(item).map_err(|error| ClientError::Answer {
        endpoint: client.endpoint().to_owned(),
        path: "the listing".to_owned(),
        expected: "a list of functions or instances",
        message: error.to_string(),
    })
}

const FUNCTION_HEADINGS: &[&str] = &[
    "FUNCTION",
    "STATE",
    "RUNTIME",
    "HANDLER",
    "MEMORY",
    "TIMEOUT",
    "PACKAGE",
    "MODIFIED (UTC)",
];

fn function_row(function: &Configuration) -> Vec<String> {
    let state = match function.last_update_status.as_deref() {
        Some("InProgress") => "Updating".to_owned(),
        Some("Failed") if function.state != "Failed" => {
            format!("{} (last update failed)", function.state)
        }
        _ if function.hearth.init_failed.is_some() => format!("{} (init failed)", function.state),
        _ => function.state.clone(),
    };
    let state = match function.hearth.libraries() {
        Some(libraries) => format!("{state} (starts from: init, {libraries})"),
        None => state,
    };
    let mut package = size(function.code_size);
    if function.is_failed() {
        package.push_str(" (not serving)");
    }
    vec![
        function.function_name.clone(),
        state,
        function.runtime.clone(),
        function.handler.clone(),
        format!("{} MiB", function.memory_size),
        format!("{} s", function.timeout),
        package,
        // `2026-11-22T08:00:00.000+0000`: to the second is enough.
        function
            .last_modified
            .get(..19)
            .unwrap_or(&function.last_modified)
            .replace('T', " "),
    ]
}

const INSTANCE_HEADINGS: &[&str] = &[
    "ID",
    "FUNCTION",
    "STATE",
    "AGE",
    "IDLE",
    "MEMORY",
    "HELD",
    "PROCESS",
    "INVOCATIONS",
];

fn instance_row(instance: &Instance) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        instance.id.to_string(),
        format!("{}:{}", instance.function, instance.version),
        instance.state.clone(),
        span_of_seconds(instance.age_seconds),
        or_dash(instance.idle_seconds.map(span_of_seconds)),
        format!("{} MiB", instance.memory_mib),
        or_dash(instance.pss_kib.map(|kib| size(kib.saturating_mul(1024)))),
        or_dash(instance.pid.map(|pid| pid.to_string())),
        instance.invocations.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_fits_its_headings() {
        let text = r#"{"FunctionName":"f","Runtime":"provided","Handler":"bootstrap",
            "MemorySize":128,"Timeout":3,"CodeSize":2048,"State":"Active",
            "LastUpdateStatus":"InProgress","LastModified":"2026-11-22T08:00:00.000+0000"}"#;
        let row = function_row(&serde_json::from_str(text).unwrap());
        assert_eq!(row.len(), FUNCTION_HEADINGS.len());
        assert_eq!(row[1], "Updating");
        assert_eq!(row[6..], ["2.0 KiB", "2026-11-22 08:00:00"]);
    }

    /// The size of the new package was shown although the old code answered, and no reason.
    #[test]
    fn a_failed_function_is_marked_and_its_reason_told() {
        let text = |more: &str| {
            format!(r#"{{"FunctionName":"f","MemorySize":128,"Timeout":3,"CodeSize":148{more}}}"#)
        };
        let update = r#","State":"Active","LastUpdateStatus":"Failed","LastUpdateStatusReason":"no module x""#;
        let function: Configuration = serde_json::from_str(&text(update)).unwrap();
        let row = function_row(&function);
        assert_eq!(
            (&*row[1], &*row[6]),
            ("Active (last update failed)", "148 B (not serving)")
        );
        assert!(remark(&function).unwrap().ends_with("serves: no module x"));
        let create = r#","State":"Failed","StateReason":"why""#;
        let function: Configuration = serde_json::from_str(&text(create)).unwrap();
        assert_eq!(remark(&function).as_deref(), Some("f failed: why"));
        let pending = r#","State":"Pending","StateReason":"The function is being created. Now: init of the function: 4 s""#;
        let function: Configuration = serde_json::from_str(&text(pending)).unwrap();
        assert_eq!(
            remark(&function).as_deref(),
            Some("f: init of the function: 4 s")
        );
        let init = r#","State":"Active","Hearth":{"InitFailed":{"Reason":"no module x","ReasonCode":"c"}}"#;
        let function: Configuration = serde_json::from_str(&text(init)).unwrap();
        let row = function_row(&function);
        assert_eq!(
            (&*row[1], &*row[6]),
            ("Active (init failed)", "148 B (not serving)")
        );
        assert!(remark(&function).unwrap().ends_with("again: no module x"));
        let fine: Configuration = serde_json::from_str(&text(r#","State":"Active""#)).unwrap();
        assert_eq!(remark(&fine), None);
    }

    #[test]
    fn a_function_that_does_not_start_from_a_snapshot_names_the_library() {
        let text = r#"{"FunctionName":"f","MemorySize":128,"Timeout":3,"State":"Active",
            "Hearth":{"InitInEachInstance":[{"Library":"GnuTLS","File":"/opt/lib/x"}]}}"#;
        let row = function_row(&serde_json::from_str(text).unwrap());
        assert_eq!(row[1], "Active (starts from: init, GnuTLS)");
    }

    #[test]
    fn an_instance_without_a_process_shows_dashes() {
        let text = r#"{"id":12,"function":"f","version":"$LATEST","revision_id":"r",
            "state":"starting","age_seconds":12.5,"idle_seconds":null,"memory_mib":128,
            "pid":null,"pss_kib":null,"invocations":0}"#;
        let row = instance_row(&serde_json::from_str(text).unwrap());
        assert_eq!(row.len(), INSTANCE_HEADINGS.len());
        assert_eq!(row[1], "f:$LATEST");
        assert_eq!(row[3..8], ["12.5 s", "-", "128 MiB", "-", "-"]);
    }
}
