//! The operation `InvokeAsync`, which Lambda has deprecated: `POST …/invoke-async`. Stores an event.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::request::{limits, payload};
use super::tenant;
use crate::api::app::App;
use crate::api::events;
use crate::api::http::error::ApiError;
use crate::api::http::request_id::RequestId;
use crate::api::http::trace::trace_id;
use crate::api::target::extract::Namespaced;
use crate::events::EventLimits;

pub(crate) async fn invoke_async(
    State(app): State<Arc<App>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Namespaced(named): Namespaced,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let version = app.find_active(&named)?;
    // The operation has no member for a tenant.
    let tenant = tenant::read(&HeaderMap::new(), &version)?;
    let payload = payload(&headers, body).await?;
    let limits = EventLimits::of(&limits(&headers, &version)?, &version);
    let trace_id = trace_id(&headers, &request_id);
    events::accept(&app, request_id, named, trace_id, tenant, payload, limits).await
}
