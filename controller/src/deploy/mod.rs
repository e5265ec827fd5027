//! Changes of functions and layers, and deploys: from a package to a version that can run.
//!
//! * [`packages`]: uploaded packages, by content hash.
//! * [`source`]: what a version is made of.
//! * [`host`]: what snapshots are bound to: kernel, images, sandbox, kind of host.
//! * [`snapshot`]: talking a microVM into a state worth keeping, and keeping it.
//! * [`builder`]: images and snapshots, made when needed: a [`runtime_snapshot`], then a
//!   [`function_snapshot`] from it.
//! * [`reuse`]: a deploy without a new snapshot. [`kept_snapshots`]: those of replaced code.
//! * [`control`]: create, update, delete: what the API asks for, one at a time, nothing lost.
//! * [`intake`]: the packages that come with it.
//! * [`publish`]: `$LATEST` becomes a version.
//! * [`change`]: changes of a function that need no deploy. The next five modules have a function for each.
//! * [`aliases`] point to versions.
//! * [`concurrency`]: what a function has for itself.
//! * [`provisioning`]: what of a function is kept ready.
//! * [`annotations`]: tags and policies.
//! * [`urls`]: by which HTTP clients reach a function.
//! * [`layers`]: what functions have at `/opt`.
//! * [`background`]: the deploys that follow from it all.
//! * [`progress`]: which phase each of them is in.
//! * [`unused_runtimes`]: runtime snapshots that no function uses are removed.
//! * [`rebuilder`]: files that can't be used any more are made anew.

pub(crate) mod aliases;
pub(crate) mod annotations;
mod background;
mod builder;
mod change;
pub(crate) mod concurrency;
mod control;
mod error;
mod function_snapshot;
mod host;
mod intake;
mod kept_snapshots;
mod layers;
mod packages;
mod progress;
pub(crate) mod provisioning;
mod publish;
mod rebuilder;
mod reuse;
mod runtime_snapshot;
mod snapshot;
mod source;
mod unused_runtimes;
pub(crate) mod urls;

pub(crate) use aliases::AliasChange;
pub(crate) use builder::{Builder, BuilderSettings, BuilderTools, Times};
pub(crate) use change::Change;
pub(crate) use control::{CodeUpdate, ControlError, Deployer};
pub(crate) use error::DeployError;
pub(crate) use host::Host;
pub(crate) use packages::Packages;
pub(crate) use progress::Progress;
pub(crate) use publish::Publish;
pub(crate) use rebuilder::Rebuilder;
pub(crate) use source::Source;
pub(crate) use urls::{UrlChange, UrlError};
