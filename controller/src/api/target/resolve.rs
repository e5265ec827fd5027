//! Looks up the function and the version that a request names.

use std::sync::Arc;

use super::names::Named;
use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::http::request_id;
use crate::function::{AliasName, LATEST, Version};
use crate::registry::{Function, NoVersion, Target};

impl App {
    /// The function, for operations on the whole of it: no qualifier but `$LATEST` is allowed.
    pub(crate) fn find(&self, named: &Named) -> Result<Arc<Function>, ApiError> {
        named.latest(&self.arn_scope)?;
        self.function(named)
    }

    /// The function, with any qualifier.
    pub(crate) fn function(&self, named: &Named) -> Result<Arc<Function>, ApiError> {
        self.catalog
            .get(&named.name)
            .ok_or_else(|| ApiError::function_not_found(&named.arn(&self.arn_scope)))
    }

    /// `$LATEST`, the published version or the alias that the qualifier names.
    pub(crate) fn target<'a>(
        &self,
        function: &'a Function,
        named: &Named,
    ) -> Result<Target<'a>, ApiError> {
        function
            .target(named.qualifier.as_deref())
            .ok_or_else(|| ApiError::function_not_found(&named.arn(&self.arn_scope)))
    }

    /// The same, for operations whose error differs between a missing alias and a missing version.
    pub(crate) fn target_or_alias<'a>(
        &self,
        function: &'a Function,
        named: &Named,
    ) -> Result<Target<'a>, ApiError> {
        self.target(function, named)
            .map_err(|_| self.no_target(named))
    }

    /// The error for a qualifier that names nothing: a missing alias if it has the form of one, or else
    /// a missing version.
    pub(crate) fn no_target(&self, named: &Named) -> ApiError {
        let arn = named.arn(&self.arn_scope);
        match named.qualifier.as_deref().map(AliasName::parse) {
            Some(Ok(_)) => ApiError::alias_not_found(&arn),
            _ => ApiError::function_not_found(&arn),
        }
    }

    /// The function, for operations whose error for a missing function names a version too.
    pub(crate) fn function_by_version(&self, named: &Named) -> Result<Arc<Function>, ApiError> {
        self.catalog.get(&named.name).ok_or_else(|| {
            let qualifier = named.qualifier.as_deref().unwrap_or(LATEST);
            let arn = self.arn_scope.qualified_arn(&named.name, qualifier);
            ApiError::function_not_found(&arn)
        })
    }

    /// The version that runs an invocation.
    pub(crate) fn find_active(&self, named: &Named) -> Result<Arc<Version>, ApiError> {
        let function = self.function_by_version(named)?;
        let version = function.version_to_run(named.qualifier.as_deref());
        let version = version.map_err(|why| match why {
            NoVersion::Missing => ApiError::function_not_found(&named.arn(&self.arn_scope)),
            NoVersion::State(state) => ApiError::state(state),
        })?;
        request_id::runs_version(&version);
        Ok(version)
    }
}
