//! What the runtime asks for and posts, and what is done about it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, FunctionError, InitFailed, Response, Usage};
use hearth_protocol::guest::MAX_PAYLOAD;

use super::{Agent, AgentError};
use crate::cpu_time;
use crate::generators::registered::MAX_BODY;
use crate::lifecycle::{ConnectionId, Next, RestoreNext};
use crate::runtime_api::connection::Input;
use crate::runtime_api::reply;
use crate::runtime_api::request::{Body, Request};
use crate::runtime_api::route::Route;
use crate::telemetry::Outcome;

pub(super) const TOO_LARGE: &str = "Function.ResponseSizeTooLarge";
/// A runtime failed and did not say of what.
const UNKNOWN: &str = "Runtime.Unknown";

impl Agent {
    /// Handles the requests that have arrived on a connection, up to the first that has to wait.
    pub(super) fn handle_requests(&mut self, id: ConnectionId) -> Result<(), AgentError> {
        loop {
            let Some(Some(connection)) = self.connections.get_mut(id.0) else {
                return Ok(());
            };
            match connection.input() {
                Input::Request(request) => self.handle_request(id, request)?,
                Input::Piece(piece) => self.stream_on(id, piece)?,
                Input::StreamEnd(error) => self.stream_ended(id, error)?,
                Input::Malformed(error) => {
                    let sent = connection.reply_and_close(reply::bad_request(error));
                    self.after_reply(id, sent.is_ok())?;
                }
                Input::Quiet => return self.after_reply(id, true),
            }
        }
    }

    /// Answers the request that `id` waits with. A client that is gone is no failure of ours: if
    /// it was the runtime, its exit will tell.
    pub(super) fn reply(
        &mut self,
        id: ConnectionId,
        head: Bytes,
        body: Bytes,
    ) -> Result<(), AgentError> {
        let Some(Some(connection)) = self.connections.get_mut(id.0) else {
            return Ok(());
        };
        let sent = connection.reply(head, body);
        self.after_reply(id, sent.is_ok())
    }

    fn after_reply(&mut self, id: ConnectionId, alive: bool) -> Result<(), AgentError> {
        let finished = match self.connections.get(id.0) {
            Some(Some(connection)) => connection.finished(),
            _ => return Ok(()),
        };
        if finished || !alive {
            self.close(id);
            return Ok(());
        }
        self.watch_connection(id)
    }

    fn handle_request(&mut self, id: ConnectionId, request: Request) -> Result<(), AgentError> {
        let answer = match Route::of(&request.method, &request.target) {
            Route::Next => return self.next(id),
            Route::Response(request_id) if matches!(request.body, Body::Streamed { .. }) => {
                return self.begin_stream(id, request_id, request.body);
            }
            Route::Response(request_id) => self.response(id, &request_id, request)?,
            Route::Error(request_id) => self.error(id, &request_id, request)?,
            Route::InitError => self.init_error(id, request)?,
            Route::RestoreNext => return self.restore_next(id),
            Route::RestoreError => self.restore_error(id, request)?,
            Route::Ping => reply::pong(),
            Route::Clock => {
                self.clock.correct().map_err(AgentError::Clock)?;
                reply::clock_set()
            }
            Route::Generators => self.register_generators(&request),
            Route::Register => self.register_extension(request)?,
            Route::NextEvent => return self.next_event(id, &request),
            Route::ExtensionError(phase) => self.extension_error(phase, &request)?,
            Route::Subscribe(api) => self.subscribe(api, &request),
            Route::NotFound => reply::not_found(),
            Route::MethodNotAllowed => reply::method_not_allowed(),
        };
        // Who has asked for the next event together with an answer that is refused is told so
        // before it gets one: it ends, and an event that it had by then would end with it.
        if answer != reply::accepted()
            && let Some(Some(connection)) = self.connections.get_mut(id.0)
            && connection.asks_for_more()
        {
            let sent = connection.reply_and_close(answer);
            return self.after_reply(id, sent.is_ok());
        }
        self.reply(id, answer, Bytes::new())
    }

    fn register_generators(&mut self, request: &Request) -> Bytes {
        let result = match &request.body {
            Body::Whole(body) if body.len() <= MAX_BODY => self.registered.take(body),
            _ => return reply::payload_too_long(MAX_BODY as u64),
        };
        match result {
            Ok(()) => reply::accepted(),
            Err(error) => reply::generators_refused(&error),
        }
    }

    fn next(&mut self, id: ConnectionId) -> Result<(), AgentError> {
        self.give_up_broken_stream()?;
        self.expect_quiet();
        let (first, invocation) = match self.life.next(id) {
            Ok(Next::Wait { instead_of }) => {
                if let Some(old) = instead_of {
                    self.close(old);
                }
                return Ok(());
            }
            Ok(Next::Restored { invocation }) => {
                self.queue_all_output(None)?;
                // What the hooks used is not the invocation's.
                self.cpu_us = self.cpu_us_so_far();
                if let Some(telemetry) = &mut self.telemetry {
                    telemetry.restored(None);
                }
                self.tell_thawed()?;
                return match invocation {
                    Some(invocation) => self.deliver(id, invocation),
                    None => Ok(()),
                };
            }
            Ok(Next::Announce { first }) => (first, None),
            Ok(Next::Deliver { invocation, first }) => (first, Some(invocation)),
            Err(error) => return self.reply(id, reply::transition_refused(error), Bytes::new()),
        };
        self.ready(first, invocation.is_some())?;
        match invocation {
            Some(invocation) => self.deliver(id, invocation),
            None => Ok(()),
        }
    }

    fn restore_next(&mut self, id: ConnectionId) -> Result<(), AgentError> {
        match self.life.restore_next(id) {
            Ok(RestoreNext::Announce) => self.ready(true, false),
            Ok(RestoreNext::Wait) => Ok(()),
            Ok(RestoreNext::Answer) => self.reply(id, reply::restored(), Bytes::new()),
            Err(error) => self.reply(id, reply::transition_refused(error), Bytes::new()),
        }
    }

    fn response(
        &mut self,
        id: ConnectionId,
        request_id: &str,
        request: Request,
    ) -> Result<Bytes, AgentError> {
        if let Err(error) = self.life.answer(request_id, "InvocationResponse") {
            return Ok(reply::answer_refused(error));
        }
        if let (Body::Whole(body), None) = (&request.body, &request.stream_error)
            && self.answer_at_mailbox(request_id, false, None, body)?
        {
            return Ok(reply::accepted());
        }
        let usage = self.usage()?;
        let request_id = request_id.to_owned();
        self.queue_all_output(Some(&request_id))?;
        self.tell_done(|| match (&request.body, &request.stream_error) {
            (_, Some(error)) => Outcome::failed(usage, error.error_type.as_deref()),
            (Body::Whole(body), None) => Outcome::answered(usage, body.len() as u64),
            (Body::TooLong | Body::Streamed { .. }, None) => {
                Outcome::failed(usage, Some(TOO_LARGE))
            }
        });
        let (message, answer) = match (request.body, request.stream_error) {
            (_, Some(error)) => (
                function_error(request_id, error.error_type, usage, error.body),
                reply::accepted(),
            ),
            (Body::Whole(body), None) => (
                AgentMessage::Response(Response { request_id, usage }, body),
                reply::accepted(),
            ),
            (Body::TooLong | Body::Streamed { .. }, None) => (
                function_error(request_id, Some(TOO_LARGE.to_owned()), usage, too_large()),
                reply::payload_too_long(MAX_PAYLOAD as u64),
            ),
        };
        self.answer_for(id, message)?;
        Ok(answer)
    }

    fn error(
        &mut self,
        id: ConnectionId,
        request_id: &str,
        request: Request,
    ) -> Result<Bytes, AgentError> {
        if let Err(error) = self.life.answer(request_id, "InvocationErrorResponse") {
            return Ok(reply::answer_refused(error));
        }
        if let Body::Whole(body) = &request.body
            && self.answer_at_mailbox(request_id, true, request.error_type.as_deref(), body)?
        {
            return Ok(reply::accepted());
        }
        let usage = self.usage()?;
        let request_id = request_id.to_owned();
        self.queue_all_output(Some(&request_id))?;
        let (error_type, body, answer) = match request.body {
            Body::Whole(body) => (request.error_type, body, reply::accepted()),
            Body::TooLong | Body::Streamed { .. } => (
                Some(TOO_LARGE.to_owned()),
                too_large(),
                reply::payload_too_long(MAX_PAYLOAD as u64),
            ),
        };
        self.tell_done(|| Outcome::failed(usage, error_type.as_deref()));
        self.answer_for(id, function_error(request_id, error_type, usage, body))?;
        Ok(answer)
    }

    fn init_error(&mut self, id: ConnectionId, request: Request) -> Result<Bytes, AgentError> {
        if let Err(error) = self.life.init_error() {
            return Ok(reply::transition_refused(error));
        }
        self.tell_init_failed(request.error_type.as_deref().unwrap_or(UNKNOWN));
        self.start_failure(id, request, AgentMessage::InitFailed)
    }

    fn restore_error(&mut self, id: ConnectionId, request: Request) -> Result<Bytes, AgentError> {
        if let Err(error) = self.life.restore_error() {
            return Ok(reply::transition_refused(error));
        }
        if let Some(telemetry) = &mut self.telemetry {
            let kind = request.error_type.as_deref().unwrap_or(UNKNOWN);
            telemetry.restored(Some(kind));
            telemetry.flush();
        }
        self.start_failure(id, request, AgentMessage::RestoreFailed)
    }

    fn start_failure(
        &mut self,
        id: ConnectionId,
        request: Request,
        told: impl FnOnce(InitFailed, Bytes) -> AgentMessage,
    ) -> Result<Bytes, AgentError> {
        self.queue_all_output(None)?;
        let (error_type, body, answer) = match request.body {
            Body::Whole(body) => (request.error_type, body, reply::accepted()),
            Body::TooLong | Body::Streamed { .. } => (
                Some(TOO_LARGE.to_owned()),
                too_large(),
                reply::payload_too_long(MAX_PAYLOAD as u64),
            ),
        };
        let error_type = error_type.unwrap_or_else(|| UNKNOWN.to_owned());
        self.answer_for(id, told(InitFailed { error_type }, body))?;
        Ok(answer)
    }

    /// Sends an answer, and the lines queued before it, at once: the host need not wait until the
    /// runtime has its 202.
    pub(super) fn answer_host(&mut self, message: AgentMessage) -> Result<(), AgentError> {
        self.host.queue(message)?;
        self.host.flush()?;
        self.answered = Instant::now();
        self.cgroup.limit_invocation(None)?;
        Ok(())
    }

    /// The same, unless the runtime has asked for the next event together with its answer: then
    /// its `Ready` leaves with the answer, at the end of this turn.
    fn answer_for(&mut self, id: ConnectionId, message: AgentMessage) -> Result<(), AgentError> {
        match self.connections.get(id.0) {
            Some(Some(connection)) if connection.asks_for_more() => {
                self.host.queue(message)?;
                self.answered = Instant::now();
                self.cgroup.limit_invocation(None)?;
                Ok(())
            }
            _ => self.answer_host(message),
        }
    }

    pub(super) fn cpu_us_so_far(&self) -> u64 {
        self.runtime
            .map_or_else(cpu_time::of_the_reaped, cpu_time::of)
    }

    /// What the invocation that ends now has used.
    pub(super) fn usage(&mut self) -> Result<Usage, AgentError> {
        let duration_us = micros(self.since.elapsed());
        let cpu_us = self.cpu_us_so_far();
        let before = std::mem::replace(&mut self.cpu_us, cpu_us);
        let max_memory_bytes = self.peak_memory()?;
        Ok(Usage {
            duration_us,
            cpu_us: cpu_us.saturating_sub(before),
            max_memory_bytes,
        })
    }

    /// The most memory that the function has had.
    pub(super) fn peak_memory(&self) -> Result<u64, AgentError> {
        let peak = self.cgroup.peak_memory()?;
        if let Some(mailbox) = &self.mailbox {
            mailbox.note_peak(peak);
        }
        Ok(peak)
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn function_error(
    request_id: String,
    error_type: Option<String>,
    usage: Usage,
    body: Bytes,
) -> AgentMessage {
    AgentMessage::FunctionError(
        FunctionError {
            request_id,
            error_type,
            usage,
        },
        body,
    )
}

fn too_large() -> Bytes {
    larger_than(MAX_PAYLOAD as u64)
}

pub(super) fn larger_than(limit: u64) -> Bytes {
    error_body(
        TOO_LARGE,
        &format!("Response payload size exceeded maximum allowed payload size ({limit} bytes)."),
    )
}

/// `error_type` is in Lambda's pattern and `message` our own: neither needs escaping.
pub(super) fn error_body(error_type: &str, message: &str) -> Bytes {
    format!("{{\"errorType\":\"{error_type}\",\"errorMessage\":\"{message}\"}}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oversize_result_is_reported_in_lambdas_words() {
        assert_eq!(
            too_large(),
            "{\"errorType\":\"Function.ResponseSizeTooLarge\",\"errorMessage\":\"Response payload \
             size exceeded maximum allowed payload size (6291556 bytes).\"}"
        );
    }
}
