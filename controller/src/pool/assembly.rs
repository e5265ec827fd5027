//! Puts a pool together, and starts its background tasks.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::concurrency::Concurrency;
use super::dispatch::{ArtefactSource, Pool, PoolSettings, Shared};
use super::entry::Capacity;
use super::lifecycle;
use super::queued::attend;
use super::shells::Shells;
use super::state::State;
use crate::limits::HostCpus;
use crate::logs::LogStore;
use crate::metrics::Metrics;

impl Pool {
    pub(crate) fn new(
        settings: PoolSettings,
        shells: Arc<Shells>,
        source: Arc<dyn ArtefactSource>,
        metrics: Arc<Metrics>,
        logs: LogStore,
        cpus: HostCpus,
    ) -> Self {
        let capacity = Capacity {
            max_instances: settings.max_instances,
            max_per_function: settings.max_per_function,
            memory_mib: settings.memory_budget_mib,
            memory_per_function_mib: settings.memory_per_function_mib,
            max_starts: settings.max_starts,
            max_waiting: settings.max_waiting,
            start_wait: settings.start_wait,
            finish_grace: settings.finish_grace,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(capacity)),
            concurrency: Concurrency::new(settings.account_concurrency),
            settings,
            shells,
            source,
            metrics,
            logs,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            parked: Notify::new(),
            queued: Notify::new(),
            cpus,
            unwanted: Notify::new(),
            launch: lifecycle::launch,
        });
        shared.tasks.spawn(reap(shared.clone()));
        shared.tasks.spawn(attend(shared.clone()));
        shared.tasks.spawn({
            let (shells, stop) = (shared.shells.clone(), shared.stop.clone());
            async move { shells.keep(stop).await }
        });
        Self {
            shared,
            tickets: Arc::default(),
        }
    }
}

/// Ends instances after the idle timeout.
async fn reap(shared: Arc<Shared>) {
    loop {
        let next = shared
            .state()
            .reap(shared.settings.idle_timeout, Instant::now());
        // The idle timeout is the same for all, so an instance that becomes idle now is never the first
        // to expire. Only if there was no idle instance does `parked` need to wake this task.
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => shared.parked.notified().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = shared.unwanted.notified() => {}
            () = shared.stop.cancelled() => return,
        }
    }
}
