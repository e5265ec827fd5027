//! Events: invocations whose callers do not wait (`InvocationType: Event`).
//!
//! Accepted means stored: the caller's 202 comes after the disk has the event. From there it goes to
//! its function in the background, again after errors, until it has run, was tried often enough, or
//! is too old. All of that survives the process.
//!
//! * [`event`]: what an event is.
//! * [`group_commit`]: the writer, many changes in one transaction. [`rows`]: the changes.
//! * [`schedule`]: which event runs next. [`retry`]: what follows a run. Decisions without I/O.
//! * [`host_cpus`]: whether more of them at a time would get more done.
//! * [`queue`]: disk and schedule, kept in step.
//! * [`target`]: the functions that events are for.
//! * [`config`]: what functions want done with their events.
//! * [`dispatcher`]: from the queue to the function, and what came of it.
//! * [`destinations`]: the record that tells another function of it.
//! * [`metrics`]: its numbers.

mod clock;
mod config;
mod destinations;
mod dispatcher;
#[cfg(test)]
mod dispatcher_tests;
mod event;
mod group_commit;
mod host_cpus;
mod metrics;
mod queue;
mod retry;
mod rows;
mod schedule;
mod target;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::function::FunctionName;
use crate::metrics::Metrics;
use clock::Clock;
use config::Configs;
pub(crate) use config::{Destination, EventInvokeConfig};
use dispatcher::Dispatcher;
pub(crate) use event::{EventLimits, EventRequest};
pub use group_commit::EventsError;
use host_cpus::HostCpus;
pub(crate) use metrics::EventMetrics;
use metrics::QueueCensus;
pub(crate) use queue::NotAccepted;
use queue::Queue;
pub(crate) use retry::RetrySettings;
pub(crate) use schedule::Bounds;
use schedule::Schedule;
pub(crate) use target::{Functions, PooledFunctions};

/// The queue and what drains it.
#[derive(Debug)]
pub(crate) struct Events {
    queue: Arc<Queue>,
    configs: Arc<Configs>,
    metrics: Arc<EventMetrics>,
    clock: Clock,
    abandoned: CancellationToken,
    runs: TaskTracker,
}

impl Events {
    /// Opens the queue and begins to drain it, until `closing`. `exists` tells which functions there
    /// are: the events of others are dropped. Must run in a tokio runtime.
    pub(crate) async fn start(
        path: &Path,
        bounds: Bounds,
        retry: RetrySettings,
        functions: Arc<dyn Functions>,
        metrics: &Metrics,
        closing: CancellationToken,
        exists: impl Fn(&FunctionName) -> bool,
    ) -> Result<Self, EventsStartError> {
        let metrics = Arc::new(EventMetrics::new(metrics.registry())?);
        let queue = Arc::new(Queue::open(path, Schedule::new(bounds))?);
        let configs = Configs::new(queue.commits(), queue.configs().await?)?;
        let configs = Arc::new(configs);
        let this = Self {
            queue: queue.clone(),
            configs: configs.clone(),
            metrics: metrics.clone(),
            clock: Clock::Host,
            abandoned: CancellationToken::new(),
            runs: TaskTracker::new(),
        };
        let mut stored = queue.schedule().functions();
        stored.extend(configs.functions());
        for function in stored.iter().filter(|function| !exists(function)) {
            tracing::info!(%function, "dropping the events of a deleted function");
            this.forget(function).await?;
        }
        let waiting = queue.schedule().events();
        if waiting > 0 {
            tracing::info!(waiting, "events of an earlier process go on");
        }
        let dispatcher = Arc::new(Dispatcher {
            queue,
            configs,
            functions,
            retry,
            metrics,
            cpus: HostCpus::new(),
            clock: this.clock.clone(),
            closing,
            abandoned: this.abandoned.clone(),
            runs: this.runs.clone(),
        });
        this.runs.spawn(dispatcher.dispatch());
        Ok(this)
    }

    /// Takes an event; when this returns it is on disk.
    pub(crate) async fn accept(&self, request: EventRequest) -> Result<(), NotAccepted> {
        let function = request.function.clone();
        self.queue.accept(request, self.clock.now_ms()).await?;
        self.metrics.received(function.as_str());
        Ok(())
    }

    /// What functions want done with their events.
    pub(crate) fn configs(&self) -> &Configs {
        &self.configs
    }

    /// Milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Drops everything of a deleted function.
    pub(crate) async fn forget(&self, function: &FunctionName) -> Result<(), EventsError> {
        self.configs.write().await.forget(function).await?;
        let dropped = self.queue.forget(function).await?;
        self.metrics.forget(function.as_str(), dropped);
        Ok(())
    }

    /// Brings the gauges up to date.
    pub(crate) async fn take_census(&self) {
        let oldest = self.queue.oldest_ms().await.unwrap_or_else(|error| {
            tracing::error!(%error, "the oldest event can't be read");
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

    /// Waits, after `closing`, until the events that run have run and are written down.
    pub(crate) async fn drained(&self) {
        self.runs.close();
        self.runs.wait().await;
    }

    /// What still runs is about to be killed: it will run again at the next start.
    pub(crate) fn abandon(&self) {
        self.abandoned.cancel();
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
