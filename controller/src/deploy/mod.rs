//! Changes of functions and layers, and deploys: from a package to a version that can run.
//!
//! * [`packages`]: stores packages by content hash.
//! * [`source`]: the input of a deploy.
//! * [`host`]: the fingerprint of a snapshot: kernel, images, sandbox program, kind of host.
//! * [`snapshot`]: boots a microVM, and writes the snapshot of one.
//! * [`builder`]: makes runtime snapshots, function snapshots and images.
//! * [`control`]: creates, updates and deletes functions, one change at a time.
//! * [`intake`]: checks packages in requests.
//! * [`publish`]: publishes and deletes versions. [`aliases`]: changes aliases.
//! * [`concurrency`]: changes reserved concurrency.
//! * [`provisioning`]: changes provisioned concurrency.
//! * [`annotations`]: changes tags and policies of functions.
//! * [`layers`]: publishes and deletes layer versions.
//! * [`urls`]: changes function URLs.
//! * [`background`]: runs deploys in the background.
//! * [`rebuilder`]: rebuilds artefacts that can't be used any more.

mod aliases;
mod annotations;
mod background;
mod builder;
mod concurrency;
mod control;
mod error;
mod host;
mod intake;
mod layers;
mod packages;
mod provisioning;
mod publish;
mod rebuilder;
mod snapshot;
mod source;
mod urls;

pub(crate) use aliases::AliasChange;
pub(crate) use builder::{Builder, Times};
pub(crate) use control::{CodeUpdate, ControlError, Deployer};
pub(crate) use error::DeployError;
pub(crate) use host::Host;
pub(crate) use packages::Packages;
pub(crate) use publish::Publish;
pub(crate) use rebuilder::Rebuilder;
pub(crate) use source::Source;
pub(crate) use urls::{UrlChange, UrlError};
