//! A function's URLs: made, changed, removed. Nothing is deployed for them.

use uuid::Uuid;

use super::control::{ControlError, Deployer, now};
use crate::function::{AuthType, Cors, FunctionName, FunctionUrl, InvokeMode};
use crate::registry::Function;

/// Why a change of a URL was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UrlError {
    /// As for all changes.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It has one.
    #[error("there is a URL already")]
    Exists,
    /// It has none.
    #[error("there is no URL")]
    None,
}

/// What is to become of a URL; what is `None` stays as it is.
#[derive(Debug, Default)]
pub(crate) struct UrlChange {
    pub(crate) auth: Option<AuthType>,
    pub(crate) cors: Option<Cors>,
    pub(crate) mode: Option<InvokeMode>,
}

impl Deployer {
    /// A URL for `$LATEST`, or for the alias `qualifier`.
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

/// Whether there is what a URL is for. To Lambda an alias that is not there is no function.
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
    fn an_alias_that_is_not_there_is_no_function() {
        let function = Function::new(test_record("f"));
        check_alias(&function, "").unwrap();
        let refused = check_alias(&function, "gone");
        assert!(matches!(refused, Err(ControlError::NotFound)));
    }
}
