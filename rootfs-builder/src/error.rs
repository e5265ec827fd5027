//! The error type of the builders: the part that failed, with that part's own error.

use crate::cache::CacheError;
use crate::command::CommandError;
use crate::erofs::ErofsError;
use crate::kernel::KernelError;
use crate::runtime::RuntimeError;
use crate::space::SpaceError;

/// Why a kernel or a runtime image could not be built or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The artefact cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A program that the build runs failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The image could not be made from the finished tree.
    #[error(transparent)]
    Erofs(#[from] ErofsError),
    /// The kernel build failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The runtime image build failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// There is not enough disk space.
    #[error(transparent)]
    Space(#[from] SpaceError),
}

/// Result of the builders.
pub type Result<T> = std::result::Result<T, Error>;
