//! Counts requests by route, and logs requests that change something.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, Response, StatusCode};
use axum::middleware::Next;
use tracing::Instrument;

use super::access::action::Action;
use super::access::authenticate::Caller;
use super::http::peer::Peer;
use super::http::request_id;
use crate::metrics::Metrics;

/// The pattern of the route that a request took, noted on its response.
#[derive(Debug, Clone)]
struct Route(MatchedPath);

/// The name of each operation by its method and route.
pub(crate) type OperationNames = HashMap<(Method, &'static str), &'static str>;

/// Adds the route to the response, for [`count`]. Logs each request that is neither read-only nor an
/// invocation, with its caller, whether it succeeds or not.
pub(crate) async fn note_route(
    State(names): State<Arc<OperationNames>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let Some(route) = request.extensions().get::<MatchedPath>().cloned() else {
        return next.run(request).await;
    };
    let action = Action::of(request.method(), route.as_str());
    let mut response = match action {
        Action::Administer(_) => {
            let span = request_id::span(&request, operation(&names, request.method(), &route));
            let change = Change::of(&request, route.as_str(), action);
            let response = next.run(request).instrument(span.clone()).await;
            if let Some(change) = change {
                span.in_scope(|| change.log(response.status()));
            }
            response
        }
        Action::Invoke | Action::Probe => {
            if tracing::enabled!(tracing::Level::DEBUG) {
                request_id::runs_operation(operation(&names, request.method(), &route));
            }
            next.run(request).await
        }
    };
    response.extensions_mut().insert(Route(route));
    response
}

fn operation(names: &OperationNames, method: &Method, route: &MatchedPath) -> &'static str {
    let known = names.get(&(method.clone(), route.as_str()));
    known.copied().unwrap_or_default()
}

/// A request that changes something, for the log.
struct Change {
    /// IAM's name.
    action: &'static str,
    path: String,
    key: Option<String>,
    from: Option<String>,
}

impl Change {
    /// `None` if the request changes nothing.
    fn of(request: &Request, route: &str, action: Action) -> Option<Self> {
        let action = changes(request.method(), route, action)?;
        let extensions = request.extensions();
        let caller = extensions.get::<Caller>();
        let peer = extensions.get::<Peer>();
        Some(Self {
            action,
            path: request.uri().path().to_owned(),
            key: caller.map(|caller| caller.name().to_owned()),
            from: peer.map(|peer| peer.0.ip().to_string()),
        })
    }

    fn log(self, status: StatusCode) {
        tracing::info!(
            action = self.action,
            path = self.path,
            key = self.key,
            from = self.from,
            status = status.as_u16(),
            "a client has requested a change"
        );
    }
}

/// IAM's action of a request that changes something.
fn changes(method: &Method, route: &str, action: Action) -> Option<&'static str> {
    if matches!(*method, Method::GET | Method::HEAD) || route.ends_with("/bench/agent-ping") {
        return None;
    }
    match action {
        Action::Administer(_) => Some(action.name()),
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
    use axum::middleware::from_fn_with_state;

    use super::*;
    use crate::process_log::{LogFormat, capture};

    /// The log had no line about changes of keys, tags and five functions.
    #[test]
    fn only_changes_are_logged() {
        let changes =
            |method: &Method, route: &str| super::changes(method, route, Action::of(method, route));
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

    /// The lines of a change had no request id, except the one that names it.
    #[tokio::test]
    async fn every_line_of_a_change_has_its_request_id_and_operation_at_the_usual_level() {
        let captured = capture::log(LogFormat::Json, "info");
        let (method, route) = (Method::DELETE, "/2015-03-31/functions/{name}");
        let names = OperationNames::from([((method.clone(), route), "DeleteFunction")]);
        let handler = async || {
            let name = crate::function::FunctionName::parse("hello").unwrap();
            request_id::names_function(&name);
            let change = async { tracing::warn!("within") };
            let changed = crate::api::change::to_the_end(change).await;
            changed.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
        };
        let app = axum::Router::new()
            .route(route, axum::routing::delete(handler))
            .route_layer(from_fn_with_state(Arc::new(names), note_route))
            .layer(axum::middleware::from_fn(request_id::assign));
        let request = Request::builder()
            .method(method)
            .uri("/2015-03-31/functions/hello");
        let answered = tower::ServiceExt::oneshot(app, request.body(Body::empty()).unwrap()).await;
        let id = answered.unwrap().headers()["x-amzn-requestid"].clone();
        for message in ["within", "a client has requested a change"] {
            let lines = captured.lines(message);
            let field = |name| capture::field(&lines[0], name);
            assert_eq!(field("request_id"), id.to_str().unwrap(), "{message}");
            assert_eq!(field("operation"), "DeleteFunction", "{message}");
            assert_eq!(field("function"), "hello", "{message}");
        }
    }

    #[tokio::test]
    async fn a_request_is_counted_by_its_route_and_not_by_its_path() {
        let metrics = Arc::new(Metrics::new(&[]).unwrap());
        let names = Arc::new(OperationNames::new());
        let routes = axum::Router::new()
            .route("/functions/{name}", axum::routing::get(async || "ok"))
            .route_layer(from_fn_with_state(names, note_route));
        let app = axum::Router::new()
            .fallback_service(routes)
            .layer(axum::middleware::from_fn(request_id::assign))
            .layer(from_fn_with_state(metrics.clone(), count));
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
