//! What a version is made of.

use crate::function::{Code, FunctionConfig, FunctionName, VersionId};
use crate::logs::Origin;

/// What to make a version of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) name: &'a FunctionName,
    pub(crate) version: VersionId,
    pub(crate) config: &'a FunctionConfig,
    pub(crate) code: &'a Code,
    /// Names the files.
    pub(crate) key: &'a str,
}

impl Source<'_> {
    /// Whose the log records of its init are.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            function: self.name.clone(),
            version: self.version,
            request_id: None,
        }
    }
}
