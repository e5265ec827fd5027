//! An extension with `lambda_extension` that prints everything it is told, a line each.
//!
//! Called `logs` it has a logs processor, by any other name a telemetry processor: an extension may
//! subscribe by one of the two APIs.

use lambda_extension::{
    Error, Extension, LambdaEvent, LambdaLog, LambdaLogRecord, LambdaTelemetry,
    LambdaTelemetryRecord, LogBuffering, NextEvent, SharedService, service_fn,
};
use serde_json::{Value, json};

/// Begins every line, so that it is known as this extension's own when it is told of it.
const TOLD: &str = "TOLD ";
const TYPES: [&str; 3] = ["platform", "function", "extension"];
const BUFFERING: LogBuffering = LogBuffering {
    timeout_ms: 25,
    max_bytes: 262_144,
    max_items: 1_000,
};

fn tell(by: &str, what: &Value) {
    println!("{TOLD}{}", json!({ "by": by, "what": what }));
}

async fn events(by: &'static str, event: LambdaEvent) -> Result<(), Error> {
    match event.next {
        NextEvent::Invoke(event) => tell(by, &json!({ "invoke": event.request_id })),
        NextEvent::Shutdown(event) => {
            tell(by, &json!({ "shutdown": event.shutdown_reason }));
            std::process::exit(0);
        }
    }
    Ok(())
}

async fn telemetry(batch: Vec<LambdaTelemetry>) -> Result<(), Error> {
    for event in batch {
        match &event.record {
            LambdaTelemetryRecord::Extension(line) if line.starts_with(TOLD) => {}
            _ => tell("telemetry", &serde_json::to_value(&event)?),
        }
    }
    Ok(())
}

async fn logs(batch: Vec<LambdaLog>) -> Result<(), Error> {
    use LambdaLogRecord as Record;
    for event in batch {
        let (kind, record) = match event.record {
            Record::Extension(line) if line.starts_with(TOLD) => continue,
            Record::Extension(line) => ("extension", json!(line)),
            Record::Function(line) => ("function", json!(line)),
            Record::PlatformStart { request_id } => ("platform.start", json!(request_id)),
            Record::PlatformEnd { request_id } => ("platform.end", json!(request_id)),
            Record::PlatformReport { request_id, .. } => ("platform.report", json!(request_id)),
            Record::PlatformRuntimeDone { request_id, status } => {
                ("platform.runtimeDone", json!([request_id, status]))
            }
            Record::PlatformExtension { name, .. } => ("platform.extension", json!(name)),
            Record::PlatformLogsSubscription { name, types, .. } => {
                ("platform.logsSubscription", json!([name, types]))
            }
            other => ("other", json!(format!("{other:?}"))),
        };
        tell("logs", &json!({ "type": kind, "record": record }));
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let program = std::env::args().next().unwrap_or_default();
    println!("{program} is here");
    if program.ends_with("/logs") {
        Extension::new()
            .with_events_processor(service_fn(|event| events("logs", event)))
            .with_logs_processor(SharedService::new(service_fn(logs)))
            .with_log_types(&TYPES)
            .with_log_buffering(BUFFERING)
            .run()
            .await
    } else {
        Extension::new()
            .with_events_processor(service_fn(|event| events("telemetry", event)))
            .with_telemetry_processor(SharedService::new(service_fn(telemetry)))
            .with_telemetry_types(&TYPES)
            .with_telemetry_buffering(BUFFERING)
            .run()
            .await
    }
}
