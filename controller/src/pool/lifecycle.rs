//! The task that an instance is: a shell, the first invocation, idle and busy by turns, the end.
//!
//! The task alone owns the microVM. What others want of it they tell [`super::state`], and the task
//! asks there when it has nothing to do.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use hearth_protocol::agent::AgentMessage;
use hearth_protocol::sandbox::{Command, Freeze, RefusalKind};
use tokio::time::timeout;

use super::conversation::{Begin, NotStarted, Ran, converse};
use super::dispatch::Shared;
use super::entry::{Order, Parked, StartOrder, Taken};
use super::job::{Completed, Job, NotRun, Phases, Start};
use super::output::Output;

use super::warm_up::warm_up;
use crate::function::{Artefacts, StartsFrom, Version};
use crate::instance::{MailboxWord, MicroVm, VmError, VmEvent, outcome};
use crate::logs::lines::Report;
use crate::logs::{Kind, Origin, PlatformEvent, Tail, Text};

/// How long a guest may go on after its runtime is back in `next`: to return from the system call
/// that told so, and to halt. Not more, since a function's threads run on in that time as well.
const FREEZE_WITHIN: Duration = Duration::from_millis(100);
/// Longest time for a pause or a resume.
pub(super) const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// An answered invocation's runtime gets at least this long to ask for the next.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// Starts that may fail before an invocation is told so.
const MAX_ATTEMPTS: u8 = 3;

/// How the microVM is when an invocation begins.
#[derive(Debug, Clone)]
pub(super) enum Vm {
    /// A shell.
    Shell(Arc<Artefacts>),
    /// Paused, or about to be: only a resume makes sure that it runs.
    Frozen,
    /// Stands still with its runtime, which waits at the mailbox.
    Waiting,
    Running,
}

/// Lives an instance's life.
pub(crate) async fn live(pool: Arc<Shared>, order: StartOrder) {
    let instance = Instance {
        id: order.id,
        version: order.version,
        pool,
        extended: AtomicBool::new(false),
    };
    instance.run().await;
    instance.pool.gone(instance.id);
}

/// Where a runtime is between two invocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// In its agent's hands. Whether there is a CPU budget to be disarmed.
    Agent { budgeted: bool },
    /// At the mailbox.
    Mailbox,
}

/// Where it asked for the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Agent,
    Mailbox,
}

/// Why an instance that is to be kept ready is not.
#[derive(Debug)]
enum NotReady {
    /// It could not be started.
    Start(String),
    /// Its function's init failed in it.
    Init(String),
}

pub(super) struct Instance {
    id: u64,
    pub(super) version: Arc<Version>,
    pub(super) pool: Arc<Shared>,
    /// Whether its function has been seen to have extensions.
    pub(super) extended: AtomicBool,
}

impl Instance {
    async fn run(&self) {
        let prepared = tokio::select! {
            prepared = self.prepare() => prepared,
            // Files may be in the making, which takes longer than an end may.
            () = self.pool.stop.cancelled() => return,
        };
        let (mut vm, artefacts) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => return self.start_failed(&why),
        };
        self.pool.state().claimed(self.id, vm.process().pid());
        let taken = self.pool.state().take(self.id);
        let (mut job, mut state) = match taken {
            // Another instance was faster.
            Taken::Nothing => return self.pool.shells.put_back(vm),
            Taken::Job(job) => {
                // Its start counts as over: another may begin that nobody waits for.
                self.pool.provision();
                vm.process().set_memory(self.version.config.memory_mib);
                (job, Vm::Shell(artefacts))
            }
            Taken::Ready => {
                vm.process().set_memory(self.version.config.memory_mib);
                match self.warm(&mut vm, &artefacts).await {
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
            // Limits of its own are the agent's to set, and a resume's.
            if matches!(state, Vm::Waiting) && job.invocation.limits.any() {
                if self.recall(&mut vm).await.is_none() {
                    return self.again(job, "an instance did not leave its mailbox");
                }
                state = Vm::Frozen;
            }
            let ControlFlow::Continue(rest) = self.serve(&mut vm, &state, job).await else {
                return;
            };
            (job, state) = match self.next(&mut vm, rest).await {
                Some(next) => next,
                None => return,
            };
        }
    }

    /// Files and a process to start from.
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

    /// Brings a shell to where it waits for an invocation.
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
            // The next start makes it anew.
            self.version.discard_artefacts(artefacts);
        }
        warmed.map_err(|error| NotReady::Start(error.to_string()))
    }

    /// Restores the function's snapshot and lets the guest thaw, without an invocation.
    async fn thaw(&self, vm: &mut MicroVm, artefacts: &Artefacts) -> Result<(), VmError> {
        let hooks = self.version.snap_starts();
        tokio::select! {
            warmed = warm_up(vm, artefacts, hooks, |text| self.log(text)) => warmed,
            () = self.pool.stop.cancelled() => {
                Err(VmError::Unexpected("the controller is ending".into()))
            }
        }
    }

    /// The function's init failed where no invocation waits for it. One that waits in the queue is left
    /// there: it gets an instance of its own, and the error if init fails in that too.
    fn init_failed(&self, why: &str) {
        tracing::warn!(function = %self.version.name, why, "init failed in an instance");
        self.pool.metrics.instance_failure("init");
        self.pool.state().provision_failed(self.version.serial, why);
    }

    fn start_failed(&self, why: &str) {
        tracing::error!(function = %self.version.name, why, "an instance could not be started");
        self.pool.metrics.instance_failure("start");
        let waiting = self.pool.state().start_failed(self.id, why);
        if let Some(job) = waiting {
            self.again(job, why);
        }
    }

    /// Lets an invocation that did not begin try another instance, a few times.
    fn again(&self, mut job: Job, why: &str) {
        job.attempts += 1;
        if job.attempts >= MAX_ATTEMPTS {
            return job.answer(Err(NotRun::Unavailable(why.into())));
        }
        self.pool.resubmit(job);
    }

    /// One invocation, from its event to its caller's answer. Breaks when the microVM is of no more
    /// use.
    async fn serve(&self, vm: &mut MicroVm, state: &Vm, job: Job) -> ControlFlow<(), Rest> {
        let start = match state {
            Vm::Shell(_) => Start::Cold,
            Vm::Frozen | Vm::Waiting | Vm::Running => Start::Warm,
        };
        let queue = job.invocation.accepted.elapsed();
        let tail = job.invocation.tail.then(Tail::default);
        let mut output = Output {
            store: &self.pool.logs,
            invocation: &job.invocation,
            tail,
        };
        match self.give(vm, state, &job, &mut output).await {
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
                    tracing::info!(
                        function = %self.version.name,
                        request_id = job.invocation.request_id,
                        answer = ?ran.answer,
                        "instance ended"
                    );
                    self.pool.gone(self.id);
                }
                job.answer(Ok(completed));
                if !reusable {
                    if let Some(reason) = ran.answer.shutdown_reason() {
                        self.leave(vm, &Vm::Running, reason).await;
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

    /// Gives the microVM the event, in the way that it needs, and waits for the answer.
    async fn give(
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
        tracing::warn!(function = %self.version.name, why, "an instance did not start");
        self.pool.metrics.instance_failure("start");
        if let Vm::Shell(artefacts) = state
            && (not_started.snapshot_unusable || !artefacts.complete())
        {
            // The next start makes it anew. It counts as an attempt: a snapshot that can't be used
            // even when it is new must not be made again and again.
            self.version.discard_artefacts(artefacts);
        }
        self.pool.gone(self.id);
        match &not_started.told {
            Some(told) => job.answer(Err(told.clone())),
            None => self.again(job, &why),
        }
    }

    /// Everything that is told about an invocation: log, metrics, the caller's answer.
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
            // Lambda's report has one of the two.
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

    /// Waits until the runtime has asked for the next event; says where it waits.
    async fn settle(&self, vm: &mut MicroVm, deadline: Instant) -> ControlFlow<(), Settled> {
        let limit = deadline.max(Instant::now() + SETTLE_LIMIT);
        let why = loop {
            let event = tokio::select! {
                biased;
                () = self.pool.stop.cancelled() => return ControlFlow::Break(()),
                event = vm.next_by(limit) => event,
            };
            if Instant::now() >= limit {
                break "its runtime did not come back after its answer".into();
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
                Some(Ok(other)) => break format!("after its answer it said {other}"),
                Some(Err(error)) => break error.to_string(),
                None => break "its runtime did not come back after its answer".into(),
            }
        };
        self.lost(&why);
        ControlFlow::Break(())
    }

    /// The next invocation and how it finds the microVM; `None` to end.
    async fn next(&self, vm: &mut MicroVm, rest: Rest) -> Option<(Job, Vm)> {
        let waiting = self.pool.state().next(self.id);
        let Rest::Agent { budgeted } = rest else {
            return match waiting {
                Some(job) => Some((job, Vm::Waiting)),
                None => self.park(vm, Vm::Waiting).await,
            };
        };
        if let Some(job) = waiting {
            // A budget of CPU time is armed and disarmed by a resume: only then is the pause worth
            // its time.
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
        // Nobody waits for it: an invocation may come at any moment, and then it goes on.
        if let Err(why) = vm.submit(Command::Freeze(Freeze::within(FREEZE_WITHIN))) {
            self.lost(&why.to_string());
            return None;
        }
        self.park(vm, Vm::Frozen).await
    }

    /// Waits as an idle instance.
    async fn park(&self, vm: &mut MicroVm, mut state: Vm) -> Option<(Job, Vm)> {
        loop {
            let parked = self.pool.state().park(self.id, Instant::now());
            let orders = match parked {
                Parked::Run(job) => return Some((job, state)),
                Parked::End => {
                    self.leave(vm, &state, "spindown").await;
                    return None;
                }
                Parked::Wait(orders) => orders,
            };
            self.pool.notify_parked();
            match self.idle(vm, orders).await? {
                Order::Run(job) => return Some((job, state)),
                Order::End => {
                    self.leave(vm, &state, "spindown").await;
                    return None;
                }
                Order::Ping { count, reply } => {
                    if matches!(state, Vm::Waiting) {
                        self.recall(vm).await?;
                        state = Vm::Frozen;
                    }
                    let pinged = self.ping(vm, count).await;
                    let failed = pinged.as_ref().err().map(ToString::to_string);
                    // Whoever measures may have gone.
                    let _ = reply.send(pinged.map_err(|error| error.to_string()));
                    if let Some(why) = failed {
                        self.lost(&why);
                        return None;
                    }
                }
            }
        }
    }

    /// Has a runtime that waits at the mailbox wait at its agent, and pauses the microVM.
    async fn recall(&self, vm: &mut MicroVm) -> Option<()> {
        if let Err(why) = vm.release() {
            self.lost(&why.to_string());
            return None;
        }
        match self.settle(vm, Instant::now()).await {
            ControlFlow::Continue(Settled::Agent) => {}
            ControlFlow::Continue(Settled::Mailbox) => {
                self.lost("it was sent to its agent, and waits at the mailbox");
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

    /// Waits for an order, and for a sign that the microVM is not what it should be.
    async fn idle(
        &self,
        vm: &mut MicroVm,
        mut orders: tokio::sync::oneshot::Receiver<Order>,
    ) -> Option<Order> {
        let why = loop {
            tokio::select! {
                biased;
                // First: by then it is in no book any more, and one that never stops talking would
                // go on for ever, with its process and its memory.
                order = &mut orders => return order.ok(),
                event = vm.next() => match event {
                    Ok(VmEvent::Agent(AgentMessage::Log(of, text))) => {
                        self.log(Text::of_guest(&of, text));
                    }
                    Ok(VmEvent::Reply(reply)) => match outcome(reply) {
                        Ok(_) => {}
                        Err(error) => break error.to_string(),
                    },
                    // Of the invocation before; it is frozen now, which is what was wanted.
                    Ok(VmEvent::CpuBudgetExhausted) => {}
                    Ok(other) => break format!("an idle instance said {other}"),
                    Err(error) => break error.to_string(),
                },
            }
        };
        self.lost(&why);
        self.pool.gone(self.id);
        // An order that was given in the same moment must not be lost with the instance.
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

    /// What a function writes between invocations.
    pub(super) fn log(&self, text: Text) {
        let origin = Origin::of(&self.version, None);
        self.pool.logs.append(origin, Kind::Function, text);
    }

    fn lost(&self, why: &str) {
        tracing::warn!(function = %self.version.name, instance = self.id, why, "instance lost");
        self.pool.metrics.instance_failure("lost");
    }
}
