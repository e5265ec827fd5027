//! Results that a function streams: passed on to the host as they come in.
//!
//! Little is ever held. When the host does not take what was passed on, the runtime's connection is
//! not read any more, so that its kernel makes the function wait; when the host has caught up, it
//! is read again.
//!
//! A connection that ends half-way may be the first that is seen of a runtime's end. The end tells
//! more than a result that broke off, so it is given a moment to be heard of.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, ResponseEnd, ResponseStart};
use hearth_protocol::guest::{MAX_CHUNK, MAX_STREAMED};

use super::runtime_requests::{TOO_LARGE, error_body, larger_than};
use super::{Agent, AgentError};
use crate::lifecycle::ConnectionId;
use crate::runtime_api::chunked::StreamError;
use crate::runtime_api::reply;
use crate::runtime_api::request::Body;
use crate::telemetry::Outcome;

/// Bytes waiting for the host above which no more are read from a runtime, and below which they
/// are again.
const HIGH_WATER: usize = 256 * 1024;
const LOW_WATER: usize = 64 * 1024;
/// From a connection's end to that of the process which had it.
const LAST_BREATH: Duration = Duration::from_millis(500);

const TRUNCATED: &str = "Runtime.TruncatedResponse";

/// What the agent keeps of a streamed result.
#[derive(Debug, Default)]
pub(super) struct Streaming {
    /// Bytes passed on.
    passed: u64,
    /// The connection that is not read at the moment.
    paused: Option<ConnectionId>,
    /// When a result that broke off is reported as that.
    give_up_at: Option<Instant>,
}

impl Agent {
    pub(super) fn begin_stream(
        &mut self,
        id: ConnectionId,
        request_id: String,
        body: Body,
    ) -> Result<(), AgentError> {
        if let Err(error) = self.life.begin_stream(&request_id, id) {
            if let Some(Some(connection)) = self.connections.get_mut(id.0) {
                connection.verdict = Some(reply::answer_refused(error));
            }
            return Ok(());
        }
        self.streaming = Streaming::default();
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.answering();
        }
        let content_type = match body {
            Body::Streamed { content_type } => content_type,
            Body::Whole(_) | Body::TooLong => None,
        };
        Ok(self.host.queue(AgentMessage::ResponseStart(ResponseStart {
            request_id,
            content_type,
        }))?)
    }

    /// Passes on what has come in on a connection.
    pub(super) fn stream_on(
        &mut self,
        id: ConnectionId,
        mut piece: Bytes,
    ) -> Result<(), AgentError> {
        if !self.life.streams_on(id) {
            // Refused, or too long: read to its end, so that its sender gets to read why.
            return Ok(());
        }
        self.streaming.passed += piece.len() as u64;
        if self.streaming.passed > MAX_STREAMED {
            if let Some(Some(connection)) = self.connections.get_mut(id.0) {
                connection.verdict = Some(reply::payload_too_long(MAX_STREAMED));
            }
            return self.end_stream(Some(TOO_LARGE.to_owned()), larger_than(MAX_STREAMED));
        }
        while !piece.is_empty() {
            let chunk = piece.split_to(piece.len().min(MAX_CHUNK));
            self.host.queue(AgentMessage::ResponseChunk(chunk))?;
        }
        if self.host.queued() > HIGH_WATER {
            self.host.flush()?;
        }
        if self.host.queued() > HIGH_WATER
            && let Some(Some(connection)) = self.connections.get_mut(id.0)
        {
            connection.paused = true;
            self.streaming.paused = Some(id);
        }
        Ok(())
    }

    /// The body of a streamed result is complete.
    pub(super) fn stream_ended(
        &mut self,
        id: ConnectionId,
        error: Option<StreamError>,
    ) -> Result<(), AgentError> {
        if self.life.streams_on(id) {
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
        let verdict = match self.connections.get_mut(id.0) {
            Some(Some(connection)) => connection.verdict.take(),
            _ => None,
        };
        self.reply(id, verdict.unwrap_or_else(reply::accepted), Bytes::new())
    }

    /// Reads on from a runtime that was made to wait, once the host has taken enough.
    pub(super) fn resume_stream(&mut self) -> Result<(), AgentError> {
        let Some(id) = self.streaming.paused else {
            return Ok(());
        };
        if self.host.queued() > LOW_WATER {
            return Ok(());
        }
        self.streaming.paused = None;
        if let Some(Some(connection)) = self.connections.get_mut(id.0) {
            connection.paused = false;
        }
        self.watch_connection(id)
    }

    /// A connection is gone: if a result was coming from it, that has broken off.
    pub(super) fn stream_broke(&mut self) {
        if self.life.stream_is_broken() && self.streaming.give_up_at.is_none() {
            self.streaming.give_up_at = Some(Instant::now() + LAST_BREATH);
        }
    }

    /// When [`Agent::give_up_broken_stream`] is to be called.
    pub(super) fn broken_stream_due(&self) -> Option<Instant> {
        self.streaming.give_up_at
    }

    /// Reports a result that broke off, if there is one and its runtime lives on.
    pub(super) fn give_up_broken_stream(&mut self) -> Result<(), AgentError> {
        self.streaming.give_up_at = None;
        if !self.life.stream_is_broken() {
            return Ok(());
        }
        let message = "The connection ended before the response did";
        self.end_stream(Some(TRUNCATED.to_owned()), error_body(TRUNCATED, message))
    }

    fn end_stream(&mut self, error_type: Option<String>, body: Bytes) -> Result<(), AgentError> {
        let Some(request_id) = self.life.end_stream() else {
            return Ok(());
        };
        let usage = self.usage()?;
        self.queue_all_output(Some(&request_id))?;
        let passed = self.streaming.passed;
        self.tell_done(|| match &error_type {
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
