//! Creates, changes and deletes aliases. They need no deploy.

use super::change::Change;
use super::control::{ControlError, new_revision};
use crate::function::{AliasName, AliasRecord, VersionId, Weighted};
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

pub(crate) fn create(
    change: &mut Change<'_>,
    alias: AliasName,
    record: AliasRecord,
) -> Result<(), ControlError> {
    check(&change.function, &record)?;
    let aliases = &mut change.function.record.aliases;
    if aliases.contains_key(&alias) {
        return Err(ControlError::AliasExists(alias));
    }
    let record = AliasRecord {
        revision_id: new_revision(),
        ..record
    };
    aliases.insert(alias, record);
    Ok(())
}

pub(crate) fn update(
    change: &mut Change<'_>,
    alias: AliasName,
    wish: AliasChange,
) -> Result<(), ControlError> {
    let known = change.function.record.aliases.get(&alias).cloned();
    let Some(mut record) = known else {
        return Err(ControlError::NoAlias(alias));
    };
    if wish.revision.is_some_and(|seen| seen != record.revision_id) {
        return Err(ControlError::Revision);
    }
    if let Some(version) = wish.version {
        record.version = version;
    }
    if let Some(description) = wish.description {
        record.description = description;
    }
    if let Some(additional) = wish.additional {
        record.additional = additional;
    }
    check(&change.function, &record)?;
    record.revision_id = new_revision();
    change.function.record.aliases.insert(alias, record);
    Ok(())
}

/// Deletes an alias. Deleting one that does not exist succeeds.
pub(crate) fn delete(change: &mut Change<'_>, alias: &AliasName) -> Result<(), ControlError> {
    let record = &mut change.function.record;
    if record.aliases.remove(alias).is_none() {
        change.write_nothing();
        return Ok(());
    }
    let qualifier = alias.to_string();
    record.policies.remove(&qualifier);
    record.urls.remove(&qualifier);
    record.provisioned.remove(&qualifier);
    Ok(())
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
    use std::sync::Arc;

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
