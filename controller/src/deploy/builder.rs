//! Makes the artefacts of versions: images and snapshots.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hearth_protocol::agent::Configure;
use hearth_rootfs::function::{FunctionError, FunctionImage};
use tokio::sync::Semaphore;
use tracing::Span;

use super::error::DeployError;
use super::host::{Base, Host, function_fingerprint, reading};
use super::kept_snapshots::KeptSnapshots;
use super::packages::Packages;
use super::progress::{Phase, Progress};
use super::runtime_snapshot::runtime_key;
use super::source::Source;
use crate::data_dir::DataDir;
use crate::function::{
    ArnScope, ArtefactFiles, Artefacts, FailedInit, Fingerprints, InstanceInit, Made, NoSnapshot,
    StartsFrom, new_log_stream,
};
use crate::instance::{LogSubject, MailboxUse, MicroVm};
use crate::logs::LogStore;
use crate::metrics::Metrics;
use crate::pool::Shells;

/// Timeouts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) boot: Duration,
    pub(crate) init: Duration,
}

/// What a builder works with.
#[derive(Debug)]
pub(crate) struct BuilderTools {
    pub(crate) data: Arc<DataDir>,
    pub(crate) host: Host,
    pub(crate) packages: Packages,
    pub(crate) shells: Arc<Shells>,
    pub(crate) logs: LogStore,
    pub(crate) metrics: Arc<Metrics>,
}

/// The settings of a builder.
#[derive(Debug)]
pub(crate) struct BuilderSettings {
    pub(crate) arn_scope: ArnScope,
    pub(crate) times: Times,
    pub(crate) mailbox: MailboxUse,
    /// Maximum number of deploys that run at the same time.
    pub(crate) max_deploys: usize,
    /// Maximum space on disk of the snapshots of replaced versions; 0 keeps none.
    pub(crate) kept_snapshot_bytes: u64,
}

/// Makes images and snapshots.
#[derive(Debug)]
pub(crate) struct Builder {
    pub(crate) data: Arc<DataDir>,
    pub(crate) host: Host,
    pub(crate) packages: Packages,
    pub(crate) progress: Progress,
    /// Of replaced versions.
    pub(crate) kept: KeptSnapshots,
    arn_scope: ArnScope,
    pub(super) times: Times,
    mailbox: MailboxUse,
    pub(super) shells: Arc<Shells>,
    pub(super) logs: LogStore,
    pub(super) metrics: Arc<Metrics>,
    permits: Semaphore,
    /// By key: who holds the lock makes that runtime snapshot, or looks whether it can be used.
    pub(super) bases: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Builder {
    pub(crate) fn new(tools: BuilderTools, settings: BuilderSettings) -> Self {
        let BuilderTools {
            data,
            host,
            packages,
            shells,
            logs,
            metrics,
        } = tools;
        Self {
            data,
            host,
            packages,
            progress: Progress::default(),
            kept: KeptSnapshots::new(settings.kept_snapshot_bytes),
            arn_scope: settings.arn_scope,
            times: settings.times,
            mailbox: settings.mailbox,
            shells,
            logs,
            metrics,
            permits: Semaphore::new(settings.max_deploys),
            bases: Mutex::default(),
        }
    }

    /// Makes the artefacts of a version. The caller becomes their owner. After a failure none of their files
    /// is left. An init that fails is no failure where [`Source::serves_failed_init`].
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
        // Until all files are complete they have no owner, so dropping the value deletes them.
        let mut artefacts = self.artefacts(&base, source, None);
        base.check().await?;
        // A deploy that a restart interrupted begins again under its key. It may have been as far as its
        // snapshot, and no other folder can be renamed to that.
        remove_folder(&artefacts.files.folder)?;
        running.enter(Phase::Image);
        self.image(source).await?;
        self.layers_image(source).await?;
        let made = self
            .function_snapshot(&base, source, &artefacts, &running)
            .await;
        let no_snapshot = match made {
            Err(error) if error.is_of_init() && source.serves_failed_init() => {
                let reason = error.to_string();
                tracing::warn!(
                    error = reason,
                    "a function's init has failed: each instance tries it again"
                );
                let code = error.reason_code().into();
                Some(NoSnapshot::InitFailed(FailedInit { reason, code }))
            }
            made => made?.map(NoSnapshot::SharedGenerators),
        };
        if let Some(why) = no_snapshot {
            // For the seal.
            let folder = &artefacts.files.folder;
            std::fs::create_dir(folder).map_err(DeployError::io("create", folder))?;
            Arc::get_mut(&mut artefacts)
                .expect("there is no other reference yet")
                .starts_from = self.starts_from(&base, source, Some(why));
        }
        let made = artefacts.clone();
        reading(move || made.sealed().seal()).await?;
        artefacts.own();
        Ok(artefacts)
    }

    /// The artefacts of an earlier deploy, if they are complete and their fingerprint is the current one. The
    /// caller becomes their owner.
    pub(crate) fn find(&self, source: Source<'_>, made: &Made) -> Option<Arc<Artefacts>> {
        let config = source.config;
        let base = self.host.base(config.runtime, config.memory_mib).ok()?;
        let artefacts = self.artefacts(&base, source, made.no_snapshot());
        let usable = made.fingerprint == artefacts.fingerprints.deployed && artefacts.complete();
        // Its caller decides about the files: without an owner, dropping the value would delete them.
        artefacts.own();
        usable.then_some(artefacts)
    }

    /// Deletes all files of an earlier deploy.
    pub(crate) fn forget(&self, key: &str) {
        let files = self.files(key, PathBuf::new(), true);
        let starts_from = StartsFrom::FunctionSnapshot;
        // Without an owner.
        drop(Artefacts::new(files, Fingerprints::default(), starts_from));
    }

    /// The artefacts of a version, whose files may not exist yet.
    fn artefacts(
        &self,
        base: &Base,
        source: Source<'_>,
        no_snapshot: Option<NoSnapshot>,
    ) -> Arc<Artefacts> {
        let layers = !source.config.layers.is_empty();
        Artefacts::new(
            self.files(source.key, base.image.clone(), layers),
            self.fingerprints(base, source),
            self.starts_from(base, source, no_snapshot),
        )
    }

    fn files(&self, key: &str, runtime_image: PathBuf, layers: bool) -> ArtefactFiles {
        ArtefactFiles {
            key: key.into(),
            runtime_image,
            code_image: self.data.image(key),
            layers_image: layers.then(|| self.data.layers_image(key)),
            folder: self.data.function_snapshot(key),
        }
    }

    /// What the instances of a version start from.
    fn starts_from(
        &self,
        base: &Base,
        source: Source<'_>,
        no_snapshot: Option<NoSnapshot>,
    ) -> StartsFrom {
        let Some(why) = no_snapshot else {
            return StartsFrom::FunctionSnapshot;
        };
        let key = runtime_key(base, source.config.runtime.image_name());
        StartsFrom::RuntimeSnapshot(Box::new(InstanceInit {
            runtime_snapshot: self.data.runtime_snapshot(&key),
            configure: self.configure(source),
            limit: self.times.init,
            since: Instant::now(),
            why,
        }))
    }

    pub(super) fn fingerprints(&self, base: &Base, source: Source<'_>) -> Fingerprints {
        let (code, layers) = (&source.code.sha256, &source.config.layers);
        Fingerprints {
            booted: base.fingerprint.clone(),
            deployed: function_fingerprint(base, code, layers, self.configure(source)),
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

    /// A new sandbox for this deploy, whose span its log lines get.
    pub(super) async fn sandbox(&self) -> Result<MicroVm, DeployError> {
        let vm = self.shells.launch_for_deploy().await?;
        vm.process().belongs_to(&LogSubject::new(Span::current()));
        Ok(vm)
    }

    /// What the agent gets to know of a version: all that init can see beside the images.
    pub(super) fn configure(&self, source: Source<'_>) -> Configure {
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

pub(super) fn remove_folder(folder: &Path) -> Result<(), DeployError> {
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
