//! Who calls: the layer that checks signatures, before anything else of a request is looked at. It is
//! not there when the gate is open. (What comes by a function's URL is before it, and asks here if
//! its URL says so.)
//!
//! The signature covers the body, so the body is read here, within the limits that its route has
//! anyway, and within one sum for all bodies that came with a known key's id and are not yet known to
//! be its holder's, and for those that a function's public URL takes from anybody.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, HOST};
use axum::http::{HeaderMap, Response, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use hearth_protocol::guest::MAX_PAYLOAD;
use time::OffsetDateTime;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::api::http::body;
use crate::api::http::error::ApiError;
use crate::api::http::request_id::RequestId;
use crate::auth::{AccessKey, BodyHash, Gate, Verifier};
use crate::function_url;

/// Largest body of all: a 50 MB package in base64, and the rest.
const MAX_BODY: usize = 70_167_211;
/// Memory for bodies whose signature is still to be checked, or that have none, all together, in KiB.
const UNCHECKED_KIB: usize = 512 * 1024;
/// What a small body counts: too little to be held back for.
const SMALL: usize = 64 * 1024;
/// Longest wait for a share of that memory.
const UNCHECKED_WAIT: Duration = Duration::from_secs(60);
/// A body is hashed in pieces, between which others get their turn.
const HASH_PIECE: usize = 256 * 1024;

/// Whose signature a request has.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(super) Arc<AccessKey>);

impl Caller {
    /// The key's name.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn may_invoke(&self, function: &str) -> bool {
        self.0.permissions.may_invoke(function)
    }

    /// As a function hears of it.
    pub(crate) fn described<'a>(&'a self, account: &'a str) -> function_url::Caller<'a> {
        function_url::Caller {
            key_id: &self.0.id,
            name: &self.0.name,
            account,
        }
    }
}

/// What this layer works with.
#[derive(Debug)]
pub(crate) struct Entrance {
    verifier: Arc<Verifier>,
    unchecked: Unchecked,
}

/// Memory for bodies that anybody may have sent.
#[derive(Debug, Clone)]
pub(crate) struct Unchecked(Arc<Semaphore>);

/// Everything, for those who signed.
pub(crate) fn authenticated(router: Router, entrance: Option<Arc<Entrance>>) -> Router {
    match entrance {
        None => router,
        Some(entrance) => router.layer(from_fn_with_state(entrance, authenticate)),
    }
}

async fn authenticate(
    State(entrance): State<Arc<Entrance>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    if matches!(
        request.uri().path(),
        "/healthz" | "/readyz" | "/healthz/" | "/readyz/"
    ) {
        return next.run(request).await;
    }
    let id = request.extensions().get::<RequestId>().cloned();
    match entrance.admit(request).await {
        Ok(request) => next.run(request).await,
        Err(refused) => {
            tracing::debug!(?id, ?refused, "not let in");
            refused.into_response()
        }
    }
}

impl Entrance {
    /// None if the gate is open.
    pub(crate) fn of(gate: &Gate, unchecked: &Unchecked) -> Option<Arc<Self>> {
        match gate {
            Gate::Open => None,
            Gate::Signed(verifier) => Some(Arc::new(Self {
                verifier: verifier.clone(),
                unchecked: unchecked.clone(),
            })),
        }
    }

    /// The request with its caller, body in hand, if its signature holds.
    pub(crate) async fn admit(&self, request: Request) -> Result<Request, ApiError> {
        let (mut parts, sent) = request.into_parts();
        let now = OffsetDateTime::now_utc();
        let claim = self
            .verifier
            .examine(&parts.method, &parts.uri, &parts.headers, now)
            .map_err(|error| ApiError::access(&error))?;
        let (body, hash) = if sent.is_end_stream() {
            (sent, BodyHash::of(b""))
        } else {
            let (limit, operation) = limit(&parts.uri, &parts.headers);
            let _share = if claim.is_signed() {
                None
            } else {
                self.unchecked.share(&parts.headers, limit).await?
            };
            let bytes = body::read(&parts.headers, sent, limit, || {
                ApiError::too_large(
                    "RequestTooLargeException",
                    format!("Request must be smaller than {limit} bytes{operation}"),
                )
            })
            .await?;
            let mut hash = BodyHash::default();
            for piece in bytes.chunks(HASH_PIECE) {
                hash.update(piece);
                if bytes.len() > HASH_PIECE {
                    tokio::task::yield_now().await;
                }
            }
            (Body::from(bytes), hash.finish())
        };
        let key = claim
            .settle(&hash)
            .map_err(|error| ApiError::access(&error))?;
        parts.extensions.insert(Caller(key));
        Ok(Request::from_parts(parts, body))
    }
}

impl Unchecked {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(UNCHECKED_KIB)))
    }

    /// Memory for one body of `limit` bytes at most.
    pub(crate) async fn share(
        &self,
        headers: &HeaderMap,
        limit: usize,
    ) -> Result<Option<SemaphorePermit<'_>>, ApiError> {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok())
            .and_then(|length| length.parse::<usize>().ok());
        let most = announced.map_or(limit, |announced| announced.min(limit));
        if most <= SMALL {
            return Ok(None);
        }
        let kib = u32::try_from(most.div_ceil(1024)).unwrap_or(u32::MAX);
        match tokio::time::timeout(UNCHECKED_WAIT, self.0.acquire_many(kib)).await {
            Ok(Ok(share)) => Ok(Some(share)),
            _ => Err(ApiError::unavailable("Too many large requests at once")),
        }
    }
}

/// The largest body for a request, and for which operation that is.
fn limit(uri: &Uri, headers: &HeaderMap) -> (usize, &'static str) {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let last = uri.path().trim_end_matches('/').rsplit('/').next();
    let invokes = matches!(
        last,
        Some("invocations" | "response-streaming-invocations" | "invoke-async")
    );
    if invokes || function_url::address_of(host, uri.path()).is_some() {
        return (MAX_PAYLOAD, " for the InvokeFunction operation");
    }
    (MAX_BODY, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invocations_have_the_limit_of_a_payload_and_nothing_else_has() {
        let limit = |path: &str| limit(&path.parse().unwrap(), &HeaderMap::new()).0;
        let invoke = "/2015-03-31/functions/f/invocations";
        assert_eq!(limit(invoke), MAX_PAYLOAD);
        assert_eq!(limit(&format!("{invoke}/")), MAX_PAYLOAD);
        assert_eq!(limit("/fn/f/code"), MAX_PAYLOAD);
        assert_eq!(limit("/2015-03-31/functions"), MAX_BODY);
        assert_eq!(limit("/2015-03-31/functions/invocations/code"), MAX_BODY);
    }
}
