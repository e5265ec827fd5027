//! A version of a function that can run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Artefacts, Code, FunctionConfig, FunctionName, Incarnation, VersionId};
use crate::locks::lock;

/// A version of a function that can run. Invocations, instances and the catalog share it. An instance
/// serves only the version that it was started from.
#[derive(Debug)]
pub(crate) struct Version {
    /// A number that is unique in this process.
    pub(crate) serial: u64,
    /// The life of the function that this is a version of.
    pub(crate) incarnation: Incarnation,
    pub(crate) name: FunctionName,
    pub(crate) id: VersionId,
    pub(crate) config: FunctionConfig,
    pub(crate) code: Code,
    pub(crate) revision_id: String,
    artefacts: Mutex<Option<Arc<Artefacts>>>,
    retired: AtomicBool,
    /// Locked during a rebuild of the artefacts, so that concurrent callers share one. Holds the time and
    /// the reason of the last failure.
    pub(crate) rebuilding: tokio::sync::Mutex<Option<(Instant, String)>>,
}

/// What a version is made with.
#[derive(Debug)]
pub(crate) struct VersionContent {
    /// The life of the function.
    pub(crate) incarnation: Incarnation,
    pub(crate) name: FunctionName,
    pub(crate) id: VersionId,
    pub(crate) config: FunctionConfig,
    pub(crate) code: Code,
    pub(crate) revision_id: String,
}

impl Version {
    /// The version takes over the ownership of `artefacts`, which are `None` if they have to be rebuilt before
    /// the first start.
    pub(crate) fn new(content: VersionContent, artefacts: Option<Arc<Artefacts>>) -> Arc<Self> {
        let VersionContent {
            incarnation,
            name,
            id,
            config,
            code,
            revision_id,
        } = content;
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            serial: NEXT.fetch_add(1, Ordering::Relaxed),
            incarnation,
            name,
            id,
            config,
            code,
            revision_id,
            artefacts: Mutex::new(artefacts),
            retired: AtomicBool::new(false),
            rebuilding: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.config.timeout_seconds.into())
    }

    /// Whether SnapStart is on for this version: its runtime runs hooks.
    pub(crate) fn snap_starts(&self) -> bool {
        self.config.snap_starts(self.id)
    }

    pub(crate) fn artefacts(&self) -> Option<Arc<Artefacts>> {
        lock(&self.artefacts).clone()
    }

    /// Sets new artefacts. The version takes over their ownership.
    pub(crate) fn set_artefacts(&self, artefacts: Arc<Artefacts>) {
        *lock(&self.artefacts) = Some(artefacts);
    }

    /// Discards artefacts that could not be used, unless others have replaced them already.
    pub(crate) fn discard_artefacts(&self, unusable: &Arc<Artefacts>) {
        let mut place = lock(&self.artefacts);
        if place.as_ref().is_some_and(|now| Arc::ptr_eq(now, unusable)) {
            unusable.mark_unusable();
            *place = None;
        }
    }

    /// Marks this version as replaced or deleted: no instance of it stays idle, and it owns its artefacts no
    /// more.
    pub(crate) fn retire(&self) {
        // Only the first call ends the ownership.
        if self.retired.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(artefacts) = self.artefacts() {
            artefacts.disown();
        }
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}
