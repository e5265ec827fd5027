//! The task of an instance: it takes a shell, runs the first invocation, is idle and busy by turns, and
//! ends.
//!
//! Only the task uses the microVM. Other tasks change [`super::state`], and this task asks the state for
//! its next invocation or order.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use hearth_protocol::agent::AgentMessage;
use hearth_protocol::sandbox::{Command, Freeze, RefusalKind};
use tokio::time::timeout;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::conversation::{Begin, NotStarted, Ran, converse};
use super::dispatch::Shared;
use super::entry::{Order, Parked, StartOrder, Taken};
use super::job::{Completed, Job, NotRun, Phases, Start};
use super::output::Output;
use super::warm_up::warm_up;
use crate::function::{Artefacts, StartsFrom, Version};
use crate::instance::{LogSubject, MailboxWord, MicroVm, VmError, VmEvent, outcome};
use crate::logs::lines::Report;
use crate::logs::{Kind, Origin, PlatformEvent, Tail, Text};

/// Maximum time from the runtime's request for its next event to the pause, in which the guest returns
/// from its system call and halts. Short, because the function's threads run during this time too.
const FREEZE_WITHIN: Duration = Duration::from_millis(100);
/// Maximum time for a pause or a resume.
pub(super) const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// Minimum of the time in which a runtime that has sent a result must ask for its next event.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// Number of failed starts after which an invocation fails.
const MAX_ATTEMPTS: u8 = 3;

/// The microVM's state when an invocation begins.
#[derive(Debug, Clone)]
pub(super) enum Vm {
    /// A shell.
    Shell(Arc<Artefacts>),
    /// Paused, or about to be paused: it needs a resume.
    Frozen,
    /// The runtime waits at the mailbox, and the vCPU does not run.
    Waiting,
    Running,
}

/// Runs an instance from its start to its end.
pub(crate) async fn run(pool: Arc<Shared>, order: StartOrder) {
    let span = tracing::error_span!(
        parent: None,
        "instance",
        id = order.id,
        pid = Empty,
        function = %order.version.name,
        version = %order.version.id
    );
    let instance = Instance {
        id: order.id,
        subject: LogSubject::new(span),
        version: order.version,
        pool,
        extended: AtomicBool::new(false),
    };
    instance.run().await;
    instance.pool.gone(instance.id);
}

/// Where a runtime waits between two invocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// At its agent. `budgeted`: the last invocation had a CPU budget, which a resume has to remove.
    Agent { budgeted: bool },
    /// At the mailbox.
    Mailbox,
}

/// Where a runtime has asked for its next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Agent,
    Mailbox,
}

/// Why an instance could not be started without an invocation.
#[derive(Debug)]
enum NotReady {
    /// The sandbox or the guest has failed.
    Start(String),
    /// The function's init has failed.
    Init(String),
}

pub(super) struct Instance {
    id: u64,
    /// What its log lines belong to.
    pub(super) subject: LogSubject,
    pub(super) version: Arc<Version>,
    pub(super) pool: Arc<Shared>,
    /// Whether the agent has reported extensions.
    pub(super) extended: AtomicBool,
}

impl Instance {
    async fn run(&self) {
        let prepared = tokio::select! {
            prepared = self.prepare().instrument(self.subject.span().clone()) => prepared,
            // A rebuild of the artefacts may take longer than the controller may take to end.
            () = self.pool.stop.cancelled() => return,
        };
        let (mut vm, artefacts) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => return self.start_failed(&why),
        };
        self.pool.state().claimed(self.id, vm.process().pid());
        self.subject.span().record("pid", vm.process().pid());
        let taken = self.pool.state().take(self.id);
        let (mut job, mut state) = match taken {
            // Another instance has taken the invocation.
            Taken::Nothing => return self.pool.shells.put_back(vm),
            Taken::Job(job) => {
                // This start does not count any more, so an instance without an invocation may start.
                self.pool.provision();
                self.own(&vm);
                (job, Vm::Shell(artefacts))
            }
            Taken::Ready => {
                self.own(&vm);
                let warmed = self.warm(&mut vm, &artefacts);
                match warmed.instrument(self.subject.span().clone()).await {
                    Ok(()) => {}
                    Err(NotReady::Start(why)) => return self.start_failed(&why),
                    Err(NotReady::Init(why)) => return self.init_failed(&why),
                }
                let next = self.pool.state().warmed(self.id, Instant::now());
                self.pool.start(next);
                match self.next(&mut vm, Rest::Agent { budgeted: false }).await {
                    Some(next) => next,
                    None => return,
                }
            }
        };
        loop {
            // Only the agent and a resume can set limits of an invocation. So the runtime must not wait
            // at the mailbox.
            if matches!(state, Vm::Waiting) && job.invocation.limits.any() {
                if self.recall(&mut vm).await.is_none() {
                    return self.again(job, "an instance did not leave its mailbox");
                }
                state = Vm::Frozen;
            }
            let span = self.invocation_span(&state, &job);
            let served = self.serve(&mut vm, &state, job).instrument(span).await;
            let ControlFlow::Continue(rest) = served else {
                return;
            };
            (job, state) = match self.next(&mut vm, rest).await {
                Some(next) => next,
                None => return,
            };
        }
    }

    /// Gets artefacts and a shell.
    async fn prepare(&self) -> Result<(MicroVm, Arc<Artefacts>), String> {
        let artefacts = self.pool.artefacts(&self.version).await?;
        let vm = self
            .pool
            .shells
            .claim()
            .await
            .map_err(|error| error.to_string())?;
        Ok((vm, artefacts))
    }

    /// The sandbox becomes this instance's.
    fn own(&self, vm: &MicroVm) {
        vm.process().belongs_to(&self.subject);
        vm.process().set_memory(self.version.config.memory_mib);
    }

    /// The span in which an invocation is served. Only a cold one has it at every level: see `process_log`.
    fn invocation_span(&self, state: &Vm, job: &Job) -> Span {
        let (parent, request_id) = (self.subject.span(), &job.invocation.request_id);
        match state {
            Vm::Shell(_) => tracing::error_span!(parent: parent, "invocation", request_id),
            Vm::Frozen | Vm::Waiting | Vm::Running => {
                tracing::debug_span!(parent: parent, "invocation", request_id)
            }
        }
    }

    /// Starts an instance in a shell without an invocation.
    async fn warm(&self, vm: &mut MicroVm, artefacts: &Arc<Artefacts>) -> Result<(), NotReady> {
        let warmed = match &artefacts.starts_from {
            StartsFrom::FunctionSnapshot => self.thaw(vm, artefacts).await,
            StartsFrom::RuntimeSnapshot(how) => match self.initialize(vm, artefacts, how).await {
                Ok(init) => return init.result.map_err(|e| NotReady::Init(e.to_string())),
                Err(error) => Err(error),
            },
        };
        if let Err(VmError::Refused(refusal)) = &warmed
            && refusal.kind == RefusalKind::SnapshotUnusable
        {
            // The next start rebuilds it.
            self.version.discard_artefacts(artefacts);
        }
        warmed.map_err(|error| NotReady::Start(error.to_string()))
    }

    /// Restores the function snapshot and lets the guest thaw.
    async fn thaw(&self, vm: &mut MicroVm, artefacts: &Artefacts) -> Result<(), VmError> {
        let hooks = self.version.snap_starts();
        tokio::select! {
            warmed = warm_up(vm, artefacts, hooks, |text| self.log(text)) => warmed,
            () = self.pool.stop.cancelled() => {
                Err(VmError::Unexpected("the controller is ending".into()))
            }
        }
    }

    /// The function's init has failed in an instance without an invocation. Invocations in the queue stay
    /// there: each gets another instance, and the error if init fails in that one too.
    fn init_failed(&self, why: &str) {
        let span = self.subject.span();
        span.in_scope(|| tracing::warn!(error = why, "the function's init failed in an instance"));
        self.pool.metrics.instance_failure("init");
        self.pool.state().provision_failed(self.version.serial, why);
    }

    fn start_failed(&self, why: &str) {
        self.pool.metrics.instance_failure("start");
        let waiting = self.pool.state().start_failed(self.id, why);
        self.subject.span().in_scope(|| {
            tracing::error!(
                request_id = waiting.as_ref().map(|job| &job.invocation.request_id),
                error = why,
                "the controller could not start an instance"
            );
        });
        if let Some(job) = waiting {
            self.again(job, why);
        }
    }

    /// Puts an invocation that has not begun back into the queue, or fails it after too many attempts.
    fn again(&self, mut job: Job, why: &str) {
        job.attempts += 1;
        if job.attempts >= MAX_ATTEMPTS {
            return job.answer(Err(NotRun::Unavailable(why.into())));
        }
        self.pool.resubmit(job);
    }

    /// Serves one invocation, from its event to its result. Breaks if the microVM can't be used again.
    async fn serve(&self, vm: &mut MicroVm, state: &Vm, job: Job) -> ControlFlow<(), Rest> {
        let start = match state {
            Vm::Shell(_) => Start::Cold,
            Vm::Frozen | Vm::Waiting | Vm::Running => Start::Warm,
        };
        let queue = job.invocation.accepted.elapsed();
        self.subject.serves(&job.invocation.request_id);
        tracing::debug!(?start, "an instance begins an invocation");
        let tail = job.invocation.tail.then(Tail::default);
        let mut output = Output {
            store: &self.pool.logs,
            invocation: &job.invocation,
            tail,
        };
        match self.deliver(vm, state, &job, &mut output).await {
            Ok(ran) => {
                let completed = self.complete(&ran, start, queue, output);
                let reusable = ran.answer.reusable();
                let budgeted = job.invocation.limits.cpu.is_some();
                if reusable {
                    self.pool.state().finishing(self.id, Instant::now());
                } else {
                    self.pool
                        .metrics
                        .instance_failure(ran.answer.metric().unwrap_or("sandbox"));
                    self.subject.log(|request_id| {
                        tracing::info!(
                            request_id,
                            error = ?ran.answer,
                            "an instance ends, because its invocation did not end normally"
                        );
                    });
                    self.pool.gone(self.id);
                }
                job.answer(Ok(completed));
                if !reusable {
                    if let Some(reason) = ran.answer.shutdown_reason() {
                        self.shut_down(vm, &Vm::Running, reason).await;
                    }
                    return ControlFlow::Break(());
                }
                if ran.waits {
                    return ControlFlow::Continue(Rest::Mailbox);
                }
                ControlFlow::Continue(match self.settle(vm, ran.deadline).await? {
                    Settled::Agent => Rest::Agent { budgeted },
                    Settled::Mailbox => Rest::Mailbox,
                })
            }
            Err(not_started) => {
                drop(output);
                self.not_started(state, job, &not_started);
                ControlFlow::Break(())
            }
        }
    }

    /// Sends the event to the microVM as its state requires, and waits for the result.
    async fn deliver(
        &self,
        vm: &mut MicroVm,
        state: &Vm,
        job: &Job,
        output: &mut Output<'_>,
    ) -> Result<Ran, NotStarted> {
        let begin = match state {
            Vm::Shell(artefacts) => match &artefacts.starts_from {
                StartsFrom::FunctionSnapshot => Begin::Restore(artefacts),
                StartsFrom::RuntimeSnapshot(how) => {
                    let run = self.initialize_and_run(vm, artefacts, how, job, output);
                    return run.await;
                }
            },
            Vm::Frozen => Begin::Resume,
            Vm::Waiting => Begin::Waiting,
            Vm::Running => Begin::Running,
        };
        let (sink, stop) = (job.sink.as_ref(), &self.pool.stop);
        converse(vm, &job.invocation, sink, begin, output, stop).await
    }

    fn not_started(&self, state: &Vm, job: Job, not_started: &NotStarted) {
        let why = not_started.to_string();
        self.subject.log(|request_id| {
            tracing::warn!(
                request_id,
                error = why,
                "an instance could not begin its invocation"
            );
        });
        self.pool.metrics.instance_failure("start");
        if let Vm::Shell(artefacts) = state
            && (not_started.snapshot_unusable || !artefacts.complete())
        {
            // The next start rebuilds it. This counts as an attempt: otherwise a snapshot that can't be
            // used even when it is new would be rebuilt for ever.
            self.version.discard_artefacts(artefacts);
        }
        self.pool.gone(self.id);
        match &not_started.refusal {
            Some(refusal) => job.answer(Err(refusal.clone())),
            None => self.again(job, &why),
        }
    }

    /// Reports an invocation that has ended: to the log, in the metrics, and as its result.
    fn complete(
        &self,
        ran: &Ran,
        start: Start,
        queue: Duration,
        mut output: Output<'_>,
    ) -> Completed {
        let invocation = output.invocation;
        let id = &invocation.request_id;
        let function = self.version.name.as_str();
        let max_memory_mib = ran.max_memory_bytes.div_ceil(1 << 20);
        let report = Report {
            duration: ran.duration,
            memory_mib: self.version.config.memory_mib,
            max_memory_mib,
            // Lambda's report has either a restore or an init.
            restore: (start == Start::Cold && ran.init.is_none()).then_some(ran.restore),
            init: ran.init,
            status: ran.answer.report_status(),
        };
        output.event(PlatformEvent::Done {
            request_id: id,
            report: &report,
            also: ran.answer.log_line(id).as_deref(),
        });
        let metrics = &self.pool.metrics;
        metrics.invocation(function, start == Start::Cold, ran.duration);
        metrics.queued(function, queue);
        if start == Start::Cold {
            metrics.restored(function, ran.restore);
        }
        if let Some(kind) = ran.answer.metric() {
            metrics.error(function, kind);
        }
        Completed {
            payload: ran.answer.body(id),
            content_type: ran.content_type.clone(),
            failed: ran.answer.failed(),
            error_type: ran.answer.error_type().map(str::to_owned),
            start,
            duration: ran.duration,
            cpu: ran.cpu,
            max_memory_mib,
            phases: Phases {
                queue,
                restore: ran.restore + ran.init.unwrap_or_default(),
                run: ran.run,
                total: invocation.accepted.elapsed(),
            },
            tail: output.tail.map(Tail::into_bytes),
        }
    }

    /// Waits until the runtime has asked for its next event. Returns where it waits.
    async fn settle(&self, vm: &mut MicroVm, deadline: Instant) -> ControlFlow<(), Settled> {
        let limit = deadline.max(Instant::now() + SETTLE_LIMIT);
        let why = loop {
            let event = tokio::select! {
                biased;
                () = self.pool.stop.cancelled() => return ControlFlow::Break(()),
                event = vm.next_by(limit) => event,
            };
            if Instant::now() >= limit {
                break "the runtime did not ask for its next event in time".into();
            }
            match event {
                Some(Ok(VmEvent::Agent(AgentMessage::Ready(ready)))) => {
                    self.extensions_took(ready.extensions_us);
                    return ControlFlow::Continue(Settled::Agent);
                }
                Some(Ok(VmEvent::Mailbox(MailboxWord::Waits))) => {
                    return ControlFlow::Continue(Settled::Mailbox);
                }
                Some(Ok(VmEvent::Agent(AgentMessage::Log(of, text)))) => {
                    self.log(Text::of_guest(&of, text));
                }
                Some(Ok(VmEvent::Reply(_))) => {}
                Some(Ok(other)) => break format!("after its result the guest sent {other}"),
                Some(Err(error)) => break error.to_string(),
                None => break "the runtime did not ask for its next event in time".into(),
            }
        };
        self.lost(&why);
        ControlFlow::Break(())
    }

    /// The next invocation, and the microVM's state for it; `None` if the instance must end.
    async fn next(&self, vm: &mut MicroVm, rest: Rest) -> Option<(Job, Vm)> {
        let waiting = self.pool.state().next(self.id);
        let Rest::Agent { budgeted } = rest else {
            return match waiting {
                Some(job) => Some((job, Vm::Waiting)),
                None => self.park(vm, Vm::Waiting).await,
            };
        };
        if let Some(job) = waiting {
            // Only a resume sets or removes a CPU budget. Without one, a pause would be wasted time.
            if !budgeted && job.invocation.limits.cpu.is_none() {
                return Some((job, Vm::Running));
            }
            return match self.command(vm, Command::Pause).await {
                Ok(()) => Some((job, Vm::Frozen)),
                Err(why) => {
                    self.lost(&why.to_string());
                    self.again(job, &why.to_string());
                    None
                }
            };
        }
        // Does not wait for the pause, because an invocation may come meanwhile.
        if let Err(why) = vm.submit(Command::Freeze(Freeze::within(FREEZE_WITHIN))) {
            self.lost(&why.to_string());
            return None;
        }
        self.park(vm, Vm::Frozen).await
    }

    /// Is idle until there is an invocation; `None` if the instance must end.
    async fn park(&self, vm: &mut MicroVm, mut state: Vm) -> Option<(Job, Vm)> {
        loop {
            let parked = self.pool.state().park(self.id, Instant::now());
            let orders = match parked {
                Parked::Run(job) => return Some((job, state)),
                Parked::End => {
                    self.shut_down(vm, &state, "spindown").await;
                    return None;
                }
                Parked::Wait(orders) => orders,
            };
            self.pool.notify_parked();
            match self.idle(vm, orders).await? {
                Order::Run(job) => return Some((job, state)),
                Order::End => {
                    self.shut_down(vm, &state, "spindown").await;
                    return None;
                }
                Order::Ping { count, reply } => {
                    if matches!(state, Vm::Waiting) {
                        self.recall(vm).await?;
                        state = Vm::Frozen;
                    }
                    let pinged = self.ping(vm, count).await;
                    let failed = pinged.as_ref().err().map(ToString::to_string);
                    // The caller may have been dropped.
                    let _ = reply.send(pinged.map_err(|error| error.to_string()));
                    if let Some(why) = failed {
                        self.lost(&why);
                        return None;
                    }
                }
            }
        }
    }

    /// Makes a runtime that waits at the mailbox wait at its agent, and pauses the microVM.
    async fn recall(&self, vm: &mut MicroVm) -> Option<()> {
        if let Err(why) = vm.release() {
            self.lost(&why.to_string());
            return None;
        }
        match self.settle(vm, Instant::now()).await {
            ControlFlow::Continue(Settled::Agent) => {}
            ControlFlow::Continue(Settled::Mailbox) => {
                self.lost("the runtime waits at the mailbox although it was sent to its agent");
                return None;
            }
            ControlFlow::Break(()) => return None,
        }
        match self.command(vm, Command::Pause).await {
            Ok(()) => Some(()),
            Err(why) => {
                self.lost(&why.to_string());
                None
            }
        }
    }

    /// Waits for an order. Ends the instance if the microVM fails or sends an unexpected message.
    async fn idle(
        &self,
        vm: &mut MicroVm,
        mut orders: tokio::sync::oneshot::Receiver<Order>,
    ) -> Option<Order> {
        let why = loop {
            tokio::select! {
                biased;
                // Checked first: the pool has already removed this instance, so a guest that floods
                // messages must not delay its end.
                order = &mut orders => return order.ok(),
                event = vm.next() => match event {
                    Ok(VmEvent::Agent(AgentMessage::Log(of, text))) => {
                        self.log(Text::of_guest(&of, text));
                    }
                    Ok(VmEvent::Reply(reply)) => match outcome(reply) {
                        Ok(_) => {}
                        Err(error) => break error.to_string(),
                    },
                    // The CPU budget of the last invocation. The microVM is paused, as it should be.
                    Ok(VmEvent::CpuBudgetExhausted) => {}
                    Ok(other) => break format!("the guest sent {other} while it was idle"),
                    Err(error) => break error.to_string(),
                },
            }
        };
        self.lost(&why);
        self.pool.gone(self.id);
        // An order that was sent at the same moment must not be lost with the instance.
        orders.close();
        if let Ok(Order::Run(job)) = orders.try_recv() {
            self.again(job, &why);
        }
        None
    }

    pub(super) async fn command(&self, vm: &mut MicroVm, command: Command) -> Result<(), VmError> {
        timeout(COMMAND_LIMIT, vm.command(command))
            .await
            .map_err(|_| VmError::Late("a command", COMMAND_LIMIT))?
            .map(drop)
    }

    /// Logs output that the function has written between invocations.
    pub(super) fn log(&self, text: Text) {
        let origin = Origin::of(&self.version, None);
        self.pool.logs.append(origin, Kind::Function, text);
    }

    fn lost(&self, why: &str) {
        self.subject.log(|request_id| {
            tracing::warn!(
                request_id,
                error = why,
                "the controller has lost an instance between invocations"
            );
        });
        self.pool.metrics.instance_failure("lost");
    }
}
