//! The Runtime API's replies. Header and body of each are sent in one `send`: two would cost a delayed
//! acknowledgement (44 ms) with some clients.

use bytes::Bytes;
use hearth_protocol::agent::Invoke;
use serde::Serialize;

use crate::environment::FunctionIdentity;
use crate::extensions::Refusal;
use crate::generators::registered::RegistrationError;
use crate::lifecycle::{AnswerError, InvalidTransition};
use crate::runtime_api::request::RequestError;
use crate::telemetry::Invalid;

/// Interim reply to a client that waits before it sends a body.
pub(crate) const CONTINUE: Bytes = Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n");

const ACCEPTED: Bytes = Bytes::from_static(
    b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n\
      {\"status\":\"OK\"}\n",
);

/// 202, the reply to a result, an error or an init error.
pub(crate) fn accepted() -> Bytes {
    ACCEPTED
}

/// Reply to `GET /ping`.
pub(crate) fn pong() -> Bytes {
    whole("200 OK", "text/plain", "pong")
}

/// Reply to a request to set the clock.
pub(crate) fn clock_set() -> Bytes {
    whole("200 OK", "text/plain", "")
}

/// Reply to `restore/next`, after the restore.
pub(crate) fn restored() -> Bytes {
    whole("200 OK", "application/json", "")
}

/// No such path.
pub(crate) fn not_found() -> Bytes {
    whole("404 Not Found", "text/plain", "404 page not found\n")
}

/// The path exists for another method. Without a body: the request may have been a HEAD.
pub(crate) fn method_not_allowed() -> Bytes {
    whole("405 Method Not Allowed", "text/plain", "")
}

/// The invocation of this answer is not the current one, or has been answered already.
pub(crate) fn answer_refused(error: AnswerError) -> Bytes {
    match error {
        AnswerError::UnknownRequestId => problem("400 Bad Request", "InvalidRequestID", &error),
        AnswerError::Transition(error) => transition_refused(error),
    }
}

/// An extension's request is refused.
pub(crate) fn extension_refused(refusal: &Refusal) -> Bytes {
    problem("403 Forbidden", refusal.kind, &refusal.message)
}

/// An extension is registered under this identifier.
pub(crate) fn registered(identifier: &str, function: &FunctionIdentity) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Registered<'a> {
        function_name: &'a str,
        function_version: &'a str,
        handler: &'a str,
    }
    let body = serde_json::to_string(&Registered {
        function_name: &function.name,
        function_version: &function.version,
        handler: &function.handler,
    })
    .expect("three strings are JSON");
    let mut head = String::from("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n");
    header(&mut head, "Lambda-Extension-Identifier", identifier);
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into()
}

/// Header part of an extension's event; its bytes follow.
pub(crate) fn event_head(identifier: &str, event_len: usize) -> Bytes {
    let mut head = String::from("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n");
    header(&mut head, "Lambda-Extension-Event-Identifier", identifier);
    format!("{head}Content-Length: {event_len}\r\n\r\n").into()
}

/// An extension's subscription is accepted.
pub(crate) fn subscribed() -> Bytes {
    whole("200 OK", "application/json", "\"OK\"")
}

/// An extension's subscription is not valid.
pub(crate) fn subscription_invalid(error: &Invalid) -> Bytes {
    problem("400 Bad Request", "ValidationError", error)
}

/// The runtime's state does not allow the request.
pub(crate) fn transition_refused(error: InvalidTransition) -> Bytes {
    problem("403 Forbidden", "InvalidStateTransition", &error)
}

/// The result is longer than a payload may be.
pub(crate) fn payload_too_long(limit: u64) -> Bytes {
    problem(
        "413 Payload Too Large",
        "RequestEntityTooLarge",
        &format_args!("Exceeded maximum allowed payload size ({limit} bytes)."),
    )
}

/// A registration of random generators that can't be understood.
pub(crate) fn generators_refused(error: &RegistrationError) -> Bytes {
    problem(
        "400 Bad Request",
        "InvalidRequest",
        &format_args!("{error}"),
    )
}

/// The bytes were not a request. The connection is closed after this reply.
pub(crate) fn bad_request(error: RequestError) -> Bytes {
    let status = match error {
        RequestError::HeadTooLong | RequestError::TooManyHeaders => {
            "431 Request Header Fields Too Large"
        }
        _ => "400 Bad Request",
    };
    problem(status, "InvalidRequest", &error)
}

/// Header part of the reply to `next`; the event's bytes follow it.
pub(crate) fn invocation_head(invoke: &Invoke, event_len: usize) -> Bytes {
    invocation_head_of(invoke.headers().as_bytes(), event_len)
}

/// The same from ready-made headers, each with its line break.
pub(crate) fn invocation_head_of(headers: &[u8], event_len: usize) -> Bytes {
    let length = format!("Content-Length: {event_len}\r\n\r\n");
    let begin = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    [&begin[..], headers, length.as_bytes()].concat().into()
}

/// Writes a header; control characters, which would end it, become spaces.
fn header(head: &mut String, name: &str, value: &str) {
    head.push_str(name);
    head.push_str(": ");
    head.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }));
    head.push_str("\r\n");
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "errorMessage")]
    message: &'a str,
    #[serde(rename = "errorType")]
    kind: &'a str,
}

fn problem(status: &str, kind: &str, message: &dyn std::fmt::Display) -> Bytes {
    let message = message.to_string();
    let problem = Problem {
        message: &message,
        kind,
    };
    let mut body = serde_json::to_string(&problem).expect("two strings are JSON");
    body.push('\n');
    whole(status, "application/json", &body)
}

fn whole(status: &str, content_type: &str, body: &str) -> Bytes {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(reply: &Bytes) -> (&str, &str) {
        let text = std::str::from_utf8(reply).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let announced = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .unwrap();
        assert_eq!(announced, body.len().to_string());
        (head.lines().next().unwrap(), body)
    }

    #[test]
    fn answers_have_lambdas_status_and_body() {
        assert_eq!(
            body_of(&accepted()),
            ("HTTP/1.1 202 Accepted", "{\"status\":\"OK\"}\n")
        );
        assert_eq!(
            body_of(&answer_refused(AnswerError::UnknownRequestId)),
            (
                "HTTP/1.1 400 Bad Request",
                "{\"errorMessage\":\"Invalid request ID\",\"errorType\":\"InvalidRequestID\"}\n"
            )
        );
        let refused = transition_refused(InvalidTransition {
            from: "Started",
            to: "Ready",
        });
        let (status, body) = body_of(&refused);
        assert_eq!(status, "HTTP/1.1 403 Forbidden");
        assert!(
            body.contains("\"State transition from Started to Ready failed for runtime. Error: ")
        );
        let too_long = payload_too_long(1);
        let (status, body) = body_of(&too_long);
        assert_eq!(status, "HTTP/1.1 413 Payload Too Large");
        assert!(body.contains("RequestEntityTooLarge"));
        assert_eq!(body_of(&not_found()).0, "HTTP/1.1 404 Not Found");
        assert_eq!(body_of(&method_not_allowed()).1, "");
        assert_eq!(
            body_of(&bad_request(RequestError::HeadTooLong)).0,
            "HTTP/1.1 431 Request Header Fields Too Large"
        );
    }

    #[test]
    fn the_runtime_gets_every_header_of_an_invocation() {
        let head = invocation_head(
            &Invoke {
                request_id: "id".into(),
                deadline_ms: 5,
                function_arn: "arn".into(),
                trace_id: Some("Root=1".into()),
                client_context: Some("{\"a\":\"\u{e9}\"}".into()),
                tenant_id: Some("blue".into()),
                ..Invoke::default()
            },
            7,
        );
        assert_eq!(
            std::str::from_utf8(&head).unwrap(),
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
             Lambda-Runtime-Aws-Request-Id: id\r\nLambda-Runtime-Deadline-Ms: 5\r\n\
             Lambda-Runtime-Invoked-Function-Arn: arn\r\nLambda-Runtime-Trace-Id: Root=1\r\n\
             Lambda-Runtime-Client-Context: {\"a\":\"\u{e9}\"}\r\n\
             Lambda-Runtime-Aws-Tenant-Id: blue\r\nContent-Length: 7\r\n\r\n"
        );
    }

    #[test]
    fn a_client_context_can_not_add_headers() {
        let head = invocation_head(
            &Invoke {
                client_context: Some("{\r\n\"a\": 1}\r\n\r\nHTTP".into()),
                ..Invoke::default()
            },
            0,
        );
        let text = std::str::from_utf8(&head).unwrap();
        assert!(text.contains("Client-Context: {  \"a\": 1}    HTTP\r\n"));
        assert_eq!(text.matches("\r\n\r\n").count(), 1);
    }
}
