//! Publishes and deletes versions.

use std::sync::Arc;

use super::builder::new_key;
use super::control::{ControlError, Deployer, changeable, new_revision, now};
use crate::function::{FunctionName, State, Status, VersionId, VersionRecord};
use crate::registry::{Function, Published};

/// Options of a publication.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publish {
    /// Replaces the function's description.
    pub(crate) description: Option<String>,
    /// The hash of the code that the client expects, in base64.
    pub(crate) code_sha256: Option<String>,
    /// The revision that the client expects.
    pub(crate) revision: Option<String>,
}

impl Deployer {
    /// Publishes `$LATEST` as a version and starts its deploy. If `$LATEST` has not changed since the last
    /// publication, returns that version. Returns the function with the version's number.
    pub(crate) async fn publish(
        &self,
        name: &FunctionName,
        wish: Publish,
    ) -> Result<(Arc<Function>, u32), ControlError> {
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        let record = &function.record;
        changeable(record, wish.revision.as_deref())?;
        self.check_space()?;
        if record.state.is != State::Active {
            return Err(ControlError::State(record.state.is));
        }
        let current = record.code.sha256_base64();
        if let Some(seen) = wish.code_sha256.filter(|seen| *seen != current) {
            return Err(ControlError::Invalid(format!(
                "CodeSHA256 ({seen}) is different from current CodeSHA256 in $LATEST ({current}). \
                 Please try again with the CodeSHA256 in $LATEST."
            )));
        }
        let last = record.last_version;
        let unchanged = function.versions.get(&last).is_some_and(|version| {
            version.record.config == record.config && version.record.code == record.code
        });
        if unchanged {
            return Ok((function, last));
        }
        let mut function = Function::clone(&function);
        let number = self.add_version(&mut function, wish.description);
        function.record.revision_id = new_revision();
        let function = writer.put(function).await?;
        self.start_all(&function);
        Ok((function, number))
    }

    /// Adds a version with the code and configuration of `$LATEST`. The caller starts its deploy.
    pub(super) fn add_version(&self, function: &mut Function, description: Option<String>) -> u32 {
        let record = &mut function.record;
        record.last_version += 1;
        let number = record.last_version;
        let key = new_key(&record.name);
        self.link_image(record, &key);
        let version = VersionRecord {
            number,
            config: record.config.clone(),
            code: record.code.clone(),
            description: description.unwrap_or_else(|| record.config.description.clone()),
            revision_id: new_revision(),
            last_modified: now(),
            state: Status::because(State::Pending, "The function is being created.", "Creating"),
            pending_deploy: Some(key),
            made: None,
        };
        let version = Published {
            record: version,
            live: None,
        };
        function.versions.insert(number, Arc::new(version));
        number
    }

    /// Deletes a version. Running invocations continue to their end.
    pub(crate) async fn delete_version(
        &self,
        name: &FunctionName,
        number: u32,
    ) -> Result<(), ControlError> {
        let writer = self.catalog.write().await;
        let before = writer.get(name).ok_or(ControlError::NotFound)?;
        let aliases = before.record.aliases.iter();
        let pointing: Vec<String> = aliases
            .filter(|(_, alias)| alias.uses(VersionId::Number(number)))
            .map(|(name, _)| name.to_string())
            .collect();
        if !pointing.is_empty() {
            return Err(ControlError::Referenced(pointing));
        }
        let mut function = Function::clone(&before);
        let removed = function.versions.remove(&number);
        let version = removed.ok_or(ControlError::NotFound)?;
        function.record.policies.remove(&number.to_string());
        function.record.provisioned.remove(&number.to_string());
        let function = writer.put(function).await?;
        self.set_claim(&function);
        if let Some(key) = &version.record.pending_deploy {
            self.cancel(key);
        }
        if let Some(live) = &version.live {
            self.pool.retire(live);
        }
        self.drop_packages(&writer, &before).await;
        tracing::info!(
            function = %name,
            version = %VersionId::Number(number),
            "the controller has deleted a version"
        );
        Ok(())
    }
}
