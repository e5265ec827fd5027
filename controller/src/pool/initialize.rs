//! Starts an instance in which the function's init runs: restores the runtime snapshot, then runs init.
//!
//! Init has a timeout of its own. The function's timeout begins when it gets the event, as in all other
//! instances. An init that fails is a function error: the client gets it as the result, and the next
//! invocation tries again in another instance.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_protocol::agent::{Configure, Log};
use hearth_protocol::sandbox::{Command, RefusalKind, Resume};
use tracing::Instrument;

use super::answer::Answer;
use super::conversation::{NotStarted, Ran, converse};
use super::dispatch::REBUILD_PAUSE;
use super::job::{Job, NotRun};
use super::lifecycle::Instance;
use super::output::Output;
use super::readiness::Readiness;
use super::timeouts::COMMAND_LIMIT;
use super::warm_up::restore_command;
use crate::function::{Artefacts, InstanceInit, NoSnapshot, new_log_stream};
use crate::instance::{Deadline, Init, MicroVm, VmError, init, private_bytes};
use crate::logs::{Kind, Origin, PlatformEvent, Text};

impl Instance {
    /// Restores the runtime snapshot into a shell and runs the function's init in it.
    pub(super) async fn initialize(
        &self,
        vm: &mut MicroVm,
        artefacts: &Artefacts,
        how: &InstanceInit,
    ) -> Result<Init, VmError> {
        let restore = restore_command(artefacts, Resume::default())?;
        let configure = Configure {
            log_stream: new_log_stream(self.version.id),
            ..how.configure.clone()
        };
        let log = |of: &Log, text| self.log(Text::of_guest(of, text));
        let restored = || self.restored.notify_one();
        let init = tokio::select! {
            init = init(vm, restore, configure, how.limit, log, restored) => init?,
            () = self.pool.stop.cancelled() => {
                return Err(VmError::Unexpected("the controller is ending".into()));
            }
        };
        let failed = init.result.as_ref().err();
        if failed.is_none() {
            vm.has_initialized();
            self.version.incarnation.while_it_lasts(|| {
                let function = self.version.name.as_str();
                self.pool.metrics.init(function, init.took);
            });
        }
        let event = PlatformEvent::Init {
            took: init.took,
            failed: failed.map(|error| error.report_status()),
        };
        for record in event.records(&self.version.config.logging.format) {
            let origin = Origin::of(&self.version, None);
            let text = Text::whole(record.into());
            self.pool.logs.append(origin, Kind::Platform, text);
        }
        Ok(init)
    }

    /// Runs init and then the instance's first invocation.
    pub(super) async fn initialize_and_run(
        &self,
        vm: &mut MicroVm,
        artefacts: &Artefacts,
        how: &InstanceInit,
        job: &Job,
        output: &mut Output<'_>,
    ) -> Result<Ran, NotStarted> {
        let not_started = |why| self.not_begun(why);
        let init = self.initialize(vm, artefacts, how).await;
        let init = init.map_err(not_started)?;
        let ran = match init.result {
            Ok(()) => {
                // Only a resume sets a budget of CPU time.
                let mut ready = Readiness::Running { budgeted: false };
                if job.invocation.limits.cpu.is_some() {
                    let deadline = Deadline::after(COMMAND_LIMIT, "a pause");
                    let pause = vm.command(Command::Pause, deadline).await;
                    pause.map_err(not_started)?;
                    ready = Readiness::Paused;
                }
                converse(
                    vm,
                    &job.invocation,
                    job.sink.as_ref(),
                    &ready,
                    output,
                    &self.restored,
                    &self.pool.stop,
                )
                .await?
            }
            Err(error) => {
                output.start();
                let memory = u64::from(self.version.config.memory_mib) << 20;
                let used = private_bytes(vm.process().pid()).unwrap_or(0);
                Ran {
                    answer: Answer::of_init(error),
                    content_type: None,
                    restore: Duration::ZERO,
                    init: None,
                    run: Duration::ZERO,
                    duration: Duration::ZERO,
                    cpu: Duration::ZERO,
                    max_memory_bytes: used.min(memory),
                    deadline: Instant::now(),
                    waits: false,
                }
            }
        };
        Ok(Ran {
            restore: init.restore,
            init: Some(init.took),
            ..ran
        })
    }

    /// Init has ended well in this instance. If it failed at the deploy, and so there is no snapshot, the
    /// controller now tries to make one. Starts meanwhile wait for it.
    pub(super) fn init_works(&self, artefacts: &Arc<Artefacts>, how: &InstanceInit) {
        // Else an init that works in instances alone would run twice for each of them.
        let due = how.since.elapsed() >= REBUILD_PAUSE && !self.version.is_retired();
        if !matches!(how.why, NoSnapshot::InitFailed(_)) || !due {
            return;
        }
        artefacts.has_worked();
        self.version.discard_artefacts(artefacts);
        let (pool, version) = (self.pool.clone(), self.version.clone());
        let make = async move {
            tokio::select! {
                // The rebuild logs its own failure, and the next start tries again.
                _ = pool.artefacts(&version) => {}
                () = pool.stop.cancelled() => {}
            }
        };
        let span = self.subject.span().clone();
        self.pool.tasks.spawn(make.instrument(span));
    }

    /// The microVM has failed before it got the event.
    fn not_begun(&self, why: VmError) -> NotStarted {
        let snapshot_unusable = matches!(
            &why,
            VmError::Refused(refusal) if refusal.kind == RefusalKind::SnapshotUnusable
        );
        let ending = self.pool.stop.is_cancelled();
        NotStarted {
            why,
            snapshot_unusable,
            refusal: ending.then_some(NotRun::Ending),
        }
    }
}
