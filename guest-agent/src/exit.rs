//! How a runtime's process ended, and Lambda's text for it.

use hearth_protocol::agent::Exit;
use nix::sys::wait::WaitStatus;
use serde::Serialize;

/// The exit in a wait status; `None` if the process has not ended.
pub(crate) fn of(status: WaitStatus, out_of_memory: bool) -> Option<Exit> {
    match status {
        WaitStatus::Exited(..) | WaitStatus::Signaled(..) if out_of_memory => {
            Some(Exit::OutOfMemory)
        }
        WaitStatus::Exited(_, code) => Some(Exit::Code(code)),
        WaitStatus::Signaled(_, signal, _) => Some(Exit::Signal(signal as i32)),
        _ => None,
    }
}

/// An error type and Lambda's JSON body for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InitError {
    pub(crate) error_type: &'static str,
    pub(crate) body: String,
}

impl InitError {
    /// `request_id` is a random one when init fails outside an invocation, as on Lambda.
    pub(crate) fn new(error_type: &'static str, request_id: &str, message: &str) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(rename = "errorType")]
            error_type: &'a str,
            #[serde(rename = "errorMessage")]
            error_message: String,
        }
        let body = serde_json::to_string(&Body {
            error_type,
            error_message: format!("RequestId: {request_id} Error: {message}"),
        })
        .expect("two strings are JSON");
        Self { error_type, body }
    }

    /// The runtime's process ended before it asked for an event.
    pub(crate) fn exited(request_id: &str, exit: Exit) -> Self {
        let error_type = match exit {
            Exit::OutOfMemory => "Runtime.OutOfMemory",
            _ => "Runtime.ExitError",
        };
        let message = match exit {
            Exit::Code(0) => "Runtime exited without providing a reason".to_owned(),
            exit => format!("Runtime exited with error: {}", text(exit)),
        };
        Self::new(error_type, request_id, &message)
    }
}

/// How a process ended, as Lambda writes it.
pub(crate) fn text(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal(number) => format!("signal: {}", signal(number)),
        Exit::OutOfMemory => "signal: killed".to_owned(),
    }
}

/// A signal's name as Go's `os/exec`, hence Lambda, writes it.
fn signal(number: i32) -> String {
    let name = match number {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn init_errors_have_lambdas_texts() {
        for (exit, error_type, text) in [
            (
                Exit::Code(0),
                "Runtime.ExitError",
                "Runtime exited without providing a reason",
            ),
            (
                Exit::Code(127),
                "Runtime.ExitError",
                "Runtime exited with error: exit status 127",
            ),
            (
                Exit::Signal(9),
                "Runtime.ExitError",
                "Runtime exited with error: signal: killed",
            ),
            (
                Exit::OutOfMemory,
                "Runtime.OutOfMemory",
                "Runtime exited with error: signal: killed",
            ),
        ] {
            let error = InitError::exited("id", exit);
            assert_eq!(error.error_type, error_type);
            assert_eq!(
                error.body,
                format!(
                    "{{\"errorType\":\"{error_type}\",\"errorMessage\":\"RequestId: id Error: {text}\"}}"
                )
            );
        }
    }

    #[test]
    fn running_out_of_memory_is_reported_in_place_of_the_signal() {
        let killed = WaitStatus::Signaled(Pid::from_raw(2), Signal::SIGKILL, false);
        assert_eq!(of(killed, true), Some(Exit::OutOfMemory));
        assert_eq!(of(killed, false), Some(Exit::Signal(9)));
        assert_eq!(
            of(WaitStatus::Exited(Pid::from_raw(2), 3), false),
            Some(Exit::Code(3))
        );
        assert_eq!(of(WaitStatus::StillAlive, true), None);
    }
}
