//! What a qualifier stands for: `$LATEST`, a published version, or an alias of one or two of them.

use std::sync::Arc;

use super::{Function, Published};
use crate::function::{AliasRecord, State, Version, VersionId};

/// What a qualifier stands for.
#[derive(Debug)]
pub(crate) enum Target<'a> {
    Latest,
    Published(&'a Arc<Published>),
    Alias(&'a AliasRecord),
}

impl Function {
    /// What a qualifier stands for, if it is there; none is `$LATEST`.
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

    /// A published version; `None` is `$LATEST`. What an alias points to can't be deleted.
    pub(crate) fn published(&self, version: VersionId) -> Option<&Arc<Published>> {
        match version {
            VersionId::Latest => None,
            VersionId::Number(number) => self.versions.get(&number),
        }
    }
}

impl Target<'_> {
    /// What an invocation runs on, or the state that it is in instead. An alias with weights draws
    /// anew each time.
    pub(crate) fn live(&self, function: &Function) -> Result<Arc<Version>, State> {
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
