//! What the host says, and what is done about it: strictly in the order of arrival.

use std::time::Instant;

use bytes::Bytes;
use hearth_protocol::agent::{
    AgentMessage, Configure, HostMessage, InitFailed, Invoke, RuntimeExited, Usage,
};

use super::extension_requests::Launch;
use super::{Agent, AgentError};
use crate::environment::FunctionIdentity;
use crate::lifecycle::{Accepted, ConnectionId, Invocation, Thaw};
use crate::runtime_api::reply;
use crate::{bootstrap, code, environment, exit, generators};

/// Tells a runtime that its snapshot will be restored.
const SNAP_START: &str = "snap-start";

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Shutdown,
}

impl Agent {
    /// Handles every whole message that has arrived.
    pub(super) fn handle_messages(&mut self) -> Result<Flow, AgentError> {
        let mut thawed = false;
        while let Some(message) = self.host.next()? {
            match message {
                HostMessage::Ping(bytes) => self.host.queue(AgentMessage::Pong(bytes))?,
                HostMessage::Thaw(thaw, entropy) => {
                    self.clock
                        .set(thaw.realtime_ns)
                        .map_err(AgentError::Clock)?;
                    self.generator.reseed(&entropy)?;
                    // What was told before the snapshot has been heard.
                    self.thaw_told = false;
                    let thaw = self.life.thaw();
                    if let Some(telemetry) = &mut self.telemetry {
                        match thaw {
                            Thaw::Serve => telemetry.thawed(),
                            Thaw::Restore(_) => telemetry.restoring(),
                            Thaw::Tell => {
                                telemetry.restoring();
                                telemetry.restored(None);
                            }
                        }
                    }
                    match thaw {
                        Thaw::Serve => thawed = true,
                        Thaw::Tell => self.tell_thawed()?,
                        // `Thawed` is said when it is back.
                        Thaw::Restore(Some(connection)) => {
                            self.reply(connection, reply::restored(), Bytes::new())?;
                        }
                        Thaw::Restore(None) => {}
                    }
                }
                HostMessage::Configure(function) => self.configure(&function)?,
                HostMessage::Invoke(meta, event) => self.invoke(meta, event)?,
                HostMessage::Inspect => self.inspect()?,
                HostMessage::Shutdown => return Ok(Flow::Shutdown),
                HostMessage::Leave(leave) => self.begin_leaving(&leave)?,
            }
        }
        // An invocation that came with it says the same by its answer.
        if thawed && self.life.running().is_none() {
            self.tell_thawed()?;
        }
        Ok(Flow::Continue)
    }

    /// Says what clones of this guest would share.
    fn inspect(&mut self) -> Result<(), AgentError> {
        let inspected = generators::inspect(&self.registered).map_err(AgentError::Generators)?;
        Ok(self.host.queue(AgentMessage::Inspected(inspected))?)
    }

    /// The guest serves.
    pub(super) fn tell_thawed(&mut self) -> Result<(), AgentError> {
        self.thaw_told = true;
        Ok(self.host.queue(AgentMessage::Thawed)?)
    }

    fn configure(&mut self, function: &Configure) -> Result<(), AgentError> {
        self.life
            .configure(function.initialization_type == SNAP_START)?;
        code::attach(function)?;
        self.cgroup.limit_memory(function.memory_mib)?;
        self.uses_mailbox = function.mailbox;
        let environment = match environment::build(function) {
            Ok(environment) => environment,
            Err(e) => return self.start_failed("Runtime.InvalidTaskConfig", &e.to_string()),
        };
        let program = match bootstrap::choose(&function.bootstrap) {
            Ok(program) => program.to_owned(),
            Err(e) => return self.start_failed("Runtime.InvalidEntrypoint", &e.to_string()),
        };
        let identity = FunctionIdentity::of(function);
        self.start_all(
            identity,
            Launch {
                program,
                environment,
            },
        )
    }

    pub(super) fn start_failed(
        &mut self,
        error_type: &'static str,
        message: &str,
    ) -> Result<(), AgentError> {
        self.life.start_failed();
        let request_id = self.uuid()?;
        self.report_init_failure(exit::InitError::new(error_type, &request_id, message))
    }

    pub(super) fn report_init_failure(&mut self, error: exit::InitError) -> Result<(), AgentError> {
        self.tell_init_failed(error.error_type);
        Ok(self.host.queue(AgentMessage::InitFailed(
            InitFailed {
                error_type: error.error_type.to_owned(),
            },
            error.body.into(),
        ))?)
    }

    fn invoke(&mut self, meta: Invoke, event: Bytes) -> Result<(), AgentError> {
        self.clock
            .follow(meta.realtime_ns)
            .map_err(AgentError::Clock)?;
        if self.life.running().is_none() {
            // Lines of the time before the invocation are not the invocation's.
            self.queue_all_output(None)?;
        }
        match self.life.invoke(Invocation { meta, event })? {
            Accepted::Deliver(connection, invocation) => self.deliver(connection, invocation),
            Accepted::Held => Ok(()),
            Accepted::Exited { request_id, exit } => {
                Ok(self.host.queue(AgentMessage::RuntimeExited(RuntimeExited {
                    request_id: Some(request_id),
                    exit,
                    usage: Usage::default(),
                    error_type: None,
                }))?)
            }
        }
    }

    /// Hands an event to the runtime that waits on `connection`.
    pub(super) fn deliver(
        &mut self,
        connection: ConnectionId,
        invocation: Invocation,
    ) -> Result<(), AgentError> {
        self.cgroup
            .limit_invocation(invocation.meta.memory_limit_mib)?;
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.begin(&invocation.meta);
        }
        // No answer must reach the host before it has heard by the connection that the guest has
        // thawed: this one comes that way too.
        let after_thaw = std::mem::take(&mut self.thaw_told);
        if let Some(mailbox) = &self.mailbox {
            // A limit is this invocation's: its end has to be seen.
            let has_limit = invocation.meta.memory_limit_mib.is_some();
            mailbox.demand_answer(has_limit || after_thaw);
            mailbox.works_on_another();
        }
        self.tell_extensions(&invocation.meta)?;
        if !after_thaw {
            // What is said from here on is said of this invocation.
            self.host.take_spoken();
        }
        let head = reply::invocation_head(&invocation.meta, invocation.event.len());
        self.since = Instant::now();
        self.reply(connection, head, invocation.event)
    }
}
