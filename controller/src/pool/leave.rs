//! The end of an instance whose function has extensions: they are told, and get Lambda's two seconds.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_protocol::agent::{AgentMessage, HostMessage, Leave};
use hearth_protocol::sandbox::{Command, Resume};

use super::lifecycle::{Instance, Vm};
use crate::instance::{MicroVm, VmError, VmEvent, realtime_ns};
use crate::logs::Text;

/// Longest time from the order to the guest's last word: its own two seconds, and what the machine
/// may take to get to it.
const LIMIT: Duration = Duration::from_secs(4);

impl Instance {
    /// What the guest says of its extensions after an invocation.
    pub(super) fn extensions_took(&self, micros: Option<u64>) {
        let Some(micros) = micros else {
            return;
        };
        self.extended.store(true, Ordering::Relaxed);
        self.pool
            .metrics
            .post_runtime_extensions(self.version.name.as_str(), Duration::from_micros(micros));
    }

    /// Lets extensions end in order. They come with layers or have been heard of; nothing else has
    /// anything to do at its end.
    pub(super) async fn leave(&self, vm: &mut MicroVm, state: &Vm, reason: &str) {
        if self.version.config.layers.is_empty() && !self.extended.load(Ordering::Relaxed) {
            return;
        }
        let left = tokio::select! {
            left = tokio::time::timeout(LIMIT, self.let_go(vm, state, reason)) => left,
            () = self.pool.stop.cancelled() => return,
        };
        let function = &self.version.name;
        match left {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%function, %error, "an instance left without a word"),
            Err(_) => tracing::info!(%function, "extensions did not end in their time"),
        }
    }

    async fn let_go(&self, vm: &mut MicroVm, state: &Vm, reason: &str) -> Result<(), VmError> {
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
                // Of what was under way.
                _ => {}
            }
        }
    }
}
