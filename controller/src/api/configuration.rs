//! What Lambda says about a function.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::function::{FunctionRecord, LATEST, Place};

/// What Lambda says about a function, with everything that is always present.
pub(super) fn configuration(record: &FunctionRecord, place: &Place) -> Value {
    let config = &record.config;
    let sha256 = (0..record.code.sha256.len())
        .step_by(2)
        .filter_map(|at| u8::from_str_radix(record.code.sha256.get(at..at + 2)?, 16).ok())
        .collect::<Vec<u8>>();
    let mut out = json!({
        "FunctionName": record.name,
        "FunctionArn": place.arn(&record.name),
        "Runtime": config.runtime.id(),
        "Role": config.role,
        "Handler": config.handler,
        "CodeSize": record.code.size,
        "Description": config.description,
        "Timeout": config.timeout_seconds,
        "MemorySize": config.memory_mib,
        "LastModified": record.last_modified,
        "CodeSha256": STANDARD.encode(sha256),
        "Version": LATEST,
        "TracingConfig": { "Mode": config.tracing_mode },
        "RevisionId": record.revision_id,
        "PackageType": "Zip",
        "Architectures": ["x86_64"],
        "EphemeralStorage": { "Size": config.ephemeral_storage_mib },
        "SnapStart": { "ApplyOn": config.snap_start, "OptimizationStatus": "Off" },
        "LoggingConfig": {
            "LogFormat": "Text",
            "LogGroup": format!("/aws/lambda/{}", record.name),
        },
        "RuntimeVersionConfig": {
            "RuntimeVersionArn":
                format!("arn:aws:lambda:{}::runtime:hearth-{}", place.region, config.runtime.id()),
        },
        "State": record.state.is.name(),
    });
    if !config.environment.0.is_empty() {
        out["Environment"] = json!({ "Variables": config.environment });
    }
    let mut put = |key: &str, value: &Option<String>| {
        if let Some(value) = value {
            out[key] = value.as_str().into();
        }
    };
    put("StateReason", &record.state.reason);
    put("StateReasonCode", &record.state.reason_code);
    if let Some(update) = &record.last_update {
        put("LastUpdateStatus", &Some(update.is.name().into()));
        put("LastUpdateStatusReason", &update.reason);
        put("LastUpdateStatusReasonCode", &update.reason_code);
    }
    out
}
