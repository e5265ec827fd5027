//! How an invocation ended, with Lambda's names and messages.

use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::agent::Exit;
use serde_json::json;

use crate::instance::InitError;
use crate::logs::lines::ReportStatus;

/// Values of the label `error` in metrics.
pub(crate) const ERROR_KINDS: [&str; 7] = [
    "function",
    "init",
    "timeout",
    "exit",
    "out_of_memory",
    "cpu_limit",
    "sandbox",
];

/// How an invocation ended.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The function's result.
    Response(Bytes),
    /// A function error, as the runtime has reported it.
    FunctionError {
        body: Bytes,
        /// The error's name in the runtime's report.
        kind: Option<String>,
    },
    /// The function's init has failed in this instance, as the runtime or the agent has reported it.
    InitFailed {
        body: Bytes,
        /// The error's name in the report.
        kind: String,
    },
    /// The runtime's process has ended without an answer.
    Exited(Exit),
    /// An extension has ended or has reported an error.
    Extension { kind: &'static str, exit: Exit },
    /// The function's timeout has passed.
    TimedOut(Duration),
    /// The invocation's CPU budget is used up.
    CpuExhausted(Duration),
    /// The microVM has ended or has violated the protocol.
    Broken(String),
}

impl Answer {
    /// The response body.
    pub(crate) fn body(&self, request_id: &str) -> Bytes {
        let say = |kind: &str, message: String| {
            let message = format!("RequestId: {request_id} Error: {message}");
            Bytes::from(json!({ "errorType": kind, "errorMessage": message }).to_string())
        };
        match self {
            Self::Response(body) | Self::FunctionError { body, .. } => body.clone(),
            Self::InitFailed { body, .. } if is_object(body) => body.clone(),
            Self::InitFailed { .. } => say(self.kind(), "init failed".into()),
            Self::Exited(exit) => say(self.kind(), exited(*exit)),
            Self::Extension { exit, .. } => say(self.kind(), ending(*exit)),
            Self::TimedOut(limit) => say(
                self.kind(),
                format!("Task timed out after {:.2} seconds", limit.as_secs_f64()),
            ),
            Self::CpuExhausted(limit) => say(
                self.kind(),
                format!("CPU time limit of {} ms exceeded", limit.as_millis()),
            ),
            Self::Broken(why) => say(
                self.kind(),
                format!("the execution environment ended: {why}"),
            ),
        }
    }

    /// The answer for an init that has failed in this instance.
    pub(crate) fn of_init(error: InitError) -> Self {
        match error {
            InitError::Reported { kind, body } => Self::InitFailed { body, kind },
            InitError::Exited { exit, error_type } => Self::ended(exit, error_type.as_deref()),
            InitError::TimedOut(limit) => Self::TimedOut(limit),
        }
    }

    /// The answer for a process of the function that has ended. `error_type` is set for an extension's
    /// process; it becomes one of two names.
    pub(crate) fn ended(exit: Exit, error_type: Option<&str>) -> Self {
        let kind = match error_type {
            None => return Self::Exited(exit),
            Some("Extension.ExitError") => "Extension.ExitError",
            Some(_) => "Extension.Crash",
        };
        Self::Extension { kind, exit }
    }

    /// The reason with which extensions are shut down after this answer; `None` if the guest is not in a
    /// state to notify them.
    pub(crate) fn shutdown_reason(&self) -> Option<&'static str> {
        match self {
            Self::TimedOut(_) => Some("timeout"),
            Self::Exited(_) | Self::Extension { .. } => Some("failure"),
            _ => None,
        }
    }

    pub(crate) fn failed(&self) -> bool {
        !matches!(self, Self::Response(_))
    }

    /// Whether the instance may serve again.
    pub(crate) fn reusable(&self) -> bool {
        matches!(self, Self::Response(_) | Self::FunctionError { .. })
    }

    /// Lambda's name of the error.
    fn kind(&self) -> &str {
        match self {
            Self::Response(_) | Self::FunctionError { .. } => "Unhandled",
            Self::InitFailed { kind, .. } if is_name(kind) => kind,
            Self::InitFailed { .. } => "Runtime.Unknown",
            Self::Exited(Exit::OutOfMemory) => "Runtime.OutOfMemory",
            Self::Exited(_) => "Runtime.ExitError",
            Self::Extension { kind, .. } => kind,
            Self::TimedOut(_) => "Sandbox.Timedout",
            Self::CpuExhausted(_) => "Sandbox.CpuLimitExceeded",
            Self::Broken(_) => "Sandbox.Failure",
        }
    }

    /// The error's name in the last event of a streamed result; `None` if it has none. On Lambda it is
    /// `Runtime.TruncatedResponse`, or the name in the runtime's trailer.
    pub(super) fn error_type(&self) -> Option<&str> {
        match self {
            Self::Response(_) => None,
            Self::FunctionError { kind, .. } => kind
                .as_deref()
                .filter(|kind| is_name(kind) && !kind.ends_with(".Unknown")),
            _ => Some(self.kind()),
        }
    }

    /// The end of the `REPORT` line.
    pub(crate) fn report_status(&self) -> ReportStatus<'_> {
        match self {
            Self::Response(_) => ReportStatus::Success,
            Self::TimedOut(_) => ReportStatus::Timeout,
            Self::FunctionError { kind, .. } => ReportStatus::Error(
                kind.as_deref()
                    .filter(|kind| is_name(kind))
                    .unwrap_or("Unhandled"),
            ),
            _ => ReportStatus::Error(self.kind()),
        }
    }

    /// The error's name in metrics; `None` for success.
    pub(crate) fn metric(&self) -> Option<&'static str> {
        Some(match self {
            Self::Response(_) => return None,
            Self::FunctionError { .. } => "function",
            Self::InitFailed { .. } => "init",
            Self::TimedOut(_) => "timeout",
            Self::Exited(Exit::OutOfMemory) => "out_of_memory",
            Self::Exited(_) | Self::Extension { .. } => "exit",
            Self::CpuExhausted(_) => "cpu_limit",
            Self::Broken(_) => "sandbox",
        })
    }

    /// The line about the error that Lambda writes into the log besides its three lines.
    pub(crate) fn log_line(&self, request_id: &str) -> Option<String> {
        match self {
            Self::TimedOut(limit) => Some(format!(
                "{request_id} Task timed out after {:.2} seconds",
                limit.as_secs_f64()
            )),
            Self::Exited(exit) => Some(format!(
                "RequestId: {request_id} Error: {}\n{}",
                exited(*exit),
                self.kind()
            )),
            Self::Extension { exit, .. } => Some(format!(
                "RequestId: {request_id} Error: {}\n{}",
                ending(*exit),
                self.kind()
            )),
            Self::CpuExhausted(_) | Self::Broken(_) => {
                let body = self.body(request_id);
                Some(String::from_utf8_lossy(&body).into_owned())
            }
            Self::Response(_) | Self::FunctionError { .. } | Self::InitFailed { .. } => None,
        }
    }
}

/// Whether a body is a JSON object, as Lambda's clients expect of an error.
fn is_object(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
        && body.trim_ascii_start().starts_with(b"{")
}

/// Whether a text of the guest has the form of an error's name. Only such a text may become part of a log
/// line, because others could forge lines.
pub(super) fn is_name(kind: &str) -> bool {
    !kind.is_empty()
        && kind.len() <= 128
        && kind
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_')
}

fn exited(exit: Exit) -> String {
    match exit {
        Exit::Code(0) => "Runtime exited without providing a reason".into(),
        exit => format!("Runtime exited with error: {}", ending(exit)),
    }
}

fn ending(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal(signal) => format!("signal: {}", signal_name(signal)),
        Exit::OutOfMemory => "signal: killed".into(),
    }
}

/// Signals as Lambda's messages name them.
fn signal_name(signal: i32) -> String {
    match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_lambdas_to_the_byte() {
        for (answer, body) in [
            (
                Answer::TimedOut(Duration::from_secs(1)),
                r#"{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: r Error: Task timed out after 1.00 seconds"}"#,
            ),
            (
                Answer::Exited(Exit::Code(0)),
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r Error: Runtime exited without providing a reason"}"#,
            ),
            (
                Answer::Exited(Exit::Code(127)),
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r Error: Runtime exited with error: exit status 127"}"#,
            ),
            (
                Answer::Exited(Exit::Signal(11)),
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r Error: Runtime exited with error: signal: segmentation fault"}"#,
            ),
            (
                Answer::Exited(Exit::OutOfMemory),
                r#"{"errorType":"Runtime.OutOfMemory","errorMessage":"RequestId: r Error: Runtime exited with error: signal: killed"}"#,
            ),
        ] {
            let expected: serde_json::Value = serde_json::from_str(body).unwrap();
            let got: serde_json::Value = serde_json::from_slice(&answer.body("r")).unwrap();
            assert_eq!(got, expected);
            assert!(ERROR_KINDS.contains(&answer.metric().unwrap()));
            assert!(!answer.reusable());
        }
    }

    #[test]
    fn a_guest_can_not_write_the_report_line() {
        let hostile = Answer::FunctionError {
            body: Bytes::new(),
            kind: Some("x\nREPORT RequestId: other".into()),
        };
        assert_eq!(hostile.report_status(), ReportStatus::Error("Unhandled"));
        assert_eq!(hostile.error_type(), None);
    }

    #[test]
    fn an_init_error_is_the_runtimes_own_if_it_is_json_and_no_line_of_the_log() {
        let failed = |kind: &str, body: &'static [u8]| {
            Answer::of_init(InitError::Reported {
                kind: kind.into(),
                body: Bytes::from_static(body),
            })
        };
        let own = br#"{"errorType":"E","errorMessage":"why"}"#;
        let answer = failed("Runtime.ImportModuleError", own);
        assert_eq!(&answer.body("r")[..], own);
        assert_eq!(answer.error_type(), Some("Runtime.ImportModuleError"));
        assert!(answer.failed() && !answer.reusable());
        assert!(ERROR_KINDS.contains(&answer.metric().unwrap()));
        for body in [&b"no JSON"[..], b"\"text\"", b"{", b""] {
            let hostile = failed("x\nREPORT RequestId: other", body);
            let said: serde_json::Value = serde_json::from_slice(&hostile.body("r")).unwrap();
            assert_eq!(said["errorType"], "Runtime.Unknown");
            assert_eq!(
                hostile.report_status(),
                ReportStatus::Error("Runtime.Unknown")
            );
        }
    }

    #[test]
    fn an_error_is_called_by_the_name_that_it_has() {
        let failed = |kind: Option<&str>| Answer::FunctionError {
            body: Bytes::new(),
            kind: kind.map(str::to_owned),
        };
        for (answer, expected) in [
            (Answer::Response(Bytes::new()), None),
            (failed(None), None),
            (failed(Some("Function.Unknown")), None),
            (failed(Some("Function.Broken")), Some("Function.Broken")),
            (
                failed(Some("Runtime.TruncatedResponse")),
                Some("Runtime.TruncatedResponse"),
            ),
            (
                Answer::TimedOut(Duration::from_secs(1)),
                Some("Sandbox.Timedout"),
            ),
            (Answer::Exited(Exit::Code(1)), Some("Runtime.ExitError")),
        ] {
            assert_eq!(answer.error_type(), expected, "{answer:?}");
        }
    }
}
