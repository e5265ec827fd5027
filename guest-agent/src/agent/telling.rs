//! What the agent sees, told to the extensions that have asked for it; see [`crate::telemetry`].
//!
//! A guest without subscribers comes through here with one look at an `Option`.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, Log};
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::events::{EXTENSION_OUTPUT, TELEMETRY};
use super::function_output::gather;
use super::{Agent, AgentError};
use crate::extensions::Refusal;
use crate::output::Output;
use crate::runtime_api::reply;
use crate::runtime_api::request::{Body, Request};
use crate::telemetry::{Api, Event, Invalid, Outcome, Source, Subscription, Telemetry};
use hearth_protocol::output::{Lines, LogBuffer};

/// The pipe that external extensions write to, apart from the function's so that it is known whose
/// each line is.
#[derive(Debug)]
pub(super) struct ExtensionOutput {
    pub(super) output: Output,
    logs: LogBuffer,
}

impl Agent {
    /// External extensions are about to be started.
    pub(super) fn expect_extensions(&mut self) -> Result<(), AgentError> {
        self.begin_telling();
        let output = Output::create().map_err(AgentError::io("extensions' output pipe"))?;
        self.epoll
            .add(
                &output,
                EpollEvent::new(EpollFlags::EPOLLIN, EXTENSION_OUTPUT),
            )
            .map_err(|errno| AgentError::io("epoll")(io::Error::from(errno)))?;
        self.extension_output = Some(ExtensionOutput {
            output,
            logs: LogBuffer::default(),
        });
        Ok(())
    }

    /// There is an extension, and it may subscribe.
    pub(super) fn begin_telling(&mut self) {
        if self.initializing && self.telemetry.is_none() {
            let began = SystemTime::now() - self.since.elapsed();
            let telemetry = Telemetry::new(self.identity.clone(), began);
            self.telemetry = Some(Box::new(telemetry));
        }
    }

    pub(super) fn subscribe(&mut self, api: Api, request: &Request) -> Bytes {
        let identifier = request.extension.identifier.as_deref();
        let name = match self.extensions.identify(identifier) {
            Ok(name) => name,
            Err(refusal) => return reply::extension_refused(&refusal),
        };
        let telemetry = match &mut self.telemetry {
            Some(telemetry) if self.initializing => telemetry,
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

    /// The runtime has done what it does in init.
    pub(super) fn tell_runtime_initialized(&mut self) {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.tell(&Event::InitRuntimeDone { failed: None });
        }
    }

    /// Init is over, for extensions as well. Nobody may subscribe from now on.
    pub(super) fn tell_initialized(&mut self, took: Duration) {
        let Some(telemetry) = &mut self.telemetry else {
            return;
        };
        for (name, state, events) in self.extensions.states() {
            telemetry.tell(&Event::Extension {
                name,
                state,
                events: &events,
            });
        }
        telemetry.tell(&Event::InitReport { took, failed: None });
        if !telemetry.close() {
            self.telemetry = None;
        }
    }

    /// Init has failed, and the microVM will end: what there is to tell leaves now.
    pub(super) fn tell_init_failed(&mut self, kind: &str) {
        if let Some(telemetry) = &mut self.telemetry {
            let failed = Some(kind);
            let took = self.since.elapsed();
            telemetry.tell(&Event::InitRuntimeDone { failed });
            telemetry.tell(&Event::InitReport { took, failed });
            telemetry.flush();
        }
    }

    pub(super) fn tell_done(&mut self, outcome: impl FnOnce() -> Outcome) {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.done(outcome());
        }
    }

    /// Reads what external extensions have written.
    pub(super) fn read_extensions_output(&mut self) {
        let Some(ExtensionOutput { output, logs }) = &mut self.extension_output else {
            return;
        };
        gather(output, &mut self.scratch, logs, &mut self.host);
    }

    /// Queues what extensions have written: the lines that are whole, or everything.
    pub(super) fn queue_extensions_output(
        &mut self,
        request_id: Option<&str>,
        everything: bool,
    ) -> Result<(), AgentError> {
        let Some(ExtensionOutput { logs, .. }) = &mut self.extension_output else {
            return Ok(());
        };
        let lines = match everything {
            true => logs.take_all(),
            false => logs.take_lines(),
        };
        match lines {
            Some(lines) => self.queue_log(Source::Extension, request_id, lines),
            None => Ok(()),
        }
    }

    /// Queues lines for the host, and for those who have subscribed to them.
    pub(super) fn queue_log(
        &mut self,
        source: Source,
        request_id: Option<&str>,
        lines: Lines,
    ) -> Result<(), AgentError> {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.lines(source, &lines);
        }
        Ok(self.host.queue(AgentMessage::Log(
            Log {
                request_id: request_id.map(str::to_owned),
                multiline: lines.multiline,
                dropped_bytes: lines.dropped,
            },
            lines.bytes,
        ))?)
    }

    /// When [`Agent::send_telemetry`] has something to do.
    pub(super) fn telemetry_due(&self) -> Option<Instant> {
        self.telemetry
            .as_ref()
            .and_then(|telemetry| telemetry.due())
    }

    /// Sends what is due. Last in a turn of the loop: who is waiting for the agent comes first.
    pub(super) fn send_telemetry(&mut self) {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.turn(&self.epoll, TELEMETRY);
        }
    }

    pub(super) fn subscriber_ready(&mut self, index: usize, events: EpollFlags) {
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.ready(index, events);
        }
    }

    /// Whether nobody has yet to be told anything.
    pub(super) fn all_is_told(&self) -> bool {
        self.telemetry
            .as_ref()
            .is_none_or(|telemetry| telemetry.is_idle())
    }
}
