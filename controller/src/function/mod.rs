//! What a function is: its name, its configuration, its record in the registry, and the version of
//! it that can run.

mod alias;
mod config;
mod name;
mod qualifier;
mod record;
mod version;

pub(crate) use alias::{AliasName, AliasRecord, Aliases, Weighted};
pub(crate) use config::{Environment, FunctionConfig, Runtime};
pub(crate) use name::{FunctionName, Place};
pub(crate) use qualifier::{LATEST, VersionId};
pub(crate) use record::{
    Code, Deployed, FunctionRecord, Made, State, Status, UpdateStatus, VersionRecord,
};
pub(crate) use version::{Artefacts, Fingerprints, SnapshotFiles, Version, snapshot_files};
