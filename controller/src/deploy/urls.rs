//! Creates, changes and deletes function URLs. They need no deploy.

use uuid::Uuid;

use super::change::Change;
use super::control::{ControlError, now};
use crate::function::{AuthType, Cors, FunctionUrl, InvokeMode};
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

/// Creates a URL for `$LATEST` (an empty `qualifier`) or for an alias.
pub(crate) fn create(
    change: &mut Change<'_>,
    qualifier: &str,
    auth: AuthType,
    wish: UrlChange,
) -> Result<FunctionUrl, UrlError> {
    check_alias(&change.function, qualifier)?;
    // A request to a URL has no tenant.
    if change.function.record.config.tenant_isolation {
        let refused = "Function URLs are not supported for functions with tenant isolation mode";
        return Err(ControlError::Invalid(refused.into()).into());
    }
    let urls = &mut change.function.record.urls;
    if urls.contains_key(qualifier) {
        return Err(UrlError::Exists);
    }
    let now = now();
    let url = FunctionUrl {
        id: Uuid::new_v4().simple().to_string(),
        auth,
        cors: wish.cors,
        mode: wish.mode.unwrap_or_default(),
        created: now.clone(),
        modified: now,
    };
    urls.insert(qualifier.into(), url.clone());
    Ok(url)
}

pub(crate) fn update(
    change: &mut Change<'_>,
    qualifier: &str,
    wish: UrlChange,
) -> Result<FunctionUrl, UrlError> {
    check_alias(&change.function, qualifier)?;
    let urls = &mut change.function.record.urls;
    let url = urls.get_mut(qualifier).ok_or(UrlError::None)?;
    url.auth = wish.auth.unwrap_or(url.auth);
    url.cors = wish.cors.or(url.cors.take());
    url.mode = wish.mode.unwrap_or(url.mode);
    url.modified = now();
    Ok(url.clone())
}

pub(crate) fn delete(change: &mut Change<'_>, qualifier: &str) -> Result<(), UrlError> {
    let urls = &mut change.function.record.urls;
    urls.remove(qualifier).map(drop).ok_or(UrlError::None)
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
