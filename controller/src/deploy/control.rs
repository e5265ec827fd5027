//! Creates, updates and deletes functions, and starts their deploys.
//!
//! An accepted change is in the registry, and its package in the store, when the call returns. The deploy
//! runs in the background.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::builder::{Builder, new_key};
use super::error::DeployError;
use super::intake::Accepted;
use super::layers::check_layers;
use super::unused_runtimes::KEPT_UNUSED;
use crate::data_dir::LowSpace;
use crate::function::{
    AliasName, Aliases, FunctionConfig, FunctionName, FunctionRecord, FunctionUrls, Policies,
    PolicyError, State, Status, UpdateStatus, VersionId,
};
use crate::logs::LogStore;
use crate::metrics::Metrics;
use crate::pool::{Claim, Pool};
use crate::registry::{Catalog, Function, RegistryError, Writer};

/// Why a change was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// There is no such function.
    #[error("no such function")]
    NotFound,
    /// There is a function with this name.
    #[error("the function exists already")]
    Exists,
    /// A deploy of the function is running.
    #[error("a deploy of the function is running")]
    Busy,
    /// The first deploy of the function is running or has failed.
    #[error("the function is in state {}", .0.name())]
    State(State),
    /// There is an alias with this name.
    #[error("the alias exists already")]
    AliasExists(AliasName),
    /// There is no such alias.
    #[error("no such alias")]
    NoAlias(AliasName),
    /// There is no version to which the alias could point.
    #[error("no such version")]
    NoVersion(VersionId),
    /// Aliases point to the version.
    #[error("aliases point to the version: {}", .0.join(", "))]
    Referenced(Vec<String>),
    /// The client's revision is not the current one.
    #[error("the revision is not the latest")]
    Revision,
    /// The change conflicts with the current state. The text is Lambda's.
    #[error("{0}")]
    Conflict(&'static str),
    /// The policy can't be changed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The request is not valid. The text is Lambda's.
    #[error("{0}")]
    Invalid(String),
    /// The same for requests whose error has no `Type` on Lambda.
    #[error("{0}")]
    Untyped(String),
    /// There is not enough free space for a deploy.
    #[error(transparent)]
    LowSpace(#[from] LowSpace),
    /// The registry has failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The host has failed.
    #[error(transparent)]
    Host(#[from] DeployError),
}

/// Options of a code update.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CodeUpdate {
    /// Only check the package.
    pub(crate) dry_run: bool,
    /// Publish a version too.
    pub(crate) publish: bool,
}

/// Changes functions and layers, and runs deploys.
#[derive(Debug, Clone)]
pub(crate) struct Deployer {
    pub(super) catalog: Arc<Catalog>,
    pub(super) builder: Arc<Builder>,
    pub(super) pool: Pool,
    logs: LogStore,
    pub(super) metrics: Arc<Metrics>,
    pub(super) running: Arc<Mutex<HashMap<String, CancellationToken>>>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
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

    /// Creates a function and starts its deploy.
    pub(crate) async fn create(
        &self,
        name: FunctionName,
        config: FunctionConfig,
        tags: BTreeMap<String, String>,
        package: Bytes,
        publish: bool,
    ) -> Result<Arc<Function>, ControlError> {
        if self.catalog.get(&name).is_some() {
            return Err(ControlError::Exists);
        }
        self.check_space()?;
        let accepted = self.accept(new_key(&name), package).await?;
        let writer = self.catalog.write().await;
        if writer.get(&name).is_some() {
            return Err(ControlError::Exists);
        }
        check_layers(&writer, &accepted.code, &config)?;
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
            last_version: 0,
            aliases: Aliases::new(),
            reserved_concurrency: None,
            tags,
            policies: Policies::new(),
            provisioned: BTreeMap::new(),
            urls: FunctionUrls::new(),
        };
        let mut function = Function::new(record);
        if publish {
            self.add_version(&mut function, None);
        }
        self.commit_package(&writer, accepted, function).await
    }

    /// Changes a function's code and starts its deploy.
    pub(crate) async fn update_code(
        &self,
        name: &FunctionName,
        revision: Option<&str>,
        package: Bytes,
        wish: CodeUpdate,
    ) -> Result<Arc<Function>, ControlError> {
        let before = self.catalog.get(name).ok_or(ControlError::NotFound)?;
        changeable(&before.record, revision)?;
        self.check_space()?;
        let accepted = self.accept(new_key(name), package).await?;
        let writer = self.catalog.write().await;
        let mut function = Function::clone(&*writer.get(name).ok_or(ControlError::NotFound)?);
        changeable(&function.record, revision)?;
        check_layers(&writer, &accepted.code, &function.record.config)?;
        let former = std::mem::replace(&mut function.record.code, accepted.code.clone()).sha256;
        if wish.dry_run {
            return Ok(Arc::new(function));
        }
        begin_update(&mut function.record, accepted.key.clone());
        if wish.publish {
            self.add_version(&mut function, None);
        }
        let function = self.commit_package(&writer, accepted, function).await?;
        self.drop_package(&writer, &former).await;
        Ok(function)
    }

    /// Changes a function's configuration and starts its deploy.
    pub(crate) async fn update_config<E: From<ControlError>>(
        &self,
        name: &FunctionName,
        revision: Option<&str>,
        change: impl FnOnce(&FunctionConfig) -> Result<FunctionConfig, E>,
    ) -> Result<Arc<Function>, E> {
        self.check_space()?;
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        let mut function = Function::clone(&function);
        changeable(&function.record, revision)?;
        function.record.config = change(&function.record.config)?;
        check_layers(&writer, &function.record.code, &function.record.config)?;
        let key = new_key(name);
        self.link_image(&function.record, &key);
        begin_update(&mut function.record, key);
        let before = writer.get(name);
        let function = writer.put(function).await.map_err(ControlError::Registry)?;
        self.start_all(&function);
        if let Some(before) = before {
            self.drop_packages(&writer, &before).await;
        }
        Ok(function)
    }

    /// Deletes a function. Running invocations continue to their end.
    pub(crate) async fn delete(&self, name: &FunctionName) -> Result<(), ControlError> {
        let writer = self.catalog.write().await;
        if writer.get(name).is_none() {
            return Err(ControlError::NotFound);
        }
        let Some(function) = writer.delete(name).await? else {
            return Err(ControlError::NotFound);
        };
        for (_, key) in function.pending() {
            self.cancel(key);
        }
        for live in function.all_live() {
            self.pool.retire(live);
        }
        self.builder.kept.forget(&function.incarnation);
        self.drop_packages(&writer, &function).await;
        self.pool.concurrency().set_claim(name, Claim::default());
        self.pool.reserve(name, 0, 0);
        self.logs.remove(name).await;
        self.metrics.forget(name.as_str());
        self.builder
            .remove_unused_runtimes(&self.catalog, KEPT_UNUSED);
        self.builder.data.hold_reserve();
        Ok(())
    }

    /// Refuses a deploy when there is less free space than the floor.
    pub(super) fn check_space(&self) -> Result<(), ControlError> {
        self.builder
            .data
            .low_space()
            .map_or(Ok(()), |low| Err(low.into()))
    }

    /// Stores the package, then the record that refers to it, and starts the deploys.
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
        self.start_all(&function);
        Ok(function)
    }

    /// Deletes those packages of a function to which no record refers any more.
    pub(super) async fn drop_packages(&self, writer: &Writer<'_>, function: &Function) {
        for package in function.packages() {
            self.drop_package(writer, package).await;
        }
    }

    /// Deletes a package if no record of a function or layer refers to it any more.
    pub(super) async fn drop_package(&self, writer: &Writer<'_>, sha256: &str) {
        if !writer.uses_code(sha256)
            && let Err(error) = self.builder.packages.delete(sha256).await
        {
            // The next start deletes it.
            tracing::warn!(sha256, %error, "the controller could not delete a package");
        }
    }

    /// Makes a hard link to the image of the same code, if there is one, so that the deploy need not make
    /// it.
    pub(super) fn link_image(&self, record: &FunctionRecord, key: &str) {
        let deployed = record.deployed.as_ref();
        let same = deployed.filter(|deployed| deployed.code == record.code);
        let source = match (same, &record.pending_deploy) {
            (Some(deployed), _) => &deployed.made.key,
            // The image was made when the package was checked.
            (None, Some(pending)) => pending,
            (None, None) => return,
        };
        let data = &self.builder.data;
        if let Err(error) = std::fs::hard_link(data.image(source), data.image(key)) {
            tracing::debug!(
                key,
                %error,
                "the controller could not link an image, so the deploy makes another one"
            );
        }
    }
}

/// Checks whether a function may be changed now by a client that expects `revision`.
pub(super) fn changeable(
    record: &FunctionRecord,
    revision: Option<&str>,
) -> Result<(), ControlError> {
    if revision.is_some_and(|seen| seen != record.revision_id) {
        return Err(ControlError::Revision);
    }
    match record.pending_deploy {
        None => Ok(()),
        Some(_) if record.last_update.is_none() => Err(ControlError::State(record.state.is)),
        Some(_) => Err(ControlError::Busy),
    }
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

pub(super) fn new_revision() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The time as Lambda writes it.
pub(super) fn now() -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]+0000"
    );
    time::OffsetDateTime::now_utc()
        .format(FORMAT)
        .expect("every time has these parts")
}
