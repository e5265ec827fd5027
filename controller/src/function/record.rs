//! The registry's records of a function and its versions.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{
    Aliases, FailedInit, FunctionConfig, FunctionName, FunctionUrls, NoSnapshot, Policies,
    SharedGenerators,
};
use crate::hex::unhex;

/// The record of a function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FunctionRecord {
    pub(crate) name: FunctionName,
    /// The configuration of the last update. [`Self::deployed`] may still have an older one.
    pub(crate) config: FunctionConfig,
    pub(crate) code: Code,
    /// Changes on every write.
    pub(crate) revision_id: String,
    /// As Lambda writes it: `2026-11-22T08:00:00.000+0000`.
    pub(crate) last_modified: String,
    pub(crate) state: Status<State>,
    pub(crate) last_update: Option<Status<UpdateStatus>>,
    /// The deploy that is under way, or was when the process ended.
    pub(crate) pending_deploy: Option<String>,
    /// What serves; `None` before the first deploy has succeeded.
    pub(crate) deployed: Option<Deployed>,
    /// Number of the version that was published last, even if it has been deleted since.
    #[serde(default)]
    pub(crate) last_version: u32,
    #[serde(default)]
    pub(crate) aliases: Aliases,
    /// Lambda's reserved concurrency.
    #[serde(default)]
    pub(crate) reserved_concurrency: Option<u32>,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) policies: Policies,
    #[serde(default)]
    pub(crate) urls: FunctionUrls,
    /// Provisioned concurrency by version or alias.
    #[serde(default)]
    pub(crate) provisioned: BTreeMap<String, ProvisionedRecord>,
}

/// The provisioned concurrency of a version or alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProvisionedRecord {
    pub(crate) requested: u32,
    pub(crate) last_modified: String,
}

/// A published version: configuration and code never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VersionRecord {
    /// From 1 on.
    pub(crate) number: u32,
    /// The configuration of `$LATEST` when the version was published.
    pub(crate) config: FunctionConfig,
    pub(crate) code: Code,
    /// Replaces the configuration's description.
    pub(crate) description: String,
    pub(crate) revision_id: String,
    pub(crate) last_modified: String,
    pub(crate) state: Status<State>,
    /// The deploy that is under way, or was when the process ended.
    pub(crate) pending_deploy: Option<String>,
    /// The artefacts of the deploy; `None` before it has succeeded.
    pub(crate) made: Option<Made>,
}

/// A code package in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Code {
    /// SHA-256 of the ZIP file, 64 hexadecimal digits: its name in the store.
    pub(crate) sha256: String,
    /// Size of the ZIP file, in bytes.
    pub(crate) size: u64,
    /// Size of all files in it, in bytes; 0 if an earlier version of the controller stored the package.
    #[serde(default)]
    pub(crate) unpacked: u64,
}

impl Code {
    /// The hash as Lambda writes it.
    pub(crate) fn sha256_base64(&self) -> String {
        // Only a registry that was edited by hand can have an invalid hash.
        unhex::<32>(&self.sha256).map_or_else(String::new, |bytes| STANDARD.encode(bytes))
    }
}

/// The last successful deploy of `$LATEST`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deployed {
    pub(crate) config: FunctionConfig,
    pub(crate) code: Code,
    #[serde(flatten)]
    pub(crate) made: Made,
    /// Whether an earlier deploy has made the artefacts, so that this one did not run init.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) snapshot_reused: bool,
}

/// The record of a version's artefacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// The deploy's key, which is part of the file names.
    pub(crate) key: String,
    /// The fingerprint of the snapshot.
    pub(crate) fingerprint: String,
    /// The generators for which there is no function snapshot, so that init runs in each instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shared_generators: Option<SharedGenerators>,
    /// The failure for which there is no function snapshot: init is tried again in each instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed_init: Option<FailedInit>,
}

impl Made {
    /// Why there is no function snapshot; `None` if there is one.
    pub(crate) fn no_snapshot(&self) -> Option<NoSnapshot> {
        let failed = self.failed_init.clone().map(NoSnapshot::InitFailed);
        failed.or_else(|| {
            self.shared_generators
                .clone()
                .map(NoSnapshot::SharedGenerators)
        })
    }
}

/// A state with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status<S> {
    pub(crate) is: S,
    pub(crate) reason: Option<String>,
    pub(crate) reason_code: Option<String>,
}

impl<S> Status<S> {
    pub(crate) fn plain(is: S) -> Self {
        Self {
            is,
            reason: None,
            reason_code: None,
        }
    }

    pub(crate) fn because(is: S, reason: impl Into<String>, code: impl Into<String>) -> Self {
        Self {
            is,
            reason: Some(reason.into()),
            reason_code: Some(code.into()),
        }
    }
}

/// Lambda's `State`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    Pending,
    Active,
    Failed,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Active => "Active",
            Self::Failed => "Failed",
        }
    }
}

/// Lambda's `LastUpdateStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UpdateStatus {
    Successful,
    Failed,
    InProgress,
}

impl UpdateStatus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Successful => "Successful",
            Self::Failed => "Failed",
            Self::InProgress => "InProgress",
        }
    }
}
