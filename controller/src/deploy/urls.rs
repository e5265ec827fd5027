//! Creates, changes and deletes function URLs. They need no deploy.

use uuid::Uuid;

use super::control::{ControlError, Deployer, now};
use crate::function::{AuthType, Cors, FunctionName, FunctionUrl, InvokeMode};
use crate::registry::Function;

/// Why a change of a URL was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UrlError {
    /// An error that all changes may have.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The function or alias has a URL.
    #[error("there is a URL already")]
    Exists,
    /// The function or alias has no URL.
    #[error("there is no URL")]
    None,
}

/// A change of a URL; `None` keeps a member as it is.
#[derive(Debug, Default)]
pub(crate) struct UrlChange {
    pub(crate) auth: Option<AuthType>,
    pub(crate) cors: Option<Cors>,
    pub(crate) mode: Option<InvokeMode>,
}

impl Deployer {
    /// Creates a URL for `$LATEST` (an empty `qualifier`) or for an alias.
    pub(crate) async fn create_url(
        &self,
        name: &FunctionName,
        qualifier: &str,
        auth: AuthType,
        change: UrlChange,
    ) -> Result<FunctionUrl, UrlError> {
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        check_alias(&function, qualifier)?;
        if function.record.urls.contains_key(qualifier) {
            return Err(UrlError::Exists);
        }
        let now = now();
        let url = FunctionUrl {
            id: Uuid::new_v4().simple().to_string(),
            auth,
            cors: change.cors,
            mode: change.mode.unwrap_or_default(),
            created: now.clone(),
            modified: now,
        };
        let mut function = Function::clone(&function);
        function.record.urls.insert(qualifier.into(), url.clone());
        writer.put(function).await.map_err(ControlError::from)?;
        Ok(url)
    }

    pub(crate) async fn update_url(
        &self,
        name: &FunctionName,
        qualifier: &str,
        change: UrlChange,
    ) -> Result<FunctionUrl, UrlError> {
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        check_alias(&function, qualifier)?;
        let mut function = Function::clone(&function);
        let url = function
            .record
            .urls
            .get_mut(qualifier)
            .ok_or(UrlError::None)?;
        url.auth = change.auth.unwrap_or(url.auth);
        url.cors = change.cors.or(url.cors.take());
        url.mode = change.mode.unwrap_or(url.mode);
        url.modified = now();
        let url = url.clone();
        writer.put(function).await.map_err(ControlError::from)?;
        Ok(url)
    }

    pub(crate) async fn delete_url(
        &self,
        name: &FunctionName,
        qualifier: &str,
    ) -> Result<(), UrlError> {
        let writer = self.catalog.write().await;
        let function = writer.get(name).ok_or(ControlError::NotFound)?;
        let mut function = Function::clone(&function);
        if function.record.urls.remove(qualifier).is_none() {
            return Err(UrlError::None);
        }
        writer.put(function).await.map_err(ControlError::from)?;
        Ok(())
    }
}

/// Checks that the alias of a URL exists. Lambda's error for a missing alias is that of a missing function.
fn check_alias(function: &Function, qualifier: &str) -> Result<(), ControlError> {
    if qualifier.is_empty() || function.record.aliases.contains_key(qualifier) {
        return Ok(());
    }
    Err(ControlError::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_record;

    #[test]
    fn a_missing_alias_is_reported_as_a_missing_function() {
        let function = Function::new(test_record("f"));
        check_alias(&function, "").unwrap();
        let refused = check_alias(&function, "gone");
        assert!(matches!(refused, Err(ControlError::NotFound)));
    }
}
