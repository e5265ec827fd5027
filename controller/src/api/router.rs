//! The whole API: the operations' routes, and the layers around them.

use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use axum::middleware::{from_fn, from_fn_with_state};
use tower::util::MapRequest;

use super::access::authenticate::{Authenticator, UncheckedBodies, authenticated};
use super::access::authorize::authorized;
use super::app::App;
use super::function_urls::function_url_layer::{self, FunctionUrlLayer};
use super::http::error::ApiError;
use super::http::page_check::{self, CheckedListener};
use super::http::{request_id, unread};
use super::{operations, traffic};
use crate::auth::Authentication;
use crate::web_pages::PageCheck;

/// Every route, behind authentication and authorization.
pub(crate) fn router(app: Arc<App>, authentication: &Authentication, pages: PageCheck) -> Router {
    let behind_urls = app.clone();
    let metrics = app.metrics.clone();
    let names = Arc::new(operations::names());
    let routes = authorized(operations::routes(), &app, authentication)
        .route_layer(from_fn_with_state(names, traffic::note_route))
        .fallback(async |uri: Uri| ApiError::unknown_path(uri.path()))
        .method_not_allowed_fallback(async || ApiError::method())
        .with_state(app);
    // The layers are outside of the router, so that a request without a route is authenticated too
    // and its response has a request id.
    let whole =
        Router::new().fallback_service(MapRequest::new(routes, request_id::without_trailing_slash));
    let unchecked = UncheckedBodies::new();
    let authenticator = Authenticator::of(authentication, &unchecked);
    let urls = FunctionUrlLayer {
        app: behind_urls,
        authenticator: authenticator.clone(),
        unchecked,
    };
    authenticated(whole, authenticator)
        .layer(from_fn_with_state(urls, function_url_layer::serve))
        .layer(from_fn_with_state(
            CheckedListener::new(pages),
            page_check::check,
        ))
        .layer(from_fn(request_id::assign))
        .layer(from_fn_with_state(metrics, traffic::count))
        .layer(from_fn(unread::settle))
}

/// Probes and metrics without authentication, for an address that only monitors reach.
pub(crate) fn monitoring(app: Arc<App>, pages: PageCheck) -> Router {
    operations::probes()
        .with_state(app)
        .layer(from_fn_with_state(
            CheckedListener::new(pages),
            page_check::check,
        ))
        .layer(from_fn(unread::settle))
}
