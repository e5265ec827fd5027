//! The development server's HTTP side: `POST /` runs the function, everything else is the
//! controller's API as it is. Runs of a function ask the gate first. One line per request.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
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

/// All there is to be asked.
pub(super) fn router(front: Front) -> Router {
    Router::new()
        .fallback(handle)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(front)
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
        let path = if uri.path() == "/" {
            if method != Method::POST {
                let hint = format!("POST an event here to run {}", self.name);
                return problem(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", &hint);
            }
            format!("/2015-03-31/functions/{}/invocations", self.name)
        } else {
            uri.path_and_query()
                .map_or_else(|| uri.path().to_owned(), ToString::to_string)
        };
        if is_invocation(&path) {
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
        let body = if uri.path() == "/" && body.is_empty() {
            b"{}"
        } else {
            body
        };
        // What the function prints is shown here, whether or not the caller wants to see it.
        let mut headers = headers.clone();
        if is_invocation(&path) {
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

    #[test]
    fn its_own_errors_look_like_lambdas() {
        let answer = problem(StatusCode::BAD_GATEWAY, "NotDeployed", "why");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["Message"], "why");
        assert_eq!(body["Type"], "Service");
        assert_eq!(answer.headers["x-amzn-errortype"], "NotDeployed");
    }
}
