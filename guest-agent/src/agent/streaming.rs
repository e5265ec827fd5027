//! Responses that a function streams: passed on to the host as they come in; see
//! [`response_stream`](super::response_stream).

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, ResponseEnd, ResponseStart};
use hearth_protocol::guest::{MAX_CHUNK, MAX_STREAMED};

use super::answer::{TOO_LARGE, error_body, larger_than};
use super::response_stream::{HIGH_WATER, ResponseStream};
use super::{Agent, AgentError};
use crate::lifecycle::ConnectionId;
use crate::runtime_api::chunked::StreamError;
use crate::runtime_api::reply;
use crate::runtime_api::request::Body;
use crate::telemetry::Outcome;

const TRUNCATED: &str = "Runtime.TruncatedResponse";

impl Agent {
    pub(super) fn begin_stream(
        &mut self,
        id: ConnectionId,
        request_id: String,
        body: Body,
    ) -> Result<(), AgentError> {
        if let Err(error) = self.runtime.lifecycle.begin_stream(&request_id, id) {
            self.api.set_final_reply(id, reply::answer_refused(error));
            return Ok(());
        }
        self.runtime.stream = ResponseStream::default();
        if let Some(telemetry) = self.extensions.telemetry() {
            telemetry.answering();
        }
        let content_type = match body {
            Body::Streamed { content_type } => content_type,
            Body::Whole(_) | Body::TooLong => None,
        };
        self.host.queue(AgentMessage::ResponseStart(ResponseStart {
            request_id,
            content_type,
        }))
    }

    /// Passes on what has come in on a connection.
    pub(super) fn stream_on(
        &mut self,
        id: ConnectionId,
        mut piece: Bytes,
    ) -> Result<(), AgentError> {
        if !self.runtime.lifecycle.streams_on(id) {
            // Refused, or too long: the body is read to its end so that the client then reads why.
            return Ok(());
        }
        if !self.runtime.stream.count(piece.len()) {
            self.api
                .set_final_reply(id, reply::payload_too_long(MAX_STREAMED));
            return self.end_stream(Some(TOO_LARGE.to_owned()), larger_than(MAX_STREAMED));
        }
        while !piece.is_empty() {
            let chunk = piece.split_to(piece.len().min(MAX_CHUNK));
            self.host.queue(AgentMessage::ResponseChunk(chunk))?;
        }
        if self.host.link.queued() > HIGH_WATER {
            self.host.link.flush()?;
        }
        if self.host.link.queued() > HIGH_WATER && self.api.pause(id) {
            self.runtime.stream.pause(id);
        }
        Ok(())
    }

    /// The body of a streamed result is complete.
    pub(super) fn stream_ended(
        &mut self,
        id: ConnectionId,
        error: Option<StreamError>,
    ) -> Result<(), AgentError> {
        if self.runtime.lifecycle.streams_on(id) {
            let (error_type, body) = match error {
                Some(error) => (
                    Some(
                        error
                            .error_type
                            .unwrap_or_else(|| "Function.Unknown".into()),
                    ),
                    error.body,
                ),
                None => (None, Bytes::new()),
            };
            self.end_stream(error_type, body)?;
        }
        let reply = self.api.take_final_reply(id);
        self.reply(id, reply.unwrap_or_else(reply::accepted), Bytes::new())
    }

    /// Reads from a paused runtime again, once the host has taken enough.
    pub(super) fn resume_stream(&mut self) -> Result<(), AgentError> {
        match self.runtime.stream.resume(self.host.link.queued()) {
            Some(id) => self.api.resume(&self.epoll, id),
            None => Ok(()),
        }
    }

    /// Reports a response that was broken off, if there is one and its runtime has not exited.
    pub(super) fn give_up_broken_stream(&mut self) -> Result<(), AgentError> {
        self.runtime.stream.give_up();
        if !self.runtime.lifecycle.stream_is_broken() {
            return Ok(());
        }
        let message = "The connection ended before the response did";
        self.end_stream(Some(TRUNCATED.to_owned()), error_body(TRUNCATED, message))
    }

    fn end_stream(&mut self, error_type: Option<String>, body: Bytes) -> Result<(), AgentError> {
        let Some(request_id) = self.runtime.lifecycle.end_stream() else {
            return Ok(());
        };
        let usage = self.usage()?;
        self.queue_all_output(Some(&request_id))?;
        let passed = self.runtime.stream.passed();
        self.extensions.report_done(|| match &error_type {
            Some(kind) => Outcome::failed(usage, Some(kind)),
            None => Outcome::answered(usage, passed),
        });
        self.answer_host(AgentMessage::ResponseEnd(
            ResponseEnd {
                request_id,
                error_type,
                usage,
            },
            body,
        ))
    }
}
