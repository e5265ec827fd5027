//! What extensions ask for, and what is done about it.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, Exit, Invoke, Ready, RuntimeExited};
use hearth_protocol::guest::MAX_PAYLOAD;
use nix::unistd::Pid;

use super::runtime_requests::micros;
use super::{Agent, AgentError};
use crate::environment::{self, FunctionIdentity};
use crate::exit;
use crate::extensions::{Deliveries, ErrorPhase, MAX_EXTENSIONS, invoke_event};
use crate::lifecycle::ConnectionId;
use crate::mailbox::Descriptors;
use crate::runtime_api::reply;
use crate::runtime_api::request::{Body, Request};
use crate::spawn::{self, SpawnError};
use crate::telemetry::Outcome;

/// Where external extensions are; a layer brings them.
const FOLDER: &str = "/opt/extensions";
/// One of them can't be started.
const LAUNCH_ERROR: &str = "Extension.LaunchError";

/// The runtime as it is to be started.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) program: String,
    pub(super) environment: Vec<CString>,
}

impl Agent {
    /// Starts the external extensions, if there are any, and then or at once the runtime.
    pub(super) fn start_all(
        &mut self,
        identity: FunctionIdentity,
        launch: Launch,
    ) -> Result<(), AgentError> {
        self.identity = identity;
        self.initializing = true;
        self.since = Instant::now();
        let environment = environment::for_extensions(&launch.environment);
        let programs = extension_programs();
        if programs.len() > MAX_EXTENSIONS {
            let message = format!("Extension limit ({MAX_EXTENSIONS}) reached");
            return self.start_failed(LAUNCH_ERROR, &message);
        }
        if !programs.is_empty() {
            self.expect_extensions()?;
        }
        for name in programs {
            let path = format!("{FOLDER}/{name}");
            match self.spawn(&path, &environment, None, LAUNCH_ERROR)? {
                Some(pid) => self.extensions.launched(name, pid),
                None => return Ok(()),
            }
        }
        self.launch = Some(launch);
        self.start_runtime()
    }

    /// Starts the runtime once every external extension has registered.
    fn start_runtime(&mut self) -> Result<(), AgentError> {
        if !self.extensions.all_registered() {
            return Ok(());
        }
        let Some(launch) = self.launch.take() else {
            return Ok(());
        };
        let mailbox = match &self.mailbox {
            Some(mailbox) if self.uses_mailbox => {
                // An extension is told of every event and waited for after every answer.
                mailbox.open(self.extensions.running().next().is_none());
                Some([mailbox.file().as_raw_fd(), self.output.as_fd().as_raw_fd()])
            }
            _ => None,
        };
        self.runtime = self.spawn(
            &launch.program,
            &launch.environment,
            mailbox,
            "Runtime.InvalidEntrypoint",
        )?;
        Ok(())
    }

    /// Starts one of the function's programs. `None`: it can't be started, which is told as
    /// `error_type`.
    fn spawn(
        &mut self,
        program: &str,
        environment: &[CString],
        mailbox: Option<Descriptors>,
        error_type: &'static str,
    ) -> Result<Option<Pid>, AgentError> {
        let output = match &self.extension_output {
            Some(extensions) if error_type == LAUNCH_ERROR => extensions.output.writer(),
            _ => self.output.writer(),
        };
        let procs = self.cgroup.procs();
        match spawn::start(program, environment, output, procs, mailbox) {
            Ok(pid) => Ok(Some(pid)),
            Err(e @ (SpawnError::Exec { .. } | SpawnError::Path(_))) => {
                self.start_failed(error_type, &e.to_string())?;
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn register_extension(&mut self, request: Request) -> Result<Bytes, AgentError> {
        let id = self.uuid()?;
        let body = match request.body {
            Body::Whole(body) => body,
            Body::TooLong | Body::Streamed { .. } => {
                return Ok(reply::payload_too_long(MAX_PAYLOAD as u64));
            }
        };
        let name = request.extension.name.as_deref();
        match self.extensions.register(name, &body, id) {
            Ok(identifier) => {
                if let Some(mailbox) = &self.mailbox {
                    mailbox.open(false);
                }
                self.begin_telling();
                self.start_runtime()?;
                Ok(reply::registered(&identifier, &self.identity))
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
        match self.extensions.next(identifier, id) {
            Ok(Some(event)) => self.hand_out(vec![(id, event)]),
            Ok(None) => self.announce(),
            Err(refusal) => self.reply(id, reply::extension_refused(&refusal), Bytes::new()),
        }
    }

    pub(super) fn extension_error(
        &mut self,
        phase: ErrorPhase,
        request: &Request,
    ) -> Result<Bytes, AgentError> {
        let identifier = request.extension.identifier.as_deref();
        match self.extensions.error(identifier, phase) {
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

    /// An invocation begins: extensions hear of it before the runtime does.
    pub(super) fn tell_extensions(&mut self, invoke: &Invoke) -> Result<(), AgentError> {
        if self.extensions.is_empty() {
            return Ok(());
        }
        let deliveries = self.extensions.invoke(&invoke_event(invoke));
        self.hand_out(deliveries)
    }

    pub(super) fn hand_out(&mut self, deliveries: Deliveries) -> Result<(), AgentError> {
        for (connection, event) in deliveries {
            let head = reply::event_head(&self.uuid()?, event.len());
            self.reply(connection, head, event)?;
        }
        Ok(())
    }

    /// The runtime waits for an event. The host hears so when every extension does as well, unless
    /// it has sent one already.
    pub(super) fn ready(&mut self, first: bool, event_waits: bool) -> Result<(), AgentError> {
        self.extensions.close_registration();
        if first {
            self.tell_runtime_initialized();
        }
        if !first && !event_waits && self.wait_at_mailbox() {
            return Ok(());
        }
        if self.extensions.is_empty() || event_waits {
            return self.say_ready(first, None);
        }
        self.unannounced = Some(first);
        self.announce()
    }

    fn announce(&mut self) -> Result<(), AgentError> {
        if !self.extensions.all_ready() {
            return Ok(());
        }
        match self.unannounced.take() {
            // What extensions did after the runtime's answer; in init, nothing came before.
            Some(first) => {
                let took = (!first).then(|| micros(self.answered.elapsed()));
                self.say_ready(first, Some(took.unwrap_or(0)))
            }
            None => Ok(()),
        }
    }

    pub(super) fn say_ready(
        &mut self,
        first: bool,
        extensions_us: Option<u64>,
    ) -> Result<(), AgentError> {
        let mut ready = Ready {
            init_us: None,
            extensions_us,
        };
        let took = self.since.elapsed();
        if first {
            self.initializing = false;
            ready.init_us = Some(micros(took));
            // Init's CPU time is not the first invocation's.
            self.cpu_us = self.cpu_us_so_far();
            // Nor is its memory, but it is what the first begins with.
            self.peak_memory()?;
        }
        self.queue_all_output(None)?;
        if first {
            self.tell_initialized(took);
        } else if let Some(telemetry) = &mut self.telemetry {
            telemetry.over();
        }
        Ok(self.host.queue(AgentMessage::Ready(ready))?)
    }

    /// Without one of its extensions a function does not go on.
    pub(super) fn extension_failed(
        &mut self,
        kind: &'static str,
        name: &str,
        exit: Exit,
    ) -> Result<(), AgentError> {
        let request_id = self.life.running().map(str::to_owned);
        self.queue_all_output(request_id.as_deref())?;
        if self.initializing {
            self.initializing = false;
            self.launch = None;
            return self.start_failed(kind, &format!("{name}: {}", exit::text(exit)));
        }
        if self.life.is_over() {
            return Ok(());
        }
        let usage = self.usage()?;
        self.tell_done(|| Outcome::failed(usage, Some(kind)));
        // Whatever the runtime says from now on is no answer any more.
        self.life.exited(exit);
        Ok(self.host.queue(AgentMessage::RuntimeExited(RuntimeExited {
            request_id,
            exit,
            usage,
            error_type: Some(kind.to_owned()),
        }))?)
    }

    pub(super) fn uuid(&mut self) -> Result<String, AgentError> {
        self.generator
            .uuid()
            .map_err(AgentError::io("/dev/urandom"))
    }
}

/// The names of the programs, in order. A folder that is not there has none.
fn extension_programs() -> Vec<String> {
    let Ok(entries) = fs::read_dir(FOLDER) else {
        return Vec::new();
    };
    let files = entries.flatten().filter(|entry| {
        // Links are followed: a layer may lay its programs elsewhere.
        fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file())
    });
    let mut names: Vec<String> = files
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}
