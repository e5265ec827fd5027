//! The error of the builders: which part failed, with that part's own error.

use crate::cache::CacheError;
use crate::command::CommandError;
use crate::erofs::ErofsError;
use crate::kernel::KernelError;
use crate::runtime::RuntimeError;
use crate::space::SpaceError;

/// Why a kernel or a runtime image could not be built or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The artefact cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A program that the build runs.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Making the image out of the finished tree.
    #[error(transparent)]
    Erofs(#[from] ErofsError),
    /// The kernel build.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The runtime image build.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Not enough room.
    #[error(transparent)]
    Space(#[from] SpaceError),
}

/// Result of the builders.
pub type Result<T> = std::result::Result<T, Error>;
