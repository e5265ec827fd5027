//! The orderly end of a microVM whose function has extensions; see [`shutdown`](super::shutdown).

use std::time::Instant;

use hearth_protocol::agent::{AgentMessage, Leave};
use nix::sys::signal::Signal;

use super::children::{kill_group, signal_group};
use super::shutdown::{ExtensionKind, Shutdown};
use super::{Agent, AgentError, Flow};

impl Agent {
    /// Begins to shut down. Without extensions there is nothing to wait for.
    pub(super) fn begin_shutdown(&mut self, leave: &Leave) -> Result<(), AgentError> {
        self.host.follow_clock(leave.realtime_ns)?;
        if self.shutdown.is_some() {
            return Ok(());
        }
        let extensions = match self.extensions.registry.is_empty() {
            true => ExtensionKind::None,
            false if self.extensions.has_programs() => ExtensionKind::External,
            false => ExtensionKind::Internal,
        };
        let shutdown = Shutdown::new(&leave.reason, extensions);
        if let Some(runtime) = self.runtime.pid() {
            signal_group(runtime, Signal::SIGTERM);
        }
        if let Some(telemetry) = self.extensions.telemetry() {
            let peak = self.runtime.peak_memory()?;
            telemetry.shut_down(&leave.reason, peak);
        }
        self.shutdown = Some(shutdown);
        Ok(())
    }

    /// Does what is due. Stops the agent when everything has ended, or the time is over.
    pub(super) fn advance_shutdown(&mut self) -> Result<Flow, AgentError> {
        let Some(shutdown) = &mut self.shutdown else {
            return Ok(Flow::Continue);
        };
        let now = Instant::now();
        if shutdown.waits_for_runtime() {
            // Subscribers receive everything else before extensions receive `SHUTDOWN`: an extension may
            // exit as soon as it has that.
            let waits = self.runtime.pid().is_some() || !self.extensions.all_is_delivered();
            if waits && now < shutdown.due() {
                return Ok(Flow::Continue);
            }
            let event = shutdown.proceed_to_extensions();
            if let Some(runtime) = self.runtime.pid() {
                kill_group(runtime);
            }
            for extension in self.extensions.registry.without_shutdown_event() {
                kill_group(extension);
            }
            let events = self.extensions.registry.shutdown(&event);
            self.send_events(events)?;
        }
        let due = self.shutdown.as_ref().map(Shutdown::due);
        if self.extensions.has_programs() && due.is_some_and(|due| now < due) {
            return Ok(Flow::Continue);
        }
        self.read_output();
        self.queue_all_output(None)?;
        self.host.queue(AgentMessage::Left)?;
        self.host.link.flush()?;
        // The host ends the microVM once it has read that.
        self.host.link.wait_for_host();
        Ok(Flow::Stop)
    }
}
