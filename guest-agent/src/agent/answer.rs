//! What a runtime posts for an invocation: its result or its error, as the host, the extensions and the
//! runtime itself are to get it.

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, FunctionError, Response, Usage};
use hearth_protocol::guest::MAX_PAYLOAD;

use crate::mailbox::Held;
use crate::runtime_api::reply;
use crate::runtime_api::request::{Body, Request};
use crate::telemetry::Outcome;

/// The error type of a response that is longer than Lambda allows.
pub(super) const TOO_LARGE: &str = "Function.ResponseSizeTooLarge";

/// A result, or an error in its place.
#[derive(Debug)]
pub(super) struct Answer {
    /// Whether this is an error.
    pub(super) failed: bool,
    pub(super) error_type: Option<String>,
    pub(super) body: Bytes,
    /// Whether `body` is what the runtime meant to post, all of it. Only then may the mailbox take it.
    pub(super) whole: bool,
    /// The reply to the runtime.
    pub(super) reply: Bytes,
}

impl Answer {
    /// The answer in a request that posts a result.
    pub(super) fn result(request: Request) -> Self {
        match (request.body, request.stream_error) {
            (_, Some(error)) => Self {
                failed: true,
                error_type: error.error_type,
                body: error.body,
                whole: false,
                reply: reply::accepted(),
            },
            (Body::Whole(body), None) => Self {
                failed: false,
                error_type: None,
                body,
                whole: true,
                reply: reply::accepted(),
            },
            (Body::TooLong | Body::Streamed { .. }, None) => Self::too_large(),
        }
    }

    /// The answer in a request that posts an error.
    pub(super) fn error(request: Request) -> Self {
        match request.body {
            Body::Whole(body) => Self {
                failed: true,
                error_type: request.error_type,
                body,
                whole: true,
                reply: reply::accepted(),
            },
            Body::TooLong | Body::Streamed { .. } => Self::too_large(),
        }
    }

    /// The answer that the runtime held at the mailbox.
    pub(super) fn held(held: Held) -> Self {
        Self {
            failed: held.failed,
            error_type: held.meta.error_type,
            body: held.body,
            whole: true,
            // Nobody has asked.
            reply: Bytes::new(),
        }
    }

    fn too_large() -> Self {
        Self {
            failed: true,
            error_type: Some(TOO_LARGE.to_owned()),
            body: larger_than(MAX_PAYLOAD as u64),
            whole: false,
            reply: reply::payload_too_long(MAX_PAYLOAD as u64),
        }
    }

    /// What subscribers to telemetry are told.
    pub(super) fn outcome(&self, usage: Usage) -> Outcome {
        match self.failed {
            true => Outcome::failed(usage, self.error_type.as_deref()),
            false => Outcome::answered(usage, self.body.len() as u64),
        }
    }

    /// What the host is told, and the reply to the runtime.
    pub(super) fn into_message(self, request_id: String, usage: Usage) -> (AgentMessage, Bytes) {
        let message = match self.failed {
            true => AgentMessage::FunctionError(
                FunctionError {
                    request_id,
                    error_type: self.error_type,
                    usage,
                },
                self.body,
            ),
            false => AgentMessage::Response(Response { request_id, usage }, self.body),
        };
        (message, self.reply)
    }
}

/// The body of the error that a response is longer than `limit` bytes.
pub(super) fn larger_than(limit: u64) -> Bytes {
    error_body(
        TOO_LARGE,
        &format!("Response payload size exceeded maximum allowed payload size ({limit} bytes)."),
    )
}

/// An error in Lambda's JSON. `error_type` matches Lambda's pattern and `message` is a text of the
/// agent's: neither needs escaping.
pub(super) fn error_body(error_type: &str, message: &str) -> Bytes {
    format!("{{\"errorType\":\"{error_type}\",\"errorMessage\":\"{message}\"}}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oversize_result_is_reported_with_lambdas_message() {
        assert_eq!(
            Answer::too_large().body,
            "{\"errorType\":\"Function.ResponseSizeTooLarge\",\"errorMessage\":\"Response payload \
             size exceeded maximum allowed payload size (6291556 bytes).\"}"
        );
    }
}
