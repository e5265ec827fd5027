//! The messages of one invocation, from the command that lets the microVM run to the result.
//!
//! Everything is sent at once, to save round trips: `Restore`, `Thaw` and `Invoke` to a microVM that is
//! to be restored, `Resume` and `Invoke` to a paused one. The replies are checked: they must have the
//! right request id, come once, and in order. Anything else ends the microVM and fails the invocation.

mod at_mailbox;

use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, HostMessage, Invoke, Usage};
use hearth_protocol::sandbox::{Command, RefusalKind, Resume};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, is_name};
use super::job::{Invocation, NotRun};
use super::output::Output;
use super::streaming::{Incoming, Part, Sink};
use super::warm_up::restore_command;
use crate::function::Artefacts;
use crate::instance::{
    Deadline, MailboxAnswer, MicroVm, START_LIMIT, Step, VmError, VmEvent, outcome, private_bytes,
    realtime_ns, thaw,
};

/// Maximum time of a runtime's after-restore hook, as on Lambda.
pub(crate) const HOOKS_LIMIT: Duration = Duration::from_secs(10);

/// How the invocation begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Begin<'a> {
    /// The microVM is a shell: restore a snapshot.
    Restore(&'a Artefacts),
    /// The microVM is paused: resume it.
    Resume,
    /// The runtime waits at the mailbox: send the event there.
    Waiting,
    /// The microVM runs: only send the event.
    Running,
    /// The function's init has just ended in this instance. Resume the microVM if it is `paused`.
    Initialized { paused: bool },
}

impl Begin<'_> {
    /// Whether the guest has thawed already, so that there is no restore to wait for.
    fn serves(self) -> bool {
        !matches!(self, Self::Restore(_))
    }
}

/// An invocation that has run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) answer: Answer,
    /// See [`Completed`](super::Completed).
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

/// Runs one invocation to its result.
pub(crate) async fn converse(
    vm: &mut MicroVm,
    invocation: &Invocation,
    sink: Option<&Sink>,
    begin: Begin<'_>,
    output: &mut Output<'_>,
    stop: &CancellationToken,
) -> Result<Ran, NotStarted> {
    let mut talk = Conversation::new(invocation, begin);
    if let Err(why) = talk.open(vm, begin) {
        return Err(NotStarted {
            why,
            snapshot_unusable: false,
            refusal: None,
        });
    }
    if begin.serves() {
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

/// What an invocation waits for: an answer, or a part of one.
#[derive(Debug)]
enum Progress {
    /// A part of a streamed result.
    Part(Part),
    /// The end of a streamed result.
    StreamEnd(Usage),
    /// The runtime's after-restore hook has failed.
    HookFailed(String),
    Answer(Answer, Usage),
    /// An answer from the mailbox.
    Mailbox(MailboxAnswer),
}

/// The state of the conversation.
#[derive(Debug)]
struct Conversation<'a> {
    invocation: &'a Invocation,
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
    fn new(invocation: &'a Invocation, begin: Begin<'_>) -> Self {
        let began = Instant::now();
        Self {
            invocation,
            began,
            awaited: None,
            by_mailbox: false,
            heard: false,
            thawed: begin.serves(),
            ran_since: None,
            deadline: Deadline::since(began, START_LIMIT, "a start"),
            cpu_before: Duration::ZERO,
            streams: false,
            incoming: Incoming::default(),
            content_type: None,
        }
    }

    /// Sends the command and the messages, all at once.
    fn open(&mut self, vm: &mut MicroVm, begin: Begin<'_>) -> Result<(), VmError> {
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
            memory_limit_mib: limits.memory_mib,
            realtime_ns,
        };
        let event = self.invocation.event.clone();
        match begin {
            Begin::Restore(artefacts) => {
                self.awaited = Some(vm.submit(restore_command(artefacts, resume)?)?);
                vm.send([thaw()?, HostMessage::Invoke(invoke, event)])
            }
            Begin::Resume | Begin::Initialized { paused: true } => {
                self.awaited = Some(vm.submit(Command::Resume(resume))?);
                vm.send([HostMessage::Invoke(invoke, event)])
            }
            Begin::Waiting => {
                self.by_mailbox = true;
                vm.send_event(&invoke.headers(), event)
            }
            Begin::Running | Begin::Initialized { paused: false } => {
                vm.send([HostMessage::Invoke(invoke, event)])
            }
        }
    }

    /// Handles one event of the microVM.
    fn on_event(
        &mut self,
        vm: &MicroVm,
        event: VmEvent,
        output: &mut Output<'_>,
    ) -> Result<Step<Progress>, VmError> {
        let message = match event {
            VmEvent::Reply(reply) => {
                // The reply to an earlier command may come late. It is ignored.
                let expected = self.awaited == Some(reply.id);
                outcome(reply)?;
                if expected {
                    self.awaited = None;
                    if self.thawed || !self.invocation.version.snap_starts() {
                        self.vcpu_runs(Instant::now(), vm, output);
                    } else {
                        // The function's timeout begins after the after-restore hook.
                        self.deadline = Deadline::after(HOOKS_LIMIT, "an after-restore hook");
                    }
                }
                return Ok(self.wait());
            }
            VmEvent::CpuBudgetExhausted => {
                let limit = self.invocation.limits.cpu.unwrap_or_default();
                let answer = Answer::CpuExhausted(limit);
                return Ok(Step::Done(Progress::Answer(answer, Usage::default())));
            }
            VmEvent::Exited(_) => return Ok(Step::Unexpected(event)),
            VmEvent::Mailbox(message) => return self.on_mailbox(vm, message, output),
            VmEvent::Agent(message) => message,
        };
        self.heard = true;
        let hooks = self.invocation.version.snap_starts();
        let early = match &message {
            AgentMessage::Thawed | AgentMessage::Fatal(_) => true,
            AgentMessage::Log(..) | AgentMessage::RestoreFailed(..) => hooks,
            _ => false,
        };
        if !self.thawed && !early {
            self.thawed_silently(vm, output)?;
        }
        match message {
            AgentMessage::RestoreFailed(failed, _) if !self.thawed => {
                let kind = Some(failed.error_type).filter(|kind| is_name(kind));
                let kind = kind.unwrap_or_else(|| "Runtime.Unknown".into());
                Ok(Step::Done(Progress::HookFailed(kind)))
            }
            AgentMessage::Thawed if !self.thawed => {
                self.thawed = true;
                // The order between the two sockets is not defined: the restore's reply may still be
                // unread.
                if hooks {
                    output.restore_report(self.began.elapsed(), None);
                }
                self.vcpu_runs(Instant::now(), vm, output);
                Ok(self.wait())
            }
            AgentMessage::Log(log, lines) => {
                if self.thawed {
                    output.function(&log, lines);
                } else {
                    output.hook(&log, lines);
                }
                Ok(self.wait())
            }
            AgentMessage::Response(response, body) if !self.streams => {
                self.check(&response.request_id)?;
                let answer = Answer::Response(body);
                Ok(Step::Done(Progress::Answer(answer, response.usage)))
            }
            AgentMessage::ResponseStart(start) if !self.streams => {
                self.check(&start.request_id)?;
                self.streams = true;
                self.content_type = start.content_type;
                let part = Part::Start(self.content_type.clone());
                Ok(Step::Done(Progress::Part(part)))
            }
            AgentMessage::ResponseChunk(chunk) if self.streams => {
                self.incoming.count(&chunk).map_err(violation)?;
                Ok(Step::Done(Progress::Part(Part::Chunk(chunk))))
            }
            AgentMessage::ResponseEnd(end, body) if self.streams => {
                self.check(&end.request_id)?;
                Ok(Step::Done(match end.error_type {
                    None => Progress::StreamEnd(end.usage),
                    kind => Progress::Answer(Answer::FunctionError { body, kind }, end.usage),
                }))
            }
            AgentMessage::FunctionError(error, body) if !self.streams => {
                self.check(&error.request_id)?;
                let answer = Answer::FunctionError {
                    body,
                    kind: error.error_type,
                };
                Ok(Step::Done(Progress::Answer(answer, error.usage)))
            }
            AgentMessage::RuntimeExited(exited) => {
                if let Some(id) = &exited.request_id {
                    self.check(id)?;
                }
                let answer = Answer::ended(exited.exit, exited.error_type.as_deref());
                Ok(Step::Done(Progress::Answer(answer, exited.usage)))
            }
            AgentMessage::Response(..)
            | AgentMessage::FunctionError(..)
            | AgentMessage::ResponseStart(_)
            | AgentMessage::ResponseChunk(_)
            | AgentMessage::ResponseEnd(..) => Err(violation("a second answer")),
            other => Ok(Step::Unexpected(VmEvent::Agent(other))),
        }
    }

    /// Goes on waiting, until the deadline that this event may have changed.
    fn wait(&self) -> Step<Progress> {
        Step::WaitUntil(self.deadline)
    }

    /// The guest has sent another message without `Thawed` before it. Its agent serves only after it has
    /// thawed, so it has. With hooks, `Thawed` is mandatory, because the function's timeout begins then.
    fn thawed_silently(&mut self, vm: &MicroVm, output: &mut Output<'_>) -> Result<(), VmError> {
        if self.invocation.version.snap_starts() {
            return Err(violation("another message before Thawed"));
        }
        self.thawed = true;
        self.vcpu_runs(Instant::now(), vm, output);
        Ok(())
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

    fn check(&self, answered: &str) -> Result<(), VmError> {
        if answered == self.invocation.request_id {
            return Ok(());
        }
        Err(violation("an answer to another invocation"))
    }

    /// The agent has sent the answer with its measurements.
    fn finished(&self, vm: &MicroVm, answer: Answer, usage: Usage) -> Result<Ran, NotStarted> {
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
    fn ended(&self, vm: &MicroVm, answer: Answer) -> Result<Ran, NotStarted> {
        let memory = u64::from(self.invocation.version.config.memory_mib) << 20;
        let used = private_bytes(vm.process().pid()).unwrap_or(0);
        let run = self.run();
        Ok(Ran {
            max_memory_bytes: used.min(memory),
            ..self.ran(vm, answer, run)
        })
    }

    fn run(&self) -> Duration {
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

    fn ran(&self, vm: &MicroVm, answer: Answer, run: Duration) -> Ran {
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
    fn hooks_failed(&self, output: &Output<'_>, refusal: NotRun, kind: &str) -> NotStarted {
        output.restore_report(self.began.elapsed(), Some(kind));
        NotStarted {
            why: VmError::Unexpected(refusal.to_string()),
            snapshot_unusable: false,
            refusal: Some(refusal),
        }
    }

    /// The microVM has ended or has sent something unexpected. The event may go to another instance only
    /// if this guest provably has not seen it.
    fn failed(&self, vm: &MicroVm, why: VmError) -> Result<Ran, NotStarted> {
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

/// The error for a message whose kind is allowed now, and whose content or order is not.
fn violation(what: &str) -> VmError {
    VmError::Unexpected(format!("the guest sent {what}"))
}
