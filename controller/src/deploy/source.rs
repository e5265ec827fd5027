//! The input of a deploy.

use crate::function::{Code, FunctionConfig, FunctionName, Incarnation, VersionId};
use crate::logs::Origin;

/// The input of a deploy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The life of the function.
    pub(crate) incarnation: &'a Incarnation,
    pub(crate) name: &'a FunctionName,
    pub(crate) version: VersionId,
    pub(crate) config: &'a FunctionConfig,
    pub(crate) code: &'a Code,
    /// The deploy's key, which is part of the file names.
    pub(crate) key: &'a str,
    /// Whether another version of the code serves until this deploy has succeeded.
    pub(crate) replaces: bool,
}

impl Source<'_> {
    /// Whether the function serves although its init has failed: each invocation tries init again and gets
    /// the error, as on Lambda. It is not so if that would replace code that works, or if the author has
    /// asked for the snapshot of a published version.
    pub(super) fn serves_failed_init(&self) -> bool {
        !self.replaces && !self.config.snap_starts(self.version)
    }

    /// The origin of log records during init.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            incarnation: self.incarnation.clone(),
            function: self.name.clone(),
            version: self.version,
            request_id: None,
        }
    }
}
