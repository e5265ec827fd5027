//! Takes events from the queue to their functions, and writes down what came of it.
//!
//! An event keeps its place in the schedule until its outcome is on disk. So at most as many events
//! as run at a time can be run again after this process was killed; no other can.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock::Clock;
use super::config::{Configs, EventInvokeConfig};
use super::destinations::Ending;
use super::event::{Event, EventRequest};
use super::host_cpus::HostCpus;
use super::metrics::EventMetrics;
use super::queue::{Outcome, Queue};
use super::retry::{AfterError, Condition, RetrySettings};
use super::schedule::{Obstacle, Turn};
use super::target::{Attempt, Functions, Ran};
use crate::function::LATEST;

/// Longest sleep: the host's clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// From a failure to write an outcome down to the next try.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// What the runs of events share.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) queue: Arc<Queue>,
    pub(crate) configs: Arc<Configs>,
    pub(crate) functions: Arc<dyn Functions>,
    pub(crate) retry: RetrySettings,
    pub(crate) metrics: Arc<EventMetrics>,
    pub(crate) cpus: HostCpus,
    pub(crate) clock: Clock,
    /// No event is begun from here on.
    pub(crate) closing: CancellationToken,
    /// What runs is being killed: its failure says nothing about the function.
    pub(crate) abandoned: CancellationToken,
    pub(crate) runs: TaskTracker,
}

impl Dispatcher {
    /// Runs events until told to end.
    pub(crate) async fn dispatch(self: Arc<Self>) {
        while !self.closing.is_cancelled() {
            let (turns, wake_at) = {
                let now = self.clock.now_ms();
                let mut schedule = self.queue.schedule();
                let turns: Vec<Turn> = std::iter::from_fn(|| schedule.next(now)).collect();
                (turns, schedule.wake_at_ms())
            };
            for turn in turns {
                self.runs.spawn(self.clone().take(turn));
            }
            let sleep = wake_at.map_or(LONGEST_SLEEP, |at| {
                let wait = u64::try_from(at - self.clock.now_ms()).unwrap_or(0);
                Duration::from_millis(wait).min(LONGEST_SLEEP)
            });
            tokio::select! {
                () = self.queue.changed() => {}
                () = tokio::time::sleep(sleep) => {}
                () = self.closing.cancelled() => {}
            }
        }
    }

    /// One event, from its turn to what came of it.
    async fn take(self: Arc<Self>, turn: Turn) {
        let event = match self.queue.read(turn.id).await {
            Ok(Some(event)) => event,
            Ok(None) => return self.queue.leave(&turn),
            Err(error) => {
                tracing::error!(function = %turn.function, %error, "an event can't be read");
                return self.put_back(&turn, Obstacle::Failure, i64::MAX);
            }
        };
        let qualifier = event.request.qualifier.as_deref();
        let config = self.configs.get(&turn.function, qualifier);
        let config = config.as_deref();
        let rules = EventInvokeConfig::rules(config, &self.retry);
        let expires_ms = rules.expires_ms(event.accepted_ms);
        let began_ms = self.clock.now_ms();
        if began_ms >= expires_ms {
            let why = Condition::EventAgeExceeded;
            return self.over(&event, why, None, config).await;
        }
        match self.functions.run(&event).await {
            Attempt::Ran(ran) => {
                let age = u64::try_from(began_ms - event.accepted_ms).unwrap_or(0);
                self.metrics
                    .run(turn.function.as_str(), Duration::from_millis(age));
                self.ran(event, &turn, ran, config).await;
            }
            Attempt::Throttled => self.put_back(&turn, Obstacle::Throttle, expires_ms),
            Attempt::Failed(why) => {
                tracing::warn!(
                    function = %turn.function,
                    request_id = event.request.request_id,
                    why,
                    "an event was not run"
                );
                self.put_back(&turn, Obstacle::Failure, expires_ms);
            }
            Attempt::Gone => {
                tracing::info!(
                    function = %turn.function,
                    request_id = event.request.request_id,
                    "an event's function does not exist any more"
                );
                self.record(&event, &Outcome::Over { record: None }).await;
            }
            Attempt::NoConcurrency => {
                let why = Condition::ZeroReservedConcurrency;
                self.over(&event, why, None, config).await;
            }
            Attempt::Ending => self.queue.leave(&turn),
        }
    }

    async fn ran(
        &self,
        mut event: Event,
        turn: &Turn,
        ran: Ran,
        config: Option<&EventInvokeConfig>,
    ) {
        if ran.failed && self.abandoned.is_cancelled() {
            return self.queue.leave(turn);
        }
        let now_ms = self.clock.now_ms();
        let idle_cpus = self.cpus.have_time();
        self.queue.schedule().ran(&turn.function, idle_cpus);
        event.runs = event.runs.saturating_add(1);
        if !ran.failed {
            let why = Condition::Success;
            return self.over(&event, why, Some(&ran), config).await;
        }
        let rules = EventInvokeConfig::rules(config, &self.retry);
        match rules.after_error(event.runs, event.accepted_ms, now_ms) {
            AfterError::Again { due_ms } => {
                self.metrics.function_error_retried(turn.function.as_str());
                let runs = event.runs;
                self.record(&event, &Outcome::Again { runs, due_ms }).await;
            }
            AfterError::Over(why) => self.over(&event, why, Some(&ran), config).await,
        }
    }

    /// There will be no other run of it.
    async fn over(
        &self,
        event: &Event,
        condition: Condition,
        ran: Option<&Ran>,
        config: Option<&EventInvokeConfig>,
    ) {
        let function = event.request.function.as_str();
        if condition != Condition::Success {
            tracing::warn!(
                function,
                request_id = event.request.request_id,
                runs = event.runs,
                condition = condition.name(),
                "an event is dropped"
            );
        }
        self.metrics.over(function, condition);
        let record = config.and_then(|config| self.tell(event, condition, ran, config));
        if self.record(event, &Outcome::Over { record }).await {
            self.metrics.delivered(function, condition);
        }
    }

    /// The event that tells another function of this one's end, if its own wants that.
    fn tell(
        &self,
        event: &Event,
        condition: Condition,
        ran: Option<&Ran>,
        config: &EventInvokeConfig,
    ) -> Option<EventRequest> {
        let function = &event.request.function;
        let qualifier = event.request.qualifier.as_deref().unwrap_or(LATEST);
        let ending = Ending {
            event,
            function_arn: &self.functions.arn(function, qualifier),
            condition,
            ran,
            now_ms: self.clock.now_ms(),
        };
        let to = ending.destination(config)?;
        let why = if self.functions.exists(&to.function) {
            match ending.event_for(to) {
                Ok(record) => return Some(record),
                Err(error) => error.to_string(),
            }
        } else {
            "there is no such function".into()
        };
        tracing::warn!(%function, destination = to.arn, why, "an event's record can't be sent");
        self.metrics.undelivered(function.as_str());
        None
    }

    fn put_back(&self, turn: &Turn, why: Obstacle, until_ms: i64) {
        self.metrics.put_back(turn.function.as_str(), why);
        self.queue
            .put_back(turn, why, until_ms, self.clock.now_ms());
    }

    /// Writes an outcome down, however often that takes: until then the event is not begun again.
    /// Returns whether a record tells of it.
    async fn record(&self, event: &Event, outcome: &Outcome) -> bool {
        loop {
            let now_ms = self.clock.now_ms();
            let error = match self.queue.record(event, outcome, now_ms).await {
                Ok(sent) => return sent,
                Err(error) => error,
            };
            tracing::error!(
                function = %event.request.function,
                request_id = event.request.request_id,
                %error,
                "an event's outcome can't be written down; it is tried again"
            );
            tokio::select! {
                () = tokio::time::sleep(RECORD_AGAIN) => {}
                () = self.abandoned.cancelled() => return false,
            }
        }
    }
}
