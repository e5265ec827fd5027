//! The response of a function URL with `InvokeMode: RESPONSE_STREAM`: status and headers as soon as they
//! are known, then the body as the function writes it.
//!
//! A failure before the status is known is a 502. A later failure closes the connection before the
//! body's end, because HTTP has no other way to report it.

use std::io;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use bytes::Bytes;
use futures_util::stream;

use super::refused_result::RefusedResult;
use super::response::{bad_gateway, has_prelude};
use crate::api::http::error::ApiError;
use crate::function_url::{Malformed, Prelude};
use crate::logs::LogStore;
use crate::pool::{Invocation, Next, Opened, Pool, Streamed};

/// The content type of a body for which the function gives none.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

pub(crate) async fn run(
    pool: &Pool,
    logs: &LogStore,
    invocation: Invocation,
) -> Result<Response<Body>, ApiError> {
    let refused = RefusedResult::of(&invocation, logs);
    let opened = pool.open(invocation).await;
    let (content_type, mut rest) = match opened.map_err(|error| ApiError::not_run(&error))? {
        Opened::Whole(completed) if completed.failed => return Ok(bad_gateway()),
        // The payload is the body: in this mode only a prelude gives status and headers.
        Opened::Whole(completed) => {
            let json = HeaderValue::from_static("application/json");
            return Ok(with_type(json, Body::from(completed.payload)));
        }
        Opened::Stream { content_type, rest } => (content_type, rest),
    };
    if has_prelude(content_type.as_deref()) {
        let mut prelude = Prelude::default();
        loop {
            let chunk = match rest.next().await {
                Next::Chunk(chunk) => chunk,
                Next::End(Ok(completed)) => {
                    if !completed.failed {
                        refused.because(&Malformed::CUT_SHORT);
                    }
                    return Ok(bad_gateway());
                }
                Next::End(Err(error)) => return Err(ApiError::not_run(&error)),
            };
            match prelude.push(&chunk) {
                Ok(None) => {}
                Ok(Some((head, first))) => return Ok(head.map(|()| body(first, Some(rest)))),
                Err(malformed) => {
                    refused.because(&malformed);
                    return Ok(bad_gateway());
                }
            }
        }
    }
    let content_type = content_type
        .and_then(|text| HeaderValue::try_from(text).ok())
        .unwrap_or(OCTETS);
    // Waits for the first bytes: a function that fails before them gets a status of 502.
    Ok(match rest.next().await {
        Next::Chunk(first) => with_type(content_type, body(first, Some(rest))),
        Next::End(Ok(completed)) if completed.failed => bad_gateway(),
        Next::End(Ok(_)) => with_type(content_type, Body::empty()),
        Next::End(Err(error)) => return Err(ApiError::not_run(&error)),
    })
}

fn with_type(content_type: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    response
}

fn body(first: Bytes, rest: Option<Streamed>) -> Body {
    Body::from_stream(stream::unfold(
        (Some(first), rest),
        async |(first, rest)| {
            if let Some(first) = first.filter(|first| !first.is_empty()) {
                return Some((Ok(first), (None, rest)));
            }
            let mut rest = rest?;
            match rest.next().await {
                Next::Chunk(bytes) => Some((Ok(bytes), (None, Some(rest)))),
                Next::End(Ok(completed)) if !completed.failed => None,
                Next::End(_) => {
                    // On an error, hyper drops everything that it has not written yet: status,
                    // headers and earlier bytes, if the function failed at once. hyper writes when
                    // the body has nothing ready, so yield once before the error.
                    tokio::task::yield_now().await;
                    Some((Err(io::Error::other("the function failed")), (None, None)))
                }
            }
        },
    ))
}
