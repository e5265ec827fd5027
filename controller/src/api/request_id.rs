//! What happens to every request before it is routed and to every response after it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderValue, Method, Response};
use axum::middleware::Next;
use uuid::Uuid;

use super::access::Caller;
use super::action::Action;
use super::front::Peer;
use crate::metrics::Metrics;

/// The id of a request: what a function sees, what the log says, what the response carries.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// The pattern of the route that a request took, noted on its response.
#[derive(Debug, Clone)]
struct Route(MatchedPath);

/// Notes the route on the response, for the count of requests, and writes down who changed what: one
/// line for each request that is neither a look nor an invocation, refused or not.
pub(crate) async fn note_route(request: Request, next: Next) -> Response<Body> {
    let extensions = request.extensions();
    let route = extensions.get::<MatchedPath>().cloned();
    let change = route.as_ref().and_then(|route| {
        let action = changes(request.method(), route.as_str())?;
        let caller = extensions.get::<Caller>();
        let peer = extensions.get::<Peer>();
        Some((
            action,
            request.uri().path().to_owned(),
            caller.map(|caller| caller.name().to_owned()),
            peer.map(|peer| peer.0.ip().to_string()),
            extensions.get::<RequestId>().cloned(),
        ))
    });
    let mut response = next.run(request).await;
    if let Some((action, path, key, from, id)) = change {
        tracing::info!(
            action,
            path,
            key,
            from,
            status = response.status().as_u16(),
            request_id = id.map(|id| id.0),
            "change requested"
        );
    }
    if let Some(route) = route {
        response.extensions_mut().insert(Route(route));
    }
    response
}

/// What a request would change, in IAM's words.
fn changes(method: &Method, route: &str) -> Option<&'static str> {
    if matches!(*method, Method::GET | Method::HEAD) || route.ends_with("/bench/agent-ping") {
        return None;
    }
    match Action::of(method, route) {
        action @ Action::Administer(_) => Some(action.name()),
        Action::Invoke | Action::Probe => None,
    }
}

/// Gives the request an id, and its response the same, and counts it.
pub(crate) async fn assign(
    State(metrics): State<Arc<Metrics>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let id = Uuid::new_v4().to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let began = Instant::now();
    // Only what the log will have is copied.
    let asked = tracing::enabled!(tracing::Level::DEBUG).then(|| request.uri().path().to_owned());
    let method = request.method().clone();
    let mut response = next.run(request).await;
    let route = response.extensions().get::<Route>();
    let route = route.map_or("none", |route| route.0.as_str());
    metrics.request(&method, route, response.status());
    if let Some(path) = asked {
        log(&id, &method, &path, &response, began.elapsed());
    }
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

/// One line for each request: of an invocation, a throttle (429) or a refusal (403) as of any other. The
/// query is left out, since it may hold a signature.
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

/// Older SDKs end some paths with a slash.
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

    /// After keys, tags and five functions had changed, the log had not one line about it.
    #[test]
    fn changes_are_written_down_and_looks_and_invocations_are_not() {
        let function = "/2015-03-31/functions/{name}";
        assert_eq!(
            changes(&Method::DELETE, function),
            Some("lambda:DeleteFunction")
        );
        let code = format!("{function}/code");
        assert_eq!(
            changes(&Method::PUT, &code),
            Some("lambda:UpdateFunctionCode")
        );
        assert_eq!(changes(&Method::GET, function), None);
        assert_eq!(
            changes(&Method::POST, &format!("{function}/invocations")),
            None
        );
        assert_eq!(changes(&Method::POST, "/hearth/v1/bench/agent-ping"), None);
    }

    #[tokio::test]
    async fn a_request_is_counted_by_its_route_and_not_by_its_path() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let routes = axum::Router::new()
            .route("/functions/{name}", axum::routing::get(async || "ok"))
            .route_layer(axum::middleware::from_fn(note_route));
        let app = axum::Router::new().fallback_service(routes).layer(
            axum::middleware::from_fn_with_state(metrics.clone(), assign),
        );
        for path in ["/functions/a", "/functions/b", "/elsewhere"] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let answered = tower::ServiceExt::oneshot(app.clone(), request).await;
            assert!(answered.unwrap().headers().contains_key("x-amzn-requestid"));
        }
        let text = metrics.text(crate::metrics::Census::default(), 0).unwrap();
        for line in [
            r#"hearth_http_requests_total{method="GET",route="/functions/{name}",status="200"} 2"#,
            r#"hearth_http_requests_total{method="GET",route="none",status="404"} 1"#,
        ] {
            assert!(
                text.lines().any(|own| own == line),
                "{line} is not in {text}"
            );
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
