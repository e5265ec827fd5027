//! Asynchronous invocations: accepted once they are stored, answered with 202 and nothing else.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::error::ApiError;
use super::extract::Namespaced;
use super::names::Named;
use super::trace::trace_id;
use super::{App, RequestId, invoke};
use crate::events::{EventLimits, EventRequest, NotAccepted};
use crate::function::FunctionName;

/// Largest payload of an asynchronous invocation, in bytes.
const MAX_EVENT: usize = 1 << 20;

/// `POST …/invoke-async/`, the way from before there was `Invoke`.
pub(super) async fn invoke_async(
    State(app): State<Arc<App>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Namespaced(named): Namespaced,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let version = app.find_active(&named)?;
    let payload = invoke::payload(&headers, body).await?;
    let limits = EventLimits::of(&invoke::limits(&headers, &version)?, &version);
    let trace_id = trace_id(&headers, &request_id);
    accept(&app, request_id, named, trace_id, payload, limits).await
}

/// Stores an event whose function was found and whose payload is JSON.
pub(super) async fn accept(
    app: &App,
    request_id: String,
    named: Named,
    trace_id: String,
    payload: Bytes,
    limits: EventLimits,
) -> Result<Response, ApiError> {
    if payload.len() > MAX_EVENT {
        return Err(ApiError::too_large(
            "RequestEntityTooLargeException",
            format!(
                "{} byte payload is too large for the Event invocation type (limit {MAX_EVENT} \
                 bytes)",
                payload.len()
            ),
        ));
    }
    let request = EventRequest {
        trace_id: Some(trace_id),
        request_id,
        function: named.name,
        qualifier: named.qualifier,
        payload,
        limits,
    };
    app.events.accept(request).await.map_err(refused)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Drops the events of a function that was deleted.
pub(super) async fn forget(app: &App, function: &FunctionName) -> Result<(), ApiError> {
    let dropped = app.events.forget(function).await;
    dropped.map_err(|error| ApiError::service(format!("Its events were not dropped: {error}")))
}

fn refused(why: NotAccepted) -> ApiError {
    match why {
        NotAccepted::Full(full) => ApiError::queue_full(full.to_string()),
        NotAccepted::Store(error) => {
            ApiError::service(format!("The event could not be stored: {error}"))
        }
    }
}
