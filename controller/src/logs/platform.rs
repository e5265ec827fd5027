//! Platform events in a function's log: Lambda's lines, or its events as JSON.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::lines::{self, Report, ReportStatus, billed, millis};
use crate::function::{LogFormat, SharedGenerators, SystemLevel};

/// A platform event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PlatformEvent<'a> {
    /// An invocation begins.
    Start {
        request_id: &'a str,
        version: &'a str,
        /// Only JSON has it.
        tenant: Option<&'a str>,
    },
    /// An invocation has ended.
    Done {
        request_id: &'a str,
        report: &'a Report<'a>,
        /// As in `Start`.
        tenant: Option<&'a str>,
        /// An additional line of Lambda's about an error, in the text format only: in JSON it is part of
        /// the status.
        also: Option<&'a str>,
    },
    /// Init has ended, at deploy or in an instance.
    Init {
        took: Duration,
        failed: Option<&'a str>,
    },
    /// Clones of the function's process would share random generators, found at deploy. Either init
    /// runs in each instance, or the author opted in to the snapshot.
    SharedGenerators {
        generators: &'a SharedGenerators,
        opted_in: bool,
    },
    /// A runtime has run its hooks after a restore.
    Restore {
        took: Duration,
        failed: Option<&'a str>,
    },
    /// The client of a function URL received a 502, because the result is no valid HTTP response.
    RefusedResult {
        request_id: &'a str,
        reason: &'a str,
    },
}

impl PlatformEvent<'_> {
    /// The records of the event.
    pub(crate) fn records(&self, format: &LogFormat) -> Vec<String> {
        match format {
            LogFormat::Text => self.lines(),
            LogFormat::Json { system_level, .. } => self
                .json(SystemTime::now())
                .into_iter()
                .filter(|(level, _)| level >= system_level)
                .map(|(_, event)| event.to_string())
                .collect(),
        }
    }

    fn lines(&self) -> Vec<String> {
        match *self {
            Self::Start {
                request_id,
                version,
                ..
            } => vec![lines::start(request_id, version)],
            Self::Done {
                request_id,
                report,
                also,
                ..
            } => also
                .map(str::to_owned)
                .into_iter()
                .chain([lines::end(request_id), lines::report(request_id, report)])
                .collect(),
            Self::Init { took, failed } => vec![lines::init_report(took, failed)],
            Self::SharedGenerators {
                generators,
                opted_in,
            } => vec![lines::shared_generators(generators, opted_in)],
            Self::Restore { took, failed } => vec![lines::restore_report(took, failed)],
            Self::RefusedResult { request_id, reason } => {
                vec![lines::refused_result(request_id, reason)]
            }
        }
    }

    /// The events with their levels on Lambda: successes have level `DEBUG`, except start and report,
    /// which have `INFO`.
    fn json(&self, now: SystemTime) -> Vec<(SystemLevel, Value)> {
        let well = |status: &ReportStatus<'_>, level| match status {
            ReportStatus::Success => level,
            _ => SystemLevel::Warn,
        };
        let event = |kind: &str, record: Value| json!({ "time": timestamp(now), "type": format!("platform.{kind}"), "record": record });
        match *self {
            Self::Start {
                request_id,
                version,
                tenant,
            } => {
                let mut record = json!({ "requestId": request_id, "version": version });
                put_tenant(&mut record, tenant);
                vec![(SystemLevel::Info, event("start", record))]
            }
            Self::Done {
                request_id,
                report,
                tenant,
                ..
            } => {
                let mut done = json!({
                    "requestId": request_id,
                    "metrics": { "durationMs": rounded(report.duration) },
                });
                put_tenant(&mut done, tenant);
                put_status(&mut done, report.status);
                let mut metrics = json!({
                    "durationMs": rounded(report.duration),
                    "billedDurationMs": billed(report.duration),
                    "memorySizeMB": report.memory_mib,
                    "maxMemoryUsedMB": report.max_memory_mib,
                });
                if let Some(restore) = report.restore {
                    metrics["restoreDurationMs"] = rounded(restore).into();
                    metrics["billedRestoreDurationMs"] = billed(restore).into();
                }
                if let Some(init) = report.init {
                    metrics["initDurationMs"] = rounded(init).into();
                }
                let mut summary = json!({ "requestId": request_id, "metrics": metrics });
                put_tenant(&mut summary, tenant);
                put_status(&mut summary, report.status);
                let status = &report.status;
                vec![
                    (well(status, SystemLevel::Debug), event("runtimeDone", done)),
                    (well(status, SystemLevel::Info), event("report", summary)),
                ]
            }
            Self::Restore { took, failed } => {
                let status = status_of(failed);
                let mut record = json!({ "metrics": { "durationMs": rounded(took) } });
                put_status(&mut record, status);
                let level = well(&status, SystemLevel::Debug);
                vec![(level, event("restoreReport", record))]
            }
            Self::RefusedResult { request_id, reason } => {
                let record = json!({
                    "requestId": request_id,
                    "message": lines::refused_result(request_id, reason),
                });
                vec![(SystemLevel::Warn, event("refusedResult", record))]
            }
            Self::SharedGenerators {
                generators,
                opted_in,
            } => {
                let libraries = generators
                    .iter()
                    .map(|found| json!({ "library": found.library, "file": found.file }));
                let record = json!({
                    "message": lines::shared_generators(generators, opted_in),
                    "libraries": libraries.collect::<Value>(),
                    "initInEachInstance": !opted_in,
                });
                vec![(SystemLevel::Warn, event("sharedGenerators", record))]
            }
            Self::Init { took, failed } => {
                let status = status_of(failed);
                let mut record = json!({
                    "initializationType": "on-demand",
                    "phase": "init",
                    "metrics": { "durationMs": rounded(took) },
                });
                put_status(&mut record, status);
                let level = well(&status, SystemLevel::Debug);
                vec![(level, event("initReport", record))]
            }
        }
    }
}

fn status_of(failed: Option<&str>) -> ReportStatus<'_> {
    match failed {
        None => ReportStatus::Success,
        Some("timeout") => ReportStatus::Timeout,
        Some(kind) => ReportStatus::Error(kind),
    }
}

fn put_tenant(record: &mut Value, tenant: Option<&str>) {
    if let Some(tenant) = tenant {
        record["tenantId"] = tenant.into();
    }
}

fn put_status(record: &mut Value, status: ReportStatus<'_>) {
    let (name, kind) = match status {
        ReportStatus::Success => ("success", None),
        ReportStatus::Timeout => ("timeout", None),
        ReportStatus::Error(kind) => ("error", Some(kind)),
    };
    record["status"] = name.into();
    if let Some(kind) = kind {
        record["errorType"] = kind.into();
    }
}

fn rounded(duration: Duration) -> f64 {
    (millis(duration) * 1000.0).round() / 1000.0
}

/// RFC 3339 with milliseconds, as Lambda's events have it.
fn timestamp(at: SystemTime) -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    OffsetDateTime::from(at)
        .format(FORMAT)
        .expect("every time has these parts")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_format(system_level: SystemLevel) -> LogFormat {
        LogFormat::Json {
            application_level: "INFO".into(),
            system_level,
        }
    }

    fn kinds(event: PlatformEvent<'_>, level: SystemLevel) -> Vec<String> {
        let records = event.records(&json_format(level));
        let parsed = records.iter().map(|record| {
            let value: Value = serde_json::from_str(record).unwrap();
            value["type"].as_str().unwrap().to_owned()
        });
        parsed.collect()
    }

    const WELL: Report<'_> = Report {
        duration: Duration::from_micros(1230),
        memory_mib: 128,
        max_memory_mib: 38,
        restore: None,
        init: None,
        status: ReportStatus::Success,
    };

    fn done<'a>(report: &'a Report<'a>) -> PlatformEvent<'a> {
        PlatformEvent::Done {
            request_id: "r",
            report,
            tenant: Some("blue"),
            also: Some("more"),
        }
    }

    #[test]
    fn an_event_has_lambdas_shape() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        let failed = Report {
            status: ReportStatus::Error("Runtime.ExitError"),
            restore: Some(Duration::from_millis(45)),
            ..WELL
        };
        let events = done(&failed).json(at);
        assert_eq!(
            events[1].1,
            json!({
                "time": "1970-01-01T00:00:01.500Z",
                "type": "platform.report",
                "record": {
                    "requestId": "r",
                    "tenantId": "blue",
                    "metrics": {
                        "durationMs": 1.23, "billedDurationMs": 2, "memorySizeMB": 128,
                        "maxMemoryUsedMB": 38, "restoreDurationMs": 45.0,
                        "billedRestoreDurationMs": 45,
                    },
                    "status": "error", "errorType": "Runtime.ExitError",
                },
            })
        );
    }

    #[test]
    fn the_system_level_decides_which_events_are_written() {
        use SystemLevel::{Debug, Info, Warn};
        let both = ["platform.runtimeDone", "platform.report"];
        assert_eq!(kinds(done(&WELL), Debug), both);
        assert_eq!(kinds(done(&WELL), Info), ["platform.report"]);
        assert_eq!(kinds(done(&WELL), Warn), [""; 0]);
        let late = Report {
            status: ReportStatus::Timeout,
            ..WELL
        };
        assert_eq!(kinds(done(&late), Warn), both);
        let init = PlatformEvent::Init {
            took: Duration::ZERO,
            failed: None,
        };
        assert_eq!(kinds(init, Info), [""; 0]);
        assert_eq!(kinds(init, Debug), ["platform.initReport"]);
    }

    #[test]
    fn shared_generators_are_said_at_every_level() {
        let gnutls = crate::function::shared_generator("GnuTLS", "/opt/lib/libgnutls.so.30");
        let generators = SharedGenerators::of_guest(&[gnutls]).unwrap();
        let found = |opted_in| PlatformEvent::SharedGenerators {
            generators: &generators,
            opted_in,
        };
        let said = kinds(found(false), SystemLevel::Warn);
        assert_eq!(said, ["platform.sharedGenerators"]);
        let record = &found(true).json(SystemTime::UNIX_EPOCH)[0].1["record"];
        assert_eq!(record["initInEachInstance"], false);
        assert_eq!(record["libraries"][0]["library"], "GnuTLS");
    }

    /// A 502 of a function URL left no trace of its reason.
    #[test]
    fn a_refused_result_is_said_at_every_level() {
        let refused = PlatformEvent::RefusedResult {
            request_id: "r",
            reason: "body is not base64",
        };
        assert_eq!(
            kinds(refused, SystemLevel::Warn),
            ["platform.refusedResult"]
        );
        let lines = refused.records(&LogFormat::Text);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("RequestId: r ") && lines[0].ends_with("body is not base64"));
    }

    #[test]
    fn in_the_text_format_an_event_is_lines() {
        let lines = done(&WELL).records(&LogFormat::Text);
        assert_eq!((lines.len(), lines[0].as_str()), (3, "more"));
        assert!(lines[2].starts_with("REPORT RequestId: r"));
    }
}
