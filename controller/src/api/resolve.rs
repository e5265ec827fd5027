//! From what somebody names to what is there: a function, a version of it.

use std::sync::Arc;

use super::configuration::Shown;
use super::error::ApiError;
use super::{App, Named};
use crate::function::{AliasRecord, State, Version, VersionId};
use crate::registry::{Function, Published};

/// What a qualifier stands for.
#[derive(Debug)]
pub(super) enum Target<'a> {
    Latest,
    Published(&'a Arc<Published>),
    Alias(&'a AliasRecord),
}

impl App {
    /// The function that somebody wants to change or to know about as a whole.
    pub(super) fn find(&self, named: &Named) -> Result<Arc<Function>, ApiError> {
        named.latest(&self.place)?;
        self.function(named)
    }

    /// The function, whatever the qualifier.
    pub(super) fn function(&self, named: &Named) -> Result<Arc<Function>, ApiError> {
        self.catalog
            .get(&named.name)
            .ok_or_else(|| ApiError::function_not_found(&named.arn(&self.place)))
    }

    /// What the qualifier stands for.
    pub(super) fn target<'a>(
        &self,
        function: &'a Function,
        named: &Named,
    ) -> Result<Target<'a>, ApiError> {
        let Some(qualifier) = &named.qualifier else {
            return Ok(Target::Latest);
        };
        match VersionId::parse(qualifier) {
            Ok(VersionId::Latest) => Some(Target::Latest),
            Ok(VersionId::Number(number)) => function.versions.get(&number).map(Target::Published),
            Err(_) => function
                .record
                .aliases
                .get(qualifier.as_str())
                .map(Target::Alias),
        }
        .ok_or_else(|| ApiError::function_not_found(&named.arn(&self.place)))
    }
}

impl<'a> Target<'a> {
    /// How it is shown, by the name that was asked for.
    pub(super) fn shown(&self, function: &'a Function, named: &Named) -> Shown<'a> {
        let shown = match self {
            Self::Latest => Shown::latest(&function.record),
            Self::Published(published) => Shown::published(function, published),
            Self::Alias(alias) => match alias.published(function) {
                Some(published) => Shown::published(function, published),
                None => Shown::latest(&function.record),
            },
        };
        shown.called(named.qualifier.clone())
    }

    /// What an invocation runs on, or the state that it is in instead.
    pub(super) fn live(&self, function: &'a Function) -> Result<Arc<Version>, State> {
        let chosen = match self {
            Self::Latest => None,
            Self::Published(published) => Some(*published),
            Self::Alias(alias) => published(function, alias.draw()),
        };
        let (live, state) = match chosen {
            Some(published) => (&published.live, &published.record.state),
            None => (&function.live, &function.record.state),
        };
        live.clone().ok_or(state.is)
    }
}

impl AliasRecord {
    /// The published version that it points to; `None` is `$LATEST`.
    pub(super) fn published<'a>(&self, function: &'a Function) -> Option<&'a Arc<Published>> {
        published(function, self.version)
    }
}

/// A published version; `None` is `$LATEST`. What an alias points to can't be deleted.
fn published(function: &Function, version: VersionId) -> Option<&Arc<Published>> {
    match version {
        VersionId::Latest => None,
        VersionId::Number(number) => function.versions.get(&number),
    }
}
