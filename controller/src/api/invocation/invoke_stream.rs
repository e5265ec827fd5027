//! The operation `InvokeWithResponseStream`: `POST …/response-streaming-invocations`. The result is sent
//! to the client as the function writes it.
//!
//! The result of a function that does not stream is sent as events too. Once the invocation has begun,
//! the status is 200; the last event, `InvokeComplete`, says whether it failed.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use hearth_protocol::guest::MAX_CHUNK;
use serde_json::{Map, Value};

use super::event_stream::event;
use super::request::{InvocationType, InvokeRequest};
use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::http::request_id::RequestId;
use crate::api::target::extract::Namespaced;
use crate::function::VersionId;
use crate::pool::{Completed, Next, NotRun, Opened, Streamed};

pub(crate) async fn invoke(
    State(app): State<Arc<App>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Namespaced(named): Namespaced,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request = InvokeRequest::read(&app, named, request_id, &headers, body, false).await?;
    if request.kind == InvocationType::DryRun {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let executed = request.version.id;
    let invocation = request.invocation(&app.arn_scope);
    let opened = app.pool.open(invocation).await.map_err(|error| {
        tracing::debug!(%error, "an invocation did not run");
        ApiError::not_run(&error)
    })?;
    let body = match opened {
        Opened::Whole(completed) => whole(completed),
        Opened::Stream { rest, .. } => in_pieces(rest),
    };
    Ok(respond(body, executed))
}

/// A result that is there as a whole, in events no larger than those of a stream.
fn whole(mut completed: Completed) -> Body {
    let mut payload = match completed.failed {
        true => Bytes::new(),
        false => std::mem::take(&mut completed.payload),
    };
    let chunks = std::iter::from_fn(move || {
        let piece = payload.split_to(payload.len().min(MAX_CHUNK));
        (!piece.is_empty()).then(|| chunk(&piece))
    });
    let end = complete(Ok(completed));
    let events = chunks.chain(std::iter::once(end));
    Body::from_stream(stream::iter(events.map(Ok::<_, Infallible>)))
}

fn in_pieces(rest: Streamed) -> Body {
    Body::from_stream(stream::unfold(Some(rest), async |rest| {
        let mut rest = rest?;
        let (event, rest) = match rest.next().await {
            Next::Chunk(bytes) => (chunk(&bytes), Some(rest)),
            Next::End(ended) => (complete(ended), None),
        };
        Some((Ok::<_, Infallible>(event), rest))
    }))
}

fn chunk(payload: &[u8]) -> Bytes {
    event("PayloadChunk", "application/octet-stream", payload)
}

/// The last event: how the invocation ended, and the end of its log if the client asked for it.
fn complete(ended: Result<Completed, NotRun>) -> Bytes {
    let mut members = Map::new();
    match ended {
        Ok(completed) => {
            if completed.failed {
                let details = String::from_utf8_lossy(&completed.payload);
                let code = completed.error_type.as_deref().unwrap_or("Unhandled");
                members.insert("ErrorCode".into(), code.into());
                members.insert("ErrorDetails".into(), details.into());
            }
            if let Some(tail) = completed.tail {
                members.insert("LogResult".into(), STANDARD.encode(tail).into());
            }
        }
        Err(error) => {
            members.insert("ErrorCode".into(), "ServiceException".into());
            members.insert("ErrorDetails".into(), error.to_string().into());
        }
    }
    let payload = Value::from(members).to_string();
    event("InvokeComplete", "application/json", payload.as_bytes())
}

fn respond(body: Body, executed: VersionId) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/vnd.amazon.eventstream"),
    );
    match HeaderValue::try_from(executed.to_string()) {
        Ok(value) => drop(headers.insert("x-amz-executed-version", value)),
        // Versions are always valid in a header.
        Err(error) => tracing::error!(%error, "the controller has left out a response header"),
    }
    response
}
