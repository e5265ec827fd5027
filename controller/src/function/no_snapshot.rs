//! Why a version has no function snapshot, so that init runs in each of its instances.

use serde::{Deserialize, Serialize};

use super::SharedGenerators;

/// Why a version has no function snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoSnapshot {
    /// Its clones would draw the same random numbers.
    SharedGenerators(SharedGenerators),
    /// Init failed when the snapshot should have been made. Each instance tries it again.
    InitFailed(FailedInit),
}

/// An init that failed, as clients are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailedInit {
    /// The error's type and message. A guest may have chosen both.
    pub(crate) reason: String,
    /// Lambda's `StateReasonCode` for it.
    pub(crate) code: String,
}
