//! Publishes and deletes layer versions, and checks the layers of functions.

use bytes::Bytes;

use super::builder::new_key;
use super::control::{ControlError, Deployer, new_revision, now};
use super::error::DeployError;
use crate::function::{
    Code, FunctionConfig, LayerName, LayerPolicy, LayerRecord, LayerUse, LayerVersion, PolicyError,
    Statement, policy,
};
use crate::registry::Writer;

impl Deployer {
    /// Publishes a version of a layer; the first version creates the layer. Returns its number.
    pub(crate) async fn publish_layer(
        &self,
        name: LayerName,
        package: Bytes,
        describe: impl FnOnce(Code, String) -> LayerVersion,
    ) -> Result<(u32, LayerVersion), ControlError> {
        // The image is made only to check the archive. A deploy makes one image of all layers.
        self.check_space()?;
        let key = new_key(format_args!("layer-{name}"));
        let accepted = self.accept(key, package).await?;
        let writer = self.catalog.write().await;
        let mut record = writer.layer(&name).map_or_else(
            || LayerRecord {
                name: name.clone(),
                last_version: 0,
                versions: Default::default(),
            },
            |known| LayerRecord::clone(&known),
        );
        record.last_version += 1;
        let number = record.last_version;
        let version = describe(accepted.code.clone(), now());
        record.versions.insert(number, version.clone());
        let stored = self
            .builder
            .packages
            .put(&accepted.code, accepted.package.clone())
            .await;
        stored.map_err(DeployError::from)?;
        if let Err(error) = writer.put_layer(record).await {
            self.drop_package(&writer, &accepted.code.sha256).await;
            return Err(error.into());
        }
        Ok((number, version))
    }

    /// Deletes a version of a layer. Functions that use it keep it. Deleting a version that does not exist
    /// succeeds.
    pub(crate) async fn delete_layer(
        &self,
        name: &LayerName,
        number: u32,
    ) -> Result<(), ControlError> {
        let writer = self.catalog.write().await;
        let Some(record) = writer.layer(name) else {
            return Ok(());
        };
        let mut record = LayerRecord::clone(&record);
        let Some(version) = record.versions.remove(&number) else {
            return Ok(());
        };
        writer.put_layer(record).await?;
        self.drop_package(&writer, &version.code.sha256).await;
        Ok(())
    }

    /// Adds a permission to the policy of a version. Returns the policy's revision.
    pub(crate) async fn grant_layer(
        &self,
        name: &LayerName,
        number: u32,
        statement: Statement,
        seen: Option<&str>,
    ) -> Result<String, ControlError> {
        let add = |statements: &mut Vec<Statement>| policy::add(statements, statement);
        self.change_policy(name, number, seen, add).await
    }

    /// Removes a permission from the policy of a version.
    pub(crate) async fn revoke_layer(
        &self,
        name: &LayerName,
        number: u32,
        sid: &str,
        seen: Option<&str>,
    ) -> Result<(), ControlError> {
        let remove = |statements: &mut Vec<Statement>| policy::remove(statements, sid);
        self.change_policy(name, number, seen, remove).await?;
        Ok(())
    }

    /// Changes the policy of a version, if `seen` is its current revision or `None`.
    async fn change_policy(
        &self,
        name: &LayerName,
        number: u32,
        seen: Option<&str>,
        change: impl FnOnce(&mut Vec<Statement>) -> Result<(), PolicyError>,
    ) -> Result<String, ControlError> {
        let writer = self.catalog.write().await;
        let record = writer.layer(name).ok_or(ControlError::NotFound)?;
        let mut record = LayerRecord::clone(&record);
        let version = record.versions.get_mut(&number);
        let policy = &mut version.ok_or(ControlError::NotFound)?.policy;
        let mut statements = policy
            .as_ref()
            .map_or_else(Vec::new, |policy| policy.statements.clone());
        change(&mut statements)?;
        let revision = policy.as_ref().map(|policy| policy.revision_id.as_str());
        if seen.is_some() && seen != revision {
            return Err(ControlError::Revision);
        }
        let revision_id = new_revision();
        *policy = (!statements.is_empty()).then(|| LayerPolicy {
            statements,
            revision_id: revision_id.clone(),
        });
        writer.put_layer(record).await?;
        Ok(revision_id)
    }
}

/// Checks whether a function with this code may use the layers of its configuration.
pub(super) fn check_layers(
    writer: &Writer<'_>,
    code: &Code,
    config: &FunctionConfig,
) -> Result<(), ControlError> {
    for LayerUse { arn, code } in &config.layers {
        // The layer version may have been deleted since it was looked up.
        if !writer.uses_code(&code.sha256) {
            return Err(ControlError::Invalid(format!(
                "Layer version {arn} does not exist."
            )));
        }
    }
    let layers: u64 = config.layers.iter().map(|layer| layer.code.unpacked).sum();
    let size = code.unpacked + layers;
    let limit = hearth_rootfs::function::MAX_UNZIPPED_BYTES;
    if !config.layers.is_empty() && size > limit {
        return Err(ControlError::Invalid(format!(
            "Function code combined with layers exceeds the maximum allowed size of {limit} bytes. \
             The actual size is {size} bytes."
        )));
    }
    Ok(())
}
