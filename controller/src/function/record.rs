//! A function as the registry keeps it.

use serde::{Deserialize, Serialize};

use super::{FunctionConfig, FunctionName};

/// Everything about one function that outlives the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// A code package in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Code {
    /// SHA-256 of the ZIP file, 64 hexadecimal digits: its name in the store.
    pub(crate) sha256: String,
    /// Size of the ZIP file, in bytes.
    pub(crate) size: u64,
}

/// A version that was made ready, with the configuration it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deployed {
    pub(crate) config: FunctionConfig,
    pub(crate) code: Code,
    /// Names its image and snapshot.
    pub(crate) key: String,
    /// What the snapshot was bound to when it was made.
    pub(crate) fingerprint: String,
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
