//! Changes a function's tags and policies, which do not affect how it runs.

use std::collections::BTreeMap;

use super::change::Change;
use super::control::{ControlError, new_revision};
use crate::function::{AliasName, LATEST, Statement, VersionId, policy};
use crate::registry::Function;

/// Changes a function's tags; `wish` may refuse.
pub(crate) fn change_tags<E>(
    change: &mut Change<'_>,
    wish: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), E>,
) -> Result<(), E> {
    wish(&mut change.function.record.tags)?;
    change.function.record.revision_id = new_revision();
    Ok(())
}

/// Adds a permission to the policy of a function, a version or an alias.
pub(crate) fn grant(
    change: &mut Change<'_>,
    qualifier: Option<&str>,
    statement: Statement,
    revision: Option<&str>,
) -> Result<(), ControlError> {
    renew_revision(&mut change.function, qualifier, revision)?;
    let key = qualifier.unwrap_or(LATEST).to_owned();
    let policies = &mut change.function.record.policies;
    policy::add(policies.entry(key).or_default(), statement)?;
    Ok(())
}

/// Removes a permission.
pub(crate) fn revoke(
    change: &mut Change<'_>,
    qualifier: Option<&str>,
    sid: &str,
    revision: Option<&str>,
) -> Result<(), ControlError> {
    let key = qualifier.unwrap_or(LATEST);
    let policies = &mut change.function.record.policies;
    let statements = policies.entry(key.to_owned()).or_default();
    policy::remove(statements, sid)?;
    if statements.is_empty() {
        policies.remove(key);
    }
    renew_revision(&mut change.function, qualifier, revision)
}

/// Sets a new revision of the function, version or alias with this policy, if `seen` is the current
/// revision or `None`.
fn renew_revision(
    function: &mut Function,
    qualifier: Option<&str>,
    seen: Option<&str>,
) -> Result<(), ControlError> {
    let revision = match qualifier.map(VersionId::parse) {
        None | Some(Ok(VersionId::Latest)) => &mut function.record.revision_id,
        Some(Ok(VersionId::Number(number))) => {
            let version = function.published_mut(number);
            &mut version.ok_or(ControlError::NotFound)?.record.revision_id
        }
        Some(Err(_)) => {
            let alias = AliasName::parse(qualifier.unwrap_or_default());
            let alias = alias.map_err(|_| ControlError::NotFound)?;
            match function.record.aliases.get_mut(&alias) {
                Some(record) => &mut record.revision_id,
                None => return Err(ControlError::NoAlias(alias)),
            }
        }
    };
    if seen.is_some_and(|seen| seen != revision) {
        return Err(ControlError::Revision);
    }
    *revision = new_revision();
    Ok(())
}
