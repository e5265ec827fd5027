//! The agent's side towards extensions: what each is doing, what the external ones write, and what is
//! reported to those that have subscribed to telemetry; see [`crate::telemetry`].
//!
//! A guest without subscribers costs one look at an `Option` here.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, Log};
use hearth_protocol::output::Lines;
use nix::sys::epoll::{Epoll, EpollFlags};

use super::error::AgentError;
use super::host_side::HostSide;
use super::log_pipe::LogPipe;
use super::tokens::{EXTENSION_OUTPUT, SUBSCRIBERS};
use crate::environment::FunctionIdentity;
use crate::extensions::{Extensions, Refusal};
use crate::host_link::HostLink;
use crate::runtime_api::reply;
use crate::runtime_api::request::{Body, Request};
use crate::telemetry::{Api, Event, Invalid, Outcome, Source, Subscription, Telemetry};

/// The function's extensions.
#[derive(Debug, Default)]
pub(super) struct ExtensionSide {
    pub(super) registry: Extensions,
    /// The pipe that external extensions write to. It is not the function's, so that the agent knows
    /// which of the two wrote a line.
    output: Option<LogPipe>,
    /// `None` unless an extension has subscribed, or still may.
    telemetry: Option<Box<Telemetry>>,
    /// What extensions are told of the function.
    identity: FunctionIdentity,
}

impl ExtensionSide {
    /// The function is known.
    pub(super) fn configure(&mut self, identity: FunctionIdentity) {
        self.identity = identity;
    }

    pub(super) fn identity(&self) -> &FunctionIdentity {
        &self.identity
    }

    /// Whether the function has no extensions, and no subscriber.
    pub(super) fn are_absent(&self) -> bool {
        self.registry.is_empty() && self.telemetry.is_none()
    }

    /// Whether a program of an external extension runs.
    pub(super) fn has_programs(&self) -> bool {
        self.registry.running().next().is_some()
    }

    /// External extensions are about to be started: makes the pipe that they write to.
    pub(super) fn open_output(&mut self, epoll: &Epoll) -> Result<(), AgentError> {
        let output = LogPipe::create().map_err(AgentError::io("extensions' output pipe"))?;
        output
            .register(epoll, EXTENSION_OUTPUT)
            .map_err(AgentError::errno("epoll"))?;
        self.output = Some(output);
        Ok(())
    }

    /// The end of the pipe that external extensions write to.
    pub(super) fn output_writer(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(LogPipe::writer)
    }

    /// Reads what external extensions have written.
    pub(super) fn read_output(&mut self, scratch: &mut [u8], link: &mut HostLink) {
        if let Some(output) = &mut self.output {
            output.read(scratch, link);
        }
    }

    /// Queues the whole lines of external extensions.
    pub(super) fn queue_lines(
        &mut self,
        host: &mut HostSide,
        request_id: Option<&str>,
    ) -> Result<(), AgentError> {
        match self.output.as_mut().and_then(LogPipe::take_lines) {
            Some(lines) => self.queue_log(host, Source::Extension, request_id, lines),
            None => Ok(()),
        }
    }

    /// Queues everything that external extensions have written, an unfinished line included.
    pub(super) fn queue_all(
        &mut self,
        host: &mut HostSide,
        request_id: Option<&str>,
    ) -> Result<(), AgentError> {
        match self.output.as_mut().and_then(LogPipe::take_all) {
            Some(lines) => self.queue_log(host, Source::Extension, request_id, lines),
            None => Ok(()),
        }
    }

    /// Queues lines for the host, and for those that have subscribed to them.
    pub(super) fn queue_log(
        &mut self,
        host: &mut HostSide,
        source: Source,
        request_id: Option<&str>,
        lines: Lines,
    ) -> Result<(), AgentError> {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.lines(source, &lines);
        }
        host.queue(AgentMessage::Log(
            Log {
                request_id: request_id.map(str::to_owned),
                multiline: lines.multiline,
                dropped_bytes: lines.dropped,
            },
            lines.bytes,
        ))
    }

    /// The function has an extension, which may subscribe: begins to keep what happens for it.
    /// `init_began`: `None` once init is over, when no extension may subscribe any more.
    pub(super) fn begin_telemetry(&mut self, init_began: Option<Instant>) {
        if let (Some(began), None) = (init_began, &self.telemetry) {
            let began = SystemTime::now() - began.elapsed();
            let telemetry = Telemetry::new(self.identity.clone(), began);
            self.telemetry = Some(Box::new(telemetry));
        }
    }

    /// Handles a request to subscribe. `initializing`: whether an extension still may.
    pub(super) fn subscribe(&mut self, api: Api, request: &Request, initializing: bool) -> Bytes {
        let identifier = request.extension.identifier.as_deref();
        let name = match self.registry.identify(identifier) {
            Ok(name) => name,
            Err(refusal) => return reply::extension_refused(&refusal),
        };
        let telemetry = match &mut self.telemetry {
            Some(telemetry) if initializing => telemetry,
            _ => return reply::extension_refused(&Refusal::subscription_closed(api)),
        };
        let wanted = match &request.body {
            Body::Whole(body) => Subscription::parse(api, body),
            Body::TooLong | Body::Streamed { .. } => Err(Invalid::TooLong),
        };
        match wanted.and_then(|wanted| telemetry.subscribe(&name, wanted)) {
            Ok(()) => reply::subscribed(),
            Err(invalid) => reply::subscription_invalid(&invalid),
        }
    }

    /// Where the agent reports what happens, if an extension has subscribed or still may.
    pub(super) fn telemetry(&mut self) -> Option<&mut Telemetry> {
        self.telemetry.as_deref_mut()
    }

    /// Reports that the runtime has done its part of init.
    pub(super) fn report_runtime_initialized(&mut self) {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.report(&Event::InitRuntimeDone { failed: None });
        }
    }

    /// Reports that init is over, for extensions as well. No extension may subscribe from now on.
    pub(super) fn report_initialized(&mut self, took: Duration) {
        let Some(telemetry) = &mut self.telemetry else {
            return;
        };
        for (name, state, events) in self.registry.states() {
            telemetry.report(&Event::Extension {
                name,
                state,
                events: &events,
            });
        }
        telemetry.report(&Event::InitReport { took, failed: None });
        if !telemetry.close_subscriptions() {
            self.telemetry = None;
        }
    }

    /// Reports that init, which began at `began`, has failed. The microVM is about to end, so everything
    /// is sent now.
    pub(super) fn report_init_failed(&mut self, kind: &str, began: Instant) {
        if let Some(telemetry) = &mut self.telemetry {
            let failed = Some(kind);
            let took = began.elapsed();
            telemetry.report(&Event::InitRuntimeDone { failed });
            telemetry.report(&Event::InitReport { took, failed });
            telemetry.flush();
        }
    }

    /// Reports how the runtime's part of an invocation has ended.
    pub(super) fn report_done(&mut self, outcome: impl FnOnce() -> Outcome) {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.runtime_done(outcome());
        }
    }

    /// When [`send_telemetry`](Self::send_telemetry) has something to do.
    pub(super) fn telemetry_due(&self) -> Option<Instant> {
        self.telemetry
            .as_ref()
            .and_then(|telemetry| telemetry.due())
    }

    /// Sends what is due.
    pub(super) fn send_telemetry(&mut self, epoll: &Epoll) {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.send_due(epoll, SUBSCRIBERS);
        }
    }

    /// Something has happened on the connection to a subscriber.
    pub(super) fn subscriber_ready(&mut self, index: usize, events: EpollFlags) {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.ready(index, events);
        }
    }

    /// Whether all subscribers have received everything.
    pub(super) fn all_is_delivered(&self) -> bool {
        self.telemetry
            .as_ref()
            .is_none_or(|telemetry| telemetry.is_idle())
    }
}
