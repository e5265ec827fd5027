//! The platform's events, as Lambda's event schema has them.

use std::time::{Duration, SystemTime};

use hearth_protocol::agent::Usage;
use serde_json::{Value, json};

use super::Invocation;
use super::record::{Record, Reporter, timestamp};
use super::subscription::Api;
use crate::environment::FunctionIdentity;

const MIB: u64 = 1024 * 1024;

/// How the runtime's part of an invocation ended, and what it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    status: &'static str,
    error_type: Option<String>,
    usage: Usage,
    /// Length of the result.
    produced: Option<u64>,
}

impl Outcome {
    pub(crate) fn answered(usage: Usage, produced: u64) -> Self {
        Self {
            status: "success",
            error_type: None,
            usage,
            produced: Some(produced),
        }
    }

    /// The function, its runtime or an extension failed.
    pub(crate) fn failed(usage: Usage, error_type: Option<&str>) -> Self {
        Self {
            status: "error",
            error_type: Some(error_type.unwrap_or("Function.Unknown").to_owned()),
            usage,
            produced: None,
        }
    }

    /// The host ended it. Extensions receive the same reason with `SHUTDOWN`.
    pub(super) fn cut_off(reason: &str, usage: Usage) -> Self {
        let status = match reason {
            "timeout" => "timeout",
            _ => "failure",
        };
        Self {
            status,
            error_type: None,
            usage,
            produced: None,
        }
    }
}

/// Something that happens to a function.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    InitStart,
    InitRuntimeDone {
        /// The error's type.
        failed: Option<&'a str>,
    },
    InitReport {
        took: Duration,
        failed: Option<&'a str>,
    },
    Extension {
        name: &'a str,
        state: &'a str,
        events: &'a [&'static str],
    },
    Subscribed {
        api: Api,
        name: &'a str,
        types: &'a [&'static str],
    },
    Start {
        request_id: &'a str,
        trace_id: Option<&'a str>,
    },
    RuntimeDone {
        invocation: &'a Invocation,
        outcome: &'a Outcome,
    },
    /// `took` includes the time that extensions took after the runtime.
    Report {
        invocation: &'a Invocation,
        took: Duration,
        restore: Option<Duration>,
    },
    /// The Logs API's event for the end of an invocation.
    End {
        request_id: &'a str,
    },
    RestoreStart,
    RestoreRuntimeDone {
        failed: Option<&'a str>,
    },
    RestoreReport {
        took: Duration,
        failed: Option<&'a str>,
    },
    LogsDropped {
        records: u64,
        bytes: u64,
    },
}

impl Event<'_> {
    pub(super) fn record(&self, at: SystemTime, function: &FunctionIdentity) -> Record {
        let (kind, reporter, record) = self.parts(function);
        Record::platform(at, kind, reporter, &record)
    }

    fn parts(&self, function: &FunctionIdentity) -> (&'static str, Reporter, Value) {
        use Reporter::{Both, Telemetry};
        match self {
            Self::InitStart => {
                let mut record = named(function);
                put_phase(&mut record, function);
                ("initStart", Telemetry, record)
            }
            Self::InitRuntimeDone { failed } => {
                let mut record = status_of(*failed);
                put_phase(&mut record, function);
                ("initRuntimeDone", Telemetry, record)
            }
            Self::InitReport { took, failed } => {
                let mut record = status_of(*failed);
                put_phase(&mut record, function);
                record["metrics"] = json!({ "durationMs": millis(*took) });
                ("initReport", Telemetry, record)
            }
            Self::Extension {
                name,
                state,
                events,
            } => (
                "extension",
                Both,
                json!({ "name": name, "state": state, "events": events }),
            ),
            Self::Subscribed { api, name, types } => {
                let record = json!({ "name": name, "state": "Subscribed", "types": types });
                match api {
                    Api::Telemetry => ("telemetrySubscription", Telemetry, record),
                    Api::Logs => ("logsSubscription", Reporter::Logs, record),
                }
            }
            Self::Start {
                request_id,
                trace_id,
            } => {
                let mut record = json!({ "requestId": request_id, "version": function.version });
                put_tracing(&mut record, *trace_id);
                ("start", Both, record)
            }
            Self::RuntimeDone {
                invocation,
                outcome,
            } => ("runtimeDone", Both, runtime_done(invocation, outcome)),
            Self::Report {
                invocation,
                took,
                restore,
            } => {
                let record = report(invocation, *took, *restore, function);
                ("report", Both, record)
            }
            Self::End { request_id } => ("end", Reporter::Logs, json!({ "requestId": request_id })),
            Self::RestoreStart => ("restoreStart", Telemetry, named(function)),
            Self::RestoreRuntimeDone { failed } => {
                ("restoreRuntimeDone", Telemetry, status_of(*failed))
            }
            Self::RestoreReport { took, failed } => {
                let mut record = status_of(*failed);
                record["metrics"] = json!({ "durationMs": millis(*took) });
                ("restoreReport", Telemetry, record)
            }
            Self::LogsDropped { records, bytes } => (
                "logsDropped",
                Both,
                json!({
                    "droppedRecords": records,
                    "droppedBytes": bytes,
                    "reason": "The subscriber takes records more slowly than they come, or not \
                               at all",
                }),
            ),
        }
    }
}

fn named(function: &FunctionIdentity) -> Value {
    json!({
        "functionName": function.name,
        "functionVersion": function.version,
        "instanceMaxMemory": u64::from(function.memory_mib) * MIB,
    })
}

fn put_phase(record: &mut Value, function: &FunctionIdentity) {
    record["initializationType"] = function.initialization_type.as_str().into();
    record["phase"] = "init".into();
}

fn status_of(failed: Option<&str>) -> Value {
    match failed {
        None => json!({ "status": "success" }),
        Some(kind) => json!({ "status": "error", "errorType": kind }),
    }
}

fn put_status(record: &mut Value, outcome: &Outcome) {
    record["status"] = outcome.status.into();
    if let Some(kind) = &outcome.error_type {
        record["errorType"] = kind.as_str().into();
    }
}

fn put_tracing(record: &mut Value, trace_id: Option<&str>) {
    if let Some(value) = trace_id {
        record["tracing"] = json!({ "type": "X-Amzn-Trace-Id", "value": value });
    }
}

fn runtime_done(invocation: &Invocation, outcome: &Outcome) -> Value {
    let took = Duration::from_micros(outcome.usage.duration_us);
    let mut record = json!({
        "requestId": invocation.request_id,
        "metrics": { "durationMs": millis(took) },
    });
    put_status(&mut record, outcome);
    put_tracing(&mut record, invocation.trace_id.as_deref());
    if let Some(produced) = outcome.produced {
        record["metrics"]["producedBytes"] = produced.into();
        // A result that is not streamed arrives at once.
        let coming = invocation
            .answering
            .map_or(Duration::ZERO, |began| began.elapsed())
            .min(took);
        let ended = SystemTime::now();
        record["spans"] = json!([
            {
                "name": "responseLatency",
                "start": timestamp(ended - took),
                "durationMs": millis(took - coming),
            },
            {
                "name": "responseDuration",
                "start": timestamp(ended - coming),
                "durationMs": millis(coming),
            },
        ]);
    }
    record
}

fn report(
    invocation: &Invocation,
    took: Duration,
    restore: Option<Duration>,
    function: &FunctionIdentity,
) -> Value {
    let mut record = json!({
        "requestId": invocation.request_id,
        "metrics": {
            "durationMs": millis(took),
            "billedDurationMs": billed(took),
            "memorySizeMB": function.memory_mib,
        },
    });
    let none = Outcome::cut_off("failure", Usage::default());
    let outcome = invocation.outcome.as_ref().unwrap_or(&none);
    put_status(&mut record, outcome);
    record["metrics"]["maxMemoryUsedMB"] = outcome.usage.max_memory_bytes.div_ceil(MIB).into();
    if let Some(restore) = restore {
        record["metrics"]["restoreDurationMs"] = millis(restore).into();
        record["metrics"]["billedRestoreDurationMs"] = billed(restore).into();
    }
    put_tracing(&mut record, invocation.trace_id.as_deref());
    record
}

/// Milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    let micros = duration.as_micros();
    // Exact: a duration here has far fewer than 2^53 microseconds.
    micros as f64 / 1000.0
}

fn billed(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
