//! Bodies that nobody has read when their request's answer is there: the caller is not let in, the
//! function does not exist, the body is too long.
//!
//! What is left of such a body stands between its answer and the connection's next request. Little
//! that is there already is read, and the connection goes on. Otherwise the answer says that the
//! connection ends, or a client would send its next request into the end of it; and what still
//! comes is read and thrown away for a while, or the answer would be lost: a client that is busy
//! sending reads it only afterwards, and a socket that is closed over unread bytes takes what it
//! has sent along.

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

/// What is read before the answer leaves, so that the connection can go on.
const LITTLE: u64 = 64 * 1024;
/// Longest wait for it.
const LITTLE_WAIT: Duration = Duration::from_millis(50);
/// Largest announced body that is read to its end: whoever uploads a package that is too large, or
/// with a wrong key, shall hear so.
const MOST_ANNOUNCED: u64 = 256 * 1024 * 1024;
/// What is read of a longer one, and of one that does not say how long it is.
const MOST_OF_ENDLESS: u64 = 4 * 1024 * 1024;
/// Longest pause between two pieces of what is thrown away, and the longest time for all of it.
const PAUSE: Duration = Duration::from_secs(5);
const TOTAL: Duration = Duration::from_secs(30);

/// Answers a request, and sees to what is left of its body.
pub(crate) async fn settle(request: Request, next: Next) -> Response<Body> {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Such a client sends nothing until it is told to, and now it won't be.
    let asks_first = request.headers().contains_key(EXPECT);
    let announced = announced(request.headers());
    let left = Left::default();
    let request = request.map(|body| {
        Body::new(Lent {
            body: Some(body),
            left: left.clone(),
        })
    });
    let mut response = next.run(request).await;
    let Some(mut body) = left.take() else {
        return response;
    };
    let is_little = !asks_first && announced.is_none_or(|length| length <= LITTLE);
    if is_little
        && matches!(
            timeout(LITTLE_WAIT, end_of(&mut body, LITTLE)).await,
            Ok(true)
        )
    {
        return response;
    }
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if !asks_first {
        let most = announced.filter(|length| *length <= MOST_ANNOUNCED);
        tokio::spawn(throw_away(body, most.unwrap_or(MOST_OF_ENDLESS)));
    }
    response
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body and says whether that was all of it, within `most` bytes.
async fn end_of(body: &mut Body, most: u64) -> bool {
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

/// The connection ends when the body is let go of.
async fn throw_away(mut body: Body, most: u64) {
    let deadline = Instant::now() + TOTAL;
    let mut read = 0;
    while read <= most {
        let pause = (Instant::now() + PAUSE).min(deadline);
        let Ok(Some(Ok(frame))) = timeout_at(pause, body.frame()).await else {
            return;
        };
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
}

/// Where a body comes back to that was not read to its end.
#[derive(Debug, Clone, Default)]
struct Left(Arc<Mutex<Option<Body>>>);

impl Left {
    fn take(&self) -> Option<Body> {
        lock(&self.0).take()
    }

    fn put(&self, body: Body) {
        *lock(&self.0) = Some(body);
    }
}

/// A body as those get it who answer the request.
#[derive(Debug)]
struct Lent {
    /// None when it has ended.
    body: Option<Body>,
    left: Left,
}

impl HttpBody for Lent {
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

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            self.left.put(body);
        }
    }
}
