//! The operation `Invoke`: `POST …/invocations`. Runs a function and responds with its result, stores an
//! event, or only checks (`DryRun`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::request::InvokeRequest;
use crate::api::app::App;
use crate::api::events;
use crate::api::http::error::ApiError;
use crate::api::http::request_id::RequestId;
use crate::api::target::extract::Namespaced;
use crate::events::EventLimits;
use crate::function::VersionId;
use crate::pool::{Completed, Start};

/// The header `X-Amz-Invocation-Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    RequestResponse,
    Event,
    DryRun,
}

pub(crate) async fn invoke(
    State(app): State<Arc<App>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Namespaced(named): Namespaced,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let accepted = Instant::now();
    let version = app.find_active(&named)?;
    let executed = version.id;
    let kind = kind(&headers)?;
    let request = InvokeRequest::read(version, &request_id, &headers, body).await?;
    match kind {
        Kind::RequestResponse => {}
        Kind::Event => {
            let limits = EventLimits::of(&request.limits, &request.version);
            let (trace_id, event) = (request.trace_id, request.event);
            return events::accept(&app, request_id, named, trace_id, event, limits).await;
        }
        Kind::DryRun => return Ok(StatusCode::NO_CONTENT.into_response()),
    }
    let invocation = request.invocation(request_id, named.arn(&app.arn_scope), accepted);
    let completed = app.pool.submit(invocation).await.map_err(|error| {
        tracing::debug!(%error, "an invocation did not run");
        ApiError::not_run(&error)
    })?;
    Ok(respond(completed, executed))
}

fn kind(headers: &HeaderMap) -> Result<Kind, ApiError> {
    match headers
        .get("x-amz-invocation-type")
        .map(HeaderValue::as_bytes)
    {
        None | Some(b"RequestResponse") => Ok(Kind::RequestResponse),
        Some(b"DryRun") => Ok(Kind::DryRun),
        Some(b"Event") => Ok(Kind::Event),
        Some(other) => Err(ApiError::constraint(
            &String::from_utf8_lossy(other),
            "invocationType",
            "Member must satisfy enum value set: [Event, RequestResponse, DryRun]",
        )),
    }
}

fn respond(completed: Completed, executed: VersionId) -> Response {
    let mut response = Response::new(Body::from(completed.payload));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if completed.failed {
        headers.insert(
            "x-amz-function-error",
            HeaderValue::from_static("Unhandled"),
        );
    }
    let mut put = |name: &'static str, value: String| match HeaderValue::try_from(value) {
        Ok(value) => drop(headers.insert(name, value)),
        // Versions, digits, base64 and JSON of digits are always valid in a header.
        Err(error) => {
            tracing::error!(name, %error, "the controller has left out a response header")
        }
    };
    put("x-amz-executed-version", executed.to_string());
    if let Some(tail) = completed.tail {
        put("x-amz-log-result", STANDARD.encode(tail));
    }
    let start = if completed.start == Start::Cold {
        "cold"
    } else {
        "warm"
    };
    put("x-hearth-start", start.into());
    put("x-hearth-duration-ms", millis(completed.duration));
    put("x-hearth-cpu-ms", millis(completed.cpu));
    put(
        "x-hearth-max-memory-mib",
        completed.max_memory_mib.to_string(),
    );
    let phases = completed.phases;
    put(
        "x-hearth-phases",
        format!(
            r#"{{"queue_us":{},"restore_us":{},"run_us":{},"total_us":{}}}"#,
            phases.queue.as_micros(),
            phases.restore.as_micros(),
            phases.run.as_micros(),
            phases.total.as_micros()
        ),
    );
    response
}

fn millis(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64() * 1000.0)
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
    fn invocation_types_are_lambdas_and_case_matters() {
        assert!(kind(&with("x-amz-invocation-type", "requestresponse")).is_err());
        for (name, expected) in [("Event", Kind::Event), ("DryRun", Kind::DryRun)] {
            let headers = with("x-amz-invocation-type", name);
            assert_eq!(kind(&headers).unwrap(), expected);
        }
    }
}
