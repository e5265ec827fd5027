//! Snapshots of code that was replaced, kept for a rollback.
//!
//! When a deploy replaces `$LATEST`, the artefacts of the replaced version are kept here for a while. A
//! later deploy of the same code and configuration takes them back instead of running init again. They
//! fill a bounded space on disk: the one that was replaced first goes first. The registry does not mention
//! them, so they end with the process: no later one uses what is left of them, and the next start deletes
//! it, unless that start keeps or sets aside all files without a reference (`revival`).
//!
//! Two things are never kept, because their owner expects them to be gone: snapshots of a deleted function,
//! and snapshots with other environment variables than the function has now. Variables are secrets, they
//! are in the guest's memory, and whoever replaces one may do so because it has leaked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::function::{Artefacts, Fingerprints, Incarnation, StartsFrom, Version};
use crate::locks::lock;

/// Artefacts of replaced versions, without an owner: the reference here keeps the files.
#[derive(Debug)]
pub(crate) struct KeptSnapshots {
    max_bytes: u64,
    /// In the order in which they were replaced.
    kept: Mutex<VecDeque<Kept>>,
}

#[derive(Debug)]
struct Kept {
    /// The life of the function: another function of its name must not start from these artefacts.
    incarnation: Incarnation,
    artefacts: Arc<Artefacts>,
    /// Space on disk.
    bytes: u64,
}

impl KeptSnapshots {
    /// Keeps up to `max_bytes` on disk; with 0, nothing.
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            kept: Mutex::default(),
        }
    }

    /// Keeps the artefacts of a `$LATEST` that `now` has replaced. Must be called before `former` is retired:
    /// otherwise its files may be gone.
    pub(super) fn replaced(&self, former: &Version, now: &Version) {
        if former.config.environment != now.config.environment {
            self.forget(&former.incarnation);
            return;
        }
        let Some(artefacts) = former.artefacts() else {
            return;
        };
        let reused = now
            .artefacts()
            .is_some_and(|now| Arc::ptr_eq(&now, &artefacts));
        let has_snapshot = matches!(artefacts.starts_from, StartsFrom::FunctionSnapshot);
        if reused || !has_snapshot || artefacts.is_unusable() {
            return;
        }
        let kept = Kept {
            incarnation: former.incarnation.clone(),
            bytes: artefacts.disk_bytes(),
            artefacts,
        };
        drop(self.add(kept));
    }

    /// Adds artefacts, and returns those that have no space any more. The caller drops them, which deletes
    /// their files, when the lock is free again.
    fn add(&self, new: Kept) -> Vec<Kept> {
        if new.bytes > self.max_bytes {
            return vec![new];
        }
        let mut kept = lock(&self.kept);
        let mut bytes: u64 = new.bytes + kept.iter().map(|kept| kept.bytes).sum::<u64>();
        kept.push_back(new);
        let mut without_space = Vec::new();
        while bytes > self.max_bytes
            && let Some(oldest) = kept.pop_front()
        {
            bytes -= oldest.bytes;
            without_space.push(oldest);
        }
        without_space
    }

    /// Removes artefacts of a function that fit, for a deploy that becomes their owner.
    pub(super) fn take(
        &self,
        function: &Incarnation,
        fingerprints: &Fingerprints,
    ) -> Option<Arc<Artefacts>> {
        let mut kept = lock(&self.kept);
        let place = kept.iter().position(|kept| {
            kept.incarnation.is_same(function) && kept.artefacts.fits(fingerprints)
        })?;
        kept.remove(place).map(|kept| kept.artefacts)
    }

    /// Removes everything of a function.
    pub(super) fn forget(&self, function: &Incarnation) {
        let mut kept = lock(&self.kept);
        let (gone, stay) = kept
            .drain(..)
            .partition::<VecDeque<_>, _>(|kept| kept.incarnation.is_same(function));
        *kept = stay;
        // The files are deleted when the lock is free again.
        drop(kept);
        drop(gone);
    }

    /// The space that they fill on disk, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.kept).iter().map(|kept| kept.bytes).sum()
    }
}

#[cfg(test)]
#[path = "kept_snapshots_tests.rs"]
mod tests;
