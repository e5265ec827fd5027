//! Parts of a function URL's response that buffered and streamed responses share.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};

use crate::function_url::INTEGRATION_RESPONSE;

/// The function failed, or its result is no valid response.
pub(crate) fn bad_gateway() -> Response<Body> {
    let mut response = Response::new(Body::from("Internal Server Error"));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Whether a result of this type begins with a prelude.
pub(crate) fn has_prelude(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|given| {
        let kind = given.split(';').next().unwrap_or(given).trim();
        kind.eq_ignore_ascii_case(INTEGRATION_RESPONSE)
    })
}
