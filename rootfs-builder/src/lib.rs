//! Hearth's guest artefacts: the kernel, the runtime images, the function images.
//!
//! There are three kinds of build. Each makes one file from named inputs:
//!
//! - [`build_kernel`]: the distribution's kernel source, and this crate's configuration fragment and
//!   patches → an uncompressed `vmlinux`.
//! - [`build_runtime`]: Debian packages, the Lambda runtime client and the guest agent → a read-only
//!   EROFS image that the guest boots from.
//! - [`function::build_from_zip`], [`function::build_from_dir`]: a code package → an EROFS image for
//!   `/var/task`.
//!
//! The first two take minutes or seconds. Their results are kept in a [`cache::Cache`], under a key made
//! of everything that they depend on. [`cached_kernel`] and [`cached_runtime`] find the newest results
//! without building anything. A build that fails or is interrupted leaves nothing behind that could be
//! mistaken for an artefact.

pub mod cache;
mod command;
mod digest;
mod erofs;
mod error;
pub mod function;
mod kernel;
pub mod progress;
mod runtime;
mod space;

pub use cache::{Artefact, cached_kernel, cached_runtime};
pub use command::CommandError;
pub use erofs::ErofsError;
pub use error::{Error, Result};
pub use kernel::{KernelError, KernelOptions, build_kernel, build_kernel_from};
pub use progress::Progress;
pub use runtime::{MailboxFiles, Runtime, RuntimeError, UnknownRuntime, build_runtime, build_tree};
pub use space::SpaceError;
