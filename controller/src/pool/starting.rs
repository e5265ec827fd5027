//! How long the start of an instance holds its start slot: see [`admission`](super::admission).

use std::sync::Arc;
use std::time::Instant;

use super::lifecycle::Instance;
use crate::function::Artefacts;
use crate::limits::cpu_wait;

/// A guest that waits for a CPU holds its start slot for so many times the pool's `start_tail` at most.
const MOST_TAILS: u32 = 10;

impl Instance {
    /// The version's artefacts if they can be used at once.
    pub(super) fn artefacts_at_hand(&self) -> Option<Arc<Artefacts>> {
        let artefacts = self.version.artefacts();
        artefacts.filter(|artefacts| artefacts.sealed().is_verified())
    }

    /// Makes sure that the version has usable artefacts, without a start slot. The start then begins again
    /// in another instance, when it is its turn.
    pub(super) async fn get_artefacts(&self) -> Result<(), String> {
        self.pool.state().prepares(self.id);
        self.pool.admit();
        self.pool.artefacts(&self.version).await.map(drop)
    }

    /// Runs the part of a start that begins with the restore. The start slot is released when it ends, or
    /// some time after the restore.
    pub(super) async fn hold_slot<T>(&self, start: impl Future<Output = T>) -> T {
        // On the heap, so that the task of an instance is not larger for the rest of its life.
        let mut start = Box::pin(start);
        let settled = async {
            self.restored.notified().await;
            self.tail().await;
        };
        let ended = tokio::select! {
            biased;
            ended = &mut start => Some(ended),
            () = settled => None,
        };
        self.pool.started(self.id);
        match ended {
            Some(ended) => ended,
            None => start.await,
        }
    }

    /// Ends when the guest has had its `start_tail`. Time in which it waits for a CPU does not count, up to a
    /// bound. If it did, starts would pile up on a host with other load, until no guest got far enough to
    /// answer.
    async fn tail(&self) {
        let tail = self.pool.settings.start_tail;
        let pid = self.pool.state().pid(self.id);
        let waited = || pid.and_then(cpu_wait).unwrap_or_default();
        let (began, before) = (Instant::now(), waited());
        let mut left = tail;
        while !left.is_zero() && began.elapsed() < tail * MOST_TAILS {
            tokio::time::sleep(left).await;
            let in_vain = waited().saturating_sub(before);
            left = tail.saturating_sub(began.elapsed().saturating_sub(in_vain));
        }
    }
}
