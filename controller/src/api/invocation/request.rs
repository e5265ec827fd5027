//! Reads a request to invoke a function: finds the version, checks headers and payload, and makes an
//! [`Invocation`]. `Invoke` and `InvokeWithResponseStream` begin here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hearth_protocol::guest::MAX_PAYLOAD;
use serde::de::IgnoredAny;

use super::tenant;
use crate::api::app::App;
use crate::api::http::body;
use crate::api::http::error::ApiError;
use crate::api::http::trace::trace_id;
use crate::api::http::unserved::refuse_header;
use crate::api::target::names::Named;
use crate::function::{ArnScope, TenantId, Version};
use crate::pool::{Invocation, Limits};

/// Longest client context, in bytes of base64.
const MAX_CLIENT_CONTEXT: usize = 3583;
/// Smallest memory limit that a request may set for its runtime, in MiB.
const MIN_MEMORY_MIB: u64 = 16;

/// The header `X-Amz-Invocation-Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InvocationType {
    /// The client waits for the result.
    RequestResponse,
    /// The client does not wait.
    Event,
    /// Only check the request.
    DryRun,
}

impl InvocationType {
    /// Reads the header. `events`: whether the operation accepts events.
    fn read(headers: &HeaderMap, events: bool) -> Result<Self, ApiError> {
        let Some(asked) = headers.get("x-amz-invocation-type") else {
            return Ok(Self::RequestResponse);
        };
        match asked.as_bytes() {
            b"RequestResponse" => Ok(Self::RequestResponse),
            b"DryRun" => Ok(Self::DryRun),
            b"Event" if events => Ok(Self::Event),
            other => Err(ApiError::constraint(
                &String::from_utf8_lossy(other),
                "invocationType",
                if events {
                    "Member must satisfy enum value set: [Event, RequestResponse, DryRun]"
                } else {
                    "Member must satisfy enum value set: [RequestResponse, DryRun]"
                },
            )),
        }
    }
}

/// A request to invoke a version, checked.
#[derive(Debug)]
pub(super) struct InvokeRequest {
    pub(super) kind: InvocationType,
    pub(super) named: Named,
    pub(super) request_id: String,
    pub(super) version: Arc<Version>,
    tail: bool,
    client_context: Option<String>,
    pub(super) tenant: Option<TenantId>,
    pub(super) trace_id: String,
    pub(super) limits: Limits,
    pub(super) event: Bytes,
    accepted: Instant,
}

impl InvokeRequest {
    /// Reads a request. `events`: whether the operation accepts events.
    pub(super) async fn read(
        app: &App,
        named: Named,
        request_id: String,
        headers: &HeaderMap,
        body: Body,
        events: bool,
    ) -> Result<Self, ApiError> {
        let accepted = Instant::now();
        let version = app.find_active(&named)?;
        // Only `Invoke` has it.
        if events {
            refuse_header(headers, "X-Amz-Durable-Execution-Name")?;
        }
        Ok(Self {
            kind: InvocationType::read(headers, events)?,
            tail: tail(headers)?,
            client_context: client_context(headers)?,
            tenant: tenant::read(headers, &version)?,
            trace_id: trace_id(headers, &request_id),
            limits: limits(headers, &version)?,
            event: payload(headers, body).await?,
            named,
            request_id,
            version,
            accepted,
        })
    }

    /// A synchronous invocation: its client waits for the result.
    pub(super) fn invocation(self, arn_scope: &ArnScope) -> Invocation {
        Invocation {
            trace_id: Some(self.trace_id),
            client_context: self.client_context,
            tenant: self.tenant,
            limits: self.limits,
            tail: self.tail,
            accepted: self.accepted,
            ..Invocation::new(
                self.request_id,
                self.version,
                self.named.arn(arn_scope),
                self.event,
            )
        }
    }
}

/// Reads the payload: JSON, or `{}` for an empty body.
pub(crate) async fn payload(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    event(body::read(headers, body, MAX_PAYLOAD, too_large).await?)
}

pub(crate) fn too_large() -> ApiError {
    ApiError::too_large(
        "RequestTooLargeException",
        format!(
            "Request must be smaller than {MAX_PAYLOAD} bytes for the InvokeFunction operation"
        ),
    )
}

fn tail(headers: &HeaderMap) -> Result<bool, ApiError> {
    match headers.get("x-amz-log-type").map(HeaderValue::as_bytes) {
        None | Some(b"None") => Ok(false),
        Some(b"Tail") => Ok(true),
        Some(other) => Err(ApiError::constraint(
            &String::from_utf8_lossy(other),
            "logType",
            "Member must satisfy enum value set: [None, Tail]",
        )),
    }
}

fn client_context(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(context) = headers.get("x-amz-client-context") else {
        return Ok(None);
    };
    if context.len() > MAX_CLIENT_CONTEXT {
        return Err(ApiError::invalid(format!(
            "Client context must be at most {MAX_CLIENT_CONTEXT} bytes, it has {}",
            context.len()
        )));
    }
    let decoded = STANDARD
        .decode(context.as_bytes())
        .ok()
        .and_then(|json| String::from_utf8(json).ok())
        .filter(|json| serde_json::from_str::<IgnoredAny>(json).is_ok());
    match decoded {
        // The agent sends it to the runtime as a header, which has to be one line.
        Some(json) => Ok(Some(json.replace(['\r', '\n'], " "))),
        None => Err(ApiError::bad_content(
            "Client context must be a valid Base64-encoded JSON object.",
        )),
    }
}

/// The version's limits, or the lower ones that the request's headers set.
pub(crate) fn limits(headers: &HeaderMap, version: &Version) -> Result<Limits, ApiError> {
    let own_ms = u64::from(version.config.timeout_seconds) * 1000;
    let own_mib = u64::from(version.config.memory_mib);
    let timeout = whole(headers, "X-Hearth-Timeout-Ms", 1, own_ms)?;
    let memory = whole(headers, "X-Hearth-Memory-MiB", MIN_MEMORY_MIB, own_mib)?;
    let cpu = whole(headers, "X-Hearth-Cpu-Ms", 1, own_ms)?;
    Ok(Limits {
        timeout: timeout.map_or(version.timeout(), Duration::from_millis),
        memory_mib: memory.and_then(|mib| u32::try_from(mib).ok()),
        cpu: cpu.map(Duration::from_millis),
    })
}

fn whole(
    headers: &HeaderMap,
    name: &'static str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digits = value.as_bytes();
    let number = std::str::from_utf8(digits)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|number| (least..=most).contains(number));
    match number {
        Some(number) if values.next().is_none() => Ok(Some(number)),
        _ => Err(ApiError::invalid(format!(
            "{name} must be one whole number from {least} to {most}, it was {:?}",
            String::from_utf8_lossy(&digits[..digits.len().min(40)])
        ))),
    }
}

/// Checks that the payload is JSON; an empty one becomes `{}`. The bytes stay as the client sent them.
fn event(payload: Bytes) -> Result<Bytes, ApiError> {
    if payload.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    let checked = match std::str::from_utf8(&payload) {
        Ok(text) => serde_json::from_str::<IgnoredAny>(text).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match checked {
        Ok(_) => Ok(payload),
        Err(why) => Err(ApiError::bad_content(format!(
            "Could not parse request body into json: Could not parse payload into json: {why}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_limit_is_a_whole_number_within_the_functions_own() {
        let ask = |value: &str| {
            whole(
                &with("x-hearth-timeout-ms", value),
                "X-Hearth-Timeout-Ms",
                1,
                3000,
            )
        };
        assert_eq!(ask("1").unwrap(), Some(1));
        assert_eq!(ask("3000").unwrap(), Some(3000));
        for bad in [
            "0",
            "3001",
            "-1",
            "+1",
            "1.5",
            "1e2",
            "0x10",
            "soon",
            "",
            "18446744073709551616",
        ] {
            assert!(ask(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            whole(&HeaderMap::new(), "X-Hearth-Timeout-Ms", 1, 3000).unwrap(),
            None
        );
        let mut twice = with("x-hearth-timeout-ms", "1");
        twice.append("x-hearth-timeout-ms", "2".parse().unwrap());
        assert!(whole(&twice, "X-Hearth-Timeout-Ms", 1, 3000).is_err());
    }

    #[test]
    fn a_payload_is_json_and_an_empty_one_becomes_an_empty_object() {
        assert_eq!(event(Bytes::new()).unwrap(), "{}");
        for good in ["null", "1", "\"x\"", " {\"a\": [1]} "] {
            assert_eq!(event(Bytes::from(good)).unwrap(), good);
        }
        for bad in [&b"{"[..], b"nope", b"{} {}", b"\"\xff\""] {
            assert!(event(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_payload_nested_a_million_deep_is_checked_without_a_million_frames() {
        let open = vec![b'['; 1 << 20];
        let deep = Bytes::from([open.clone(), vec![b']'; 1 << 20]].concat());
        assert_eq!(event(deep.clone()).unwrap(), deep);
        assert!(event(open.into()).is_err(), "never closed");
    }

    #[test]
    fn a_client_context_is_base64_of_json_on_one_line() {
        let context =
            |text: &[u8]| client_context(&with("x-amz-client-context", &STANDARD.encode(text)));
        assert_eq!(
            context(b"{\"a\":\n1}").unwrap().as_deref(),
            Some("{\"a\": 1}")
        );
        assert!(context(b"{").is_err());
        assert!(client_context(&with("x-amz-client-context", "%%%")).is_err());
        assert!(context(&[b' '; 3000]).is_err());
    }

    #[test]
    fn invocation_types_are_lambdas_and_case_matters() {
        use InvocationType::{DryRun, Event, RequestResponse};

        let read =
            |name: &str, events| InvocationType::read(&with("x-amz-invocation-type", name), events);
        assert!(read("requestresponse", true).is_err());
        for (name, kind) in [
            ("Event", Event),
            ("RequestResponse", RequestResponse),
            ("DryRun", DryRun),
        ] {
            assert_eq!(read(name, true).unwrap(), kind);
        }
        for (events, names) in [
            (true, "[Event, RequestResponse, DryRun]"),
            (false, "[RequestResponse, DryRun]"),
        ] {
            let refused = format!("{:?}", read("x", events).unwrap_err());
            assert!(refused.contains(names), "{refused}");
            let none = InvocationType::read(&HeaderMap::new(), events);
            assert_eq!(none.unwrap(), RequestResponse);
        }
        assert!(read("Event", false).is_err());
    }

    #[test]
    fn log_types_are_lambdas_and_case_matters() {
        assert!(tail(&with("x-amz-log-type", "Tail")).unwrap());
        assert!(tail(&with("x-amz-log-type", "tail")).is_err());
    }
}
