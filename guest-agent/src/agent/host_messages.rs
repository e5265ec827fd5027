//! What the host sends, handled strictly in the order of arrival.

use bytes::Bytes;
use hearth_protocol::agent::{
    AgentMessage, Configure, HostMessage, InitFailed, Invoke, RuntimeExited, Usage,
};

use super::runtime_side::Launch;
use super::{Agent, AgentError, Flow};
use crate::environment::FunctionIdentity;
use crate::lifecycle::{Accepted, AfterRestore, ConnectionId, Invocation};
use crate::runtime_api::reply;
use crate::{bootstrap, code, environment, exit};

/// The initialization type of a runtime that may act before its snapshot and after each restore.
const SNAP_START: &str = "snap-start";

impl Agent {
    /// Handles every whole message that has arrived.
    pub(super) fn handle_messages(&mut self) -> Result<Flow, AgentError> {
        let mut thawed = false;
        while let Some(message) = self.host.link.next()? {
            match message {
                HostMessage::Ping(bytes) => self.host.queue(AgentMessage::Pong(bytes))?,
                HostMessage::Thaw(thaw, entropy) => {
                    self.host.restored(thaw.realtime_ns, &entropy)?;
                    thawed |= self.thaw()?;
                }
                HostMessage::Configure(function) => self.configure(&function)?,
                HostMessage::Invoke(meta, event) => self.invoke(meta, event)?,
                HostMessage::Inspect => self.inspect()?,
                HostMessage::Shutdown => return Ok(Flow::Stop),
                HostMessage::Leave(leave) => self.begin_shutdown(&leave)?,
            }
        }
        // The answer to an invocation that came with the thaw says the same.
        if thawed && self.runtime.lifecycle.running().is_none() {
            self.host.report_thawed()?;
        }
        Ok(Flow::Continue)
    }

    /// The microVM was restored: has the runtime do what it does then, or reports that the guest serves.
    /// Whether that is still to be reported once all messages have been handled.
    fn thaw(&mut self) -> Result<bool, AgentError> {
        let next = self.runtime.lifecycle.restored();
        if let Some(telemetry) = self.extensions.telemetry() {
            match next {
                AfterRestore::Serve => telemetry.thawed(),
                AfterRestore::RunHooks(_) => telemetry.restoring(),
                AfterRestore::Report => {
                    telemetry.restoring();
                    telemetry.restored(None);
                }
            }
        }
        match next {
            AfterRestore::Serve => return Ok(true),
            AfterRestore::Report => self.host.report_thawed()?,
            // `Thawed` is sent when the runtime asks for its next event.
            AfterRestore::RunHooks(Some(connection)) => {
                self.reply(connection, reply::restored(), Bytes::new())?;
            }
            AfterRestore::RunHooks(None) => {}
        }
        Ok(false)
    }

    /// Reports what clones of this guest would share.
    fn inspect(&mut self) -> Result<(), AgentError> {
        let inspected = self
            .runtime
            .generators
            .inspect()
            .map_err(AgentError::Generators)?;
        self.host.queue(AgentMessage::Inspected(inspected))
    }

    fn configure(&mut self, function: &Configure) -> Result<(), AgentError> {
        self.runtime
            .lifecycle
            .configure(function.initialization_type == SNAP_START)?;
        code::attach(function)?;
        self.runtime.limit_memory(function.memory_mib)?;
        self.host.configure_mailbox(function.mailbox);
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

    /// Reports that a program of the function cannot be started.
    pub(super) fn start_failed(
        &mut self,
        error_type: &'static str,
        message: &str,
    ) -> Result<(), AgentError> {
        self.runtime.lifecycle.start_failed();
        let request_id = self.host.uuid()?;
        self.report_init_failure(exit::InitError::new(error_type, &request_id, message))
    }

    pub(super) fn report_init_failure(&mut self, error: exit::InitError) -> Result<(), AgentError> {
        self.extensions
            .report_init_failed(error.error_type, self.runtime.since());
        self.host.queue(AgentMessage::InitFailed(
            InitFailed {
                error_type: error.error_type.to_owned(),
            },
            error.body.into(),
        ))
    }

    fn invoke(&mut self, meta: Invoke, event: Bytes) -> Result<(), AgentError> {
        self.host.follow_clock(meta.realtime_ns)?;
        if self.runtime.lifecycle.running().is_none() {
            // Lines that were written before the invocation do not belong to it.
            self.queue_all_output(None)?;
        }
        match self.runtime.lifecycle.invoke(Invocation { meta, event })? {
            Accepted::Deliver(connection, invocation) => self.deliver(connection, invocation),
            Accepted::Held => Ok(()),
            Accepted::Exited { request_id, exit } => {
                self.host.queue(AgentMessage::RuntimeExited(RuntimeExited {
                    request_id: Some(request_id),
                    exit,
                    usage: Usage::default(),
                    error_type: None,
                }))
            }
        }
    }

    /// Hands an event to the runtime that waits on `connection`.
    pub(super) fn deliver(
        &mut self,
        connection: ConnectionId,
        invocation: Invocation,
    ) -> Result<(), AgentError> {
        let memory_limit = invocation.meta.memory_limit_mib;
        self.runtime.limit_invocation(memory_limit)?;
        if let Some(telemetry) = self.extensions.telemetry() {
            telemetry.begin(&invocation.meta);
        }
        // The agent removes an invocation's own limit when it sees the answer.
        self.host.begin_invocation(memory_limit.is_some());
        self.send_invoke_event(&invocation.meta)?;
        let head = reply::invocation_head(&invocation.meta, invocation.event.len());
        self.runtime.event_given();
        self.reply(connection, head, invocation.event)
    }
}
