//! Shuts down an instance whose function has extensions: the agent notifies them, and they have Lambda's
//! two seconds to end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_protocol::agent::{AgentMessage, HostMessage, Leave};
use hearth_protocol::sandbox::{Command, Resume};

use super::lifecycle::{Instance, Vm};
use crate::instance::{MicroVm, VmError, VmEvent, realtime_ns};
use crate::logs::Text;

/// Maximum time from the order to the agent's reply: the two seconds of the extensions, and reserve for
/// a busy host.
const LIMIT: Duration = Duration::from_secs(4);

impl Instance {
    /// Records how long extensions ran after an invocation, as the agent reports it.
    pub(super) fn extensions_took(&self, micros: Option<u64>) {
        let Some(micros) = micros else {
            return;
        };
        self.extended.store(true, Ordering::Relaxed);
        self.pool
            .metrics
            .post_runtime_extensions(self.version.name.as_str(), Duration::from_micros(micros));
    }

    /// Lets extensions shut down. Only a function with layers, or whose agent has reported extensions,
    /// can have any; for all others this does nothing.
    pub(super) async fn shut_down(&self, vm: &mut MicroVm, state: &Vm, reason: &str) {
        if self.version.config.layers.is_empty() && !self.extended.load(Ordering::Relaxed) {
            return;
        }
        let left = tokio::select! {
            left = tokio::time::timeout(LIMIT, self.notify_extensions(vm, state, reason)) => left,
            () = self.pool.stop.cancelled() => return,
        };
        self.subject.log(|request_id| match left {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(request_id, %error, "an instance could not shut down its extensions");
            }
            Err(_) => tracing::info!(request_id, "the extensions of an instance did not shut down in time"),
        });
    }

    async fn notify_extensions(
        &self,
        vm: &mut MicroVm,
        state: &Vm,
        reason: &str,
    ) -> Result<(), VmError> {
        match state {
            Vm::Frozen => self.command(vm, Command::Resume(Resume::default())).await?,
            Vm::Waiting => vm.release()?,
            Vm::Shell(_) | Vm::Running => {}
        }
        vm.send([HostMessage::Leave(Leave {
            reason: reason.into(),
            realtime_ns: realtime_ns(),
        })])?;
        loop {
            match vm.next().await? {
                VmEvent::Agent(AgentMessage::Left) | VmEvent::Exited(_) => return Ok(()),
                VmEvent::Agent(AgentMessage::Log(of, text)) => self.log(Text::of_guest(&of, text)),
                // Other messages belong to the invocation before.
                _ => {}
            }
        }
    }
}
