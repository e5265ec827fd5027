//! A layer that refuses requests of foreign web pages, and requests without a valid `Host`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use axum::middleware::Next;
use axum::response::IntoResponse;

use super::error::ApiError;
use crate::web_pages::{PageCheck, Refused};

/// The check of one listener.
#[derive(Debug, Clone)]
pub(crate) struct CheckedListener(Arc<(PageCheck, AtomicBool)>);

impl CheckedListener {
    pub(crate) fn new(check: PageCheck) -> Self {
        Self(Arc::new((check, AtomicBool::new(false))))
    }
}

/// Passes a request on unless the check refuses it.
pub(crate) async fn check(
    State(listener): State<CheckedListener>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let (check, told) = &*listener.0;
    let Err(refused) = check.check(&mut request) else {
        return next.run(request).await;
    };
    // An operator whose monitor or proxy uses another name has to learn of it, but pages must not fill
    // the log.
    let first = matches!(refused, Refused::Host(_)) && !told.swap(true, Ordering::Relaxed);
    if first {
        tracing::warn!(error = %refused, "the controller has refused a request");
    } else {
        tracing::debug!(error = %refused, "the controller has refused a request");
    }
    ApiError::page_check(&refused).into_response()
}
