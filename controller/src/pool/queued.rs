//! What happens to an invocation that finds no idle instance: it waits until it has begun, or for as long
//! as it may. One task looks at all that wait from time to time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::dispatch::{Pool, Shared};
use super::entry::GiveUp;
use super::job::{Completed, GroupKey, NotRun};

/// How often the pool looks whether waiting invocations may get instances for which there was no reason
/// before: instances that should be free are not, the host's CPUs have time, or an invocation has waited
/// for longer than its version's other instances need.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// Minimum time between two decisions whether an invocation may wait longer.
const MIN_WAIT: Duration = Duration::from_millis(10);

impl Pool {
    /// Waits until a queued invocation has begun; then returns `None`. Returns its result if it gets one
    /// before: for example, it is throttled if it can't be served in time.
    pub(super) async fn start_of(
        &self,
        key: &GroupKey,
        ticket: u64,
        answer: &mut oneshot::Receiver<Result<Completed, NotRun>>,
    ) -> Option<Result<Completed, NotRun>> {
        let mut wait = self.shared.settings.throttle_wait;
        loop {
            if let Ok(answered) = tokio::time::timeout(wait, &mut *answer).await {
                return Some(answered.unwrap_or(Err(NotRun::Ending)));
            }
            // Another instance may fit by now, or an instance that was about to be free is not.
            self.shared.admit();
            let given_up = self.shared.state().give_up(key, ticket, Instant::now());
            match given_up {
                GiveUp::Removed => return Some(Err(NotRun::Throttled)),
                GiveUp::Coming => wait = wait.max(MIN_WAIT),
                GiveUp::Started => return None,
            }
        }
    }
}

impl Shared {
    /// Starts what may start now. Must be called after each change that frees a start slot.
    pub(super) fn admit(self: &Arc<Self>) {
        let spare = self.cpus.have_time();
        let orders = {
            let mut state = self.state();
            state.set_spare_cpus(spare);
            state.admit(Instant::now())
        };
        self.start(orders);
    }

    /// The start of an instance is over, or does not need the host any more.
    pub(super) fn started(self: &Arc<Self>, id: u64) {
        let held = self.state().started(id);
        if held {
            self.admit();
        }
    }
}

/// Looks again and again, while invocations wait.
pub(super) async fn attend(shared: Arc<Shared>) {
    let attend = async {
        loop {
            shared.queued.notified().await;
            while shared.state().waiting() > 0 {
                shared.admit();
                let callers_wait = shared.state().callers_wait();
                shared.shells.set_callers_wait(callers_wait);
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            shared.shells.set_callers_wait(false);
        }
    };
    tokio::select! {
        () = attend => {}
        () = shared.stop.cancelled() => {}
    }
}
