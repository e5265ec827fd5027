//! The messages of one invocation, from the command that lets the microVM run to the result.
//!
//! Everything is sent at once, to save round trips: `Restore`, `Thaw` and `Invoke` to a microVM that is
//! to be restored, `Resume` and `Invoke` to a paused one. The replies are checked: they must have the
//! right request id, come once, and in order. Anything else ends the microVM and fails the invocation.
//!
//! * [`events`]: what each event of the microVM means before the guest has thawed, and after that.
//! * [`at_mailbox`]: the same for messages that come through the mailbox.
//! * [`mod@ran`]: the results.

mod at_mailbox;
mod events;
mod ran;

use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::agent::{HostMessage, Invoke};
use hearth_protocol::sandbox::{Command, Resume};
use tokio::sync::Notify;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use self::events::Progress;
pub(super) use self::ran::{NotStarted, Ran};
use super::answer::Answer;
use super::job::{Invocation, NotRun};
use super::output::Output;
use super::parts::{Incoming, Part, Sink};
use super::readiness::Readiness;
use super::timeouts::HOOKS_LIMIT;
use super::warm_up::restore_command;
use crate::instance::{Deadline, MicroVm, START_LIMIT, VmError, realtime_ns, thaw};

/// Runs one invocation to its result. `restored` is notified when a microVM that was a shell runs.
pub(crate) async fn converse(
    vm: &mut MicroVm,
    invocation: &Invocation,
    sink: Option<&Sink>,
    ready: &Readiness,
    output: &mut Output<'_>,
    restored: &Notify,
    stop: &CancellationToken,
) -> Result<Ran, NotStarted> {
    let mut talk = Conversation::new(invocation, ready, restored);
    if let Err(why) = talk.open(vm, ready) {
        return Err(NotStarted {
            why,
            snapshot_unusable: false,
            refusal: None,
        });
    }
    if !ready.is_shell() {
        talk.vcpu_runs(talk.began, vm, output);
    }
    loop {
        let progress = tokio::select! {
            biased;
            () = stop.cancelled() => {
                return talk.ended(vm, Answer::Broken("the controller was stopped".into()));
            }
            progress = vm.wait_for(talk.deadline, |vm, event| talk.on_event(vm, event, output)) => {
                progress
            }
        };
        match progress {
            Ok(Progress::Part(part)) => {
                if let Err(answer) = talk.pass_on(sink, part, stop).await {
                    return talk.ended(vm, answer);
                }
            }
            Ok(Progress::HookFailed(kind)) => {
                let refusal = NotRun::RestoreHook(kind.clone());
                return Err(talk.hooks_failed(output, refusal, &kind));
            }
            Ok(Progress::Answer(answer, usage)) => return talk.finished(vm, answer, usage),
            Ok(Progress::Mailbox(answer)) => return talk.answered(vm, answer),
            Ok(Progress::StreamEnd(usage)) => {
                let answer = match sink {
                    Some(_) => Answer::Response(Bytes::new()),
                    None => talk.incoming.whole(),
                };
                return talk.finished(vm, answer, usage);
            }
            Err(VmError::Late(..)) if talk.ran_since.is_some() => {
                return talk.ended(vm, Answer::TimedOut(invocation.limits.timeout));
            }
            Err(VmError::Late(..)) if talk.awaited.is_none() => {
                let refusal = NotRun::RestoreTimeout(HOOKS_LIMIT);
                return Err(talk.hooks_failed(output, refusal, "timeout"));
            }
            Err(why) => return talk.failed(vm, why),
        }
    }
}

/// The state of the conversation.
#[derive(Debug)]
struct Conversation<'a> {
    invocation: &'a Invocation,
    restored: &'a Notify,
    began: Instant,
    /// The number of the command whose reply is awaited.
    awaited: Option<u64>,
    /// Whether the event was sent through the mailbox.
    by_mailbox: bool,
    /// Whether the guest has sent anything since `began`.
    heard: bool,
    /// Whether the guest has thawed, or did not have to.
    thawed: bool,
    /// When the vCPU began to run: the reported duration begins then. For a restored microVM it is the
    /// time of the restore's reply, because `Thawed` may arrive together with the answer.
    ran_since: Option<Instant>,
    /// Until the vCPU runs, the end of the timeout for its start; then the end of the function's
    /// timeout, even if the guest has not reported that it has thawed.
    deadline: Deadline,
    /// The microVM's CPU time at `ran_since`.
    cpu_before: Duration,
    /// Whether the result is streamed; set by its first part.
    streams: bool,
    incoming: Incoming,
    content_type: Option<String>,
}

impl<'a> Conversation<'a> {
    fn new(invocation: &'a Invocation, ready: &Readiness, restored: &'a Notify) -> Self {
        let began = Instant::now();
        Self {
            invocation,
            restored,
            began,
            awaited: None,
            by_mailbox: matches!(ready, Readiness::AtMailbox),
            heard: false,
            thawed: !ready.is_shell(),
            ran_since: None,
            deadline: Deadline::since(began, START_LIMIT, "a start"),
            cpu_before: Duration::ZERO,
            streams: false,
            incoming: Incoming::default(),
            content_type: None,
        }
    }

    /// Sends the command and the messages, all at once.
    fn open(&mut self, vm: &mut MicroVm, ready: &Readiness) -> Result<(), VmError> {
        let limits = &self.invocation.limits;
        let cpu_budget_us = limits
            .cpu
            .map(|cpu| u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX));
        let resume = Resume { cpu_budget_us };
        let realtime_ns = realtime_ns();
        let timeout_ms = u64::try_from(limits.timeout.as_millis()).unwrap_or(u64::MAX);
        let invoke = Invoke {
            request_id: self.invocation.request_id.clone(),
            deadline_ms: (realtime_ns / 1_000_000).saturating_add(timeout_ms),
            function_arn: self.invocation.function_arn.clone(),
            trace_id: self.invocation.trace_id.clone(),
            client_context: self.invocation.client_context.clone(),
            tenant_id: self.invocation.tenant.as_ref().map(|id| id.as_str().into()),
            memory_limit_mib: limits.memory_mib,
            realtime_ns,
        };
        let event = self.invocation.event.clone();
        match ready {
            Readiness::Shell(artefacts) => {
                self.awaited = Some(vm.submit(restore_command(artefacts, resume)?)?);
                vm.send([thaw()?, HostMessage::Invoke(invoke, event)])
            }
            Readiness::Paused => {
                self.awaited = Some(vm.submit(Command::Resume(resume))?);
                vm.send([HostMessage::Invoke(invoke, event)])
            }
            Readiness::AtMailbox => vm.send_event(&invoke.headers(), event),
            Readiness::Running { .. } => vm.send([HostMessage::Invoke(invoke, event)]),
        }
    }

    /// Passes a part of the result on to the caller, which may be slow, or collects it. The function's
    /// timeout continues meanwhile. An error ends the invocation.
    async fn pass_on(
        &mut self,
        sink: Option<&Sink>,
        part: Part,
        stop: &CancellationToken,
    ) -> Result<(), Answer> {
        let Some(sink) = sink else {
            if let Part::Chunk(chunk) = part {
                self.incoming.keep(&chunk);
            }
            return Ok(());
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Answer::Broken("the controller was stopped".into())),
            sent = timeout_at(self.deadline.at().into(), sink.send(part)) => match sent {
                // If the caller has been dropped, the function still runs to its end.
                Ok(Ok(()) | Err(_)) => Ok(()),
                Err(_) => Err(Answer::TimedOut(self.invocation.limits.timeout)),
            }
        }
    }

    /// The vCPU has begun to run, and with it the function's timeout. Later calls change nothing.
    fn vcpu_runs(&mut self, since: Instant, vm: &MicroVm, output: &mut Output<'_>) {
        if self.ran_since.is_some() {
            return;
        }
        self.ran_since = Some(since);
        self.deadline = Deadline::since(since, self.invocation.limits.timeout, "an answer");
        self.cpu_before = vm.process().cpu_time().unwrap_or_default();
        output.start();
    }
}
