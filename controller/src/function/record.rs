//! A function as the registry keeps it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Aliases, FunctionConfig, FunctionName, FunctionUrls, Policies, SharedGenerators};
use crate::hex::unhex;

/// Everything about one function that outlives the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FunctionRecord {
    pub(crate) name: FunctionName,
    /// What the owner asked for last.
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
    /// What serves.
    pub(crate) deployed: Option<Deployed>,
    /// Number of the version that was published last, also when it was deleted since.
    #[serde(default)]
    pub(crate) last_version: u32,
    #[serde(default)]
    pub(crate) aliases: Aliases,
    /// All that it may run at once, and nobody else gets.
    #[serde(default)]
    pub(crate) reserved_concurrency: Option<u32>,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) policies: Policies,
    #[serde(default)]
    pub(crate) urls: FunctionUrls,
    /// What is kept ready, by the version or alias that it is wanted of.
    #[serde(default)]
    pub(crate) provisioned: BTreeMap<String, ProvisionedRecord>,
}

/// Instances that are to be kept ready.
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
    /// What `$LATEST` had when it was published.
    pub(crate) config: FunctionConfig,
    pub(crate) code: Code,
    /// In place of the configuration's.
    pub(crate) description: String,
    pub(crate) revision_id: String,
    pub(crate) last_modified: String,
    pub(crate) state: Status<State>,
    /// The deploy that is under way, or was when the process ended.
    pub(crate) pending_deploy: Option<String>,
    /// What serves.
    pub(crate) made: Option<Made>,
}

/// A code package in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Code {
    /// SHA-256 of the ZIP file, 64 hexadecimal digits: its name in the store.
    pub(crate) sha256: String,
    /// Size of the ZIP file, in bytes.
    pub(crate) size: u64,
    /// Sum of its files, in bytes; 0 for what came in before that was kept.
    #[serde(default)]
    pub(crate) unpacked: u64,
}

impl Code {
    /// The hash as Lambda writes it.
    pub(crate) fn sha256_base64(&self) -> String {
        // What is not one is from a registry that somebody has edited.
        unhex::<32>(&self.sha256).map_or_else(String::new, |bytes| STANDARD.encode(bytes))
    }
}

/// The code that was made ready last, with the configuration it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deployed {
    pub(crate) config: FunctionConfig,
    pub(crate) code: Code,
    #[serde(flatten)]
    pub(crate) made: Made,
}

/// Files that a version starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// Names image and snapshot.
    pub(crate) key: String,
    /// What the snapshot was bound to when it was made.
    pub(crate) fingerprint: String,
    /// Why there is no snapshot of after its init, and init runs in each instance; `None` if there is
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shared_generators: Option<SharedGenerators>,
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
