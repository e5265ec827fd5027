//! `hearth invoke`: the function's answer on standard output, what it took on standard error.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::args::Invoke;
use crate::client::function::Configuration;
use crate::client::invocation::{Invocation, Limits, Report};
use crate::client::{Client, ClientError, RESERVED};
use crate::event;
use crate::failure::Failure;
use crate::function_name::FunctionRef;
use crate::output::{Output, Stream, Tone};

/// The answer for programs.
#[derive(Serialize)]
struct Answer<'a> {
    function_error: Option<&'a str>,
    /// The result, if it is JSON.
    result: Option<&'a RawValue>,
    /// The result in base64, if it isn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
    #[serde(flatten)]
    report: &'a Report,
    log: &'a str,
}

/// Runs the command.
pub(crate) fn run(client: &Client, invoke: &Invoke, output: Output) -> Result<(), Failure> {
    let event = event::read(&invoke.data)?;
    let limits = Limits {
        timeout_ms: invoke.timeout_ms,
        memory_mib: invoke.memory_mib,
        cpu_ms: invoke.cpu_ms,
    };
    let invocation = client
        .invoke(&invoke.function, &event, limits)
        .map_err(|refused| explained(client, &invoke.function, refused))?;
    if output.json {
        show_json(&invocation, output)?;
    } else {
        output.raw(&invocation.payload)?;
        if !invoke.quiet {
            show_report(&invocation, output);
        }
    }
    match invocation.function_error {
        Some(_) => Err(Failure::Function),
        None => Ok(()),
    }
}

/// The same refusal, with what the controller knows of the function besides.
fn explained(client: &Client, function: &FunctionRef, refused: ClientError) -> ClientError {
    let ClientError::Refused {
        status,
        kind,
        reason,
        mut message,
        request_id,
    } = refused
    else {
        return refused;
    };
    let name = &function.name;
    let qualifier = function.qualifier.as_deref().unwrap_or("$LATEST");
    // If the controller can't answer these questions, the refusal stays as it is.
    match status {
        409 => {
            if let Some(state) = client.version(name, qualifier).ok().and_then(|f| state(&f)) {
                message = format!("{message}: {state}");
            }
        }
        404 if function.qualifier.is_none() => {
            message.push_str("; `hearth ls` lists the functions")
        }
        429 => {
            message = match client.reserved_concurrency(name) {
                Ok(Some(most)) if reason.as_deref() == Some(RESERVED) => {
                    format!("{name} is throttled: its reserved concurrency is {most}")
                }
                _ => format!("{name} is throttled: {message}"),
            };
        }
        _ => {}
    }
    ClientError::Refused {
        status,
        kind,
        reason,
        message,
        request_id,
    }
}

/// Why a function can't be invoked.
fn state(function: &Configuration) -> Option<String> {
    if function.is_under_way() {
        return Some(format!("it is still being deployed: {}", function.phase()?));
    }
    function.failure().map(str::to_owned)
}

fn show_json(invocation: &Invocation, output: Output) -> Result<(), Failure> {
    let result: Option<&RawValue> = serde_json::from_slice(&invocation.payload).ok();
    output.value_line(&Answer {
        function_error: invocation.function_error.as_deref(),
        result_base64: result
            .is_none()
            .then(|| STANDARD.encode(&invocation.payload)),
        result,
        report: &invocation.report,
        log: &invocation.log,
    })?;
    Ok(())
}

fn show_report(invocation: &Invocation, output: Output) {
    let paint = |tone, text: &str| output.paint(Stream::Stderr, tone, text);
    if let Some(error) = &invocation.function_error {
        let error = output.foreign(Stream::Stderr, error);
        output.note(&paint(Tone::Bad, &format!("the function failed ({error})")));
    }
    for line in report_lines(&invocation.report) {
        let line = output.foreign(Stream::Stderr, &line);
        output.note(&paint(Tone::Quiet, &line));
    }
    for line in invocation.log.lines() {
        output.note(&output.foreign(Stream::Stderr, &format!("  | {line}")));
    }
}

/// The report of the invocation, in at most two lines.
fn report_lines(report: &Report) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some(id) = &report.request_id {
        facts.push(format!("request {id}"));
    }
    if let Some(start) = &report.start {
        facts.push(format!("{start} start"));
    }
    if let Some(ms) = report.duration_ms {
        facts.push(format!("duration {ms:.1} ms"));
    }
    if let Some(ms) = report.cpu_ms {
        facts.push(format!("CPU {ms:.1} ms"));
    }
    if let Some(mib) = report.max_memory_mib {
        facts.push(format!("memory {mib} MiB"));
    }
    let mut lines = Vec::new();
    if !facts.is_empty() {
        lines.push(facts.join(", "));
    }
    if let Some(phases) = report.phases {
        let ms = |us: u64| format!("{}.{} ms", us / 1000, us % 1000 / 100);
        lines.push(format!(
            "in the controller {}: queue {}, restore {}, run {} (the duration, and handing over)",
            ms(phases.total_us),
            ms(phases.queue_us),
            ms(phases.restore_us),
            ms(phases.run_us),
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::invocation::Phases;

    #[test]
    fn all_that_is_known_is_told_in_two_lines() {
        let report = Report {
            request_id: Some("r".into()),
            executed_version: None,
            start: Some("cold".into()),
            duration_ms: Some(12.34),
            cpu_ms: Some(3.0),
            max_memory_mib: Some(14),
            phases: Some(Phases {
                queue_us: 100,
                restore_us: 52_260,
                run_us: 12_340,
                total_us: 64_700,
            }),
        };
        assert_eq!(
            report_lines(&report),
            [
                "request r, cold start, duration 12.3 ms, CPU 3.0 ms, memory 14 MiB",
                "in the controller 64.7 ms: queue 0.1 ms, restore 52.2 ms, run 12.3 ms (the duration, \
                 and handing over)",
            ]
        );
    }

    /// The refusal named the state only, although the controller knows the reason.
    #[test]
    fn a_refusal_is_told_with_the_reason_that_the_controller_has() {
        let answers = [
            (
                "configuration",
                r#"{"FunctionName":"f","MemorySize":128,"Timeout":3,"State":"Failed",
                    "StateReason":"Runtime.HandlerNotFound: no handler"}"#,
            ),
            ("concurrency", r#"{"ReservedConcurrentExecutions":0}"#),
        ];
        let client = crate::client::testing::client_of(&answers);
        let told = |status, reason: Option<&str>| {
            let refused = ClientError::Refused {
                status,
                kind: "K".into(),
                reason: reason.map(str::to_owned),
                message: "M".into(),
                request_id: "r".into(),
            };
            explained(&client, &"f".parse().unwrap(), refused).to_string()
        };
        assert!(told(409, None).contains("M: Runtime.HandlerNotFound: no handler"));
        let throttled = told(429, Some(RESERVED));
        assert!(
            throttled.contains("f is throttled: its reserved concurrency is 0"),
            "{throttled}"
        );
        assert!(told(429, Some("Other")).contains("f is throttled: M (Other, "));
        assert!(told(500, None).starts_with("K: M (HTTP 500"));
    }

    #[test]
    fn nothing_known_is_nothing_told() {
        assert!(report_lines(&Report::default()).is_empty());
    }

    #[test]
    fn a_result_keeps_its_digits_and_order() {
        let payload = br#"{"z":1.10,"a":12345678901234567890123}"#;
        let raw: &RawValue = serde_json::from_slice(payload).unwrap();
        let answer = Answer {
            function_error: None,
            result: Some(raw),
            result_base64: None,
            report: &Report::default(),
            log: "",
        };
        let text = serde_json::to_string(&answer).unwrap();
        assert!(
            text.contains(std::str::from_utf8(payload).unwrap()),
            "{text}"
        );
    }
}
