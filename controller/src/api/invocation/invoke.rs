//! The operation `Invoke`: `POST …/invocations`. Runs a function and responds with its result, stores an
//! event, or only checks (`DryRun`).

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::request::{InvocationType, InvokeRequest};
use crate::api::app::App;
use crate::api::events;
use crate::api::http::error::ApiError;
use crate::api::http::request_id::RequestId;
use crate::api::target::extract::Namespaced;
use crate::events::EventLimits;
use crate::function::VersionId;
use crate::pool::{Completed, Start};

pub(crate) async fn invoke(
    State(app): State<Arc<App>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Namespaced(named): Namespaced,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request = InvokeRequest::read(&app, named, request_id, &headers, body, true).await?;
    match request.kind {
        InvocationType::RequestResponse => {}
        InvocationType::Event => {
            let limits = EventLimits::of(&request.limits, &request.version);
            return events::accept(
                &app,
                request.request_id,
                request.named,
                request.trace_id,
                request.tenant,
                request.event,
                limits,
            )
            .await;
        }
        InvocationType::DryRun => return Ok(StatusCode::NO_CONTENT.into_response()),
    }
    let executed = request.version.id;
    let invocation = request.invocation(&app.arn_scope);
    let completed = app.pool.submit(invocation).await.map_err(|error| {
        tracing::debug!(%error, "an invocation did not run");
        ApiError::not_run(&error)
    })?;
    Ok(respond(completed, executed))
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
