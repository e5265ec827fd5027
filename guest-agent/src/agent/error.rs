//! Why the microVM cannot go on.

use std::io;

use nix::errno::Errno;

use crate::cgroup::CgroupError;
use crate::code::CodeError;
use crate::entropy::EntropyError;
use crate::host_link::LinkError;
use crate::lifecycle::HostError;
use crate::spawn::SpawnError;

/// An error that ends the microVM: the agent reports it to the host and powers off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    #[error("setting the clock: {0}")]
    Clock(Errno),
    #[error("attaching the code: {0}")]
    Code(#[from] CodeError),
    #[error("looking for random generators: {0}")]
    Generators(io::Error),
    #[error("mailbox: {0}")]
    Mailbox(io::Error),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
}

impl AgentError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    pub(super) fn errno(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Io {
            what,
            source: errno.into(),
        }
    }
}
