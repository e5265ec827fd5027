//! Makes the files that instances start from.
//!
//! A runtime snapshot is made once for a runtime and memory size, by whoever needs it first; others
//! wait. A function snapshot is made for each deploy, in a microVM that is thrown away afterwards.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hearth_protocol::agent::Configure;
use hearth_protocol::sandbox::RefusalKind;
use hearth_rootfs::function::{FunctionError, FunctionImage};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::error::DeployError;
use super::host::{Base, Host, function_fingerprint};
use super::packages::Packages;
use super::progress::{Phase, Progress, Running};
use super::snapshot;
use crate::data_dir::DataDir;
use crate::function::{
    Artefacts, Code, Fingerprints, FunctionConfig, FunctionName, Place, Runtime, SealError, Sealed,
    SnapshotFiles, VersionId, snapshot_files,
};
use crate::instance::{BootFrom, RestoreFrom, VmError};
use crate::logs::{Kind, LogStore, Origin, PlatformEvent, Text};
use crate::metrics::Metrics;
use crate::pool::Shells;
use crate::settings::Mailbox;

/// Longest times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) boot: Duration,
    pub(crate) init: Duration,
}

/// Makes snapshots.
#[derive(Debug)]
pub(crate) struct Builder {
    pub(crate) data: Arc<DataDir>,
    pub(crate) host: Host,
    pub(crate) packages: Packages,
    pub(crate) progress: Progress,
    place: Place,
    times: Times,
    mailbox: Mailbox,
    shells: Arc<Shells>,
    logs: LogStore,
    metrics: Arc<Metrics>,
    permits: Semaphore,
    bases: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What to make a version of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) name: &'a FunctionName,
    pub(crate) version: VersionId,
    pub(crate) config: &'a FunctionConfig,
    pub(crate) code: &'a Code,
    /// Names the files.
    pub(crate) key: &'a str,
}

impl Source<'_> {
    /// Whose the log records of its init are.
    fn origin(&self) -> Origin {
        Origin {
            function: self.name.clone(),
            version: self.version,
            request_id: None,
        }
    }
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
        place: Place,
        times: Times,
        mailbox: Mailbox,
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
            place,
            times,
            mailbox,
            shells,
            logs,
            metrics,
            permits: Semaphore::new(at_once),
            bases: Mutex::default(),
        }
    }

    /// Makes image and snapshot of a version. On failure nothing is left of them.
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
        let artefacts = self.artefacts(&base, source);
        // Until it is whole, whoever lets go of it removes what there is of it.
        artefacts.doom();
        base.check().await?;
        running.enter(Phase::Image);
        self.image(source).await?;
        self.layers_image(source).await?;
        self.function_snapshot(&base, source, &artefacts, &running)
            .await?;
        let made = artefacts.clone();
        reading(move || made.sealed().seal()).await?;
        artefacts.keep();
        Ok(artefacts)
    }

    /// The files of a deploy of earlier, if they are whole and fit this host as it is now.
    pub(crate) fn find(&self, source: Source<'_>, fingerprint: &str) -> Option<Arc<Artefacts>> {
        let config = source.config;
        let base = self.host.base(config.runtime, config.memory_mib).ok()?;
        let artefacts = self.artefacts(&base, source);
        (fingerprint == artefacts.fingerprints.deployed && artefacts.complete())
            .then_some(artefacts)
    }

    /// Removes the files of an earlier deploy, whatever there is of them.
    pub(crate) fn forget(&self, key: &str) {
        let unused = Artefacts::new(
            key.into(),
            PathBuf::new(),
            self.data.image(key),
            Some(self.data.layers_image(key)),
            self.data.function_snapshot(key),
            Fingerprints::default(),
        );
        unused.doom();
    }

    /// Where the files of a version are, or will be.
    fn artefacts(&self, base: &Base, source: Source<'_>) -> Arc<Artefacts> {
        let layers = !source.config.layers.is_empty();
        Artefacts::new(
            source.key.into(),
            base.image.clone(),
            self.data.image(source.key),
            layers.then(|| self.data.layers_image(source.key)),
            self.data.function_snapshot(source.key),
            self.fingerprints(base, source),
        )
    }

    fn fingerprints(&self, base: &Base, source: Source<'_>) -> Fingerprints {
        let deployed = function_fingerprint(base, source, &self.place.region);
        Fingerprints {
            booted: base.fingerprint.clone(),
            deployed,
        }
    }

    /// The code as a disk, unless it was made when the package came in.
    async fn image(&self, source: Source<'_>) -> Result<(), DeployError> {
        let out = self.data.image(source.key);
        if out.is_file() {
            return Ok(());
        }
        let package = self.packages.get(source.code).await?;
        make_image(package, out).await.map(drop)
    }

    /// Its layers as a disk, if it has any.
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

    async fn function_snapshot(
        &self,
        base: &Base,
        source: Source<'_>,
        artefacts: &Artefacts,
        running: &Running,
    ) -> Result<(), DeployError> {
        for last in [false, true] {
            let folder = self
                .runtime_snapshot(base, source.config.runtime, running)
                .await?;
            running.enter(Phase::Init);
            let restore = RestoreFrom {
                snapshot: snapshot_files(&folder),
                disks: artefacts.disks(),
                // The new snapshot will carry the same: it is that of the boot.
                fingerprint: base.fingerprint.clone(),
                resume: None,
            };
            let (mut vm, _) = self.shells.launch().await?;
            let log = |text| self.logs.append(source.origin(), Kind::Function, text);
            let configure = self.configure(source);
            let init = match snapshot::init(&mut vm, restore, configure, self.times.init, log).await
            {
                Ok(init) => init,
                Err(VmError::Refused(refusal))
                    if refusal.kind == RefusalKind::SnapshotUnusable && !last =>
                {
                    tracing::warn!(why = refusal.message, "making a runtime snapshot anew");
                    self.metrics.rebuilds.inc();
                    remove_folder(&folder)?;
                    continue;
                }
                Err(error) => return Err(DeployError::vm("restoring the runtime snapshot")(error)),
            };
            self.report_init(source, init.took, init.result.as_ref().err());
            init.result?;
            self.metrics.init(source.name.as_str(), init.took);
            let work = self.data.tmp().join(source.key);
            running.enter(Phase::Save);
            return snapshot::save(&mut vm, &work, &artefacts.folder).await;
        }
        unreachable!("the second try returns")
    }

    fn report_init(&self, source: Source<'_>, took: Duration, error: Option<&DeployError>) {
        let kind = error.map(|error| match error {
            DeployError::InitTimeout(_) => "timeout",
            DeployError::Init { kind, .. }
                if kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') =>
            {
                kind
            }
            _ => "Unknown",
        });
        let event = PlatformEvent::Init { took, failed: kind };
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
        let short = &base.fingerprint[..16];
        let key = format!("{runtime}-{}-{short}", base.memory_mib);
        let turn = {
            let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
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
                tracing::warn!(%error, "making a runtime snapshot anew");
                self.metrics.rebuilds.inc();
                remove_folder(&folder)?;
            }
            Err(_) => {}
        }
        running.enter(booting);
        tracing::info!(
            runtime,
            memory_mib = base.memory_mib,
            "making a runtime snapshot"
        );
        let (mut vm, _) = self.shells.launch().await?;
        let boot = BootFrom {
            kernel: base.kernel.clone(),
            disks: vec![Some(base.image.clone()), None, None],
            memory_mib: base.memory_mib,
            fingerprint: base.fingerprint.clone(),
        };
        snapshot::boot(&mut vm, boot, self.times.boot).await?;
        snapshot::save(&mut vm, &self.data.tmp().join(&key), &folder).await?;
        reading(move || sealed.seal()).await?;
        tracing::info!(
            runtime,
            memory_mib = base.memory_mib,
            "runtime snapshot ready"
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
        let today = OffsetDateTime::now_utc().date();
        Configure {
            function_name: name.to_string(),
            function_version: version.to_string(),
            runtime: config.runtime.id().into(),
            handler: config.handler.clone(),
            memory_mib: config.memory_mib,
            ephemeral_storage_mib: config.ephemeral_storage_mib,
            region: self.place.region.clone(),
            log_group: config.logging.group_of(name.as_str()),
            log_stream: format!(
                "{:04}/{:02}/{:02}/[{version}]{}",
                today.year(),
                u8::from(today.month()),
                today.day(),
                uuid::Uuid::new_v4().simple()
            ),
            // Whether an instance will be provisioned is not known when its snapshot is made.
            initialization_type: if config.snap_starts(version) {
                "snap-start".into()
            } else {
                "on-demand".into()
            },
            environment,
            bootstrap: config.runtime.bootstrap(),
            layers: !config.layers.is_empty(),
            mailbox: self.mailbox == Mailbox::On,
        }
    }
}

/// Reads files, which takes as long as they are large.
pub(super) async fn reading(
    work: impl FnOnce() -> Result<(), SealError> + Send + 'static,
) -> Result<(), DeployError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(DeployError::Cancelled),
    }
}

/// Makes the image of a package, checked in full.
pub(crate) async fn make_image(
    package: bytes::Bytes,
    out: PathBuf,
) -> Result<FunctionImage, DeployError> {
    at_work(move || hearth_rootfs::function::build_from_zip(&package, &out)).await
}

/// Does work that takes a while on a thread that nobody waits on.
async fn at_work<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FunctionError> + Send + 'static,
) -> Result<T, DeployError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(made) => Ok(made?),
        // A panic in there is this package's problem, not the controller's.
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

/// Names the files of a new deploy.
pub(crate) fn new_key(name: impl std::fmt::Display) -> String {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("{name}-{}", &unique[..12])
}
