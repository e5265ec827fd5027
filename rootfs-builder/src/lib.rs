//! Hearth's guest artefacts: the kernel, the runtime images, the function images.
//!
//! Three kinds of build, each from named inputs to one file:
//!
//! - [`build_kernel`]: the distribution's kernel source, the configuration
//!   fragment and the patches of this crate → an uncompressed `vmlinux`.
//! - [`build_runtime`]: Debian packages, the Lambda runtime client and the guest
//!   agent → a read-only EROFS image that the guest boots from.
//! - [`function::build_from_zip`], [`function::build_from_dir`]: a code package →
//!   an EROFS image for `/var/task`.
//!
//! The first two take minutes or seconds and live in a [`cache::Cache`] under a
//! key made of everything they depend on. [`cached_kernel`] and
//! [`cached_runtime`] find the newest ones without building anything. A failed
//! or interrupted build leaves nothing behind that could be mistaken for an
//! artefact.

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
pub use runtime::{MailboxFiles, Runtime, RuntimeError, UnknownRuntime, build_runtime};
pub use space::SpaceError;
