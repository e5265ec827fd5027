//! Shuts down an instance whose function has extensions: the agent notifies them, and they have Lambda's
//! two seconds to end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_protocol::agent::{AgentMessage, HostMessage, Leave};
use hearth_protocol::sandbox::{Command, Resume};

use super::lifecycle::Instance;
use super::readiness::Readiness;
use super::timeouts::SHUT_DOWN_LIMIT;
use crate::instance::{Deadline, MicroVm, Step, VmError, VmEvent, realtime_ns};
use crate::logs::Text;

impl Instance {
    /// Records how long extensions ran after an invocation, as the agent reports it.
    pub(super) fn extensions_took(&self, micros: Option<u64>) {
        let Some(micros) = micros else {
            return;
        };
        self.extended.store(true, Ordering::Relaxed);
        let took = Duration::from_micros(micros);
        self.version.incarnation.while_it_lasts(|| {
            let function = self.version.name.as_str();
            self.pool.metrics.post_runtime_extensions(function, took);
        });
    }

    /// Lets extensions shut down. Only a function with layers, or whose agent has reported extensions,
    /// can have any; for all others this does nothing.
    pub(super) async fn shut_down(&self, vm: &mut MicroVm, ready: &Readiness, reason: &str) {
        if self.version.config.layers.is_empty() && !self.extended.load(Ordering::Relaxed) {
            return;
        }
        let deadline = Deadline::after(SHUT_DOWN_LIMIT, "the end of the extensions");
        let left = tokio::select! {
            left = self.notify_extensions(vm, ready, reason, deadline) => left,
            () = self.pool.stop.cancelled() => return,
        };
        self.subject.log(|request_id| match left {
            Ok(()) => {}
            Err(VmError::Late(..)) => tracing::info!(
                request_id,
                "the extensions of an instance did not shut down in time"
            ),
            Err(error) => {
                tracing::debug!(request_id, %error, "an instance could not shut down its extensions");
            }
        });
    }

    async fn notify_extensions(
        &self,
        vm: &mut MicroVm,
        ready: &Readiness,
        reason: &str,
        deadline: Deadline,
    ) -> Result<(), VmError> {
        match ready {
            Readiness::Paused => {
                let resume = Command::Resume(Resume::default());
                vm.command(resume, deadline).await?;
            }
            Readiness::AtMailbox => vm.release()?,
            Readiness::Shell(_) | Readiness::Running { .. } => {}
        }
        vm.send([HostMessage::Leave(Leave {
            reason: reason.into(),
            realtime_ns: realtime_ns(),
        })])?;
        vm.wait_for(deadline, |_, event| {
            Ok(match event {
                VmEvent::Agent(AgentMessage::Left) | VmEvent::Exited(_) => Step::Done(()),
                VmEvent::Agent(AgentMessage::Log(of, text)) => {
                    self.log(Text::of_guest(&of, text));
                    Step::Wait
                }
                // Other messages belong to the invocation before.
                _ => Step::Wait,
            })
        })
        .await
    }
}
