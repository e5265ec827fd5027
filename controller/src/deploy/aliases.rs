//! Creates, changes and deletes aliases. They need no deploy.

use std::sync::Arc;

use super::control::{ControlError, Deployer, new_revision};
use crate::function::{AliasName, AliasRecord, FunctionName, VersionId, Weighted};
use crate::registry::Function;

/// A change of an alias; `None` keeps a member as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct AliasChange {
    pub(crate) version: Option<VersionId>,
    pub(crate) description: Option<String>,
    /// `Some(None)` removes the second version.
    pub(crate) additional: Option<Option<Weighted>>,
    /// The revision that the client expects.
    pub(crate) revision: Option<String>,
}

impl Deployer {
    pub(crate) async fn create_alias(
        &self,
        name: &FunctionName,
        alias: AliasName,
        record: AliasRecord,
    ) -> Result<Arc<Function>, ControlError> {
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        check(&function, &record)?;
        if function.record.aliases.contains_key(&alias) {
            return Err(ControlError::AliasExists(alias));
        }
        let mut function = Function::clone(&function);
        let record = AliasRecord {
            revision_id: new_revision(),
            ..record
        };
        function.record.aliases.insert(alias, record);
        Ok(writer.put(function).await?)
    }

    pub(crate) async fn update_alias(
        &self,
        name: &FunctionName,
        alias: &AliasName,
        change: AliasChange,
    ) -> Result<Arc<Function>, ControlError> {
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        let mut function = Function::clone(&function);
        let known = function.record.aliases.get(alias);
        let mut record = known
            .cloned()
            .ok_or_else(|| ControlError::NoAlias(alias.clone()))?;
        if change
            .revision
            .is_some_and(|seen| seen != record.revision_id)
        {
            return Err(ControlError::Revision);
        }
        if let Some(version) = change.version {
            record.version = version;
        }
        if let Some(description) = change.description {
            record.description = description;
        }
        if let Some(additional) = change.additional {
            record.additional = additional;
        }
        check(&function, &record)?;
        record.revision_id = new_revision();
        function.record.aliases.insert(alias.clone(), record);
        let function = writer.put(function).await?;
        self.provision(&function);
        Ok(function)
    }

    /// Deletes an alias. Deleting one that does not exist succeeds.
    pub(crate) async fn delete_alias(
        &self,
        name: &FunctionName,
        alias: &AliasName,
    ) -> Result<(), ControlError> {
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        if !function.record.aliases.contains_key(alias) {
            return Ok(());
        }
        let mut function = Function::clone(&function);
        function.record.aliases.remove(alias);
        function.record.policies.remove(&alias.to_string());
        function.record.urls.remove(&alias.to_string());
        function.record.provisioned.remove(&alias.to_string());
        let function = writer.put(function).await?;
        self.provision(&function);
        Ok(())
    }
}

/// Checks the versions of an alias.
fn check(function: &Function, record: &AliasRecord) -> Result<(), ControlError> {
    let exists = |version| match version {
        VersionId::Number(number) if !function.versions.contains_key(&number) => {
            Err(ControlError::NoVersion(version))
        }
        _ => Ok(()),
    };
    exists(record.version)?;
    let Some(Weighted { number, .. }) = record.additional else {
        return Ok(());
    };
    let additional = VersionId::Number(number);
    if record.version == VersionId::Latest {
        return Err(ControlError::Untyped(
            "$LATEST is not supported for an alias pointing to more than 1 version".into(),
        ));
    }
    if record.version == additional {
        return Err(ControlError::Invalid(format!(
            "Invalid function version {number}. Function version {number} is already included in \
             routing configuration."
        )));
    }
    exists(additional)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Published, test_record, test_version_record};

    fn alias(version: VersionId, additional: Option<u32>) -> AliasRecord {
        AliasRecord {
            version,
            description: String::new(),
            additional: additional.map(|number| Weighted {
                number,
                weight: 0.5,
            }),
            revision_id: String::new(),
        }
    }

    #[test]
    fn the_versions_of_an_alias_must_exist_and_differ() {
        let mut function = Function::new(test_record("f"));
        for number in [1, 2] {
            let record = test_version_record(number);
            let published = Published { record, live: None };
            function.versions.insert(number, Arc::new(published));
        }
        let (one, latest) = (VersionId::Number(1), VersionId::Latest);
        for (version, additional) in [(one, None), (latest, None), (one, Some(2))] {
            check(&function, &alias(version, additional)).unwrap();
        }
        for (version, additional) in [
            (VersionId::Number(3), None),
            (one, Some(3)),
            (one, Some(1)),
            (latest, Some(1)),
        ] {
            assert!(check(&function, &alias(version, additional)).is_err());
        }
    }
}
