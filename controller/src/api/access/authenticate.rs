//! Authentication: a layer that checks the signature of each request before anything else looks at it.
//! If authentication is off, there is no such layer. The layer of function URLs runs before this one and
//! calls [`Authenticator::admit`] for URLs with `AuthType: AWS_IAM`.
//!
//! A signature covers the body, so the body is read here, within the limit of its route. A request that
//! only names a known key is not proof of that key, so all bodies whose signature is still unchecked,
//! and all bodies for public function URLs, share one limit of memory.

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
use crate::auth::{AccessKey, Authentication, BodyHash, Verifier};
use crate::function_url;

/// Largest body of any operation, in bytes: a 50 MB package in base64, and the other members.
const MAX_BODY: usize = 70_167_211;
/// Maximum memory of all bodies together whose signature is unchecked or missing, in KiB.
const UNCHECKED_KIB: usize = 512 * 1024;
/// Bodies up to this size do not count and never wait, in bytes.
const SMALL: usize = 64 * 1024;
/// Maximum time that a request waits for a share of that memory.
const UNCHECKED_WAIT: Duration = Duration::from_secs(60);
/// A body is hashed in pieces of this many bytes, between which other tasks of the thread can run.
const HASH_PIECE: usize = 256 * 1024;

/// The key that has signed a request.
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

    /// The caller as the event of a function URL describes it.
    pub(crate) fn described<'a>(&'a self, account: &'a str) -> function_url::Caller<'a> {
        function_url::Caller {
            key_id: &self.0.id,
            name: &self.0.name,
            account,
        }
    }
}

/// Checks the signatures of requests.
#[derive(Debug)]
pub(crate) struct Authenticator {
    verifier: Arc<Verifier>,
    unchecked: UncheckedBodies,
}

/// Memory for bodies whose sender is not known.
#[derive(Debug, Clone)]
pub(crate) struct UncheckedBodies(Arc<Semaphore>);

/// Puts the layer around the whole API.
pub(crate) fn authenticated(router: Router, authenticator: Option<Arc<Authenticator>>) -> Router {
    match authenticator {
        None => router,
        Some(authenticator) => router.layer(from_fn_with_state(authenticator, authenticate)),
    }
}

async fn authenticate(
    State(authenticator): State<Arc<Authenticator>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    if matches!(
        request.uri().path(),
        "/healthz" | "/readyz" | "/healthz/" | "/readyz/"
    ) {
        return next.run(request).await;
    }
    match authenticator.admit(request).await {
        Ok(request) => next.run(request).await,
        Err(refused) => {
            tracing::debug!(error = ?refused, "the controller has not authenticated a request");
            refused.into_response()
        }
    }
}

impl Authenticator {
    /// `None` if authentication is off.
    pub(crate) fn of(
        authentication: &Authentication,
        unchecked: &UncheckedBodies,
    ) -> Option<Arc<Self>> {
        match authentication {
            Authentication::Off => None,
            Authentication::Signatures(verifier) => Some(Arc::new(Self {
                verifier: verifier.clone(),
                unchecked: unchecked.clone(),
            })),
        }
    }

    /// Checks a request's signature, which reads its body. Returns the request with its [`Caller`] among
    /// the extensions.
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

impl UncheckedBodies {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(UNCHECKED_KIB)))
    }

    /// A share of the memory for one body of at most `limit` bytes; `None` for a small one.
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

/// The largest body of a request, and the end of the message for a larger one.
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
    fn only_invocations_have_the_limit_of_a_payload() {
        let limit = |path: &str| limit(&path.parse().unwrap(), &HeaderMap::new()).0;
        let invoke = "/2015-03-31/functions/f/invocations";
        assert_eq!(limit(invoke), MAX_PAYLOAD);
        assert_eq!(limit(&format!("{invoke}/")), MAX_PAYLOAD);
        assert_eq!(limit("/fn/f/code"), MAX_PAYLOAD);
        assert_eq!(limit("/2015-03-31/functions"), MAX_BODY);
        assert_eq!(limit("/2015-03-31/functions/invocations/code"), MAX_BODY);
    }
}
