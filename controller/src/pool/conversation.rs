//! One invocation's messages, from the command that lets the microVM run to the answer.
//!
//! Nothing is waited for that need not be: a restored microVM gets `Restore`, `Thaw` and `Invoke`
//! in one go, a paused one `Resume` and `Invoke`. What comes back is then checked in full: the
//! right request id, once, in order. Anything else ends the microVM, and the caller hears so.

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
use super::warm_up::restore_errand;
use crate::function::Artefacts;
use crate::instance::{
    MailboxAnswer, MicroVm, VmError, VmEvent, outcome, private_bytes, realtime_ns, thaw,
};

/// Longest time from a restore's command to its reply. A few milliseconds are usual;
/// this is for a host with far more to do than it can.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);
/// How long what a runtime does after a restore may take, as on Lambda.
pub(crate) const HOOKS_LIMIT: Duration = Duration::from_secs(10);

/// What the instance has to do before the function can run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Begin<'a> {
    /// Restore it into a shell.
    Restore(&'a Artefacts),
    /// Let its vCPU run.
    Resume,
    /// Give it to the runtime that waits at the mailbox.
    Waiting,
    /// Nothing: it runs.
    Running,
    /// Its init has just ended in it. Let its vCPU run if it is `paused`, else nothing.
    Initialized { paused: bool },
}

impl Begin<'_> {
    /// Whether the guest serves already: there is no restore and no thaw to wait for.
    fn serves(self) -> bool {
        !matches!(self, Self::Restore(_))
    }
}

/// An invocation that ran.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) answer: Answer,
    /// See [`Completed`](super::Completed).
    pub(crate) content_type: Option<String>,
    pub(crate) restore: Duration,
    /// How long the function's init took in this instance, if this was its first invocation.
    pub(crate) init: Option<Duration>,
    pub(crate) run: Duration,
    /// As the function saw it.
    pub(crate) duration: Duration,
    pub(crate) cpu: Duration,
    pub(crate) max_memory_bytes: u64,
    /// When the function's time is over.
    pub(crate) deadline: Instant,
    /// Whether the runtime waits at its mailbox already.
    pub(crate) waits: bool,
}

/// The function provably did not see the event.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct NotStarted {
    pub(crate) why: VmError,
    /// Whether the snapshot is to blame.
    pub(crate) snapshot_unusable: bool,
    /// What its caller is told, if trying again would come to the same.
    pub(crate) told: Option<NotRun>,
}

/// Runs one invocation to its answer.
pub(crate) async fn converse(
    vm: &mut MicroVm,
    invocation: &Invocation,
    sink: Option<&Sink>,
    begin: Begin<'_>,
    output: &mut Output<'_>,
    stop: &CancellationToken,
) -> Result<Ran, NotStarted> {
    let mut talk = Talk::new(invocation, begin);
    if let Err(why) = talk.open(vm, begin) {
        return Err(NotStarted {
            why,
            snapshot_unusable: false,
            told: None,
        });
    }
    if begin.serves() {
        talk.vcpu_runs(talk.began, vm, output);
    }
    loop {
        let limit = talk.limit;
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => {
                return talk.ended(vm, Answer::Broken("the controller was stopped".into()));
            }
            event = vm.next_by(limit) => event,
        };
        // A guest that never stops talking does not get around its time.
        let late = Instant::now() >= limit;
        match event {
            Some(Ok(event)) if !late => match talk.hear(vm, event, output) {
                Ok(Heard::Nothing) => {}
                Ok(Heard::Part(part)) => {
                    if let Err(answer) = talk.hand_on(sink, part, stop).await {
                        return talk.ended(vm, answer);
                    }
                }
                Ok(Heard::HookFailed(kind)) => {
                    let told = NotRun::RestoreHook(kind.clone());
                    return Err(talk.hooks_failed(output, told, &kind));
                }
                Ok(Heard::Answer(answer, usage)) => return talk.finished(vm, answer, usage),
                Ok(Heard::Mailbox(answer)) => return talk.answered(vm, answer),
                Ok(Heard::StreamEnd(usage)) => {
                    let answer = match sink {
                        Some(_) => Answer::Response(Bytes::new()),
                        None => talk.incoming.whole(),
                    };
                    return talk.finished(vm, answer, usage);
                }
                Err(why) => return talk.failed(vm, why),
            },
            Some(Err(why)) => return talk.failed(vm, why),
            Some(Ok(_)) | None if talk.ran_since.is_some() => {
                return talk.ended(vm, Answer::TimedOut(invocation.limits.timeout));
            }
            Some(Ok(_)) | None if talk.awaited.is_none() => {
                let told = NotRun::RestoreTimeout(HOOKS_LIMIT);
                return Err(talk.hooks_failed(output, told, "timeout"));
            }
            Some(Ok(_)) | None => {
                return talk.failed(vm, VmError::Late("a start", START_LIMIT));
            }
        }
    }
}

/// What an event comes to.
#[derive(Debug)]
enum Heard {
    Nothing,
    /// More of a result that comes in pieces.
    Part(Part),
    /// All of it has come.
    StreamEnd(Usage),
    /// What the runtime had to do after its restore failed.
    HookFailed(String),
    Answer(Answer, Usage),
    /// The same from the mailbox.
    Mailbox(MailboxAnswer),
}

/// Where the conversation is.
#[derive(Debug)]
struct Talk<'a> {
    invocation: &'a Invocation,
    began: Instant,
    /// The command that awaits its reply.
    awaited: Option<u64>,
    /// Whether the event went to its mailbox.
    by_mailbox: bool,
    /// Whether the guest has said anything since `began`.
    heard: bool,
    /// Whether the guest may serve: it was restored and has thawed, or it was paused.
    thawed: bool,
    /// When the vCPU began to run: the beginning of what the caller is told. `Thawed` may come
    /// together with the answer, so for a restored microVM it is the restore's reply that counts.
    ran_since: Option<Instant>,
    /// Until the vCPU runs, the end of the wait for it; then the end of the function's time. A
    /// guest that does not thaw gains nothing by that.
    limit: Instant,
    /// The microVM's CPU time at `ran_since`.
    cpu_before: Duration,
    /// Whether the result comes in pieces; set by the first.
    streams: bool,
    incoming: Incoming,
    content_type: Option<String>,
}

impl<'a> Talk<'a> {
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
            limit: began + START_LIMIT,
            cpu_before: Duration::ZERO,
            streams: false,
            incoming: Incoming::default(),
            content_type: None,
        }
    }

    /// Sends everything at once.
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
                self.awaited = Some(vm.submit(restore_errand(artefacts, resume)?)?);
                vm.send([thaw()?, HostMessage::Invoke(invoke, event)])
            }
            Begin::Resume | Begin::Initialized { paused: true } => {
                self.awaited = Some(vm.submit(Command::Resume(resume))?);
                vm.send([HostMessage::Invoke(invoke, event)])
            }
            Begin::Waiting => {
                self.by_mailbox = true;
                vm.give(&invoke.headers(), event)
            }
            Begin::Running | Begin::Initialized { paused: false } => {
                vm.send([HostMessage::Invoke(invoke, event)])
            }
        }
    }

    /// Takes in one event; an answer ends the conversation.
    fn hear(
        &mut self,
        vm: &MicroVm,
        event: VmEvent,
        output: &mut Output<'_>,
    ) -> Result<Heard, VmError> {
        let message = match event {
            VmEvent::Reply(reply) => {
                // The reply of the command before may be late; it says nothing new.
                let expected = self.awaited == Some(reply.id);
                outcome(reply)?;
                if expected {
                    self.awaited = None;
                    if self.thawed || !self.invocation.version.snap_starts() {
                        self.vcpu_runs(Instant::now(), vm, output);
                    } else {
                        // The function's time begins when its runtime has done what it has to.
                        self.limit = Instant::now() + HOOKS_LIMIT;
                    }
                }
                return Ok(Heard::Nothing);
            }
            VmEvent::CpuBudgetExhausted => {
                let limit = self.invocation.limits.cpu.unwrap_or_default();
                let answer = Answer::CpuExhausted(limit);
                return Ok(Heard::Answer(answer, Usage::default()));
            }
            VmEvent::Exited(exited) => return Err(VmError::Exited(exited)),
            VmEvent::Mailbox(word) => return self.hear_mailbox(vm, word, output),
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
                Ok(Heard::HookFailed(kind))
            }
            AgentMessage::Thawed if !self.thawed => {
                self.thawed = true;
                // The two sockets have no order between them: the reply may still be unread.
                if hooks {
                    output.restore_report(self.began.elapsed(), None);
                }
                self.vcpu_runs(Instant::now(), vm, output);
                Ok(Heard::Nothing)
            }
            AgentMessage::Log(log, lines) => {
                if self.thawed {
                    output.function(&log, lines);
                } else {
                    output.hook(&log, lines);
                }
                Ok(Heard::Nothing)
            }
            AgentMessage::Response(response, body) if !self.streams => {
                self.check(&response.request_id)?;
                Ok(Heard::Answer(Answer::Response(body), response.usage))
            }
            AgentMessage::ResponseStart(start) if !self.streams => {
                self.check(&start.request_id)?;
                self.streams = true;
                self.content_type = start.content_type;
                Ok(Heard::Part(Part::Start(self.content_type.clone())))
            }
            AgentMessage::ResponseChunk(chunk) if self.streams => {
                self.incoming.count(&chunk).map_err(unexpected)?;
                Ok(Heard::Part(Part::Chunk(chunk)))
            }
            AgentMessage::ResponseEnd(end, body) if self.streams => {
                self.check(&end.request_id)?;
                Ok(match end.error_type {
                    None => Heard::StreamEnd(end.usage),
                    kind => Heard::Answer(Answer::FunctionError { body, kind }, end.usage),
                })
            }
            AgentMessage::FunctionError(error, body) if !self.streams => {
                self.check(&error.request_id)?;
                let answer = Answer::FunctionError {
                    body,
                    kind: error.error_type,
                };
                Ok(Heard::Answer(answer, error.usage))
            }
            AgentMessage::RuntimeExited(exited) => {
                if let Some(id) = &exited.request_id {
                    self.check(id)?;
                }
                let answer = Answer::ended(exited.exit, exited.error_type.as_deref());
                Ok(Heard::Answer(answer, exited.usage))
            }
            AgentMessage::Fatal(reason) => {
                let reason: String = String::from_utf8_lossy(&reason).chars().take(500).collect();
                Err(VmError::Unexpected(format!(
                    "the agent can't go on: {reason}"
                )))
            }
            AgentMessage::Response(..)
            | AgentMessage::FunctionError(..)
            | AgentMessage::ResponseStart(_)
            | AgentMessage::ResponseChunk(_)
            | AgentMessage::ResponseEnd(..) => Err(unexpected("two answers in one")),
            AgentMessage::Thawed => Err(unexpected("that it thawed twice")),
            AgentMessage::Ready(_) => Err(unexpected("that it is ready without an answer")),
            AgentMessage::Inspected(_) => Err(unexpected("what it was not asked for")),
            AgentMessage::Hello(_) => Err(unexpected("hello in mid-conversation")),
            AgentMessage::Left => Err(unexpected("that it left unbidden")),
            AgentMessage::Pong(_) => Err(unexpected("a pong without a ping")),
            AgentMessage::RestoreFailed(..) => Err(unexpected("that a restore failed after it")),
            AgentMessage::InitFailed(..) => Err(unexpected("that init failed after init")),
        }
    }

    /// A guest that serves has thawed: its agent does one after the other. One with hooks to run says
    /// so besides, since its time begins then.
    fn thawed_silently(&mut self, vm: &MicroVm, output: &mut Output<'_>) -> Result<(), VmError> {
        if self.invocation.version.snap_starts() {
            return Err(unexpected("something before it had thawed"));
        }
        self.thawed = true;
        self.vcpu_runs(Instant::now(), vm, output);
        Ok(())
    }

    /// Gives a part of the result to the caller, who may be slow; or keeps it. The function's time
    /// runs on meanwhile. An error is the invocation's end.
    async fn hand_on(
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
            sent = timeout_at(self.limit.into(), sink.send(part)) => match sent {
                // A caller that is gone: the function runs to its end all the same.
                Ok(Ok(()) | Err(_)) => Ok(()),
                Err(_) => Err(Answer::TimedOut(self.invocation.limits.timeout)),
            }
        }
    }

    /// The vCPU runs, and the function's time with it: from then on, unless both did already.
    fn vcpu_runs(&mut self, since: Instant, vm: &MicroVm, output: &mut Output<'_>) {
        if self.ran_since.is_some() {
            return;
        }
        self.ran_since = Some(since);
        self.limit = since + self.invocation.limits.timeout;
        self.cpu_before = vm.process().cpu_time().unwrap_or_default();
        output.start();
    }

    fn check(&self, answered: &str) -> Result<(), VmError> {
        if answered == self.invocation.request_id {
            return Ok(());
        }
        Err(unexpected("an answer to another invocation"))
    }

    /// The agent has told the outcome, and what it used.
    fn finished(&self, vm: &MicroVm, answer: Answer, usage: Usage) -> Result<Ran, NotStarted> {
        if matches!(answer, Answer::CpuExhausted(_)) {
            return self.ended(vm, answer);
        }
        let run = self.run();
        // The guest's own figures may make an invocation look cheaper than it was, never longer
        // than it took or larger than its memory.
        let memory = u64::from(self.invocation.version.config.memory_mib) << 20;
        Ok(Ran {
            duration: Duration::from_micros(usage.duration_us).min(self.began.elapsed()),
            max_memory_bytes: usage.max_memory_bytes.min(memory),
            ..self.ran(vm, answer, run)
        })
    }

    /// The host ended it: the host's figures are all there is.
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
        // The sandbox counts a budget from the vCPU's first instruction; a restore's reply is read
        // a little later.
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
            deadline: self.limit,
            waits: false,
        }
    }

    /// The function has not begun and won't, whoever tries.
    fn hooks_failed(&self, output: &Output<'_>, told: NotRun, kind: &str) -> NotStarted {
        output.restore_report(self.began.elapsed(), Some(kind));
        NotStarted {
            why: VmError::Unexpected(told.to_string()),
            snapshot_unusable: false,
            told: Some(told),
        }
    }

    /// The microVM ended or broke the rules. The event can go to another instance if this one's
    /// guest provably had no chance to see it.
    fn failed(&self, vm: &MicroVm, why: VmError) -> Result<Ran, NotStarted> {
        let refused = matches!(why, VmError::Refused(_));
        // Its first command was not answered: the vCPU never ran.
        let stood_still = self.awaited.is_some();
        // The event is what was sent last.
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
                told: None,
            });
        }
        self.ended(vm, Answer::Broken(why.to_string()))
    }
}

fn unexpected(what: &str) -> VmError {
    VmError::Unexpected(format!("it said {what}"))
}
