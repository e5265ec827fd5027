//! From what somebody names to what is there: a function, a version of it.

use std::sync::Arc;

use super::names::Named;
use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::function::{AliasName, LATEST, Version};
use crate::registry::{Function, Target};

impl App {
    /// The function that somebody wants to change or to know about as a whole.
    pub(crate) fn find(&self, named: &Named) -> Result<Arc<Function>, ApiError> {
        named.latest(&self.place)?;
        self.function(named)
    }

    /// The function, whatever the qualifier.
    pub(crate) fn function(&self, named: &Named) -> Result<Arc<Function>, ApiError> {
        self.catalog
            .get(&named.name)
            .ok_or_else(|| ApiError::function_not_found(&named.arn(&self.place)))
    }

    /// What the qualifier stands for.
    pub(crate) fn target<'a>(
        &self,
        function: &'a Function,
        named: &Named,
    ) -> Result<Target<'a>, ApiError> {
        function
            .target(named.qualifier.as_deref())
            .ok_or_else(|| ApiError::function_not_found(&named.arn(&self.place)))
    }

    /// The same, where Lambda tells aliases that are not there from other qualifiers.
    pub(crate) fn target_or_alias<'a>(
        &self,
        function: &'a Function,
        named: &Named,
    ) -> Result<Target<'a>, ApiError> {
        self.target(function, named)
            .map_err(|_| self.no_target(named))
    }

    /// The qualifier stands for nothing: for no alias, if it could be one, or for no version.
    pub(crate) fn no_target(&self, named: &Named) -> ApiError {
        let arn = named.arn(&self.place);
        match named.qualifier.as_deref().map(AliasName::parse) {
            Some(Ok(_)) => ApiError::alias_not_found(&arn),
            _ => ApiError::function_not_found(&arn),
        }
    }

    /// The function, where Lambda says which version of one that is not there was meant.
    pub(crate) fn function_by_version(&self, named: &Named) -> Result<Arc<Function>, ApiError> {
        self.catalog.get(&named.name).ok_or_else(|| {
            let qualifier = named.qualifier.as_deref().unwrap_or(LATEST);
            let arn = self.place.qualified_arn(&named.name, qualifier);
            ApiError::function_not_found(&arn)
        })
    }

    /// The version that an invocation runs on.
    pub(crate) fn find_active(&self, named: &Named) -> Result<Arc<Version>, ApiError> {
        let function = self.function_by_version(named)?;
        let target = self.target(&function, named)?;
        target.live(&function).map_err(ApiError::state)
    }
}
