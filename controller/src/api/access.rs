//! Who gets in and how far: two layers around the routes, neither there when the gate is open. (What
//! comes by a function's URL is before both, and asks here if its URL says so.)
//!
//! The outer one checks signatures, before anything of a request is looked at. The signature covers
//! the body, so the body is read here, within the limits that its route has anyway, and within one
//! sum for all bodies that came with a known key's id and are not yet known to be its holder's, and
//! for those that a function's public URL takes from anybody. The
//! inner one checks permissions, once it is known which route it is: none is left out, because it
//! lies around all of them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{CONTENT_LENGTH, HOST};
use axum::http::{HeaderMap, Response, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use hearth_protocol::guest::MAX_PAYLOAD;
use time::OffsetDateTime;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::action::Action;
use super::error::ApiError;
use super::extract::Namespaced;
use super::{App, RequestId, body};
use crate::auth::{AccessKey, AuthError, BodyHash, Gate, Verifier};
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
pub(super) struct Caller(Arc<AccessKey>);

impl Caller {
    /// The key's name.
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn may_invoke(&self, function: &str) -> bool {
        self.0.permissions.may_invoke(function)
    }

    /// As a function hears of it.
    pub(super) fn described<'a>(&'a self, account: &'a str) -> function_url::Caller<'a> {
        function_url::Caller {
            key_id: &self.0.id,
            name: &self.0.name,
            account,
        }
    }
}

/// What the outer layer works with.
#[derive(Debug)]
pub(super) struct Entrance {
    verifier: Arc<Verifier>,
    unchecked: Unchecked,
}

/// Memory for bodies that anybody may have sent.
#[derive(Debug, Clone)]
pub(super) struct Unchecked(Arc<Semaphore>);

/// The routes, each asking whether its caller may.
pub(super) fn authorized(
    routes: Router<Arc<App>>,
    app: &Arc<App>,
    gate: &Gate,
) -> Router<Arc<App>> {
    match gate {
        Gate::Open => routes,
        Gate::Signed(_) => routes.route_layer(from_fn_with_state(app.clone(), authorize)),
    }
}

/// Everything, for those who signed.
pub(super) fn authenticated(router: Router, entrance: Option<Arc<Entrance>>) -> Router {
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
    pub(super) fn of(gate: &Gate, unchecked: &Unchecked) -> Option<Arc<Self>> {
        match gate {
            Gate::Open => None,
            Gate::Signed(verifier) => Some(Arc::new(Self {
                verifier: verifier.clone(),
                unchecked: unchecked.clone(),
            })),
        }
    }

    /// The request with its caller, body in hand, if its signature holds.
    pub(super) async fn admit(&self, request: Request) -> Result<Request, ApiError> {
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
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(UNCHECKED_KIB)))
    }

    /// Memory for one body of `limit` bytes at most.
    pub(super) async fn share(
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

async fn authorize(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    match permitted(&app, request).await {
        Ok(request) => next.run(request).await,
        Err(refused) => {
            tracing::debug!(?refused, "not permitted");
            refused.into_response()
        }
    }
}

async fn permitted(app: &Arc<App>, request: Request) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    let route = parts.extensions.get::<MatchedPath>();
    let route = route.map_or("", MatchedPath::as_str);
    let action = Action::of(&parts.method, route);
    if action == Action::Probe {
        return Ok(Request::from_parts(parts, body));
    }
    let names_function = route.contains("/functions/{");
    // The outer layer let nobody in without; should that ever change, this one does not.
    let Some(Caller(key)) = parts.extensions.get().cloned() else {
        return Err(ApiError::access(&AuthError::Missing));
    };
    if key.permissions.admin {
        return Ok(Request::from_parts(parts, body));
    }
    let function = if names_function {
        Some(Namespaced::from_request_parts(&mut parts, app).await?.0)
    } else {
        None
    };
    let permitted = action == Action::Invoke
        && function
            .as_ref()
            .is_some_and(|named| key.permissions.may_invoke(named.name.as_str()));
    if permitted {
        return Ok(Request::from_parts(parts, body));
    }
    Err(ApiError::access(&AuthError::Denied {
        caller: format!(
            "arn:{}:iam::{}:user/{}",
            app.place.partition(),
            app.place.account,
            key.name
        ),
        action: action.name().into(),
        resource: function.map_or_else(|| "*".into(), |named| named.arn(&app.place)),
    }))
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
