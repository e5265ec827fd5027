//! The task of an instance: it takes a shell, runs the first invocation, is idle and busy by turns, and
//! ends.
//!
//! Only the task uses the microVM. Other tasks change [`super::state`], and this task asks the state for
//! its next invocation or order.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use hearth_protocol::sandbox::RefusalKind;
use tokio::sync::Notify;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::conversation::{NotStarted, Ran, converse};
use super::dispatch::Shared;
use super::entry::{StartOrder, Taken};
use super::job::{Completed, Job, NotRun, Phases, Start};
use super::output::Output;
use super::readiness::Readiness;
use super::warm_up::warm_up;
use crate::function::{Artefacts, StartsFrom, TenantId, Version};
use crate::instance::{LogSubject, MicroVm, VmError};
use crate::logs::lines::Report;
use crate::logs::{Kind, Origin, PlatformEvent, Tail, Text};

/// Number of failed starts after which an invocation fails.
const MAX_ATTEMPTS: u8 = 3;

/// Starts the task of an instance.
pub(super) fn launch(pool: &Arc<Shared>, order: StartOrder) {
    pool.tasks.spawn(run(pool.clone(), order));
}

/// Runs an instance from its start to its end.
async fn run(pool: Arc<Shared>, order: StartOrder) {
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
        restored: Notify::new(),
    };
    instance.run().await;
    instance.pool.gone(instance.id);
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
    pub(super) id: u64,
    /// What its log lines belong to.
    pub(super) subject: LogSubject,
    pub(super) version: Arc<Version>,
    pub(super) pool: Arc<Shared>,
    /// Whether the agent has reported extensions.
    pub(super) extended: AtomicBool,
    /// Notified when its guest runs after the restore.
    pub(super) restored: Notify,
}

impl Instance {
    async fn run(&self) {
        let prepared = tokio::select! {
            prepared = self.prepare().instrument(self.subject.span().clone()) => prepared,
            // A rebuild of the artefacts may take longer than the controller may take to end.
            () = self.pool.stop.cancelled() => return,
        };
        let (mut vm, artefacts) = match prepared {
            Ok(Some(prepared)) => prepared,
            Ok(None) => return,
            Err(why) => return self.start_failed(&why),
        };
        self.pool.state().claimed(self.id, vm.process().pid());
        self.subject.span().record("pid", vm.process().pid());
        let taken = self.pool.state().take(self.id);
        let (mut job, mut ready) = match taken {
            // Another instance has taken the invocation.
            Taken::Nothing => return self.pool.shells.put_back(vm),
            Taken::Job(job) => {
                self.own(&vm);
                (job, Readiness::Shell(artefacts))
            }
            Taken::Ready => {
                self.own(&vm);
                let (pid, share) = (vm.process().pid(), vm.process().cpu_share());
                let warmed = self.hold_slot(pid, share, self.warm(&mut vm, &artefacts));
                match warmed.instrument(self.subject.span().clone()).await {
                    Ok(()) => {}
                    Err(NotReady::Start(why)) => return self.start_failed(&why),
                    Err(NotReady::Init(why)) => return self.init_failed(&why),
                }
                let next = self.pool.state().warmed(self.id, Instant::now());
                self.pool.start(next);
                match self
                    .next(&mut vm, Readiness::Running { budgeted: false })
                    .await
                {
                    Some(next) => next,
                    None => return,
                }
            }
        };
        loop {
            // Only the agent and a resume can set limits of an invocation. So the runtime must not wait
            // at the mailbox.
            if matches!(ready, Readiness::AtMailbox) && job.invocation.limits.any() {
                if self.recall(&mut vm).await.is_none() {
                    return self.again(job, "an instance did not leave its mailbox");
                }
                ready = Readiness::Paused;
            }
            let span = self.invocation_span(&ready, &job);
            let served = self.serve(&mut vm, &ready, job).instrument(span).await;
            let ControlFlow::Continue(after) = served else {
                return;
            };
            (job, ready) = match self.next(&mut vm, after).await {
                Some(next) => next,
                None => return,
            };
        }
    }

    /// Gets artefacts and a shell; `None` if the start has to begin again.
    async fn prepare(&self) -> Result<Option<(MicroVm, Arc<Artefacts>)>, String> {
        let Some(artefacts) = self.artefacts_at_hand() else {
            return self.get_artefacts().await.map(|()| None);
        };
        let vm = self
            .pool
            .shells
            .claim()
            .await
            .map_err(|error| error.to_string())?;
        Ok(Some((vm, artefacts)))
    }

    /// The sandbox becomes this instance's.
    fn own(&self, vm: &MicroVm) {
        vm.process().belongs_to(&self.subject);
        vm.process().set_memory(self.version.config.memory_mib);
    }

    /// The span in which an invocation is served. Only a cold one has it at every level: see `process_log`.
    fn invocation_span(&self, ready: &Readiness, job: &Job) -> Span {
        let (parent, request_id) = (self.subject.span(), &job.invocation.request_id);
        if ready.is_shell() {
            tracing::error_span!(parent: parent, "invocation", request_id)
        } else {
            tracing::debug_span!(parent: parent, "invocation", request_id)
        }
    }

    /// Starts an instance in a shell without an invocation.
    async fn warm(&self, vm: &mut MicroVm, artefacts: &Arc<Artefacts>) -> Result<(), NotReady> {
        let warmed = match &artefacts.starts_from {
            StartsFrom::FunctionSnapshot => self.thaw(vm, artefacts).await,
            StartsFrom::RuntimeSnapshot(how) => match self.initialize(vm, artefacts, how).await {
                Ok(init) => {
                    init.result.map_err(|e| NotReady::Init(e.to_string()))?;
                    self.init_works(artefacts, how);
                    return Ok(());
                }
                Err(error) => Err(error),
            },
        };
        if let Err(VmError::Refused(refusal)) = &warmed
            && refusal.kind == RefusalKind::SnapshotUnusable
        {
            // The next start rebuilds it.
            self.version.discard_artefacts(artefacts);
        }
        warmed.map_err(|error| NotReady::Start(error.to_string()))?;
        artefacts.has_worked();
        Ok(())
    }

    /// Restores the function snapshot and lets the guest thaw.
    async fn thaw(&self, vm: &mut MicroVm, artefacts: &Artefacts) -> Result<(), VmError> {
        let hooks = self.version.snap_starts();
        let restored = || self.restored.notify_one();
        tokio::select! {
            warmed = warm_up(vm, artefacts, hooks, |text| self.log(text), restored) => warmed,
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
    pub(super) fn again(&self, mut job: Job, why: &str) {
        job.attempts += 1;
        if job.attempts >= MAX_ATTEMPTS {
            return job.answer(Err(NotRun::Unavailable(why.into())));
        }
        self.pool.resubmit(job);
    }

    /// Serves one invocation, from its event to its result. Breaks if the microVM can't be used again.
    async fn serve(
        &self,
        vm: &mut MicroVm,
        ready: &Readiness,
        job: Job,
    ) -> ControlFlow<(), Readiness> {
        let start = if ready.is_shell() {
            Start::Cold
        } else {
            Start::Warm
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
        let delivered = if start == Start::Cold {
            let (pid, share) = (vm.process().pid(), vm.process().cpu_share());
            let deliver = self.deliver(vm, ready, &job, &mut output);
            self.hold_slot(pid, share, deliver).await
        } else {
            self.deliver(vm, ready, &job, &mut output).await
        };
        match delivered {
            Ok(ran) => {
                if let Readiness::Shell(artefacts) = ready {
                    artefacts.has_worked();
                }
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
                        self.shut_down(vm, &Readiness::Running { budgeted }, reason)
                            .await;
                    }
                    return ControlFlow::Break(());
                }
                if ran.waits {
                    return ControlFlow::Continue(Readiness::AtMailbox);
                }
                self.settle(vm, ran.deadline, budgeted).await
            }
            Err(not_started) => {
                drop(output);
                self.not_started(ready, job, &not_started);
                ControlFlow::Break(())
            }
        }
    }

    /// Sends the event to the microVM as its readiness requires, and waits for the result.
    async fn deliver(
        &self,
        vm: &mut MicroVm,
        ready: &Readiness,
        job: &Job,
        output: &mut Output<'_>,
    ) -> Result<Ran, NotStarted> {
        if let Readiness::Shell(artefacts) = ready
            && let StartsFrom::RuntimeSnapshot(how) = &artefacts.starts_from
        {
            let ran = self
                .initialize_and_run(vm, artefacts, how, job, output)
                .await?;
            if ran.answer.reusable() {
                self.init_works(artefacts, how);
            }
            return Ok(ran);
        }
        let (sink, stop) = (job.sink.as_ref(), &self.pool.stop);
        let restored = &self.restored;
        converse(vm, &job.invocation, sink, ready, output, restored, stop).await
    }

    fn not_started(&self, ready: &Readiness, job: Job, not_started: &NotStarted) {
        let why = not_started.to_string();
        self.subject.log(|request_id| {
            tracing::warn!(
                request_id,
                error = why,
                "an instance could not begin its invocation"
            );
        });
        self.pool.metrics.instance_failure("start");
        if let Readiness::Shell(artefacts) = ready
            && (not_started.snapshot_unusable || !artefacts.complete())
        {
            // The next start rebuilds it, or waits if the one before could not be used either.
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
            tenant: invocation.tenant.as_ref().map(TenantId::as_str),
            also: ran.answer.log_line(id).as_deref(),
        });
        let lasting = &self.version.incarnation;
        lasting.while_it_lasts(|| self.count(ran, start, queue));
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

    /// Counts an invocation that has ended.
    fn count(&self, ran: &Ran, start: Start, queue: Duration) {
        let (metrics, function) = (&self.pool.metrics, self.version.name.as_str());
        metrics.invocation(function, start == Start::Cold, ran.duration);
        metrics.queued(function, queue);
        if start == Start::Cold {
            metrics.restored(function, ran.restore);
        }
        if let Some(kind) = ran.answer.metric() {
            metrics.error(function, kind);
        }
    }

    /// Logs output that the function has written between invocations.
    pub(super) fn log(&self, text: Text) {
        let origin = Origin::of(&self.version, None);
        self.pool.logs.append(origin, Kind::Function, text);
    }

    pub(super) fn lost(&self, why: &str) {
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
