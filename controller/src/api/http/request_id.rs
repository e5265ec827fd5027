//! Request ids, and paths with a trailing slash.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderValue, Method, Response};
use axum::middleware::Next;
use uuid::Uuid;

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
    let mut response = next.run(request).await;
    if let Some((method, path)) = asked {
        log(&id, &method, &path, &response, began.elapsed());
    }
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

/// Writes one line for each request, invocations, throttles (429) and refusals (403) included. The line has
/// no query, because a query may hold a signature.
fn log(id: &str, method: &Method, path: &str, response: &Response<Body>, took: Duration) {
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok()
    };
    tracing::debug!(
        request_id = id,
        %method,
        path,
        status = response.status().as_u16(),
        error_type = header("x-amzn-errortype"),
        version = header("x-amz-executed-version"),
        function_error = header("x-amz-function-error"),
        start = header("x-hearth-start"),
        duration_ms = header("x-hearth-duration-ms"),
        took_ms = took.as_secs_f64() * 1000.0,
        "request answered"
    );
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
    use super::*;

    /// At no level did the log say that an invocation ran, was throttled or refused.
    #[test]
    fn a_request_is_logged_with_its_id_and_what_became_of_it() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let response = Response::builder()
            .status(429)
            .header("x-amzn-errortype", "TooManyRequestsException")
            .body(Body::empty())
            .unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let path = "/2015-03-31/functions/f/invocations";
            log(
                "the-id",
                &Method::POST,
                path,
                &response,
                Duration::from_millis(2),
            );
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        for part in [
            "DEBUG",
            "request_id=\"the-id\"",
            "functions/f/invocations",
            "status=429",
            "TooManyRequestsException",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[derive(Debug, Clone, Default)]
    struct Written(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
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
