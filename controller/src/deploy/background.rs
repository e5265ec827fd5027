//! Runs deploys in the background. A change starts a deploy, and a start of the controller restarts the
//! deploys that an earlier process has not finished.
//!
//! Each deploy has a key. Its result counts only if the function's record still awaits that key.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::control::{ControlError, Deployer, new_revision};
use super::error::DeployError;
use super::intake::ImageGuard;
use super::source::Source;
use crate::function::{
    Artefacts, Code, Deployed, FunctionConfig, FunctionName, Incarnation, State, Status,
    UpdateStatus, Version, VersionContent, VersionId,
};
use crate::locks::lock;
use crate::registry::{Function, RegistryError};

/// The result of a successful deploy.
struct Built {
    config: FunctionConfig,
    code: Code,
    /// It owns them until a version does.
    artefacts: Arc<Artefacts>,
    /// Whether an earlier deploy has made them.
    reused: bool,
}

impl Built {
    fn version(
        self,
        incarnation: Incarnation,
        name: FunctionName,
        id: VersionId,
        revision: &str,
    ) -> Arc<Version> {
        let content = VersionContent {
            incarnation,
            name,
            id,
            config: self.config,
            code: self.code,
            revision_id: revision.into(),
        };
        Version::new(content, Some(self.artefacts))
    }
}

impl Deployer {
    /// Restarts the deploys that an earlier process has not finished, rebuilds artefacts that can't be used
    /// any more, and compares all others with their seal.
    pub(crate) fn resume(&self) {
        let (functions, _) = self.catalog.list(None, usize::MAX);
        let mut versions = Vec::new();
        for function in functions {
            self.provision(&function);
            if function.pending().next().is_some() {
                tracing::info!(
                    function = %function.record.name,
                    "the controller resumes a deploy that its restart interrupted"
                );
                self.start_all(&function);
            }
            versions.extend(function.all_live().cloned());
        }
        // One after another: first the versions to rebuild, then those to compare, and `$LATEST` first
        // in both. An invocation meanwhile prepares its version itself.
        versions.sort_by_key(|version| (version.artefacts().is_some(), version.id));
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

    /// Cancels all running deploys. The next start restarts them.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Starts the deploys that a function awaits, unless they are running.
    pub(super) fn start_all(&self, function: &Function) {
        for (version, key) in function.pending() {
            if !self.running().contains_key(key) {
                self.start(&function.record.name, version, key);
            }
        }
    }

    fn start(&self, name: &FunctionName, version: VersionId, key: &str) {
        // Within the span of the request that has changed the function, if this process has answered it.
        let span = tracing::error_span!("deploy", function = %name, %version, key);
        let (name, key) = (name.clone(), key.to_owned());
        let cancel = self.stop.child_token();
        self.running().insert(key.clone(), cancel.clone());
        let this = self.clone();
        let began = Instant::now();
        let deploy = async move {
            let built = tokio::select! {
                built = this.build(&name, version, &key) => built,
                () = cancel.cancelled() => Err(DeployError::Cancelled),
            };
            this.running().remove(&key);
            if built.is_ok() {
                this.metrics.deployed(began.elapsed());
            }
            if let Err(error) = this.finish(&name, version, &key, built).await {
                // The function stays pending, and the next start restarts the deploy.
                tracing::error!(%error, "the controller could not store the result of a deploy");
            }
        };
        self.tasks.spawn(deploy.instrument(span));
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        lock(&self.running)
    }

    pub(super) fn cancel(&self, key: &str) {
        if let Some(token) = self.running().remove(key) {
            token.cancel();
        }
    }

    /// Ends the deploy of `$LATEST` that is under way, if one is: it fails as given up. Its entry stays
    /// until the task has ended, so that no second one begins with the same files.
    pub(crate) fn give_up(&self, name: &FunctionName) -> Result<(), ControlError> {
        let function = self.catalog.get(name).ok_or(ControlError::NotFound)?;
        let pending = function.record.pending_deploy.as_ref();
        if let Some(token) = pending.and_then(|key| self.running().get(key).cloned()) {
            token.cancel();
        }
        Ok(())
    }

    async fn build(
        &self,
        name: &FunctionName,
        version: VersionId,
        key: &str,
    ) -> Result<Built, DeployError> {
        let function = self.catalog.get(name).ok_or(DeployError::Cancelled)?;
        let (config, code) = match version {
            VersionId::Latest => (&function.record.config, &function.record.code),
            VersionId::Number(number) => {
                let published = function.versions.get(&number);
                let record = &published.ok_or(DeployError::Cancelled)?.record;
                (&record.config, &record.code)
            }
        };
        tracing::info!(runtime = config.runtime.id(), "a deploy begins");
        let source = Source {
            incarnation: &function.incarnation,
            name,
            version,
            config,
            code,
            key,
            replaces: version == VersionId::Latest && function.live.as_ref().is_some_and(works),
        };
        let live: Vec<_> = function.all_live().filter_map(|v| v.artefacts()).collect();
        let reused = self.builder.reuse(source, &live).await;
        // Or they would keep files of versions that are replaced meanwhile.
        drop(live);
        let (artefacts, reused) = match reused {
            Some(artefacts) => (artefacts, true),
            None => (self.builder.build(source).await?, false),
        };
        Ok(Built {
            config: config.clone(),
            code: code.clone(),
            artefacts,
            reused,
        })
    }

    async fn finish(
        &self,
        name: &FunctionName,
        version: VersionId,
        key: &str,
        built: Result<Built, DeployError>,
    ) -> Result<(), RegistryError> {
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let writer = self.catalog.write().await;
        let awaits = |function: &Function| function.pending().any(|due| due == (version, key));
        let Some(before) = writer.get(name).filter(|function| awaits(function)) else {
            if let Ok(built) = built {
                built.artefacts.disown();
            }
            // The image may have been made when the package was checked.
            drop(ImageGuard(Some(self.builder.data.image(key))));
            self.metrics.deploy("superseded");
            return Ok(());
        };
        match &built {
            Ok(_) => {
                tracing::info!("a deploy has succeeded");
                self.metrics.deploy("successful");
            }
            Err(DeployError::Cancelled) => {
                tracing::info!("the controller has given up a deploy");
                self.metrics.deploy("superseded");
                drop(ImageGuard(Some(self.builder.data.image(key))));
            }
            Err(error) => {
                // As a string, which is quoted in the log: it may contain text of a guest, and a line
                // break in it could forge a log line.
                let error = error.to_string();
                tracing::warn!(error, "a deploy has failed");
                self.metrics.deploy("failed");
                drop(ImageGuard(Some(self.builder.data.image(key))));
            }
        }
        let mut function = Function::clone(&before);
        match version {
            VersionId::Latest => settle_latest(&mut function, built),
            VersionId::Number(number) => settle_version(&mut function, number, built),
        }
        let function = writer.put(function).await?;
        self.provision(&function);
        if let Some(former) = &before.live
            && !function.all_live().any(|live| Arc::ptr_eq(live, former))
        {
            if let Some(now) = &function.live {
                self.builder.kept.replaced(former, now);
            }
            self.pool.retire(former);
        }
        self.drop_packages(&writer, &before).await;
        Ok(())
    }
}

/// Whether a version's init has not failed.
fn works(version: &Arc<Version>) -> bool {
    let artefacts = version.artefacts();
    artefacts.is_none_or(|artefacts| artefacts.failed_init().is_none())
}

/// Records the result of a deploy of `$LATEST`. After a failed update, the old version keeps serving.
fn settle_latest(function: &mut Function, built: Result<Built, DeployError>) {
    let record = &mut function.record;
    record.pending_deploy = None;
    // The state has changed, so the revision changes too.
    record.revision_id = new_revision();
    match built {
        Ok(built) => {
            record.deployed = Some(Deployed {
                config: built.config.clone(),
                code: built.code.clone(),
                made: built.artefacts.made(),
                snapshot_reused: built.reused,
            });
            record.state = Status::plain(State::Active);
            record.last_update = Some(Status::plain(UpdateStatus::Successful));
            let (life, name) = (function.incarnation.clone(), record.name.clone());
            let version = built.version(life, name, VersionId::Latest, &record.revision_id);
            function.live = Some(version);
        }
        Err(error) => {
            let (reason, code) = (error.to_string(), error.reason_code());
            if record.last_update.is_some() {
                record.last_update =
                    Some(Status::because(UpdateStatus::Failed, reason.clone(), code));
            }
            if record.deployed.is_none() {
                record.state = Status::because(State::Failed, reason, code);
            }
        }
    }
}

/// Records the result of a deploy of a published version.
fn settle_version(function: &mut Function, number: u32, built: Result<Built, DeployError>) {
    let (life, name) = (function.incarnation.clone(), function.record.name.clone());
    let Some(published) = function.published_mut(number) else {
        return;
    };
    let record = &mut published.record;
    record.pending_deploy = None;
    match built {
        Ok(built) => {
            record.made = Some(built.artefacts.made());
            record.state = Status::plain(State::Active);
            let id = VersionId::Number(number);
            published.live = Some(built.version(life, name, id, &record.revision_id));
        }
        Err(error) => {
            record.state = Status::because(State::Failed, error.to_string(), error.reason_code());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::builder::tests::{Fixture, KEY};
    use super::*;
    use crate::process_log::{LogFormat, capture};

    /// A line about a boot or a snapshot did not say for which function it was.
    #[tokio::test]
    async fn every_line_of_a_deploy_has_its_function_version_key_and_request_id() {
        let captured = capture::log(LogFormat::Json, "info");
        let (deployer, mut record, _folder) = Fixture::new().deployer();
        std::fs::write(deployer.builder.data.image(KEY), "code").unwrap();
        // The second has no image and no package.
        for key in [KEY, "f-111111111111"] {
            record.pending_deploy = Some(key.into());
            let function = Function::new(record.clone());
            let function = deployer.catalog.write().await.put(function).await.unwrap();
            let request = tracing::error_span!("request", request_id = format!("of {key}"));
            request.in_scope(|| deployer.start_all(&function));
            while !deployer.tasks.is_empty() {
                tokio::task::yield_now().await;
            }
        }
        for (message, keys) in [
            ("a deploy begins", &[KEY, "f-111111111111"][..]),
            ("the controller makes a runtime snapshot", &[KEY]),
            ("a guest has booted", &[KEY]),
            ("a deploy has succeeded", &[KEY]),
            ("a deploy has failed", &["f-111111111111"]),
        ] {
            let lines = captured.lines(message);
            assert_eq!(lines.len(), keys.len(), "{message}: {}", captured.text());
            for (line, key) in lines.iter().zip(keys) {
                let field = |name| capture::field(line, name);
                assert_eq!(field("key"), key, "{line}");
                assert_eq!(field("function"), "f", "{line}");
                assert_eq!(field("version"), "$LATEST", "{line}");
                assert_eq!(field("request_id"), &format!("of {key}"), "{line}");
            }
        }
    }
}
