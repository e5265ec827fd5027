//! Resolves qualifiers: `$LATEST`, a published version, or an alias for one or two versions.

use std::sync::Arc;

use super::{Function, Published};
use crate::function::{AliasRecord, State, Version, VersionId};

/// What a qualifier names.
#[derive(Debug)]
pub(crate) enum Target<'a> {
    Latest,
    Published(&'a Arc<Published>),
    Alias(&'a AliasRecord),
}

/// Why a function has no version that could run an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoVersion {
    /// There is no such version or alias.
    Missing,
    /// The version is in this state.
    State(State),
}

impl Function {
    /// The version that runs an invocation with this qualifier. An alias with weights chooses at random
    /// in each call.
    pub(crate) fn version_to_run(
        &self,
        qualifier: Option<&str>,
    ) -> Result<Arc<Version>, NoVersion> {
        let target = self.target(qualifier).ok_or(NoVersion::Missing)?;
        target.live(self).map_err(NoVersion::State)
    }

    /// Resolves a qualifier; no qualifier is `$LATEST`. `None` if there is no such version or alias.
    pub(crate) fn target(&self, qualifier: Option<&str>) -> Option<Target<'_>> {
        let Some(qualifier) = qualifier else {
            return Some(Target::Latest);
        };
        match VersionId::parse(qualifier) {
            Ok(VersionId::Latest) => Some(Target::Latest),
            Ok(VersionId::Number(number)) => self.versions.get(&number).map(Target::Published),
            Err(_) => self.record.aliases.get(qualifier).map(Target::Alias),
        }
    }

    /// The published version with this number. For the version of an alias, `None` means `$LATEST`,
    /// because a version to which an alias points can't be deleted.
    pub(crate) fn published(&self, version: VersionId) -> Option<&Arc<Published>> {
        match version {
            VersionId::Latest => None,
            VersionId::Number(number) => self.versions.get(&number),
        }
    }
}

impl Target<'_> {
    /// The version that runs an invocation, or the state of one that can't.
    fn live(&self, function: &Function) -> Result<Arc<Version>, State> {
        let chosen = match self {
            Self::Latest => None,
            Self::Published(published) => Some(*published),
            Self::Alias(alias) => function.published(alias.draw()),
        };
        let (live, state) = match chosen {
            Some(published) => (&published.live, &published.record.state),
            None => (&function.live, &function.record.state),
        };
        live.clone().ok_or(state.is)
    }
}
