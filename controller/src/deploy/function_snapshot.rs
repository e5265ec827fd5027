//! Function snapshots: a version's init has ended.
//!
//! Each deploy that finds none to reuse makes one, in a microVM that is ended afterwards.

use std::time::Duration;

use hearth_protocol::agent::Log;
use hearth_protocol::sandbox::{RefusalKind, Resume, Snapshot};

use super::builder::{Builder, remove_folder};
use super::error::DeployError;
use super::host::Base;
use super::progress::{Phase, Running};
use super::snapshot;
use super::source::Source;
use crate::function::{Artefacts, SharedGenerators, snapshot_files};
use crate::instance::{Init, InitError, MicroVm, RestoreFrom, VmError, init};
use crate::logs::{Kind, PlatformEvent, Text};

/// Maximum number of snapshots of one init. Another one is made if threads of the function have changed
/// its processes since the agent has inspected them.
const SNAPSHOT_TRIES: u32 = 4;

impl Builder {
    /// Runs a version's init and makes its function snapshot. If clones would share random generators, and
    /// SnapStart is off, makes no snapshot and returns the generators: then init has to run in each
    /// instance.
    pub(super) async fn function_snapshot(
        &self,
        base: &Base,
        source: Source<'_>,
        artefacts: &Artefacts,
        running: &Running,
    ) -> Result<Option<SharedGenerators>, DeployError> {
        for last in [false, true] {
            let folder = self
                .runtime_snapshot(base, source.config.runtime, running)
                .await?;
            running.enter(Phase::Init);
            let restore = RestoreFrom {
                snapshot: snapshot_files(&folder),
                disks: artefacts.disks(),
                // The new snapshot has the same fingerprint, which is that of the boot.
                fingerprint: base.fingerprint.clone(),
                resume: Some(Resume::default()),
            };
            let mut vm = self.sandbox().await?;
            let init = match self.init(&mut vm, restore, source).await {
                Ok(init) => init,
                Err(VmError::Refused(refusal))
                    if refusal.kind == RefusalKind::SnapshotUnusable && !last =>
                {
                    tracing::warn!(
                        error = refusal.message,
                        "the controller rebuilds a runtime snapshot that can't be used"
                    );
                    self.metrics.rebuilds.inc();
                    remove_folder(&folder)?;
                    continue;
                }
                Err(error) => return Err(DeployError::vm("restoring the runtime snapshot")(error)),
            };
            self.report_init(source, init.took, init.result.as_ref().err());
            init.result?;
            source.incarnation.while_it_lasts(|| {
                self.metrics.init(source.name.as_str(), init.took);
            });
            running.enter(Phase::Save);
            return self.unique_snapshot(&mut vm, source, artefacts).await;
        }
        unreachable!("the second try returns")
    }

    /// Makes the snapshot of a microVM in which init has ended, unless clones would share random
    /// generators; see [`Self::function_snapshot`].
    ///
    /// The agent's report must be true at the time of the snapshot, but a thread may map a library or a
    /// page between report and snapshot. So the agent inspects the processes once more after the snapshot,
    /// and if the second report differs, the snapshot is made again.
    async fn unique_snapshot(
        &self,
        vm: &mut MicroVm,
        source: Source<'_>,
        artefacts: &Artefacts,
    ) -> Result<Option<SharedGenerators>, DeployError> {
        let log = |text| self.logs.append(source.origin(), Kind::Function, text);
        let opted_in = source.config.snap_starts(source.version);
        let work = self.data.tmp().join(source.key);
        let mut inspected = snapshot::inspect(vm, log).await?;
        for _ in 0..SNAPSHOT_TRIES {
            if let Some(generators) = SharedGenerators::of_guest(&inspected.shared_generators) {
                self.report_generators(source, &generators, opted_in);
                if !opted_in {
                    return Ok(Some(generators));
                }
            }
            let unique = Snapshot {
                zero_pages: inspected.zero_pages.clone(),
                random_ranges: inspected.random_ranges.clone(),
            };
            snapshot::save(vm, &unique, &work, &artefacts.files.folder).await?;
            if inspected.settled || opted_in {
                return Ok(None);
            }
            let after = snapshot::inspect_again(vm, log).await?;
            if after == inspected {
                return Ok(None);
            }
            inspected = after;
            remove_folder(&artefacts.files.folder)?;
        }
        let generators = SharedGenerators::of_threads_that_do_not_rest();
        self.report_generators(source, &generators, opted_in);
        Ok(Some(generators))
    }

    async fn init(
        &self,
        vm: &mut MicroVm,
        restore: RestoreFrom,
        source: Source<'_>,
    ) -> Result<Init, VmError> {
        let (configure, limit) = (self.configure(source), self.times.init);
        let log = |of: &Log, text| {
            let text = Text::of_guest(of, text);
            self.logs.append(source.origin(), Kind::Function, text);
        };
        init(vm, restore.command()?, configure, limit, log, || {}).await
    }

    fn report_init(&self, source: Source<'_>, took: Duration, error: Option<&InitError>) {
        let failed = error.map(InitError::report_status);
        self.report(source, PlatformEvent::Init { took, failed });
    }

    /// Reports, in both logs, that clones would share random generators, and the consequence.
    fn report_generators(&self, source: Source<'_>, generators: &SharedGenerators, opted_in: bool) {
        let libraries = generators;
        if opted_in {
            tracing::info!(
                %libraries,
                "instances would share random generators; the author opted in to the snapshot with \
                 SnapStart and has to reseed them in an after-restore hook"
            );
        } else {
            tracing::info!(
                %libraries,
                "instances would share random generators: init runs in each instance"
            );
        }
        let event = PlatformEvent::SharedGenerators {
            generators,
            opted_in,
        };
        self.report(source, event);
    }

    /// Writes a platform event to the function's log.
    fn report(&self, source: Source<'_>, event: PlatformEvent<'_>) {
        for record in event.records(&source.config.logging.format) {
            let text = Text::whole(record.into());
            self.logs.append(source.origin(), Kind::Platform, text);
        }
    }
}
