//! Reads whole request bodies, within a maximum size and a maximum time.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::error::ApiError;

/// Maximum time between two pieces of a body.
const IDLE_LIMIT: Duration = Duration::from_secs(20);
/// Maximum time for a whole body.
const TOTAL_LIMIT: Duration = Duration::from_secs(300);

/// Largest body of an operation that takes no package, in bytes.
const MAX_SETTINGS: usize = 1 << 20;

/// Reads a body of at most `limit` bytes; `too_large` makes the error for a longer one. If
/// `Content-Length` is too large, the body is refused before any of it is read.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
    too_large: impl Fn() -> ApiError,
) -> Result<Bytes, ApiError> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    if announced.is_some_and(|announced| announced > limit as u64) {
        return Err(too_large());
    }
    let deadline = tokio::time::Instant::now() + TOTAL_LIMIT;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let pause = (tokio::time::Instant::now() + IDLE_LIMIT).min(deadline);
        let frame = tokio::time::timeout_at(pause, body.frame())
            .await
            .map_err(|_| ApiError::slow_body())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| {
            ApiError::bad_content(format!("The body could not be read: {error}"))
        })?;
        // Trailers are ignored.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.len() + rest.len() + data.len() > limit {
            return Err(too_large());
        }
        if first.is_empty() && rest.is_empty() {
            // Most bodies arrive in one piece, which needs no copy.
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    })
}

/// Reads the body of a request that carries no package.
pub(crate) async fn read_small(
    headers: &HeaderMap,
    body: Body,
    operation: &str,
) -> Result<Bytes, ApiError> {
    read(headers, body, MAX_SETTINGS, || {
        ApiError::too_large(
            "RequestEntityTooLargeException",
            format!(
                "Request must be smaller than {MAX_SETTINGS} bytes for the {operation} operation"
            ),
        )
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn large() -> ApiError {
        ApiError::too_large("RequestTooLargeException", "too large")
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together_and_one_over_the_limit_refused() {
        let pieces = || {
            Body::new(
                http_body_util::Full::new(Bytes::from_static(b"ab"))
                    .with_trailers(std::future::ready(None)),
            )
        };
        let none = HeaderMap::new();
        assert_eq!(read(&none, pieces(), 2, large).await.unwrap(), "ab");
        assert!(read(&none, pieces(), 1, large).await.is_err());
    }

    #[tokio::test]
    async fn an_announced_length_over_the_limit_is_refused_unread() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, "3".parse().unwrap());
        assert!(read(&headers, Body::empty(), 2, large).await.is_err());
    }
}
