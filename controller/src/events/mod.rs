//! Events: invocations whose clients do not wait (`InvocationType: Event`).
//!
//! An accepted event is a stored event: the client's 202 is sent after the event is on disk. The
//! dispatcher then runs its function in the background, and again after errors, until a run succeeds,
//! all retries have failed, or the event is too old. All of that survives the end of the process.
//!
//! * [`event`]: the types of an event.
//! * [`group_commit`]: writes many changes in one transaction. [`rows`]: the changes.
//! * [`schedule`]: which event runs next. [`retry`]: when a failed event runs again. Both decide without
//!   I/O.
//! * [`queue`]: the events on disk and their schedule, kept consistent.
//! * [`target`]: runs an event's function in the pool.
//! * [`config`]: event invoke configurations: retries, maximum age, destinations.
//! * [`dispatcher`]: takes events from the queue, runs them and records the outcome.
//! * [`destinations`]: the invocation record for another function.
//! * [`metrics`]: the metrics of the queue.

mod clock;
mod config;
mod destinations;
mod dispatcher;
#[cfg(test)]
mod dispatcher_tests;
mod event;
mod group_commit;
mod metrics;
mod queue;
mod retry;
mod rows;
mod schedule;
mod target;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clock::Clock;
use config::Configs;
pub(crate) use config::{Destination, EventInvokeConfig};
use dispatcher::Dispatcher;
pub(crate) use event::{EventLimits, EventRequest};
pub use group_commit::EventsError;
pub(crate) use metrics::EventMetrics;
use metrics::QueueCensus;
pub(crate) use queue::NotAccepted;
use queue::Queue;
pub(crate) use retry::RetrySettings;
pub(crate) use schedule::Bounds;
use schedule::Schedule;
pub(crate) use target::{Functions, PooledFunctions};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::data_dir::set_aside;
use crate::function::FunctionName;
use crate::limits::HostCpus;
use crate::metrics::Metrics;

/// Interval between two measurements of the host's CPUs.
const CPUS_PERIOD: Duration = Duration::from_millis(250);

/// The event queue and its dispatcher.
#[derive(Debug)]
pub(crate) struct Events {
    queue: Arc<Queue>,
    configs: Arc<Configs>,
    metrics: Arc<EventMetrics>,
    clock: Clock,
    abandoned: CancellationToken,
    runs: TaskTracker,
    /// The task that runs events until the end.
    dispatcher: Option<AbortHandle>,
}

/// The settings of the queue and of its events.
#[derive(Debug)]
pub(crate) struct EventSettings {
    pub(crate) bounds: Bounds,
    pub(crate) retry: RetrySettings,
}

impl Events {
    /// Opens the queue and runs its events until `closing`. Events of functions that do not exist are
    /// deleted. Must run in a tokio runtime.
    pub(crate) async fn start(
        path: &Path,
        settings: EventSettings,
        functions: Arc<dyn Functions>,
        metrics: &Metrics,
        closing: CancellationToken,
    ) -> Result<Self, EventsStartError> {
        let EventSettings { bounds, retry } = settings;
        let metrics = Arc::new(EventMetrics::new(metrics.registry())?);
        let queue = Arc::new(open_or_begin_anew(path, bounds)?);
        let configs = Configs::new(queue.commits(), queue.configs().await?);
        let configs = Arc::new(configs);
        let mut this = Self {
            queue: queue.clone(),
            configs: configs.clone(),
            metrics: metrics.clone(),
            clock: Clock::Host,
            abandoned: CancellationToken::new(),
            runs: TaskTracker::new(),
            dispatcher: None,
        };
        let mut stored = queue.schedule().functions();
        stored.extend(configs.functions());
        for function in stored.iter().filter(|function| !functions.exists(function)) {
            tracing::info!(%function, "the controller deletes the events of a deleted function");
            this.forget(function).await?;
        }
        let waiting = queue.schedule().events();
        if waiting > 0 {
            tracing::info!(waiting, "the event queue has events from before the start");
        }
        let dispatcher = Arc::new(Dispatcher {
            queue,
            configs,
            functions,
            retry,
            metrics,
            cpus: HostCpus::new(CPUS_PERIOD),
            clock: this.clock.clone(),
            closing,
            abandoned: this.abandoned.clone(),
            runs: this.runs.clone(),
        });
        this.dispatcher = Some(this.runs.spawn(dispatcher.dispatch()).abort_handle());
        Ok(this)
    }

    /// Accepts an event. When this returns, the event is on disk.
    pub(crate) async fn accept(&self, request: EventRequest) -> Result<(), NotAccepted> {
        let function = request.function.clone();
        self.queue.accept(request, self.clock.now_ms()).await?;
        self.metrics.received(function.as_str());
        Ok(())
    }

    /// Whether events are stored and run: the writer's thread and the dispatcher run.
    pub(crate) fn is_alive(&self) -> bool {
        let ended = |task: &AbortHandle| task.is_finished();
        self.queue.is_alive() && !self.dispatcher.as_ref().is_some_and(ended)
    }

    /// The event invoke configurations.
    pub(crate) fn configs(&self) -> &Configs {
        &self.configs
    }

    /// Milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Deletes the events and configurations of a deleted function.
    pub(crate) async fn forget(&self, function: &FunctionName) -> Result<(), EventsError> {
        self.configs.write().await.forget(function).await?;
        let dropped = self.queue.forget(function).await?;
        self.metrics.forget(function.as_str(), dropped);
        Ok(())
    }

    /// Updates the gauges.
    pub(crate) async fn take_census(&self) {
        let oldest = self.queue.oldest_ms().await.unwrap_or_else(|error| {
            tracing::error!(%error, "the controller can't read the oldest event");
            None
        });
        let age = oldest.map_or(0, |accepted| self.clock.now_ms() - accepted);
        let census = {
            let schedule = self.queue.schedule();
            QueueCensus {
                events: schedule.events(),
                running: schedule.running() as u64,
                bytes: schedule.bytes(),
                oldest: Duration::from_millis(u64::try_from(age).unwrap_or(0)),
            }
        };
        self.metrics.set_census(census);
    }

    /// Waits, after `closing`, until running events have ended and their outcomes are on disk.
    pub(crate) async fn drained(&self) {
        self.runs.close();
        self.runs.wait().await;
    }

    /// Running events are about to be killed. They will run again at the next start.
    pub(crate) fn abandon(&self) {
        self.abandoned.cancel();
    }
}

/// Opens the queue. A file that is damaged as a whole is set aside: only its events are lost.
fn open_or_begin_anew(path: &Path, bounds: Bounds) -> Result<Queue, EventsError> {
    match Queue::open(path, Schedule::new(bounds)) {
        Err(error) if error.is_damage() => {
            tracing::error!(
                %error,
                "the event queue can't be read: the controller sets its file aside and begins an \
                 empty one"
            );
            let files = ["db", "db-wal", "db-shm"].map(|end| path.with_extension(end));
            set_aside(&files);
            Queue::open(path, Schedule::new(bounds))
        }
        other => other,
    }
}

/// Why the queue can't be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventsStartError {
    #[error(transparent)]
    Queue(#[from] EventsError),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}
