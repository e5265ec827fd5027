//! The pool's face: submit an invocation, look at instances, retire a version, drain.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::concurrency::{Concurrency, Limit};
use super::entry::{Phase, Placed, StartOrder};
use super::job::{Completed, Invocation, Job, NotRun};
use super::parts::Sink;
use super::shells::Shells;
use super::state::State;
use crate::function::{Artefacts, FunctionName, Version};
use crate::instance::pss_kib;
use crate::limits::HostCpus;
use crate::locks::lock;
use crate::logs::LogStore;
use crate::metrics::{Census, Metrics};

/// Time between a failed attempt to rebuild a version's artefacts and the next one.
pub(super) const REBUILD_PAUSE: Duration = Duration::from_secs(10);

/// Rebuilds the artefacts of a version that can't be used.
pub(crate) trait ArtefactSource: std::fmt::Debug + Send + Sync {
    /// Rebuilds them and sets them in the version. An error is the reason, for the log.
    fn rebuild<'a>(
        &'a self,
        version: &'a Arc<Version>,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<Artefacts>, String>> + Send + 'a>>;
}

/// Limits and timeouts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolSettings {
    /// Maximum number of invocations at once.
    pub(crate) account_concurrency: u32,
    pub(crate) max_instances: usize,
    pub(crate) max_per_function: usize,
    pub(crate) memory_budget_mib: u64,
    pub(crate) memory_per_function_mib: u64,
    pub(crate) idle_timeout: Duration,
    /// Maximum time that an invocation waits for an instance if a limit of instances or memory is reached.
    pub(crate) throttle_wait: Duration,
    /// See [`Capacity::max_starts`](super::entry::Capacity::max_starts).
    pub(crate) max_starts: usize,
    /// See [`Capacity::max_waiting`](super::entry::Capacity::max_waiting).
    pub(crate) max_waiting: usize,
    /// See [`Capacity::start_wait`](super::entry::Capacity::start_wait).
    pub(crate) start_wait: Duration,
    /// Time after a restore for which a start counts as one at most, without the time in which the guest
    /// waits for a CPU: about as long as a guest needs for its first answer if the function itself takes no
    /// time.
    pub(crate) start_tail: Duration,
    /// See [`Capacity::finish_grace`](super::entry::Capacity::finish_grace).
    pub(crate) finish_grace: Duration,
}

/// The state that all instances share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) concurrency: Arc<Concurrency>,
    pub(super) settings: PoolSettings,
    pub(crate) shells: Arc<Shells>,
    pub(super) source: Arc<dyn ArtefactSource>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) logs: LogStore,
    /// Once cancelled, all instances end, also busy ones.
    pub(crate) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) parked: Notify,
    /// Notified when an invocation has begun to wait.
    pub(super) queued: Notify,
    pub(super) cpus: HostCpus,
    pub(super) unwanted: Notify,
    /// Starts the task of an instance. It is passed in, because the task uses this value.
    pub(super) launch: fn(&Arc<Self>, StartOrder),
}

/// The pool of all instances.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    pub(super) shared: Arc<Shared>,
    pub(super) tickets: Arc<AtomicU64>,
}

/// An instance in a listing.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct InstanceInfo {
    id: u64,
    function: String,
    version: String,
    revision_id: String,
    state: &'static str,
    age_seconds: f64,
    idle_seconds: Option<f64>,
    memory_mib: u32,
    pid: Option<u32>,
    pss_kib: Option<u64>,
    invocations: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<String>,
}

/// Why pings could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PingError {
    /// There is no idle instance.
    #[error("no instance of the function is idle: invoke it first")]
    NoIdleInstance,
    /// The instance has failed.
    #[error("{0}")]
    Failed(String),
}

/// Compares artefacts with their seal. Returns at once if that was done before.
async fn verified(artefacts: Arc<Artefacts>) -> Result<(), String> {
    let compared = tokio::task::spawn_blocking(move || artefacts.sealed().verify());
    match compared.await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

impl Shared {
    /// Locks the state. The guard must not be held across an `await`.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The artefacts of a version, rebuilt if they can't be used. Concurrent callers share one rebuild. The
    /// caller's span has function and version.
    pub(crate) async fn artefacts(&self, version: &Arc<Version>) -> Result<Arc<Artefacts>, String> {
        if let Some(artefacts) = version.artefacts()
            && artefacts.sealed().is_verified()
        {
            return Ok(artefacts);
        }
        let mut last_failure = version.rebuilding.lock().await;
        if let Some(artefacts) = version.artefacts() {
            match verified(artefacts.clone()).await {
                Ok(()) => return Ok(artefacts),
                Err(error) => {
                    tracing::warn!(error, "the controller can't use the snapshot of a function");
                    version.discard_artefacts(&artefacts);
                }
            }
        }
        // Callers that have waited for a rebuild that failed get the same error.
        if let Some((at, why)) = last_failure.as_ref()
            && at.elapsed() < REBUILD_PAUSE
        {
            return Err(why.clone());
        }
        if let Some(wait) = version.rebuild_waits() {
            return Err(format!(
                "no instance could start from the last snapshots: the controller makes another one in {} s",
                wait.as_secs() + 1
            ));
        }
        self.metrics.rebuilds.inc();
        tracing::warn!("the controller rebuilds the snapshot of a function");
        let made = self.source.rebuild(version).await;
        *last_failure = made.as_ref().err().map(|why| (Instant::now(), why.clone()));
        made
    }

    /// Removes an instance that has ended, and starts others in its place.
    pub(crate) fn gone(self: &Arc<Self>, id: u64) {
        let orders = self.state().gone(id, Instant::now());
        self.start(orders);
    }

    pub(crate) fn resubmit(self: &Arc<Self>, job: Job) {
        let orders = {
            let mut state = self.state();
            if state.is_closed() {
                drop(state);
                return job.answer(Err(NotRun::Ending));
            }
            state.resubmit(job, Instant::now())
        };
        self.start(orders);
    }

    /// Wakes the reaper, if there was no idle instance before.
    pub(crate) fn notify_parked(&self) {
        self.parked.notify_one();
    }

    /// Wakes the reaper, because instances that are not provisioned any more may have passed the idle
    /// timeout.
    pub(super) fn notify_unwanted(&self) {
        self.unwanted.notify_one();
    }

    pub(super) fn start(self: &Arc<Self>, orders: Vec<StartOrder>) {
        let evicted = self.state().take_evicted();
        self.metrics.evictions.inc_by(evicted);
        for order in orders {
            // Ties the instance to the call that needs it: the instance's own span outlives the call.
            tracing::debug!(instance = order.id, "the controller starts an instance");
            if let Some(waited) = order.waited {
                self.metrics.start_waited(waited);
            }
            (self.launch)(self, order);
        }
    }
}

impl Pool {
    /// Runs an invocation. If the caller is dropped, a running invocation continues to its end, and a
    /// waiting one is removed.
    pub(crate) async fn submit(&self, invocation: Invocation) -> Result<Completed, NotRun> {
        self.submit_to(invocation, None).await
    }

    pub(super) async fn submit_to(
        &self,
        invocation: Invocation,
        sink: Option<Sink>,
    ) -> Result<Completed, NotRun> {
        let key = invocation.group();
        let version = invocation.version.clone();
        let function = &version.name;
        let throttle = || {
            let metrics = &self.shared.metrics;
            let count = || metrics.throttle(function.as_str());
            version.incarnation.while_it_lasts(count);
        };
        let admitted = self.shared.concurrency.admit(function);
        let slot = admitted.map_err(|limit| {
            throttle();
            match limit {
                Limit::Account => NotRun::Throttled,
                Limit::Reserved => NotRun::ReservedConcurrency,
            }
        })?;
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (reply, mut answer) = oneshot::channel();
        let job = Job {
            ticket,
            invocation: Box::new(invocation),
            attempts: 0,
            slot: Some(slot),
            sink,
            reply,
        };
        let placed = {
            let mut state = self.shared.state();
            if state.is_closed() {
                return Err(NotRun::Ending);
            }
            state.submit(job, Instant::now())
        };
        let answered = match placed {
            Placed::Given => None,
            Placed::Full => Some(Err(NotRun::Throttled)),
            Placed::Waits(orders) => {
                self.shared.start(orders);
                self.shared.queued.notify_one();
                self.start_of(&key, ticket, &mut answer).await
            }
        };
        match answered {
            Some(answered) => {
                if matches!(answered, Err(NotRun::Throttled)) {
                    throttle();
                }
                answered
            }
            None => answer.await.unwrap_or(Err(NotRun::Ending)),
        }
    }

    /// Makes sure that a version has usable artefacts.
    pub(crate) async fn prepare(&self, version: &Arc<Version>) {
        let span = tracing::error_span!(
            "prepare",
            function = %version.name,
            version = %version.id
        );
        let prepare = async {
            if let Err(error) = self.shared.artefacts(version).await {
                tracing::error!(
                    error,
                    "a function can't serve: the controller could not rebuild its snapshot"
                );
            }
        };
        prepare.instrument(span).await;
    }

    /// Ends the idle instances of a version that was replaced or deleted.
    pub(crate) fn retire(&self, version: &Arc<Version>) {
        version.retire();
        let orders = self.shared.state().retire(version.serial, Instant::now());
        self.shared.start(orders);
    }

    /// All instances, or those of one function, oldest first.
    pub(crate) fn instances(&self, of: Option<&FunctionName>) -> Vec<InstanceInfo> {
        let now = Instant::now();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        let mut list: Vec<InstanceInfo> = self
            .shared
            .state()
            .instances()
            .filter(|(_, entry)| of.is_none_or(|name| entry.version.name == *name))
            .map(|(id, entry)| InstanceInfo {
                id,
                function: entry.version.name.to_string(),
                version: entry.version.id.to_string(),
                revision_id: entry.version.revision_id.clone(),
                state: entry.phase.name(),
                age_seconds: seconds(entry.started),
                idle_seconds: match entry.phase {
                    Phase::Idle { since, .. } => Some(seconds(since)),
                    _ => None,
                },
                memory_mib: entry.version.config.memory_mib,
                pid: entry.pid,
                pss_kib: None,
                invocations: entry.invocations,
                tenant_id: entry.tenant.as_ref().map(|id| id.as_str().into()),
            })
            .collect();
        // This reads files, so the lock must not be held.
        for info in &mut list {
            info.pss_kib = info.pid.and_then(pss_kib);
        }
        list
    }

    pub(crate) fn census(&self) -> Census {
        self.shared.state().census()
    }

    /// Whether sandbox processes can be started.
    pub(crate) fn can_launch(&self) -> bool {
        self.shared.shells.can_launch()
    }

    pub(crate) fn shells(&self) -> usize {
        self.shared.shells.len()
    }

    /// The concurrency of the account and its functions.
    pub(crate) fn concurrency(&self) -> &Concurrency {
        &self.shared.concurrency
    }

    pub(crate) fn memory_budget_mib(&self) -> u64 {
        self.shared.settings.memory_budget_mib
    }

    /// Measures pings to the agent of an idle instance, in microseconds.
    pub(crate) async fn ping(&self, version: &Version, count: u32) -> Result<Vec<u64>, PingError> {
        let (reply, micros) = oneshot::channel();
        if !self.shared.state().ping(version.serial, count, reply) {
            return Err(PingError::NoIdleInstance);
        }
        micros
            .await
            .map_err(|_| PingError::Failed("the instance ended".into()))?
            .map_err(PingError::Failed)
    }

    /// Whether there are instances of functions with layers, which may contain extensions.
    pub(crate) fn has_layers(&self) -> bool {
        self.shared
            .state()
            .instances()
            .any(|(_, entry)| !entry.version.config.layers.is_empty())
    }

    /// Refuses new invocations and ends idle instances. Busy instances continue.
    pub(crate) fn close(&self) {
        let waiting = self.shared.state().close();
        for job in waiting {
            job.answer(Err(NotRun::Ending));
        }
        self.shared.tasks.close();
    }

    /// Waits until all instances have ended.
    pub(crate) async fn drained(&self) {
        self.shared.tasks.wait().await;
    }

    /// Ends all instances, also busy ones.
    pub(crate) fn kill(&self) {
        self.shared.stop.cancel();
    }
}
