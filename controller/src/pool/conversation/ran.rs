//! The results of a conversation: an invocation that has run, or one that provably has not.

use std::time::{Duration, Instant};

use hearth_protocol::agent::Usage;
use hearth_protocol::sandbox::RefusalKind;

use super::Conversation;
use crate::instance::{MicroVm, VmError, private_bytes};
use crate::pool::answer::Answer;
use crate::pool::job::NotRun;
use crate::pool::output::Output;

/// An invocation that has run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) answer: Answer,
    /// See [`Completed`](crate::pool::Completed).
    pub(crate) content_type: Option<String>,
    pub(crate) restore: Duration,
    /// How long the function's init took in this instance, if it ran for this invocation.
    pub(crate) init: Option<Duration>,
    pub(crate) run: Duration,
    /// The duration as the guest has measured it.
    pub(crate) duration: Duration,
    pub(crate) cpu: Duration,
    pub(crate) max_memory_bytes: u64,
    /// When the function's timeout ends.
    pub(crate) deadline: Instant,
    /// Whether the runtime already waits at the mailbox.
    pub(crate) waits: bool,
}

/// The function has provably not seen the event.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct NotStarted {
    pub(crate) why: VmError,
    /// Whether the snapshot is the cause.
    pub(crate) snapshot_unusable: bool,
    /// The result of the invocation, if another attempt would fail too.
    pub(crate) refusal: Option<NotRun>,
}

impl Conversation<'_> {
    /// The agent has sent the answer with its measurements.
    pub(super) fn finished(
        &self,
        vm: &MicroVm,
        answer: Answer,
        usage: Usage,
    ) -> Result<Ran, NotStarted> {
        if matches!(answer, Answer::CpuExhausted(_)) {
            return self.ended(vm, answer);
        }
        let run = self.run();
        // The guest's measurements are clamped: never longer than the time that has passed, never more
        // than the function's memory.
        let memory = u64::from(self.invocation.version.config.memory_mib) << 20;
        Ok(Ran {
            duration: Duration::from_micros(usage.duration_us).min(self.began.elapsed()),
            max_memory_bytes: usage.max_memory_bytes.min(memory),
            ..self.ran(vm, answer, run)
        })
    }

    /// The controller ends the invocation, so there are only its own measurements.
    pub(super) fn ended(&self, vm: &MicroVm, answer: Answer) -> Result<Ran, NotStarted> {
        let memory = u64::from(self.invocation.version.config.memory_mib) << 20;
        let used = private_bytes(vm.process().pid()).unwrap_or(0);
        let run = self.run();
        Ok(Ran {
            max_memory_bytes: used.min(memory),
            ..self.ran(vm, answer, run)
        })
    }

    pub(super) fn run(&self) -> Duration {
        self.ran_since
            .map(|since| since.elapsed())
            .unwrap_or_default()
    }

    fn cpu(&self, vm: &MicroVm, answer: &Answer) -> Duration {
        // The sandbox measures a budget from the vCPU's first instruction. This process reads the
        // restore's reply a little later and would measure less.
        let least = match answer {
            Answer::CpuExhausted(budget) => *budget,
            _ => Duration::ZERO,
        };
        match (self.ran_since, vm.process().cpu_time()) {
            (Some(_), Some(now)) => now.saturating_sub(self.cpu_before).max(least),
            _ => least,
        }
    }

    pub(super) fn ran(&self, vm: &MicroVm, answer: Answer, run: Duration) -> Ran {
        let now = Instant::now();
        Ran {
            cpu: self.cpu(vm, &answer),
            answer,
            content_type: self.content_type.clone(),
            restore: self.ran_since.unwrap_or(now) - self.began,
            init: None,
            run,
            duration: run,
            max_memory_bytes: 0,
            deadline: self.deadline.at(),
            waits: false,
        }
    }

    /// The after-restore hook has failed. Another instance would fail too, so there is no other attempt.
    pub(super) fn hooks_failed(
        &self,
        output: &Output<'_>,
        refusal: NotRun,
        kind: &str,
    ) -> NotStarted {
        output.restore_report(self.began.elapsed(), Some(kind));
        NotStarted {
            why: VmError::Unexpected(refusal.to_string()),
            snapshot_unusable: false,
            refusal: Some(refusal),
        }
    }

    /// The microVM has ended or has sent something unexpected. The event may go to another instance only
    /// if this guest provably has not seen it.
    pub(super) fn failed(&self, vm: &MicroVm, why: VmError) -> Result<Ran, NotStarted> {
        let refused = matches!(why, VmError::Refused(_));
        // The command has no reply yet: the vCPU has not run.
        let stood_still = self.awaited.is_some();
        // The event was sent last, so it was not read if anything was not read.
        let unread = if self.by_mailbox {
            vm.mailbox_left_unread()
        } else {
            vm.agent_left_unread()
        };
        if refused || ((stood_still || unread) && !self.heard) {
            let snapshot_unusable = matches!(
                &why,
                VmError::Refused(refusal) if refusal.kind == RefusalKind::SnapshotUnusable
            );
            return Err(NotStarted {
                why,
                snapshot_unusable,
                refusal: None,
            });
        }
        self.ended(vm, Answer::Broken(why.to_string()))
    }
}
