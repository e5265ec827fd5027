//! Runs the functions of queued events, and records the outcomes.
//!
//! An event stays in the schedule until its outcome is on disk. So if this process is killed, only the
//! events that were running can run a second time.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::clock::Clock;
use super::config::{Configs, EventInvokeConfig};
use super::destinations::Ending;
use super::event::{Event, EventRequest};
use super::metrics::EventMetrics;
use super::queue::{Outcome, Queue};
use super::retry::{AfterError, Condition, RetrySettings};
use super::schedule::{Obstacle, Turn};
use super::target::{Attempt, Functions, Ran};
use crate::function::LATEST;
use crate::limits::HostCpus;

/// Maximum sleep, because the host's clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// Interval between two attempts to store an outcome.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// The state that all runs of events share.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) queue: Arc<Queue>,
    pub(crate) configs: Arc<Configs>,
    pub(crate) functions: Arc<dyn Functions>,
    pub(crate) retry: RetrySettings,
    pub(crate) metrics: Arc<EventMetrics>,
    pub(crate) cpus: HostCpus,
    pub(crate) clock: Clock,
    /// Once cancelled, no further event begins.
    pub(crate) closing: CancellationToken,
    /// Once cancelled, running invocations are killed, so their failures don't count as function errors.
    pub(crate) abandoned: CancellationToken,
    pub(crate) runs: TaskTracker,
}

impl Dispatcher {
    /// Runs events until `closing` is cancelled.
    pub(crate) async fn dispatch(self: Arc<Self>) {
        while !self.closing.is_cancelled() {
            let (turns, wake_at) = {
                let now = self.clock.now_ms();
                let mut schedule = self.queue.schedule();
                let turns: Vec<Turn> = std::iter::from_fn(|| schedule.next(now)).collect();
                (turns, schedule.wake_at_ms())
            };
            for turn in turns {
                // At debug: see `process_log`.
                let span = tracing::debug_span!(
                    "event",
                    id = turn.id,
                    function = %turn.function,
                    request_id = Empty
                );
                self.runs.spawn(self.clone().take(turn).instrument(span));
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

    /// Runs one event and records its outcome.
    async fn take(self: Arc<Self>, turn: Turn) {
        let event = match self.queue.read(turn.id).await {
            Ok(Some(event)) => event,
            Ok(None) => return self.queue.abandon(&turn),
            Err(error) => {
                tracing::error!(
                    event = turn.id,
                    function = %turn.function,
                    %error,
                    "the controller can't read an event"
                );
                return self.put_back(&turn, Obstacle::Failure, i64::MAX);
            }
        };
        Span::current().record("request_id", &event.request.request_id);
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
            _ if !self.queue.schedule().holds(&turn) => {
                // Its function was deleted, and so were its events and its metrics.
                self.queue.abandon(&turn);
            }
            Attempt::Ran(ran) => {
                let age = u64::try_from(began_ms - event.accepted_ms).unwrap_or(0);
                self.metrics
                    .run(turn.function.as_str(), Duration::from_millis(age));
                self.ran(event, &turn, ran, config).await;
            }
            Attempt::Throttled => self.put_back(&turn, Obstacle::Throttle, expires_ms),
            Attempt::Failed(error) => {
                tracing::warn!(
                    function = %turn.function,
                    request_id = event.request.request_id,
                    error,
                    "an event could not run; the controller tries again later"
                );
                self.put_back(&turn, Obstacle::Failure, expires_ms);
            }
            Attempt::Gone => {
                tracing::info!(
                    function = %turn.function,
                    request_id = event.request.request_id,
                    "the controller drops an event: its function has been deleted"
                );
                self.record(&event, &Outcome::Over { record: None }).await;
            }
            Attempt::NoConcurrency => {
                let why = Condition::ZeroReservedConcurrency;
                self.over(&event, why, None, config).await;
            }
            Attempt::Ending => self.queue.abandon(&turn),
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
            return self.queue.abandon(turn);
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

    /// Records that the event is over.
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
                "the controller drops an event without a successful run"
            );
        }
        self.metrics.over(function, condition);
        let record =
            config.and_then(|config| self.invocation_record(event, condition, ran, config));
        if self.record(event, &Outcome::Over { record }).await {
            self.metrics.delivered(function, condition);
        }
    }

    /// The event with the invocation record for the destination, if the configuration has one.
    fn invocation_record(
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
        let error = if self.functions.exists(&to.function) {
            match ending.event_for(to) {
                Ok(record) => return Some(record),
                Err(error) => error.to_string(),
            }
        } else {
            "there is no such function".into()
        };
        tracing::warn!(
            %function,
            request_id = event.request.request_id,
            destination = to.arn,
            error,
            "the controller can't send the record of an event"
        );
        self.metrics.undelivered(function.as_str());
        None
    }

    fn put_back(&self, turn: &Turn, why: Obstacle, until_ms: i64) {
        self.metrics.put_back(turn.function.as_str(), why);
        self.queue
            .put_back(turn, why, until_ms, self.clock.now_ms());
    }

    /// Stores an outcome, and tries again until that succeeds: the event can't run again before. Returns
    /// whether an invocation record was stored.
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
                "the controller can't store an event's outcome; it tries again"
            );
            tokio::select! {
                () = tokio::time::sleep(RECORD_AGAIN) => {}
                () = self.abandoned.cancelled() => return false,
            }
        }
    }
}
