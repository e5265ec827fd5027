//! The development server's HTTP side: `POST /` runs the function, everything else is the
//! controller's API as it is. Runs of a function ask the gate first. One line per request.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hearth_controller::{PageCheck, Refused as RefusedRequest, is_for_function_url};
use serde_json::json;

use super::deployer::{Files, state_of};
use super::gate::{Gate, Refused};
use crate::client::Client;
use crate::client::forward::Answer;
use crate::function_name::FunctionName;
use crate::output::{Output, Stream, Tone, span};

/// Largest request body: a create with the largest package, as the controller takes it.
const MAX_BODY: usize = 70_167_211;

/// Lambda's headers that ask for the end of an invocation's log, and that have it.
const LOG_TYPE: &str = "x-amz-log-type";
const LOG_RESULT: &str = "x-amz-log-result";

/// What a request needs.
#[derive(Debug, Clone)]
pub(super) struct Front {
    pub(super) client: Client,
    pub(super) name: FunctionName,
    pub(super) gate: Arc<Gate>,
    pub(super) files: Files,
    pub(super) output: Output,
}

/// All there is to be asked, by programs and by pages that `pages` lets through.
pub(super) fn router(front: Front, pages: PageCheck) -> Router {
    Router::new()
        .fallback(handle)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(front)
        .layer(from_fn_with_state(Arc::new(pages), refuse_pages))
}

/// The development server checks no signatures either, and runs more code at a request than the
/// controller behind it.
async fn refuse_pages(
    State(pages): State<Arc<PageCheck>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    match pages.check(&mut request) {
        Ok(()) => next.run(request).await,
        Err(refused) => response(refusal(&refused)),
    }
}

fn refusal(refused: &RefusedRequest) -> Answer {
    let (status, kind) = match refused {
        RefusedRequest::Malformed(_) => (StatusCode::BAD_REQUEST, "ValidationException"),
        RefusedRequest::Host(_) | RefusedRequest::Page => {
            (StatusCode::FORBIDDEN, "AccessDeniedException")
        }
    };
    problem(status, kind, &refused.to_string())
}

async fn handle(
    State(front): State<Front>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    // The gate and the client wait: not on a thread that others need.
    let answered = tokio::task::spawn_blocking(move || front.answer(method, &uri, &headers, &body));
    let answer = answered.await.unwrap_or_else(|error| {
        problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "ServiceException",
            &error.to_string(),
        )
    });
    response(answer)
}

fn response(answer: Answer) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

impl Front {
    fn answer(&self, method: Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Answer {
        let start = Instant::now();
        let answer = self.route(method.clone(), uri, headers, body);
        self.tell(&method, uri, &answer, start);
        answer
    }

    fn route(&self, method: Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Answer {
        // On the host of a function URL every path is the function's.
        let is_event = uri.path() == "/" && !is_for_function_url(headers);
        let path = if is_event {
            if method != Method::POST {
                let hint = format!("POST an event here to run {}", self.name);
                return problem(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", &hint);
            }
            format!("/2015-03-31/functions/{}/invocations", self.name)
        } else {
            uri.path_and_query()
                .map_or_else(|| uri.path().to_owned(), ToString::to_string)
        };
        let invokes = is_invocation(&path) && !is_for_function_url(headers);
        if invokes {
            match self.gate.pass(|| state_of(&self.files).fingerprint) {
                Ok(()) => {}
                Err(Refused::NotDeployed(why)) => {
                    return problem(StatusCode::BAD_GATEWAY, "NotDeployed", &why);
                }
                Err(closed @ Refused::Closed) => {
                    let why = closed.to_string();
                    return problem(StatusCode::SERVICE_UNAVAILABLE, "Closed", &why);
                }
            }
        }
        // An empty POST is an event without content.
        let body = if is_event && body.is_empty() {
            b"{}"
        } else {
            body
        };
        // What the function prints is shown here, whether or not the caller wants to see it.
        let mut headers = headers.clone();
        if invokes {
            headers.insert(LOG_TYPE, HeaderValue::from_static("Tail"));
        }
        match self.client.forward(method, &path, &headers, body) {
            Ok(answer) => answer,
            Err(error) => problem(
                StatusCode::BAD_GATEWAY,
                "ServiceException",
                &error.to_string(),
            ),
        }
    }

    fn tell(&self, method: &Method, uri: &Uri, answer: &Answer, start: Instant) {
        let header = |name: &str| {
            answer
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let failed = header("x-amz-function-error").is_some() || !answer.status.is_success();
        let tone = if failed { Tone::Bad } else { Tone::Good };
        let status = match header("x-amz-function-error") {
            Some(kind) => format!("function error ({kind})"),
            None => answer.status.as_str().to_owned(),
        };
        let status = self.output.paint(Stream::Stderr, tone, &status);
        let path = self.output.foreign(Stream::Stderr, uri.path());
        let mut line = format!("{method} {path} {status} in {}", span(start.elapsed()));
        for (name, unit) in [
            ("x-hearth-start", " start"),
            ("x-hearth-duration-ms", " ms in the function"),
            ("x-hearth-max-memory-mib", " MiB"),
        ] {
            if let Some(value) = header(name) {
                line.push_str(&format!(", {value}{unit}"));
            }
        }
        self.output.note(&line);
        let log = header(LOG_RESULT).and_then(|base64| STANDARD.decode(base64).ok());
        for line in own_lines(&String::from_utf8_lossy(&log.unwrap_or_default())) {
            let line = self.output.foreign(Stream::Stderr, &format!("  | {line}"));
            self.output.note(&line);
        }
    }
}

/// What a function wrote of itself, a line at a time: not the platform's START, END and REPORT.
fn own_lines(log: &str) -> Vec<&str> {
    const PLATFORMS: [&str; 3] = ["START RequestId: ", "END RequestId: ", "REPORT RequestId: "];
    log.split(['\n', '\r'])
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .filter(|line| !PLATFORMS.iter().any(|begin| line.starts_with(begin)))
        .collect()
}

/// Whether this path runs a function: `…/invocations`, whatever follows as a query.
fn is_invocation(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or(path);
    path.trim_end_matches('/').ends_with("/invocations")
}

/// An answer of the development server's own, in the shape of Lambda's errors.
fn problem(status: StatusCode, kind: &'static str, message: &str) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert("x-amzn-errortype", HeaderValue::from_static(kind));
    let side = if status.is_server_error() {
        "Service"
    } else {
        "User"
    };
    Answer {
        status,
        headers,
        body: json!({ "Type": side, "Message": message })
            .to_string()
            .into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_a_function_are_told_from_the_rest() {
        for run in [
            "/2015-03-31/functions/f/invocations",
            "/2015-03-31/functions/f/invocations?Qualifier=live",
            "/2015-03-31/functions/f/invocations/",
        ] {
            assert!(is_invocation(run), "{run}");
        }
        for other in [
            "/2015-03-31/functions",
            "/metrics",
            "/2015-03-31/functions/invocations/x",
        ] {
            assert!(!is_invocation(other), "{other}");
        }
    }

    /// For what a function printed one needed a second terminal.
    #[test]
    fn what_a_function_prints_is_told_from_what_the_platform_says() {
        let log = "START RequestId: r Version: $LATEST\nhello\n[ERROR] x\rTraceback\r\n\
                   END RequestId: r\nREPORT RequestId: r\tDuration: 1 ms\n";
        assert_eq!(own_lines(log), ["hello", "[ERROR] x", "Traceback"]);
    }

    /// Every page that the developer had open could run the function and change it.
    #[test]
    fn a_request_of_a_foreign_page_is_refused() {
        let pages = PageCheck::open(([127, 0, 0, 1], 9000).into(), &[], true);
        for (host, origin, status) in [
            ("localhost:9000", None, None),
            ("localhost:9000", Some("http://localhost:9000"), None),
            ("localhost:9000", Some("http://evil.example"), Some(403)),
            ("evil.example:9000", None, Some(403)),
            ("", None, Some(400)),
        ] {
            let mut request = Request::post("/").header("host", host);
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            let mut request = request.body(Body::empty()).unwrap();
            let refused = pages.check(&mut request).err();
            let answered = refused.map(|refused| refusal(&refused).status.as_u16());
            assert_eq!(answered, status, "{host} {origin:?}");
        }
    }

    #[test]
    fn its_own_errors_look_like_lambdas() {
        let answer = problem(StatusCode::BAD_GATEWAY, "NotDeployed", "why");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["Message"], "why");
        assert_eq!(body["Type"], "Service");
        assert_eq!(answer.headers["x-amzn-errortype"], "NotDeployed");
    }
}
