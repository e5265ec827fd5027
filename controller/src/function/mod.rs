//! The types of a function: its name, its configuration, its record in the registry, and the versions that
//! can run.

mod alias;
mod arn;
mod artefacts;
mod config;
mod incarnation;
mod layer;
mod logging;
mod name;
mod no_snapshot;
pub(crate) mod policy;
mod qualifier;
mod record;
mod seal;
mod shared_generators;
mod tenant;
mod url;
mod version;

pub(crate) use alias::{AliasName, AliasRecord, Aliases, Weighted};
pub(crate) use arn::{is_account, is_partition, is_region};
#[cfg(test)]
pub(crate) use artefacts::tests::artefacts_in;
pub(crate) use artefacts::{
    ArtefactFiles, Artefacts, Fingerprints, InstanceInit, SnapshotFiles, StartsFrom, snapshot_files,
};
pub(crate) use config::{Environment, FunctionConfig, Runtime};
pub(crate) use incarnation::Incarnation;
pub(crate) use layer::{LayerName, LayerPolicy, LayerRecord, LayerUse, LayerVersion};
pub(crate) use logging::{APPLICATION_LEVELS, LogFormat, Logging, SystemLevel, new_log_stream};
pub(crate) use name::{ArnScope, FunctionName};
pub(crate) use no_snapshot::{FailedInit, NoSnapshot};
pub(crate) use policy::{
    Conditions, MAX_POLICY, Policies, PolicyError, Statement, document as policy_document,
};
pub(crate) use qualifier::{LATEST, VersionId};
pub(crate) use record::{
    Code, Deployed, FunctionRecord, Made, ProvisionedRecord, State, Status, UpdateStatus,
    VersionRecord,
};
pub(crate) use seal::{SealError, Sealed, check_artefact};
pub(crate) use shared_generators::SharedGenerators;
#[cfg(test)]
pub(crate) use shared_generators::tests::found as shared_generator;
pub(crate) use tenant::{MAX_TENANT_ID, TenantId};
pub(crate) use url::{AuthType, Cors, FunctionUrl, FunctionUrls, InvokeMode};
pub(crate) use version::{Version, VersionContent};
