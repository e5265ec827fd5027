//! The event queue's metrics. Those of a function are named after Lambda's in CloudWatch.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::retry::Condition;
use super::schedule::Obstacle;

/// From milliseconds, in an empty queue, to Lambda's maximum age of six hours.
const AGE_SECONDS: [f64; 14] = [
    0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 120.0, 300.0, 1800.0, 7200.0, 21600.0,
];

/// Values of the label `reason` of retries.
const RETRY_REASONS: [&str; 3] = ["function_error", "throttle", "host"];
/// Values of the label `reason` of dropped events.
const DROP_REASONS: [&str; 4] = [
    "retries_exhausted",
    "age_exceeded",
    "function_deleted",
    "zero_reserved_concurrency",
];

/// Values of the label `outcome` of deliveries.
const OUTCOMES: [&str; 2] = ["success", "failure"];

/// All metrics of the event queue.
#[derive(Debug)]
pub(crate) struct EventMetrics {
    received: IntCounterVec,
    retries: IntCounterVec,
    dropped: IntCounterVec,
    delivered: IntCounterVec,
    undelivered: IntCounterVec,
    age: HistogramVec,
    queued: IntGaugeVec,
    bytes: IntGauge,
    oldest: IntGauge,
}

/// The current state of the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct QueueCensus {
    pub(crate) events: u64,
    pub(crate) running: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest: Duration,
}

impl EventMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let function = ["function"];
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let queued = IntGaugeVec::new(
            Opts::new(
                "hearth_async_events",
                "Unfinished events: waiting for a run or a retry, or running.",
            ),
            &["state"],
        )?;
        registry.register(Box::new(queued.clone()))?;
        let age = HistogramVec::new(
            HistogramOpts::new(
                "hearth_async_event_age_seconds",
                "Time from an event's acceptance to a run of its function, for first runs and retries.",
            )
            .buckets(AGE_SECONDS.to_vec()),
            &function,
        )?;
        registry.register(Box::new(age.clone()))?;
        Ok(Self {
            received: counters(
                "hearth_async_events_received_total",
                "Events that were stored and acknowledged with status 202.",
                &function,
            )?,
            retries: counters(
                "hearth_async_retries_total",
                "Events put back into the queue after an attempt, by reason.",
                &["function", "reason"],
            )?,
            dropped: counters(
                "hearth_async_events_dropped_total",
                "Events that ended without a successful run, by reason.",
                &["function", "reason"],
            )?,
            delivered: counters(
                "hearth_async_destination_deliveries_total",
                "Invocation records of events that were sent to a destination, by the events' outcome.",
                &["function", "outcome"],
            )?,
            undelivered: counters(
                "hearth_async_destination_failures_total",
                "Invocation records of events that could not be sent to their destination.",
                &function,
            )?,
            age,
            queued,
            bytes: gauge(
                "hearth_async_queue_bytes",
                "Size of all stored events in bytes.",
            )?,
            oldest: gauge(
                "hearth_async_oldest_event_age_seconds",
                "Age of the oldest unfinished event in seconds, 0 if there is none.",
            )?,
        })
    }

    pub(crate) fn received(&self, function: &str) {
        self.received.with_label_values(&[function]).inc();
    }

    /// A run of the function begins with an event of this age.
    pub(crate) fn run(&self, function: &str, age: Duration) {
        self.age
            .with_label_values(&[function])
            .observe(age.as_secs_f64());
    }

    pub(crate) fn function_error_retried(&self, function: &str) {
        self.retries
            .with_label_values(&[function, RETRY_REASONS[0]])
            .inc();
    }

    pub(crate) fn put_back(&self, function: &str, why: Obstacle) {
        let reason = match why {
            Obstacle::Throttle => RETRY_REASONS[1],
            Obstacle::Failure => RETRY_REASONS[2],
        };
        self.retries.with_label_values(&[function, reason]).inc();
    }

    pub(crate) fn over(&self, function: &str, condition: Condition) {
        let reason = match condition {
            Condition::Success => return,
            Condition::RetriesExhausted => DROP_REASONS[0],
            Condition::EventAgeExceeded => DROP_REASONS[1],
            Condition::ZeroReservedConcurrency => DROP_REASONS[3],
        };
        self.dropped.with_label_values(&[function, reason]).inc();
    }

    /// The invocation record of a function's event is stored as an event for its destination.
    pub(crate) fn delivered(&self, function: &str, condition: Condition) {
        let outcome = OUTCOMES[usize::from(condition != Condition::Success)];
        self.delivered.with_label_values(&[function, outcome]).inc();
    }

    /// The invocation record of a function's event can't be sent.
    pub(crate) fn undelivered(&self, function: &str) {
        self.undelivered.with_label_values(&[function]).inc();
    }

    /// Removes a deleted function's series, and counts its dropped events in a series without its name.
    pub(crate) fn forget(&self, function: &str, dropped: u64) {
        // An error means that there is no such series, so there is nothing to remove.
        let _ = self.received.remove_label_values(&[function]);
        let _ = self.age.remove_label_values(&[function]);
        let _ = self.undelivered.remove_label_values(&[function]);
        for outcome in OUTCOMES {
            let _ = self.delivered.remove_label_values(&[function, outcome]);
        }
        for reason in RETRY_REASONS {
            let _ = self.retries.remove_label_values(&[function, reason]);
        }
        for reason in DROP_REASONS {
            let _ = self.dropped.remove_label_values(&[function, reason]);
        }
        self.dropped
            .with_label_values(&["", DROP_REASONS[2]])
            .inc_by(dropped);
    }

    pub(crate) fn set_census(&self, census: QueueCensus) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let waiting = census.events.saturating_sub(census.running);
        self.queued
            .with_label_values(&["waiting"])
            .set(number(waiting));
        self.queued
            .with_label_values(&["running"])
            .set(number(census.running));
        self.bytes.set(number(census.bytes));
        self.oldest.set(number(census.oldest.as_secs()));
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    fn text(registry: &Registry) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&registry.gather(), &mut text)
            .unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn all_counts_are_in_the_text_and_a_deleted_functions_events_are_counted_without_its_name() {
        let registry = Registry::new();
        let metrics = EventMetrics::new(&registry).unwrap();
        metrics.received("f");
        metrics.run("f", Duration::from_secs(3));
        metrics.function_error_retried("f");
        metrics.put_back("f", Obstacle::Throttle);
        metrics.over("f", Condition::RetriesExhausted);
        metrics.over("f", Condition::Success);
        metrics.delivered("f", Condition::Success);
        metrics.delivered("f", Condition::EventAgeExceeded);
        metrics.undelivered("f");
        metrics.set_census(QueueCensus {
            events: 5,
            running: 2,
            bytes: 700,
            oldest: Duration::from_secs(9),
        });
        let shown = text(&registry);
        for line in [
            "hearth_async_events_received_total{function=\"f\"} 1",
            "hearth_async_event_age_seconds_bucket{function=\"f\",le=\"5\"} 1",
            "hearth_async_retries_total{function=\"f\",reason=\"function_error\"} 1",
            "hearth_async_retries_total{function=\"f\",reason=\"throttle\"} 1",
            "hearth_async_events_dropped_total{function=\"f\",reason=\"retries_exhausted\"} 1",
            "hearth_async_destination_deliveries_total{function=\"f\",outcome=\"success\"} 1",
            "hearth_async_destination_deliveries_total{function=\"f\",outcome=\"failure\"} 1",
            "hearth_async_destination_failures_total{function=\"f\"} 1",
            "hearth_async_events{state=\"waiting\"} 3",
            "hearth_async_events{state=\"running\"} 2",
            "hearth_async_queue_bytes 700",
            "hearth_async_oldest_event_age_seconds 9",
        ] {
            assert!(shown.lines().any(|l| l == line), "{line} not in\n{shown}");
        }
        metrics.forget("f", 4);
        let shown = text(&registry);
        assert!(!shown.contains("function=\"f\""), "{shown}");
        let line = "hearth_async_events_dropped_total{function=\"\",reason=\"function_deleted\"} 4";
        assert!(shown.lines().any(|l| l == line), "{shown}");
    }
}
