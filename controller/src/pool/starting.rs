//! How long the start of an instance holds its start slot: see [`admission`](super::admission).

use std::sync::Arc;
use std::time::Duration;

use super::lifecycle::Instance;
use crate::function::Artefacts;
use crate::limits::{CpuProgress, CpuShare};

/// Minimum time between two looks at a guest's progress.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// For how many times the tail a start holds its slot at most, however long its guest has waited for CPUs.
const MOST_TAILS: u32 = 20;

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
    /// when the guest has had some time after the restore. From then on the sandbox shares CPUs with the
    /// other instances of its function. `pid`, `share`: of the sandbox.
    pub(super) async fn hold_slot<T>(
        &self,
        pid: u32,
        share: CpuShare,
        start: impl Future<Output = T>,
    ) -> T {
        // On the heap, so that the task of an instance is not larger for the rest of its life.
        let mut start = Box::pin(start);
        let settled = async {
            self.restored.notified().await;
            has_run(pid, self.pool.settings.start_tail).await;
        };
        let ended = tokio::select! {
            biased;
            ended = &mut start => Some(ended),
            () = settled => None,
        };
        let (function, memory) = (&self.version.name, self.version.config.memory_mib);
        share.join(function.as_str(), memory);
        self.pool.started(self.id);
        match ended {
            Some(ended) => ended,
            None => start.await,
        }
    }
}

/// Waits until the guest has had as much time as the tail of a start, or for much longer than that.
async fn has_run(pid: u32, tail: Duration) {
    let progress = CpuProgress::of(pid);
    let all = async {
        let mut wait = tail;
        while !wait.is_zero() {
            tokio::time::sleep(wait.max(LOOK_AGAIN)).await;
            wait = tail.saturating_sub(progress.had());
        }
    };
    // Other starts must not wait any longer than that, so it does not matter which of the two it was.
    let _ = tokio::time::timeout(tail * MOST_TAILS, all).await;
}
