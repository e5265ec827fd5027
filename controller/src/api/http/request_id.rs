//! Request ids, the spans of requests, and paths with a trailing slash.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderValue, Method, Response};
use axum::middleware::Next;
use tracing::field::{Empty, display};
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::function::{FunctionName, Version};

/// The span's name.
const REQUEST: &str = "request";

/// The id of a request. The function, the log and the response's `x-amzn-RequestId` have the same.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Gives each request an id, and its response the same.
pub(crate) async fn assign(mut request: Request, next: Next) -> Response<Body> {
    let id = Uuid::new_v4().to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let began = Instant::now();
    // Only what the log will have is copied.
    let asked = tracing::enabled!(tracing::Level::DEBUG)
        .then(|| (request.method().clone(), request.uri().path().to_owned()));
    // At debug: most requests are warm invocations. See `process_log`.
    let span = tracing::debug_span!(
        REQUEST,
        request_id = id,
        operation = Empty,
        function = Empty,
        version = Empty
    );
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some((method, path)) = asked {
        span.in_scope(|| log(&method, &path, &response, began.elapsed()));
    }
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

/// Writes one line for each request, invocations, throttles (429) and refusals (403) included. The line has
/// no query, because a query may hold a signature.
fn log(method: &Method, path: &str, response: &Response<Body>, took: Duration) {
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok()
    };
    tracing::debug!(
        %method,
        path,
        status = response.status().as_u16(),
        error_type = header("x-amzn-errortype"),
        function_error = header("x-amz-function-error"),
        start = header("x-hearth-start"),
        duration_ms = header("x-hearth-duration-ms"),
        took_ms = took.as_secs_f64() * 1000.0,
        "the controller has answered a request"
    );
}

/// The span of a request that is no invocation. It is there at every level, because such requests are
/// rare.
pub(crate) fn span(request: &Request, operation: &'static str) -> Span {
    let current = Span::current();
    // At debug, `assign` has made it.
    if current
        .metadata()
        .is_some_and(|span| span.name() == REQUEST)
    {
        current.record("operation", operation);
        return current;
    }
    let id = request.extensions().get::<RequestId>();
    tracing::error_span!(
        REQUEST,
        request_id = id.map(|id| id.0.as_str()),
        operation,
        function = Empty
    )
}

/// Adds the operation to the request's span.
pub(crate) fn runs_operation(operation: &'static str) {
    Span::current().record("operation", operation);
}

/// Adds the function to the request's span.
pub(crate) fn names_function(function: &FunctionName) {
    Span::current().record("function", display(function));
}

/// Adds the version to the request's span, and its function.
pub(crate) fn runs_version(version: &Version) {
    let span = Span::current();
    span.record("function", display(&version.name));
    span.record("version", display(version.id));
}

/// Removes a slash at the path's end, because older SDKs send one on some paths.
pub(crate) fn without_trailing_slash(mut request: Request) -> Request {
    let path = request.uri().path();
    if path.len() < 2 || !path.ends_with('/') {
        return request;
    }
    let path = &path[..path.len() - 1];
    let shorter = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    if let Ok(shorter) = PathAndQuery::try_from(shorter) {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.path_and_query = Some(shorter);
        *request.uri_mut() = Uri::from_parts(parts).expect("only the path became shorter");
    }
    request
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::middleware::from_fn;

    use super::*;
    use crate::process_log::{LogFormat, capture};

    /// A router whose only route logs.
    fn router(log: fn()) -> Router {
        Router::new()
            .route(
                "/functions/f/invocations",
                axum::routing::post(async move || {
                    log();
                    (
                        StatusCode::TOO_MANY_REQUESTS,
                        [("x-amzn-errortype", "TooManyRequestsException")],
                    )
                }),
            )
            .layer(from_fn(assign))
    }

    async fn post(router: Router) -> String {
        let request = Request::post("/functions/f/invocations").body(Body::empty());
        let answered = tower::ServiceExt::oneshot(router, request.unwrap()).await;
        let answered = answered.unwrap();
        let id = answered.headers()["x-amzn-requestid"].to_str();
        id.unwrap().to_owned()
    }

    /// At no level did the log say that an invocation ran, was throttled or refused.
    #[tokio::test]
    async fn a_request_is_logged_with_its_id_and_what_became_of_it() {
        let captured = capture::log(LogFormat::Text, "debug");
        let id = post(router(|| {})).await;
        let text = captured.text();
        for part in [
            "DEBUG",
            &format!("request_id=\"{id}\""),
            "functions/f/invocations",
            "status=429",
            "TooManyRequestsException",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[tokio::test]
    async fn a_line_that_a_handler_logs_has_the_id_function_and_version_of_its_request() {
        let captured = capture::log(LogFormat::Json, "debug");
        let id = post(router(|| {
            runs_version(&crate::pool::test_version("hello", 128));
            tracing::debug!("within");
        }))
        .await;
        let lines = captured.lines("within");
        assert_eq!(capture::field(&lines[0], "request_id"), &id);
        assert_eq!(capture::field(&lines[0], "function"), "hello");
        assert_eq!(capture::field(&lines[0], "version"), "$LATEST");
    }

    /// A span for each of them would cost every warm invocation.
    #[tokio::test]
    async fn an_invocation_has_no_span_at_the_usual_level() {
        let captured = capture::log(LogFormat::Json, "info");
        post(router(|| {
            assert!(Span::current().is_none());
            tracing::info!("within");
        }))
        .await;
        assert_eq!(captured.lines("within").len(), 1);
    }

    #[test]
    fn one_trailing_slash_is_taken_off_and_the_query_stays() {
        for (before, after) in [
            ("/a/", "/a"),
            ("/a/?q=1/", "/a?q=1/"),
            ("/a", "/a"),
            ("/", "/"),
            ("/a//", "/a/"),
        ] {
            let request = Request::builder().uri(before).body(Body::empty()).unwrap();
            assert_eq!(without_trailing_slash(request).uri(), after);
        }
    }
}
