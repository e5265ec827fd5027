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
}

impl Source<'_> {
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
