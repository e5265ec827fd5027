//! Accepts asynchronous invocations: stores the event, then responds with 202 and an empty body.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::target::names::Named;
use crate::events::{EventLimits, EventRequest, NotAccepted};
use crate::function::{FunctionName, TenantId};

/// Largest payload of an asynchronous invocation, in bytes.
const MAX_EVENT: usize = 1 << 20;

/// Stores an event. The caller has found the function and checked that the payload is JSON.
pub(crate) async fn accept(
    app: &App,
    request_id: String,
    named: Named,
    trace_id: String,
    tenant: Option<TenantId>,
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
    if let Some(low) = app.builder.data.low_space() {
        return Err(ApiError::unavailable(low.to_string()));
    }
    let request = EventRequest {
        trace_id: Some(trace_id),
        tenant,
        request_id,
        function: named.name,
        qualifier: named.qualifier,
        payload,
        limits,
    };
    app.events.accept(request).await.map_err(refused)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Deletes the events of a function that was deleted.
pub(crate) async fn forget(app: &App, function: &FunctionName) -> Result<(), ApiError> {
    let dropped = app.events.forget(function).await;
    dropped.map_err(|error| {
        tracing::error!(%function, %error, "a deleted function's events were not deleted");
        let why = error.for_clients();
        ApiError::service(format!("The function's events were not deleted: {why}"))
    })
}

fn refused(why: NotAccepted) -> ApiError {
    match why {
        NotAccepted::Full(full) => ApiError::queue_full(full.to_string()),
        NotAccepted::Store(error) => {
            tracing::error!(%error, "an event could not be stored");
            let why = error.for_clients();
            ApiError::service(format!("The event could not be stored: {why}"))
        }
    }
}
