//! Request bodies that a handler has not read to their end when it responds: authentication failed, the
//! function does not exist, the body is too large.
//!
//! The unread rest stands between the response and the connection's next request:
//!
//! * If only a few bytes remain and have arrived, they are drained, and the connection stays open.
//! * Otherwise the response has `Connection: close`, so that the client does not send another request
//!   on a connection that is about to end. The rest is read and discarded for a while, because a client
//!   that is still sending reads the response only afterwards, and because closing a socket with unread
//!   bytes makes the kernel discard the response too.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, HeaderValue, Response};
use axum::middleware::Next;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, timeout, timeout_at};

use crate::locks::lock;

/// Largest rest that is drained before the response is sent, so that the connection can stay open.
const MAX_DRAINED: u64 = 64 * 1024;
/// Maximum time to drain it.
const DRAIN_LIMIT: Duration = Duration::from_millis(50);
/// Largest announced body that is read to its end, so that a client that uploads a package that is too
/// large, or signed with a wrong key, can read the error.
const MAX_ANNOUNCED: u64 = 256 * 1024 * 1024;
/// Maximum that is read of a larger body, and of one without a `Content-Length`.
const MAX_UNANNOUNCED: u64 = 4 * 1024 * 1024;
/// Maximum time between two pieces of a body that is discarded, and for all of it.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);
const TOTAL_LIMIT: Duration = Duration::from_secs(30);

/// Lets the next layer respond, and drains or discards the unread rest of the body.
pub(crate) async fn settle(request: Request, next: Next) -> Response<Body> {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // With `Expect: 100-continue` a client sends its body only when asked to. If the handler has not
    // asked, no body comes.
    let expects_continue = request.headers().contains_key(EXPECT);
    let announced = announced(request.headers());
    let returned = BodyReturn::default();
    let request = request.map(|body| {
        Body::new(TrackedBody {
            body: Some(body),
            returned: returned.clone(),
        })
    });
    let mut response = next.run(request).await;
    let Some(mut body) = returned.take() else {
        return response;
    };
    let is_small = !expects_continue && announced.is_none_or(|length| length <= MAX_DRAINED);
    if is_small
        && matches!(
            timeout(DRAIN_LIMIT, drain(&mut body, MAX_DRAINED)).await,
            Ok(true)
        )
    {
        return response;
    }
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if !expects_continue {
        let most = announced.filter(|length| *length <= MAX_ANNOUNCED);
        tokio::spawn(discard(body, most.unwrap_or(MAX_UNANNOUNCED)));
    }
    response
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body of at most `most` bytes. Returns whether it has reached its end.
async fn drain(body: &mut Body, most: u64) -> bool {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
        if read > most {
            return false;
        }
    }
    true
}

/// Reads a body and discards it. hyper closes the connection when the body is dropped.
async fn discard(mut body: Body, most: u64) {
    let deadline = Instant::now() + TOTAL_LIMIT;
    let mut read = 0;
    while read <= most {
        let pause = (Instant::now() + PAUSE_LIMIT).min(deadline);
        let Ok(Some(Ok(frame))) = timeout_at(pause, body.frame()).await else {
            return;
        };
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
}

/// Holds a body that was dropped before its end.
#[derive(Debug, Clone, Default)]
struct BodyReturn(Arc<Mutex<Option<Body>>>);

impl BodyReturn {
    fn take(&self) -> Option<Body> {
        lock(&self.0).take()
    }

    fn put(&self, body: Body) {
        *lock(&self.0) = Some(body);
    }
}

/// A request body that hands itself back when the handler drops it before its end.
#[derive(Debug)]
struct TrackedBody {
    /// `None` when it has ended.
    body: Option<Body>,
    returned: BodyReturn,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut *body).poll_frame(context);
        let ended = match &polled {
            Poll::Ready(Some(Ok(_))) => body.is_end_stream(),
            Poll::Ready(_) => true,
            Poll::Pending => false,
        };
        if ended {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            self.returned.put(body);
        }
    }
}
