//! What a function wrote while its deploy failed.

use crate::client::Client;
use crate::client::log::{LogQuery, LogRecord};
use crate::deployment::DeploymentError;
use crate::function_name::FunctionRef;
use crate::output::{Output, Stream};

/// How many lines of a function's log are shown when its init failed.
const LOG_LINES: usize = 20;

/// What the function wrote while its deploy failed, as far as there is anything.
pub(crate) fn show(client: &Client, error: &DeploymentError, output: Output) {
    let DeploymentError::Failed {
        name, log_before, ..
    } = error
    else {
        return;
    };
    let function = FunctionRef {
        name: name.clone(),
        qualifier: None,
        arn: None,
    };
    // The caller reports the failure itself, with or without a log above it.
    let Ok(page) = client.log_page(LogQuery::all(&function), Some(*log_before)) else {
        return;
    };
    let lines = init_lines(&page.records);
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        output.note(&output.foreign(Stream::Stderr, &format!("  | {line}")));
    }
}

/// The lines of an init: not those of invocations, which may go on beside it, nor what the runtime's
/// client says about updates of the runtime, which can't happen here.
fn init_lines(records: &[LogRecord]) -> Vec<&str> {
    const ADVICE: &str = "LAMBDA_WARNING: Unhandled exception.";
    const END_OF_ADVICE: &str = "runtimes-update.html";
    let of_init = records.iter().filter(|record| record.request_id.is_none());
    // The runtime's client separates the lines of one record by carriage returns.
    let lines = of_init.flat_map(|record| record.message.split(['\n', '\r']));
    let mut advice = false;
    let mut kept = Vec::new();
    for line in lines.map(str::trim_end).filter(|line| !line.is_empty()) {
        advice |= line.contains(ADVICE);
        // Whatever became of its last line: it ends where the error begins.
        advice &= !line.contains("[ERROR]");
        if !advice {
            kept.push(line);
        }
        advice &= !line.contains(END_OF_ADVICE);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(request_id: Option<&str>, message: &str) -> LogRecord {
        LogRecord {
            seq: 1,
            time: String::new(),
            version: "$LATEST".into(),
            request_id: request_id.map(str::to_owned),
            kind: "function".into(),
            message: message.into(),
        }
    }

    /// The last lines of the whole log were shown: START and END of invocations of minutes ago.
    #[test]
    fn a_failed_deploy_shows_its_own_log_line_by_line_without_advice_that_does_not_apply() {
        let records = [
            record(Some("r"), "START RequestId: r"),
            record(None, "loading"),
            record(
                None,
                "[WARNING] LAMBDA_WARNING: Unhandled exception. The most likely cause is …\r\
                 For more information, see https://docs/runtimes-update.html\r",
            ),
            record(
                None,
                "[ERROR] boom\rTraceback (most recent call last):\r  File \"app.py\"",
            ),
        ];
        assert_eq!(
            init_lines(&records),
            [
                "loading",
                "[ERROR] boom",
                "Traceback (most recent call last):",
                "  File \"app.py\"",
            ]
        );
        let cut = [
            record(None, "LAMBDA_WARNING: Unhandled exception."),
            record(None, "[ERROR] x"),
        ];
        assert_eq!(init_lines(&cut), ["[ERROR] x"]);
    }
}
