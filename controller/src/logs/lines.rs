//! Lambda's log lines, byte for byte.

use std::fmt::Write;
use std::time::Duration;

use crate::function::SharedGenerators;

/// The values of an invocation's `REPORT` line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report<'a> {
    pub(crate) duration: Duration,
    pub(crate) memory_mib: u32,
    pub(crate) max_memory_mib: u64,
    /// Only when the function's snapshot was restored for it.
    pub(crate) restore: Option<Duration>,
    /// Only when init ran in its instance for it.
    pub(crate) init: Option<Duration>,
    pub(crate) status: ReportStatus<'a>,
}

/// The end of a `REPORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportStatus<'a> {
    Success,
    Timeout,
    /// With Lambda's name of the error.
    Error(&'a str),
}

pub(crate) fn start(request_id: &str, version: &str) -> String {
    format!("START RequestId: {request_id} Version: {version}")
}

pub(crate) fn end(request_id: &str) -> String {
    format!("END RequestId: {request_id}")
}

/// The `REPORT` line. Lambda bills whole milliseconds, rounded up.
pub(crate) fn report(request_id: &str, report: &Report<'_>) -> String {
    let mut line = format!(
        "REPORT RequestId: {request_id}\tDuration: {:.2} ms\tBilled Duration: {} ms\t\
         Memory Size: {} MB\tMax Memory Used: {} MB\t",
        millis(report.duration),
        billed(report.duration),
        report.memory_mib,
        report.max_memory_mib,
    );
    let written = match report.restore {
        Some(restore) => write!(
            line,
            "Restore Duration: {:.2} ms\tBilled Restore Duration: {} ms\t",
            millis(restore),
            billed(restore)
        ),
        None => Ok(()),
    };
    written.expect("a String takes any text");
    if let Some(init) = report.init {
        write!(line, "Init Duration: {:.2} ms\t", millis(init)).expect("a String takes any text");
    }
    match report.status {
        ReportStatus::Success => {}
        ReportStatus::Timeout => line.push_str("Status: timeout"),
        ReportStatus::Error(kind) => {
            line.push_str("Status: error\tError Type: ");
            line.push_str(kind);
        }
    }
    line
}

/// The line of an init, at deploy or in an instance.
pub(crate) fn init_report(duration: Duration, failed: Option<&str>) -> String {
    let line = format!(
        "INIT_REPORT Init Duration: {:.2} ms\tPhase: init",
        millis(duration)
    );
    match failed {
        None => line,
        Some("timeout") => format!("{line}\tStatus: timeout"),
        Some(kind) => format!("{line}\tStatus: error\tError Type: {kind}"),
    }
}

/// The line about random generators that clones of a function's process would share.
pub(crate) fn shared_generators(generators: &SharedGenerators, opted_in: bool) -> String {
    let reason = generators.reason();
    if opted_in {
        format!(
            "Instances start from a snapshot after init, because SnapStart is on: {reason}. Reseed it \
             in an after-restore hook."
        )
    } else {
        format!("Init runs in each instance: {reason}. SnapStart opts in to the snapshot.")
    }
}

/// The line of a restore after which the function's own code ran.
pub(crate) fn restore_report(duration: Duration, failed: Option<&str>) -> String {
    let line = format!(
        "RESTORE_REPORT Restore Duration: {:.2} ms",
        millis(duration)
    );
    match failed {
        None => line,
        Some("timeout") => format!("{line}\tStatus: timeout"),
        Some(kind) => format!("{line}\tStatus: error\tError Type: {kind}"),
    }
}

/// The line about a result that is no HTTP response.
pub(crate) fn refused_result(request_id: &str, reason: &str) -> String {
    format!(
        "RequestId: {request_id} The client of the function URL received 502: the function's result is no \
         valid HTTP response: {reason}"
    )
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

pub(crate) fn billed(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARM: Report<'_> = Report {
        duration: Duration::from_micros(1230),
        memory_mib: 128,
        max_memory_mib: 38,
        restore: None,
        init: None,
        status: ReportStatus::Success,
    };

    #[test]
    fn a_report_is_lambdas_to_the_byte() {
        assert_eq!(
            report("r", &WARM),
            "REPORT RequestId: r\tDuration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\t\
             Max Memory Used: 38 MB\t"
        );
    }

    #[test]
    fn an_init_in_its_instance_is_part_of_the_report() {
        let started = Report {
            init: Some(Duration::from_micros(90_120)),
            ..WARM
        };
        assert!(report("r", &started).ends_with("38 MB\tInit Duration: 90.12 ms\t"));
    }

    #[test]
    fn a_restore_and_a_failure_are_part_of_the_report() {
        let restored = Report {
            restore: Some(Duration::from_millis(45)),
            ..WARM
        };
        assert!(
            report("r", &restored)
                .ends_with("Restore Duration: 45.00 ms\tBilled Restore Duration: 45 ms\t")
        );
        let timeout = Report {
            status: ReportStatus::Timeout,
            ..WARM
        };
        assert!(report("r", &timeout).ends_with("38 MB\tStatus: timeout"));
        let error = Report {
            status: ReportStatus::Error("Runtime.ExitError"),
            ..WARM
        };
        assert!(report("r", &error).ends_with("Status: error\tError Type: Runtime.ExitError"));
    }
}
