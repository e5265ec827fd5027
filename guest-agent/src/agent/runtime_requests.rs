//! What the clients of the Runtime API send: each request is routed; those of the runtime are handled
//! here.

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, InitFailed};

use super::answer::Answer;
use super::runtime_side::ReadyAfter;
use super::{Agent, AgentError};
use crate::generators::registered::MAX_BODY;
use crate::lifecycle::{ConnectionId, Next, RestoreNext};
use crate::runtime_api::connection::Input;
use crate::runtime_api::reply;
use crate::runtime_api::request::{Body, Request};
use crate::runtime_api::route::Route;

/// A runtime failed and gave no error type.
const UNKNOWN: &str = "Runtime.Unknown";

impl Agent {
    /// Handles the requests that have arrived on a connection, up to the first that has to wait.
    pub(super) fn handle_requests(&mut self, id: ConnectionId) -> Result<(), AgentError> {
        loop {
            match self.api.input(id) {
                None => return Ok(()),
                Some(Input::Request(request)) => self.handle_request(id, request)?,
                Some(Input::Piece(piece)) => self.stream_on(id, piece)?,
                Some(Input::StreamEnd(error)) => self.stream_ended(id, error)?,
                Some(Input::Malformed(error)) => {
                    self.reply_and_close(id, reply::bad_request(error))?;
                }
                Some(Input::Quiet) => {
                    let after = self.api.settle(&self.epoll, id)?;
                    self.after_reply(id, after);
                    return Ok(());
                }
            }
        }
    }

    fn reply_and_close(&mut self, id: ConnectionId, reply: Bytes) -> Result<(), AgentError> {
        let after = self.api.reply_and_close(&self.epoll, id, reply)?;
        self.after_reply(id, after);
        Ok(())
    }

    fn handle_request(&mut self, id: ConnectionId, request: Request) -> Result<(), AgentError> {
        let answer = match Route::of(&request.method, &request.target) {
            Route::Next => return self.next(id),
            Route::Response(request_id) if matches!(request.body, Body::Streamed { .. }) => {
                return self.begin_stream(id, request_id, request.body);
            }
            Route::Response(request_id) => {
                let answer = Answer::result(request);
                self.answer(id, request_id, answer, "InvocationResponse")?
            }
            Route::Error(request_id) => {
                let answer = Answer::error(request);
                self.answer(id, request_id, answer, "InvocationErrorResponse")?
            }
            Route::InitError => self.init_error(id, request)?,
            Route::RestoreNext => return self.restore_next(id),
            Route::RestoreError => self.restore_error(id, request)?,
            Route::Ping => reply::pong(),
            Route::Clock => {
                self.host.correct_clock()?;
                reply::clock_set()
            }
            Route::Generators => self.register_generators(&request),
            Route::Register => self.register_extension(request)?,
            Route::NextEvent => return self.next_event(id, &request),
            Route::ExtensionError(phase) => self.extension_error(phase, &request)?,
            Route::Subscribe(api) => {
                let initializing = self.runtime.is_initializing();
                self.extensions.subscribe(api, &request, initializing)
            }
            Route::NotFound => reply::not_found(),
            Route::MethodNotAllowed => reply::method_not_allowed(),
        };
        // A runtime that has sent its next request together with an answer which is refused must not get
        // an event: it ends when it reads the refusal, and the event would be lost with it.
        if answer != reply::accepted() && self.api.asks_for_more(id) {
            return self.reply_and_close(id, answer);
        }
        self.reply(id, answer, Bytes::new())
    }

    /// Takes what a runtime reports of the random generators of its process.
    fn register_generators(&mut self, request: &Request) -> Bytes {
        let result = match &request.body {
            Body::Whole(body) if body.len() <= MAX_BODY => self.runtime.generators.register(body),
            _ => return reply::payload_too_long(MAX_BODY as u64),
        };
        match result {
            Ok(()) => reply::accepted(),
            Err(error) => reply::generators_refused(&error),
        }
    }

    fn next(&mut self, id: ConnectionId) -> Result<(), AgentError> {
        self.give_up_broken_stream()?;
        self.output.function_answered();
        let (first, invocation) = match self.runtime.lifecycle.next(id) {
            Ok(Next::Wait { instead_of }) => {
                if let Some(old) = instead_of {
                    self.close(old);
                }
                return Ok(());
            }
            Ok(Next::Restored { invocation }) => {
                self.queue_all_output(None)?;
                // The CPU time of the hooks does not count for the invocation.
                self.runtime.restart_cpu_time();
                if let Some(telemetry) = self.extensions.telemetry() {
                    telemetry.restored(None);
                }
                self.host.report_thawed()?;
                return match invocation {
                    Some(invocation) => self.deliver(id, invocation),
                    None => Ok(()),
                };
            }
            Ok(Next::Announce { first }) => (first, None),
            Ok(Next::Deliver { invocation, first }) => (first, Some(invocation)),
            Err(error) => return self.reply(id, reply::transition_refused(error), Bytes::new()),
        };
        let after = match first {
            true => ReadyAfter::Init,
            false => ReadyAfter::Invocation,
        };
        self.runtime_ready(after, invocation.is_some())?;
        match invocation {
            Some(invocation) => self.deliver(id, invocation),
            None => Ok(()),
        }
    }

    fn restore_next(&mut self, id: ConnectionId) -> Result<(), AgentError> {
        match self.runtime.lifecycle.restore_next(id) {
            Ok(RestoreNext::Announce) => self.runtime_ready(ReadyAfter::Init, false),
            Ok(RestoreNext::Wait) => Ok(()),
            Ok(RestoreNext::Answer) => self.reply(id, reply::restored(), Bytes::new()),
            Err(error) => self.reply(id, reply::transition_refused(error), Bytes::new()),
        }
    }

    /// The runtime posts the answer to `request_id`, by a request that leads to the state `to`. The reply
    /// to it.
    fn answer(
        &mut self,
        id: ConnectionId,
        request_id: String,
        answer: Answer,
        to: &'static str,
    ) -> Result<Bytes, AgentError> {
        if let Err(error) = self.runtime.lifecycle.answer(&request_id, to) {
            return Ok(reply::answer_refused(error));
        }
        if answer.whole && self.answer_at_mailbox(&request_id, &answer)? {
            return Ok(answer.reply);
        }
        let usage = self.usage()?;
        self.queue_all_output(Some(&request_id))?;
        self.extensions.report_done(|| answer.outcome(usage));
        let (message, reply) = answer.into_message(request_id, usage);
        self.answer_for(id, message)?;
        Ok(reply)
    }

    /// Sends the answer that the runtime has given at the mailbox and not sent: it does something else
    /// before it asks for the next event, or it has ended. The answer goes by the connection, where it
    /// precedes the end of the runtime.
    pub(super) fn send_held_answer(&mut self) -> Result<(), AgentError> {
        let Some(held) = self.host.take_held_answer() else {
            return Ok(());
        };
        let (to, request_id) = match held.failed {
            true => ("InvocationErrorResponse", held.meta.request_id.clone()),
            false => ("InvocationResponse", held.meta.request_id.clone()),
        };
        if self.runtime.lifecycle.answer(&request_id, to).is_err() {
            // No invocation of that id is running: like an answer that is posted and refused.
            return Ok(());
        }
        let answer = Answer::held(held);
        let usage = self.usage()?;
        self.queue_all_output(Some(&request_id))?;
        self.extensions.report_done(|| answer.outcome(usage));
        let (message, _) = answer.into_message(request_id, usage);
        self.answer_host(message)
    }

    fn init_error(&mut self, id: ConnectionId, request: Request) -> Result<Bytes, AgentError> {
        if let Err(error) = self.runtime.lifecycle.init_error() {
            return Ok(reply::transition_refused(error));
        }
        let kind = request.error_type.as_deref().unwrap_or(UNKNOWN);
        self.extensions
            .report_init_failed(kind, self.runtime.since());
        self.start_failure(id, request, AgentMessage::InitFailed)
    }

    fn restore_error(&mut self, id: ConnectionId, request: Request) -> Result<Bytes, AgentError> {
        if let Err(error) = self.runtime.lifecycle.restore_error() {
            return Ok(reply::transition_refused(error));
        }
        if let Some(telemetry) = self.extensions.telemetry() {
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
        message: impl FnOnce(InitFailed, Bytes) -> AgentMessage,
    ) -> Result<Bytes, AgentError> {
        self.queue_all_output(None)?;
        let Answer {
            error_type,
            body,
            reply,
            ..
        } = Answer::error(request);
        let error_type = error_type.unwrap_or_else(|| UNKNOWN.to_owned());
        self.answer_for(id, message(InitFailed { error_type }, body))?;
        Ok(reply)
    }

    /// Sends an answer, and the lines queued before it, at once: the host need not wait until the
    /// runtime has its 202.
    pub(super) fn answer_host(&mut self, message: AgentMessage) -> Result<(), AgentError> {
        self.host.queue(message)?;
        self.host.link.flush()?;
        Ok(self.runtime.answered()?)
    }

    /// The same, unless the runtime has asked for the next event together with its answer: then the
    /// answer leaves together with `Ready`, at the end of this turn.
    fn answer_for(&mut self, id: ConnectionId, message: AgentMessage) -> Result<(), AgentError> {
        if self.api.asks_for_more(id) {
            self.host.queue(message)?;
            return Ok(self.runtime.answered()?);
        }
        self.answer_host(message)
    }
}
