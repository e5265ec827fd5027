//! What a function is: its name, its configuration, its record in the registry, and the version of
//! it that can run.

mod config;
mod name;
mod record;
mod seal;
mod version;

pub(crate) use config::{Environment, FunctionConfig, Runtime};
pub(crate) use name::{FunctionName, LATEST, Place};
pub(crate) use record::{Code, Deployed, FunctionRecord, State, Status, UpdateStatus};
pub(crate) use seal::{SealError, Sealed, check_artefact};
pub(crate) use version::{Artefacts, Fingerprints, SnapshotFiles, Version, snapshot_files};
