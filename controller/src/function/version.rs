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
    duds: Mutex<Duds>,
    retired: AtomicBool,
    /// Locked during a rebuild of the artefacts, so that concurrent callers share one. Holds the time and
    /// the reason of the last failure.
    pub(crate) rebuilding: tokio::sync::Mutex<Option<(Instant, String)>>,
}

/// Artefacts of one version that were discarded before any instance had started from them, one after the other.
#[derive(Debug, Default)]
struct Duds {
    count: u32,
    last: Option<Instant>,
}

impl Duds {
    /// Pause after the second in a row: the first may have been made by an earlier process.
    const PAUSE: Duration = Duration::from_secs(10);
    /// The pause doubles up to this.
    const LONGEST: Duration = Duration::from_secs(640);

    fn discarded(&mut self, worked: bool, now: Instant) {
        self.count = if worked { 0 } else { self.count + 1 };
        self.last = Some(now);
    }

    fn wait(&self, now: Instant) -> Option<Duration> {
        let doublings = self.count.checked_sub(2)?;
        let pause = Self::PAUSE.saturating_mul(1 << doublings.min(16));
        let until = self.last? + pause.min(Self::LONGEST);
        until
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }
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
            duds: Mutex::default(),
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
            lock(&self.duds).discarded(unusable.worked(), Instant::now());
        }
    }

    /// How long the next rebuild of the artefacts has to wait, because no instance has started from those of
    /// the last one.
    pub(crate) fn rebuild_waits(&self) -> Option<Duration> {
        lock(&self.duds).wait(Instant::now())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot that could be made, but never restored, was made again for each invocation.
    #[test]
    fn rebuilds_of_what_never_works_wait_longer_and_longer() {
        let mut duds = Duds::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..10 {
            duds.discarded(false, now);
            let wait = duds.wait(now).unwrap_or_default();
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(duds.wait(now), None);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 320, 640, 640, 640]);
        duds.discarded(true, now);
        assert_eq!(duds.wait(now), None);
    }
}
