//! Extensions: started before the runtime, their requests handled, their events sent.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd;

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, Exit, Invoke, Ready, RuntimeExited};
use hearth_protocol::guest::MAX_PAYLOAD;
use nix::unistd::Pid;

use super::runtime_side::{Launch, ReadyAfter, micros};
use super::{Agent, AgentError};
use crate::environment::{self, FunctionIdentity};
use crate::exit;
use crate::extensions::{Deliveries, ErrorPhase, MAX_EXTENSIONS, invoke_event};
use crate::lifecycle::ConnectionId;
use crate::mailbox::Descriptors;
use crate::runtime_api::reply;
use crate::runtime_api::request::{Body, Request};
use crate::spawn::SpawnError;
use crate::telemetry::Outcome;

/// Where layers put external extensions.
const FOLDER: &str = "/opt/extensions";
/// Error type of an external extension that cannot be started.
const LAUNCH_ERROR: &str = "Extension.LaunchError";

impl Agent {
    /// Starts the external extensions, if there are any, and then or at once the runtime.
    pub(super) fn start_all(
        &mut self,
        identity: FunctionIdentity,
        launch: Launch,
    ) -> Result<(), AgentError> {
        self.extensions.configure(identity);
        self.runtime.begin_init();
        let environment = environment::for_extensions(&launch.environment);
        let programs = extension_programs();
        if programs.len() > MAX_EXTENSIONS {
            let message = format!("Extension limit ({MAX_EXTENSIONS}) reached");
            return self.start_failed(LAUNCH_ERROR, &message);
        }
        if !programs.is_empty() {
            self.extensions.begin_telemetry(self.runtime.init_began());
            self.extensions.open_output(&self.epoll)?;
        }
        for name in programs {
            let path = format!("{FOLDER}/{name}");
            match self.spawn(&path, &environment, None, LAUNCH_ERROR)? {
                Some(pid) => self.extensions.registry.launched(name, pid),
                None => return Ok(()),
            }
        }
        self.runtime.prepare(launch);
        self.start_runtime()
    }

    /// Starts the runtime once every external extension has registered.
    fn start_runtime(&mut self) -> Result<(), AgentError> {
        if !self.extensions.registry.all_registered() {
            return Ok(());
        }
        let Some(launch) = self.runtime.take_launch() else {
            return Ok(());
        };
        // Every extension receives every event, and is waited for after every answer: that takes the
        // connection to the host.
        let pages = self.host.lend_mailbox(!self.extensions.has_programs());
        let mailbox = pages.map(|pages| [pages, self.output.reader().as_raw_fd()]);
        let pid = self.spawn(
            &launch.program,
            &launch.environment,
            mailbox,
            "Runtime.InvalidEntrypoint",
        )?;
        if let Some(pid) = pid {
            self.runtime.started(pid);
        }
        Ok(())
    }

    /// Starts one of the function's programs. `None`: it cannot be started, which the host has been told
    /// as `error_type`.
    fn spawn(
        &mut self,
        program: &str,
        environment: &[CString],
        mailbox: Option<Descriptors>,
        error_type: &'static str,
    ) -> Result<Option<Pid>, AgentError> {
        let output = match self.extensions.output_writer() {
            Some(writer) if error_type == LAUNCH_ERROR => writer,
            _ => self.output.writer(),
        };
        let started = self.runtime.spawn(program, environment, output, mailbox);
        match started {
            Ok(pid) => Ok(Some(pid)),
            Err(e @ (SpawnError::Exec { .. } | SpawnError::Path(_))) => {
                self.start_failed(error_type, &e.to_string())?;
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn register_extension(&mut self, request: Request) -> Result<Bytes, AgentError> {
        let id = self.host.uuid()?;
        let body = match request.body {
            Body::Whole(body) => body,
            Body::TooLong | Body::Streamed { .. } => {
                return Ok(reply::payload_too_long(MAX_PAYLOAD as u64));
            }
        };
        let name = request.extension.name.as_deref();
        match self.extensions.registry.register(name, &body, id) {
            Ok(identifier) => {
                self.host.close_mailbox();
                self.extensions.begin_telemetry(self.runtime.init_began());
                self.start_runtime()?;
                Ok(reply::registered(&identifier, self.extensions.identity()))
            }
            Err(refusal) => Ok(reply::extension_refused(&refusal)),
        }
    }

    pub(super) fn next_event(
        &mut self,
        id: ConnectionId,
        request: &Request,
    ) -> Result<(), AgentError> {
        let identifier = request.extension.identifier.as_deref();
        match self.extensions.registry.next(identifier, id) {
            Ok(Some(event)) => self.send_events(vec![(id, event)]),
            Ok(None) => self.announce_if_all_wait(),
            Err(refusal) => self.reply(id, reply::extension_refused(&refusal), Bytes::new()),
        }
    }

    pub(super) fn extension_error(
        &mut self,
        phase: ErrorPhase,
        request: &Request,
    ) -> Result<Bytes, AgentError> {
        let identifier = request.extension.identifier.as_deref();
        match self.extensions.registry.error(identifier, phase) {
            Ok(name) => {
                let kind = match phase {
                    ErrorPhase::Init => "Extension.InitError",
                    ErrorPhase::Exit => "Extension.ExitError",
                };
                self.extension_failed(kind, &name, Exit::Code(1))?;
                Ok(reply::accepted())
            }
            Err(refusal) => Ok(reply::extension_refused(&refusal)),
        }
    }

    /// An invocation begins: extensions receive `INVOKE` before the runtime gets the event.
    pub(super) fn send_invoke_event(&mut self, invoke: &Invoke) -> Result<(), AgentError> {
        if self.extensions.registry.is_empty() {
            return Ok(());
        }
        let events = self.extensions.registry.invoke(&invoke_event(invoke));
        self.send_events(events)
    }

    /// Sends events to extensions that wait for them.
    pub(super) fn send_events(&mut self, events: Deliveries) -> Result<(), AgentError> {
        for (connection, event) in events {
            let head = reply::event_head(&self.host.uuid()?, event.len());
            self.reply(connection, head, event)?;
        }
        Ok(())
    }

    /// The runtime has asked for an event. The host is told when every extension waits as well, unless it
    /// has sent an event already, which then is an `event_waits`.
    pub(super) fn runtime_ready(
        &mut self,
        after: ReadyAfter,
        event_waits: bool,
    ) -> Result<(), AgentError> {
        self.extensions.registry.close_registration();
        if after == ReadyAfter::Init {
            self.extensions.report_runtime_initialized();
        }
        if after == ReadyAfter::Invocation && !event_waits && self.choose_mailbox() {
            return Ok(());
        }
        if self.extensions.registry.is_empty() || event_waits {
            return self.announce(after, None);
        }
        self.runtime.waits_unannounced(after);
        self.announce_if_all_wait()
    }

    fn announce_if_all_wait(&mut self) -> Result<(), AgentError> {
        if !self.extensions.registry.all_ready() {
            return Ok(());
        }
        match self.runtime.take_unannounced() {
            None => Ok(()),
            // In init, extensions have no time of their own: there was no answer before.
            Some(ReadyAfter::Init) => self.announce(ReadyAfter::Init, Some(0)),
            Some(ReadyAfter::Invocation) => {
                let extensions_us = micros(self.runtime.since_answer());
                self.announce(ReadyAfter::Invocation, Some(extensions_us))
            }
        }
    }

    /// Tells the host that the function is ready for an event.
    pub(super) fn announce(
        &mut self,
        after: ReadyAfter,
        extensions_us: Option<u64>,
    ) -> Result<(), AgentError> {
        let init = match after {
            ReadyAfter::Init => Some(self.runtime.since().elapsed()),
            ReadyAfter::Invocation => None,
        };
        if init.is_some() {
            self.runtime.end_init();
            // Init's CPU time does not count for the first invocation. Its memory does, as the peak that
            // the first invocation begins with.
            self.runtime.restart_cpu_time();
            self.host.publish_peak_memory(self.runtime.peak_memory()?);
        }
        self.queue_all_output(None)?;
        if let Some(took) = init {
            self.extensions.report_initialized(took);
        } else if let Some(telemetry) = self.extensions.telemetry() {
            telemetry.invocation_ended();
        }
        self.host.queue(AgentMessage::Ready(Ready {
            init_us: init.map(micros),
            extensions_us,
        }))
    }

    /// A function cannot continue without one of its extensions: reports the end of init or of service.
    pub(super) fn extension_failed(
        &mut self,
        kind: &'static str,
        name: &str,
        exit: Exit,
    ) -> Result<(), AgentError> {
        let request_id = self.runtime.lifecycle.running().map(str::to_owned);
        self.queue_all_output(request_id.as_deref())?;
        if self.runtime.is_initializing() {
            self.runtime.abandon_init();
            return self.start_failed(kind, &format!("{name}: {}", exit::text(exit)));
        }
        if self.runtime.lifecycle.is_over() {
            return Ok(());
        }
        let usage = self.usage()?;
        self.extensions
            .report_done(|| Outcome::failed(usage, Some(kind)));
        // From now on the runtime's answers are refused.
        self.runtime.lifecycle.exited(exit);
        self.host.queue(AgentMessage::RuntimeExited(RuntimeExited {
            request_id,
            exit,
            usage,
            error_type: Some(kind.to_owned()),
        }))
    }
}

/// The names of the external extensions, sorted. None if there is no such folder.
fn extension_programs() -> Vec<String> {
    let Ok(entries) = fs::read_dir(FOLDER) else {
        return Vec::new();
    };
    let files = entries.flatten().filter(|entry| {
        // Links are followed: a layer may keep its programs elsewhere.
        fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file())
    });
    let mut names: Vec<String> = files
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}
