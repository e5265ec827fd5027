//! Makes the artefacts of versions: images and snapshots.
//!
//! A runtime snapshot is made once for each runtime image and memory size, by the first deploy that needs
//! it; concurrent deploys wait for it. A function snapshot is made by each deploy, in a microVM that is
//! ended afterwards.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_protocol::agent::{Configure, Log};
use hearth_protocol::sandbox::{RefusalKind, Resume, Snapshot};
use hearth_rootfs::function::{FunctionError, FunctionImage};
use tokio::sync::Semaphore;
use tracing::Span;

use super::error::DeployError;
use super::host::{Base, Host, function_fingerprint, reading};
use super::packages::Packages;
use super::progress::{Phase, Progress, Running};
use super::snapshot;
use super::source::Source;
use crate::data_dir::DataDir;
use crate::function::{
    ArnScope, Artefacts, Fingerprints, InstanceInit, Made, Runtime, Sealed, SharedGenerators,
    SnapshotFiles, StartsFrom, new_log_stream, snapshot_files,
};
use crate::instance::{
    BootFrom, Init, InitError, LogSubject, MailboxUse, MicroVm, RestoreFrom, VmError, init,
};
use crate::locks::lock;
use crate::logs::{Kind, LogStore, PlatformEvent, Text};
use crate::metrics::Metrics;
use crate::pool::Shells;

/// Maximum number of snapshots of one init. Another one is made if threads of the function have changed
/// its processes since the agent has inspected them.
const SNAPSHOT_TRIES: u32 = 4;

/// Timeouts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) boot: Duration,
    pub(crate) init: Duration,
}

/// Makes images and snapshots.
#[derive(Debug)]
pub(crate) struct Builder {
    pub(crate) data: Arc<DataDir>,
    pub(crate) host: Host,
    pub(crate) packages: Packages,
    pub(crate) progress: Progress,
    arn_scope: ArnScope,
    times: Times,
    mailbox: MailboxUse,
    shells: Arc<Shells>,
    logs: LogStore,
    metrics: Arc<Metrics>,
    permits: Semaphore,
    bases: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Builder {
    #[allow(
        clippy::too_many_arguments,
        reason = "each is one thing that it works with"
    )]
    pub(crate) fn new(
        data: Arc<DataDir>,
        host: Host,
        packages: Packages,
        arn_scope: ArnScope,
        times: Times,
        mailbox: MailboxUse,
        at_once: usize,
        shells: Arc<Shells>,
        logs: LogStore,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            data,
            host,
            packages,
            progress: Progress::default(),
            arn_scope,
            times,
            mailbox,
            shells,
            logs,
            metrics,
            permits: Semaphore::new(at_once),
            bases: Mutex::default(),
        }
    }

    /// Makes the artefacts of a version. After a failure none of their files is left.
    pub(crate) async fn build(&self, source: Source<'_>) -> Result<Arc<Artefacts>, DeployError> {
        let running = self.progress.begin(source.key);
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| DeployError::Cancelled)?;
        let base = self
            .host
            .base(source.config.runtime, source.config.memory_mib)?;
        let mut artefacts = self.artefacts(&base, source, None);
        // Until all files are complete, dropping the value deletes them.
        artefacts.delete_when_unused();
        base.check().await?;
        running.enter(Phase::Image);
        self.image(source).await?;
        self.layers_image(source).await?;
        let generators = self
            .function_snapshot(&base, source, &artefacts, &running)
            .await?;
        if let Some(generators) = generators {
            own_folder(&artefacts.folder)?;
            Arc::get_mut(&mut artefacts)
                .expect("there is no other reference yet")
                .starts_from = self.starts_from(&base, source, Some(generators));
        }
        let made = artefacts.clone();
        reading(move || made.sealed().seal()).await?;
        artefacts.keep();
        Ok(artefacts)
    }

    /// The artefacts of an earlier deploy, if they are complete and their fingerprint is the current one.
    pub(crate) fn find(&self, source: Source<'_>, made: &Made) -> Option<Arc<Artefacts>> {
        let config = source.config;
        let base = self.host.base(config.runtime, config.memory_mib).ok()?;
        let artefacts = self.artefacts(&base, source, made.shared_generators.clone());
        (made.fingerprint == artefacts.fingerprints.deployed && artefacts.complete())
            .then_some(artefacts)
    }

    /// Deletes all files of an earlier deploy.
    pub(crate) fn forget(&self, key: &str) {
        let unused = Artefacts::new(
            key.into(),
            PathBuf::new(),
            self.data.image(key),
            Some(self.data.layers_image(key)),
            self.data.function_snapshot(key),
            Fingerprints::default(),
            StartsFrom::FunctionSnapshot,
        );
        unused.delete_when_unused();
    }

    /// The artefacts of a version, whose files may not exist yet.
    fn artefacts(
        &self,
        base: &Base,
        source: Source<'_>,
        generators: Option<SharedGenerators>,
    ) -> Arc<Artefacts> {
        let layers = !source.config.layers.is_empty();
        Artefacts::new(
            source.key.into(),
            base.image.clone(),
            self.data.image(source.key),
            layers.then(|| self.data.layers_image(source.key)),
            self.data.function_snapshot(source.key),
            self.fingerprints(base, source),
            self.starts_from(base, source, generators),
        )
    }

    /// What the instances of a version start from. `generators` are those that clones would share.
    fn starts_from(
        &self,
        base: &Base,
        source: Source<'_>,
        generators: Option<SharedGenerators>,
    ) -> StartsFrom {
        let Some(generators) = generators else {
            return StartsFrom::FunctionSnapshot;
        };
        let key = runtime_key(base, source.config.runtime.image_name());
        StartsFrom::RuntimeSnapshot(Box::new(InstanceInit {
            runtime_snapshot: self.data.runtime_snapshot(&key),
            configure: self.configure(source),
            limit: self.times.init,
            generators,
        }))
    }

    fn fingerprints(&self, base: &Base, source: Source<'_>) -> Fingerprints {
        let deployed = function_fingerprint(base, source, &self.arn_scope.region);
        Fingerprints {
            booted: base.fingerprint.clone(),
            deployed,
        }
    }

    /// Makes the image of the code, unless it was made when the package was checked.
    async fn image(&self, source: Source<'_>) -> Result<(), DeployError> {
        let out = self.data.image(source.key);
        if out.is_file() {
            return Ok(());
        }
        let package = self.packages.get(source.code).await?;
        make_image(package, out).await.map(drop)
    }

    /// Makes the image of the layers, if there are any.
    async fn layers_image(&self, source: Source<'_>) -> Result<(), DeployError> {
        if source.config.layers.is_empty() {
            return Ok(());
        }
        let mut layers = Vec::new();
        for layer in &source.config.layers {
            layers.push(self.packages.get(&layer.code).await?);
        }
        let out = self.data.layers_image(source.key);
        at_work(move || hearth_rootfs::function::build_from_layers(&layers, &out))
            .await
            .map(drop)
    }

    /// Runs a version's init and makes its function snapshot. If clones would share random generators, and
    /// SnapStart is off, makes no snapshot and returns the generators: then init has to run in each
    /// instance.
    async fn function_snapshot(
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
            self.metrics.init(source.name.as_str(), init.took);
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
            snapshot::save(vm, &unique, &work, &artefacts.folder).await?;
            if inspected.settled || opted_in {
                return Ok(None);
            }
            let after = snapshot::inspect_again(vm, log).await?;
            if after == inspected {
                return Ok(None);
            }
            inspected = after;
            remove_folder(&artefacts.folder)?;
        }
        let generators = SharedGenerators::of_threads_that_do_not_rest();
        self.report_generators(source, &generators, opted_in);
        Ok(Some(generators))
    }

    /// A new sandbox for this deploy, whose span its log lines get.
    async fn sandbox(&self) -> Result<MicroVm, DeployError> {
        let (vm, _) = self.shells.launch().await?;
        vm.process().belongs_to(&LogSubject::new(Span::current()));
        Ok(vm)
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
        init(vm, restore.command()?, configure, limit, log).await
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

    /// The folder of the snapshot that functions of this base start from.
    async fn runtime_snapshot(
        &self,
        base: &Base,
        runtime: Runtime,
        running: &Running,
    ) -> Result<PathBuf, DeployError> {
        let booting = Phase::Boot {
            runtime: runtime.id(),
        };
        let runtime = runtime.image_name();
        let key = runtime_key(base, runtime);
        let turn = {
            let mut bases = lock(&self.bases);
            bases.entry(key.clone()).or_default().clone()
        };
        let _turn = match turn.try_lock() {
            Ok(turn) => turn,
            // Another deploy boots it.
            Err(_) => {
                running.enter(booting);
                turn.lock().await
            }
        };
        let folder = self.data.runtime_snapshot(&key);
        let SnapshotFiles { state, memory } = snapshot_files(&folder);
        let sealed = Arc::new(Sealed::new(
            &folder,
            vec![state, memory],
            base.fingerprint.clone(),
        ));
        let there = sealed.clone();
        match reading(move || there.verify()).await {
            Ok(()) => return Ok(folder),
            Err(error) if folder.exists() => {
                tracing::warn!(
                    %error,
                    "the controller rebuilds a runtime snapshot that can't be used"
                );
                self.metrics.rebuilds.inc();
                remove_folder(&folder)?;
            }
            Err(_) => {}
        }
        running.enter(booting);
        tracing::info!(
            runtime,
            memory_mib = base.memory_mib,
            "the controller makes a runtime snapshot"
        );
        let mut vm = self.sandbox().await?;
        let boot = BootFrom {
            kernel: base.kernel.clone(),
            disks: vec![Some(base.image.clone()), None, None],
            memory_mib: base.memory_mib,
            fingerprint: base.fingerprint.clone(),
        };
        snapshot::boot(&mut vm, boot, self.times.boot).await?;
        snapshot::save(
            &mut vm,
            &Snapshot::default(),
            &self.data.tmp().join(&key),
            &folder,
        )
        .await?;
        reading(move || sealed.seal()).await?;
        tracing::info!(
            runtime,
            memory_mib = base.memory_mib,
            "the controller has made a runtime snapshot"
        );
        Ok(folder)
    }

    fn configure(&self, source: Source<'_>) -> Configure {
        let Source {
            name,
            version,
            config,
            ..
        } = source;
        let mut environment = config.environment.clone().unwrap_or_default().0;
        environment.extend(config.logging.variables());
        Configure {
            function_name: name.to_string(),
            function_version: version.to_string(),
            runtime: config.runtime.id().into(),
            handler: config.handler.clone(),
            memory_mib: config.memory_mib,
            ephemeral_storage_mib: config.ephemeral_storage_mib,
            region: self.arn_scope.region.clone(),
            log_group: config.logging.group_of(name.as_str()),
            log_stream: new_log_stream(version),
            // When a snapshot is made, it is not known whether an instance will be provisioned. Instances
            // without a function snapshot have the same value, so that a function sees no difference.
            initialization_type: if config.snap_starts(version) {
                "snap-start".into()
            } else {
                "on-demand".into()
            },
            environment,
            bootstrap: config.runtime.bootstrap(),
            layers: !config.layers.is_empty(),
            mailbox: self.mailbox == MailboxUse::On,
        }
    }
}

/// The folder name of a runtime snapshot.
fn runtime_key(base: &Base, runtime: &str) -> String {
    let short = &base.fingerprint[..16];
    format!("{runtime}-{}-{short}", base.memory_mib)
}

/// Makes the folder of a version without a function snapshot, for its seal. Deletes the folder of an
/// earlier attempt.
fn own_folder(folder: &Path) -> Result<(), DeployError> {
    remove_folder(folder)?;
    std::fs::create_dir(folder).map_err(DeployError::io("create", folder))
}

/// Makes the image of a package, which checks the package completely.
pub(crate) async fn make_image(
    package: bytes::Bytes,
    out: PathBuf,
) -> Result<FunctionImage, DeployError> {
    at_work(move || hearth_rootfs::function::build_from_zip(&package, &out)).await
}

/// Runs work on a thread for blocking work.
async fn at_work<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FunctionError> + Send + 'static,
) -> Result<T, DeployError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(made) => Ok(made?),
        // A panic fails this deploy, but not the controller.
        Err(_) => Err(DeployError::Cancelled),
    }
}

fn remove_folder(folder: &Path) -> Result<(), DeployError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(DeployError::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// A new deploy's key, which is part of its file names.
pub(crate) fn new_key(name: impl std::fmt::Display) -> String {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("{name}-{}", &unique[..12])
}

#[cfg(test)]
#[path = "builder_tests.rs"]
pub(super) mod tests;
