//! The pool's face: submit an invocation, look at instances, retire a version, drain.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::concurrency::{Concurrency, Limit};
use super::entry::{Capacity, GiveUp, Phase, Placed, StartOrder};
use super::job::{Completed, Invocation, Job, NotRun};
use super::lifecycle;
use super::shells::Shells;
use super::state::State;
use super::streaming::Sink;
use crate::function::{Artefacts, FunctionName, Version};
use crate::instance::pss_kib;
use crate::locks::lock;
use crate::logs::LogStore;
use crate::metrics::{Census, Metrics};

/// From a failure to make a version's files anew to the next try.
const REBUILD_PAUSE: Duration = Duration::from_secs(10);

/// Who makes a version's files anew when they can't be used.
pub(crate) trait ArtefactSource: std::fmt::Debug + Send + Sync {
    /// Makes them and gives them to the version, or says for people why not.
    fn rebuild<'a>(
        &'a self,
        version: &'a Arc<Version>,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<Artefacts>, String>> + Send + 'a>>;
}

/// Limits and waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolSettings {
    /// Most invocations at once, whatever they run on.
    pub(crate) account_concurrency: u32,
    pub(crate) max_instances: usize,
    pub(crate) max_per_function: usize,
    pub(crate) memory_budget_mib: u64,
    pub(crate) idle_timeout: Duration,
    pub(crate) throttle_wait: Duration,
    /// See [`Capacity::starts_ahead`].
    pub(crate) starts_ahead: usize,
    /// See [`Capacity::finish_grace`].
    pub(crate) finish_grace: Duration,
}

/// What instances share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    concurrency: Arc<Concurrency>,
    settings: PoolSettings,
    pub(crate) shells: Arc<Shells>,
    source: Arc<dyn ArtefactSource>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) logs: LogStore,
    /// Ends everything that still runs.
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
    parked: Notify,
    unwanted: Notify,
}

/// All instances.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    pub(super) shared: Arc<Shared>,
    tickets: Arc<AtomicU64>,
}

/// One instance as others see it.
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
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PingError {
    /// Nothing to measure.
    #[error("no instance of the function is idle: invoke it first")]
    NoIdleInstance,
    /// The instance failed.
    #[error("{0}")]
    Failed(String),
}

/// Compares files with their seal; at once, if that was done before.
async fn verified(artefacts: Arc<Artefacts>) -> Result<(), String> {
    let compared = tokio::task::spawn_blocking(move || artefacts.sealed().verify());
    match compared.await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

impl Shared {
    /// The book-keeping. Never held across an `await`.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Files to start from, made anew if need be; once, however many wait for them.
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
                Err(why) => {
                    tracing::warn!(function = %version.name, why, "its snapshot can't be used");
                    version.discard_artefacts(&artefacts);
                }
            }
        }
        // Those who waited for the one that failed share its failure.
        if let Some((at, why)) = last_failure.as_ref()
            && at.elapsed() < REBUILD_PAUSE
        {
            return Err(why.clone());
        }
        self.metrics.rebuilds.inc();
        tracing::warn!(function = %version.name, "making its snapshot anew");
        let made = self.source.rebuild(version).await;
        *last_failure = made.as_ref().err().map(|why| (Instant::now(), why.clone()));
        made
    }

    /// An instance has ended.
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

    /// Starts what is missing of what is to be kept ready.
    pub(super) fn provision(self: &Arc<Self>) {
        let orders = self.state().provision_all(Instant::now());
        self.start(orders);
    }

    /// Something became idle: the reaper has a date to look at, if it had none.
    pub(crate) fn notify_parked(&self) {
        self.parked.notify_one();
    }

    /// What was to be kept ready is not any more, and may have been idle for long.
    pub(super) fn notify_unwanted(&self) {
        self.unwanted.notify_one();
    }

    pub(super) fn start(self: &Arc<Self>, orders: Vec<StartOrder>) {
        let evicted = self.state().take_evicted();
        self.metrics.evictions.inc_by(evicted);
        for order in orders {
            self.tasks.spawn(lifecycle::live(self.clone(), order));
        }
    }
}

impl Pool {
    pub(crate) fn new(
        settings: PoolSettings,
        shells: Arc<Shells>,
        source: Arc<dyn ArtefactSource>,
        metrics: Arc<Metrics>,
        logs: LogStore,
    ) -> Self {
        let capacity = Capacity {
            max_instances: settings.max_instances,
            max_per_function: settings.max_per_function,
            memory_mib: settings.memory_budget_mib,
            starts_ahead: settings.starts_ahead,
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
            unwanted: Notify::new(),
        });
        shared.tasks.spawn(reap(shared.clone()));
        shared.tasks.spawn({
            let (shells, stop) = (shared.shells.clone(), shared.stop.clone());
            async move { shells.keep(stop).await }
        });
        Self {
            shared,
            tickets: Arc::default(),
        }
    }

    /// Runs an invocation. When the caller goes away, one that runs is run to its end, and one that
    /// still waits is forgotten.
    pub(crate) async fn submit(&self, invocation: Invocation) -> Result<Completed, NotRun> {
        self.submit_to(invocation, None).await
    }

    pub(super) async fn submit_to(
        &self,
        invocation: Invocation,
        sink: Option<Sink>,
    ) -> Result<Completed, NotRun> {
        let serial = invocation.version.serial;
        let function = invocation.version.name.clone();
        let admitted = self.shared.concurrency.admit(&function);
        let slot = admitted.map_err(|limit| {
            self.shared.metrics.throttle(function.as_str());
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
        let now = Instant::now();
        let (placed, counting) = {
            let mut state = self.shared.state();
            if state.is_closed() {
                return Err(NotRun::Ending);
            }
            let placed = state.submit(job, now);
            (placed, state.counts_on_finishing(serial, now))
        };
        if let Placed::Waits(orders) = placed {
            self.shared.start(orders);
            if counting {
                self.look_again(serial);
            }
            if let Some(answered) = self.start_of(serial, ticket, &mut answer).await {
                if matches!(answered, Err(NotRun::Throttled)) {
                    self.shared.metrics.throttle(function.as_str());
                }
                return answered;
            }
        }
        answer.await.unwrap_or(Err(NotRun::Ending))
    }

    /// Waits until an invocation that is in the queue has begun, if it has no answer before: that it
    /// is throttled, if nothing comes free for it.
    async fn start_of(
        &self,
        serial: u64,
        ticket: u64,
        answer: &mut oneshot::Receiver<Result<Completed, NotRun>>,
    ) -> Option<Result<Completed, NotRun>> {
        let wait = self.shared.settings.throttle_wait;
        loop {
            if let Ok(answered) = tokio::time::timeout(wait, &mut *answer).await {
                return Some(answered.unwrap_or(Err(NotRun::Ending)));
            }
            let (orders, given_up) = {
                let (mut state, now) = (self.shared.state(), Instant::now());
                // There may be room by now, or an instance that was about to be free isn't.
                (
                    state.provide_serial(serial, now),
                    state.give_up(serial, ticket, now),
                )
            };
            self.shared.start(orders);
            match given_up {
                GiveUp::Removed => return Some(Err(NotRun::Throttled)),
                GiveUp::Coming => {}
                GiveUp::Started => return None,
            }
        }
    }

    /// Starts instances after all if those that were about to be free are not.
    fn look_again(&self, serial: u64) {
        let shared = self.shared.clone();
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(shared.settings.finish_grace) => {}
                () = shared.stop.cancelled() => return,
            }
            let orders = shared.state().provide_serial(serial, Instant::now());
            shared.start(orders);
        });
    }

    /// Makes sure that a version has files to start from.
    pub(crate) async fn prepare(&self, version: &Arc<Version>) {
        if let Err(why) = self.shared.artefacts(version).await {
            tracing::error!(function = %version.name, why, "it can't serve");
        }
    }

    /// Ends what is idle of a version that was replaced or deleted.
    pub(crate) fn retire(&self, version: &Arc<Version>) {
        version.retire();
        let orders = self.shared.state().retire(version.serial, Instant::now());
        self.shared.start(orders);
    }

    /// Every instance, or one function's, oldest first.
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
            })
            .collect();
        // Reads files: after the lock.
        for info in &mut list {
            info.pss_kib = info.pid.and_then(pss_kib);
        }
        list
    }

    pub(crate) fn census(&self) -> Census {
        self.shared.state().census()
    }

    pub(crate) fn shells(&self) -> usize {
        self.shared.shells.len()
    }

    /// Who may run how many invocations at once.
    pub(crate) fn concurrency(&self) -> &Concurrency {
        &self.shared.concurrency
    }

    pub(crate) fn memory_budget_mib(&self) -> u64 {
        self.shared.settings.memory_budget_mib
    }

    /// Measures frames to an idle instance's agent and back, in microseconds.
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

    /// Whether there are instances whose functions have layers, and so perhaps extensions.
    pub(crate) fn has_layers(&self) -> bool {
        self.shared
            .state()
            .instances()
            .any(|(_, entry)| !entry.version.config.layers.is_empty())
    }

    /// Refuses new invocations and ends idle instances; those that run go on.
    pub(crate) fn close(&self) {
        let waiting = self.shared.state().close();
        for job in waiting {
            job.answer(Err(NotRun::Ending));
        }
        self.shared.tasks.close();
    }

    /// Waits until no instance is left.
    pub(crate) async fn drained(&self) {
        self.shared.tasks.wait().await;
    }

    /// Ends whatever runs.
    pub(crate) fn kill(&self) {
        self.shared.stop.cancel();
    }
}

/// Ends instances that were idle for too long.
async fn reap(shared: Arc<Shared>) {
    loop {
        let next = shared
            .state()
            .reap(shared.settings.idle_timeout, Instant::now());
        // Who becomes idle now is due after all who are: only the first of all is news, and a call
        // costs no look at every instance.
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
