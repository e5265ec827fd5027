//! Deploys in the background: begun by a change, taken up again after a restart, ended with it.
//!
//! A deploy's result counts only if the function still wants it: each has a key, and the record
//! says which one is awaited.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use tokio_util::sync::CancellationToken;

use super::builder::Source;
use super::control::Deployer;
use super::error::DeployError;
use super::intake::ImageGuard;
use crate::function::{
    Artefacts, Code, Deployed, FunctionConfig, FunctionName, FunctionRecord, State, Status,
    UpdateStatus, Version,
};
use crate::registry::{Function, RegistryError};

impl Deployer {
    /// Takes up the deploys that an earlier process did not finish, and makes anew what can't be
    /// used any more.
    pub(crate) fn resume(&self) {
        let (functions, _) = self.catalog.list(None, usize::MAX);
        for function in functions {
            if function.record.pending_deploy.is_some() {
                tracing::info!(function = %function.record.name, "taking up its deploy again");
                self.start(&function.record);
            } else if let Some(live) = function.live.clone()
                && live.artefacts().is_none()
            {
                let (pool, stop) = (self.pool.clone(), self.stop.clone());
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = pool.prepare(&live) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        }
    }

    /// Gives up what is under way, to be taken up at the next start.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Begins the deploy that a record awaits.
    pub(super) fn start(&self, record: &FunctionRecord) {
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

    pub(super) fn cancel(&self, key: &str) {
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
