//! Counts requests by route, and logs requests that change something.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, Response};
use axum::middleware::Next;

use super::access::action::Action;
use super::access::authenticate::Caller;
use super::http::peer::Peer;
use super::http::request_id::RequestId;
use crate::metrics::Metrics;

/// The pattern of the route that a request took, noted on its response.
#[derive(Debug, Clone)]
struct Route(MatchedPath);

/// Adds the route to the response, for [`count`]. Logs each request that is neither read-only nor an
/// invocation, with its caller, whether it succeeds or not.
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

/// IAM's action of a request that changes something.
fn changes(method: &Method, route: &str) -> Option<&'static str> {
    if matches!(*method, Method::GET | Method::HEAD) || route.ends_with("/bench/agent-ping") {
        return None;
    }
    match Action::of(method, route) {
        action @ Action::Administer(_) => Some(action.name()),
        Action::Invoke | Action::Probe => None,
    }
}

/// Counts every request, including refused ones.
pub(crate) async fn count(
    State(metrics): State<Arc<Metrics>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let method = request.method().clone();
    let response = next.run(request).await;
    let route = response.extensions().get::<Route>();
    let route = route.map_or("none", |route| route.0.as_str());
    metrics.request(&method, route, response.status());
    response
}

#[cfg(test)]
mod tests {
    use super::super::http::request_id;
    use super::*;

    /// The log had no line about changes of keys, tags and five functions.
    #[test]
    fn only_changes_are_logged() {
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
        let metrics = Arc::new(Metrics::new(&[]).unwrap());
        let routes = axum::Router::new()
            .route("/functions/{name}", axum::routing::get(async || "ok"))
            .route_layer(axum::middleware::from_fn(note_route));
        let app = axum::Router::new()
            .fallback_service(routes)
            .layer(axum::middleware::from_fn(request_id::assign))
            .layer(axum::middleware::from_fn_with_state(metrics.clone(), count));
        for path in ["/functions/a", "/functions/b", "/elsewhere"] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let answered = tower::ServiceExt::oneshot(app.clone(), request).await;
            answered.unwrap();
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
}
