//! Changes a function's tags and policies, which do not affect how it runs.

use std::collections::BTreeMap;

use super::control::{ControlError, Deployer, new_revision};
use crate::function::{AliasName, FunctionName, LATEST, Statement, VersionId, policy};
use crate::registry::Function;

impl Deployer {
    /// Changes a function's tags; `change` may refuse.
    pub(crate) async fn change_tags<E: From<ControlError>>(
        &self,
        name: &FunctionName,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), E>,
    ) -> Result<(), E> {
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        let mut function = Function::clone(&function);
        change(&mut function.record.tags)?;
        function.record.revision_id = new_revision();
        writer.put(function).await.map_err(ControlError::Registry)?;
        Ok(())
    }

    /// Adds a permission to the policy of a function, a version or an alias.
    pub(crate) async fn grant(
        &self,
        name: &FunctionName,
        qualifier: Option<&str>,
        statement: Statement,
        revision: Option<&str>,
    ) -> Result<(), ControlError> {
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        let mut function = Function::clone(&function);
        renew_revision(&mut function, qualifier, revision)?;
        let key = qualifier.unwrap_or(LATEST).to_owned();
        policy::add(function.record.policies.entry(key).or_default(), statement)?;
        writer.put(function).await?;
        Ok(())
    }

    /// Removes a permission.
    pub(crate) async fn revoke(
        &self,
        name: &FunctionName,
        qualifier: Option<&str>,
        sid: &str,
        revision: Option<&str>,
    ) -> Result<(), ControlError> {
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        let mut function = Function::clone(&function);
        let key = qualifier.unwrap_or(LATEST);
        let statements = function.record.policies.entry(key.to_owned()).or_default();
        policy::remove(statements, sid)?;
        if statements.is_empty() {
            function.record.policies.remove(key);
        }
        renew_revision(&mut function, qualifier, revision)?;
        writer.put(function).await?;
        Ok(())
    }
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
