//! Create, update and delete, and the deploys that follow from them.
//!
//! What was accepted is in the registry, with its package, before the caller hears so. The deploy
//! itself runs on in the background and is taken up again after a restart. Its result counts only
//! if the function still wants it: each deploy has a key, and the record says which one is awaited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::builder::{Builder, Source, make_image, new_key};
use super::error::DeployError;
use super::packages::Packages;
use crate::function::{
    Artefacts, Code, Deployed, FunctionConfig, FunctionName, FunctionRecord, State, Status,
    UpdateStatus, Version,
};
use crate::logs::LogStore;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::registry::{Catalog, Function, RegistryError, Writer};

/// Why a change was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// No such function.
    #[error("no such function")]
    NotFound,
    /// There is one of that name.
    #[error("the function exists already")]
    Exists,
    /// A deploy is under way.
    #[error("a deploy is under way")]
    Busy,
    /// The caller's revision is not the current one.
    #[error("the revision is not the latest")]
    Revision,
    /// The package can't be used; the text is Lambda's.
    #[error("{0}")]
    Package(&'static str),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The host.
    #[error(transparent)]
    Host(#[from] DeployError),
}

/// The one who changes functions.
#[derive(Debug, Clone)]
pub(crate) struct Deployer {
    catalog: Arc<Catalog>,
    builder: Arc<Builder>,
    pool: Pool,
    logs: LogStore,
    metrics: Arc<Metrics>,
    running: Arc<Mutex<HashMap<String, CancellationToken>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A package that was checked, with its image made.
#[derive(Debug)]
struct Accepted {
    code: Code,
    package: Bytes,
    key: String,
    image: ImageGuard,
}

/// Removes an image unless it is kept.
#[derive(Debug)]
struct ImageGuard(Option<std::path::PathBuf>);

impl ImageGuard {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for ImageGuard {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "image of a refused package not removed");
        }
    }
}

impl Deployer {
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        builder: Arc<Builder>,
        pool: Pool,
        logs: LogStore,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            catalog,
            builder,
            pool,
            logs,
            metrics,
            running: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// A new function; its deploy begins.
    pub(crate) async fn create(
        &self,
        name: FunctionName,
        config: FunctionConfig,
        package: Bytes,
    ) -> Result<Arc<Function>, ControlError> {
        if self.catalog.get(&name).is_some() {
            return Err(ControlError::Exists);
        }
        let accepted = self.accept(&name, package).await?;
        let writer = self.catalog.write().await;
        if writer.get(&name).is_some() {
            return Err(ControlError::Exists);
        }
        let record = FunctionRecord {
            name,
            config,
            code: accepted.code.clone(),
            revision_id: new_revision(),
            last_modified: now(),
            state: Status::because(State::Pending, "The function is being created.", "Creating"),
            last_update: None,
            pending_deploy: Some(accepted.key.clone()),
            deployed: None,
        };
        self.commit_package(&writer, accepted, Function { record, live: None })
            .await
    }

    /// New code for a function; its deploy begins.
    pub(crate) async fn update_code(
        &self,
        name: &FunctionName,
        revision: Option<&str>,
        package: Bytes,
        dry_run: bool,
    ) -> Result<Arc<Function>, ControlError> {
        let before = self.catalog.get(name).ok_or(ControlError::NotFound)?;
        changeable(&before.record, revision)?;
        let accepted = self.accept(name, package).await?;
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        changeable(&function.record, revision)?;
        let mut record = function.record.clone();
        record.code = accepted.code.clone();
        if dry_run {
            return Ok(Arc::new(Function {
                record,
                live: function.live.clone(),
            }));
        }
        begin_update(&mut record, accepted.key.clone());
        let live = function.live.clone();
        let former = function.record.code.sha256.clone();
        let function = self
            .commit_package(&writer, accepted, Function { record, live })
            .await?;
        self.drop_package(&writer, &former).await;
        Ok(function)
    }

    /// A new configuration for a function; its deploy begins.
    pub(crate) async fn update_config<E: From<ControlError>>(
        &self,
        name: &FunctionName,
        revision: Option<&str>,
        change: impl FnOnce(&FunctionConfig) -> Result<FunctionConfig, E>,
    ) -> Result<Arc<Function>, E> {
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        changeable(&function.record, revision)?;
        let mut record = function.record.clone();
        record.config = change(&record.config)?;
        let key = new_key(name);
        self.link_image(&record, &key);
        begin_update(&mut record, key);
        let live = function.live.clone();
        let function = writer
            .put(Function { record, live })
            .await
            .map_err(ControlError::Registry)?;
        self.start(&function.record);
        Ok(function)
    }

    /// The end of a function. Invocations that run are let finish.
    pub(crate) async fn delete(&self, name: &FunctionName) -> Result<(), ControlError> {
        let writer = self.catalog.write().await;
        if writer.get(name).is_none() {
            return Err(ControlError::NotFound);
        }
        let Some(function) = writer.delete(name).await? else {
            return Err(ControlError::NotFound);
        };
        if let Some(key) = &function.record.pending_deploy {
            self.cancel(key);
        }
        if let Some(live) = &function.live {
            self.pool.retire(live);
        }
        self.drop_package(&writer, &function.record.code.sha256)
            .await;
        if let Some(deployed) = &function.record.deployed {
            self.drop_package(&writer, &deployed.code.sha256).await;
        }
        self.logs.remove(name);
        self.metrics.forget(name.as_str());
        Ok(())
    }

    /// Takes up the deploys that an earlier process did not finish, makes anew what can't be used
    /// any more, and compares the rest with its seal, one function after the other.
    pub(crate) fn resume(&self) {
        let (functions, _) = self.catalog.list(None, usize::MAX);
        let mut unread = Vec::new();
        for function in functions {
            if function.record.pending_deploy.is_some() {
                tracing::info!(function = %function.record.name, "taking up its deploy again");
                self.start(&function.record);
            } else if let Some(live) = function.live.clone() {
                if live.artefacts().is_none() {
                    self.prepare(vec![live]);
                } else {
                    unread.push(live);
                }
            }
        }
        self.prepare(unread);
    }

    fn prepare(&self, versions: Vec<Arc<Version>>) {
        let (pool, stop) = (self.pool.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            for version in versions {
                tokio::select! {
                    () = pool.prepare(&version) => {}
                    () = stop.cancelled() => return,
                }
            }
        });
    }

    /// Gives up what is under way, to be taken up at the next start.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Checks a package by making its image.
    async fn accept(&self, name: &FunctionName, package: Bytes) -> Result<Accepted, ControlError> {
        let key = new_key(name);
        let path = self.builder.data.image(&key);
        let image = ImageGuard(Some(path.clone()));
        let content = package.clone();
        let code = tokio::task::spawn_blocking(move || Packages::code(&content))
            .await
            .map_err(|_| DeployError::Cancelled)?;
        match make_image(package.clone(), path).await {
            Ok(()) => Ok(Accepted {
                code,
                package,
                key,
                image,
            }),
            Err(DeployError::Image(error)) => match error.lambda_message() {
                Some(message) => {
                    tracing::info!(function = %name, %error, "package refused");
                    Err(ControlError::Package(message))
                }
                None => Err(DeployError::Image(error).into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Package first, then the record that speaks of it, then the deploy.
    async fn commit_package(
        &self,
        writer: &Writer<'_>,
        accepted: Accepted,
        function: Function,
    ) -> Result<Arc<Function>, ControlError> {
        let Accepted {
            code,
            package,
            image,
            ..
        } = accepted;
        self.builder
            .packages
            .put(&code, package)
            .await
            .map_err(DeployError::from)?;
        let function = match writer.put(function).await {
            Ok(function) => function,
            Err(error) => {
                self.drop_package(writer, &code.sha256).await;
                return Err(error.into());
            }
        };
        image.keep();
        self.start(&function.record);
        Ok(function)
    }

    /// Removes a package that no function speaks of any more.
    async fn drop_package(&self, writer: &Writer<'_>, sha256: &str) {
        if !writer.uses_code(sha256)
            && let Err(error) = self.builder.packages.delete(sha256).await
        {
            // The next start sweeps it away.
            tracing::warn!(sha256, %error, "package not removed");
        }
    }

    /// The same code needs no new image: a second name for the one that serves.
    fn link_image(&self, record: &FunctionRecord, key: &str) {
        let Some(deployed) = &record.deployed else {
            return;
        };
        if deployed.code != record.code {
            return;
        }
        let data = &self.builder.data;
        if let Err(error) = std::fs::hard_link(data.image(&deployed.key), data.image(key)) {
            tracing::debug!(key, %error, "image not shared; it is made anew");
        }
    }

    fn start(&self, record: &FunctionRecord) {
        let Some(key) = record.pending_deploy.clone() else {
            return;
        };
        let name = record.name.clone();
        let cancel = self.stop.child_token();
        self.running().insert(key.clone(), cancel.clone());
        let this = self.clone();
        self.tasks.spawn(async move {
            let built = tokio::select! {
                built = this.build(&name, &key) => built,
                () = cancel.cancelled() => Err(DeployError::Cancelled),
            };
            this.running().remove(&key);
            if let Err(error) = this.finish(&name, &key, built).await {
                // It stays pending, and the next start takes it up again.
                tracing::error!(function = %name, %error, "result of a deploy not registered");
            }
        });
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancel(&self, key: &str) {
        if let Some(token) = self.running().remove(key) {
            token.cancel();
        }
    }

    async fn build(
        &self,
        name: &FunctionName,
        key: &str,
    ) -> Result<(FunctionConfig, Code, Arc<Artefacts>), DeployError> {
        let function = self.catalog.get(name).ok_or(DeployError::Cancelled)?;
        let FunctionRecord { config, code, .. } = function.record.clone();
        tracing::info!(function = %name, runtime = config.runtime.id(), "deploy begins");
        let source = Source {
            name,
            config: &config,
            code: &code,
            key,
        };
        let artefacts = self.builder.build(source).await?;
        Ok((config, code, artefacts))
    }

    async fn finish(
        &self,
        name: &FunctionName,
        key: &str,
        built: Result<(FunctionConfig, Code, Arc<Artefacts>), DeployError>,
    ) -> Result<(), RegistryError> {
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let writer = self.catalog.write().await;
        let wanted = writer
            .get(name)
            .filter(|function| function.record.pending_deploy.as_deref() == Some(key));
        let Some(function) = wanted else {
            if let Ok((.., artefacts)) = built {
                artefacts.doom();
            }
            // An image may have been made when the package came in.
            drop(ImageGuard(Some(self.builder.data.image(key))));
            self.metrics.deploy("superseded");
            return Ok(());
        };
        let mut record = function.record.clone();
        record.pending_deploy = None;
        let mut live = function.live.clone();
        let updating = record.last_update.is_some();
        match built {
            Ok((config, code, artefacts)) => {
                tracing::info!(function = %name, "deploy done");
                self.metrics.deploy("successful");
                record.deployed = Some(Deployed {
                    config: config.clone(),
                    code: code.clone(),
                    key: key.into(),
                    fingerprint: artefacts.fingerprints.deployed.clone(),
                });
                record.state = Status::plain(State::Active);
                record.last_update = Some(Status::plain(UpdateStatus::Successful));
                let revision = record.revision_id.clone();
                live = Some(Version::new(
                    name.clone(),
                    config,
                    code,
                    revision,
                    Some(artefacts),
                ));
            }
            Err(error) => {
                tracing::warn!(function = %name, %error, "deploy failed");
                self.metrics.deploy("failed");
                let (reason, code) = (error.to_string(), error.reason_code());
                if updating {
                    record.last_update =
                        Some(Status::because(UpdateStatus::Failed, reason.clone(), code));
                }
                if record.deployed.is_none() {
                    record.state = Status::because(State::Failed, reason, code);
                }
                drop(ImageGuard(Some(self.builder.data.image(key))));
            }
        }
        let former = function
            .live
            .clone()
            .filter(|former| live.as_ref().is_some_and(|live| !Arc::ptr_eq(former, live)));
        let former_code = function
            .record
            .deployed
            .as_ref()
            .map(|old| old.code.sha256.clone());
        writer.put(Function { record, live }).await?;
        if let Some(former) = former {
            self.pool.retire(&former);
        }
        if let Some(former_code) = former_code {
            self.drop_package(&writer, &former_code).await;
        }
        Ok(())
    }
}

/// Whether a record may be changed now, by somebody who saw `revision`.
fn changeable(record: &FunctionRecord, revision: Option<&str>) -> Result<(), ControlError> {
    if revision.is_some_and(|seen| seen != record.revision_id) {
        return Err(ControlError::Revision);
    }
    if record.pending_deploy.is_some() {
        return Err(ControlError::Busy);
    }
    Ok(())
}

fn begin_update(record: &mut FunctionRecord, key: String) {
    record.revision_id = new_revision();
    record.last_modified = now();
    record.pending_deploy = Some(key);
    record.last_update = Some(Status::because(
        UpdateStatus::InProgress,
        "The function is being created.",
        "Creating",
    ));
}

fn new_revision() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The time as Lambda writes it.
fn now() -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]+0000"
    );
    time::OffsetDateTime::now_utc()
        .format(FORMAT)
        .expect("every time has these parts")
}
