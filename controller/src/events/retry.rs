//! Decides whether and when an event runs again: Lambda's rules, as pure functions of times.
//!
//! After a function error the event runs again one minute later, then two minutes later, then no more.
//! If the function did not run at all, because it was throttled or the host failed, that does not count
//! as a retry: the event is tried again after pauses that double. Both end at the event's maximum age.

use std::time::Duration;

/// Default number of retries after the first run.
const RETRIES: u32 = 2;
/// First pause after a throttle or a failure of the host.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Maximum of such a pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The settings for all events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetrySettings {
    /// Time from the first function error to the second run. After the second error it is twice as long.
    pub(crate) base: Duration,
    /// Default maximum age.
    pub(crate) max_age: Duration,
}

/// The rules for the events of one function and qualifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryRules {
    retries: u32,
    base_ms: i64,
    max_age_ms: i64,
}

/// Why an event is over, by the names in Lambda's invocation records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Success,
    RetriesExhausted,
    EventAgeExceeded,
    ZeroReservedConcurrency,
}

impl Condition {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::RetriesExhausted => "RetriesExhausted",
            Self::EventAgeExceeded => "EventAgeExceeded",
            Self::ZeroReservedConcurrency => "ZeroReservedConcurrency",
        }
    }
}

/// The decision after a function error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterError {
    /// Run again at this time.
    Again {
        due_ms: i64,
    },
    Over(Condition),
}

impl RetryRules {
    /// `retries` and `max_age` are those of the event invoke configuration, if there is one.
    pub(crate) fn new(
        settings: &RetrySettings,
        retries: Option<u32>,
        max_age: Option<Duration>,
    ) -> Self {
        Self {
            retries: retries.unwrap_or(RETRIES),
            base_ms: millis(settings.base),
            max_age_ms: millis(max_age.unwrap_or(settings.max_age)),
        }
    }

    /// The time from which an event that was accepted at `accepted_ms` is too old.
    pub(crate) fn expires_ms(&self, accepted_ms: i64) -> i64 {
        accepted_ms.saturating_add(self.max_age_ms)
    }

    /// Decides after the `runs`th run has failed. If the event would be too old at its next run, it is
    /// over at once.
    pub(crate) fn after_error(&self, runs: u32, accepted_ms: i64, now_ms: i64) -> AfterError {
        if runs > self.retries {
            return AfterError::Over(Condition::RetriesExhausted);
        }
        let due_ms = now_ms.saturating_add(self.base_ms.saturating_mul(runs.into()));
        if due_ms > self.expires_ms(accepted_ms) {
            return AfterError::Over(Condition::EventAgeExceeded);
        }
        AfterError::Again { due_ms }
    }
}

/// The pause of a function after `failures` attempts in a row in which it could not run.
pub(crate) fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE)
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAMBDAS: RetrySettings = RetrySettings {
        base: Duration::from_secs(60),
        max_age: Duration::from_secs(21_600),
    };

    #[test]
    fn a_function_error_is_tried_again_after_one_and_two_minutes_and_then_it_is_over() {
        let rules = RetryRules::new(&LAMBDAS, None, None);
        let error = |runs, now_ms| rules.after_error(runs, 0, now_ms);
        assert_eq!(error(1, 5), AfterError::Again { due_ms: 60_005 });
        assert_eq!(error(2, 60_010), AfterError::Again { due_ms: 180_010 });
        assert_eq!(
            error(3, 180_020),
            AfterError::Over(Condition::RetriesExhausted)
        );
    }

    #[test]
    fn a_function_may_want_fewer_retries() {
        for (retries, runs) in [(0, 1), (1, 2)] {
            let rules = RetryRules::new(&LAMBDAS, Some(retries), None);
            assert_eq!(
                rules.after_error(runs, 0, 0),
                AfterError::Over(Condition::RetriesExhausted)
            );
        }
        let rules = RetryRules::new(&LAMBDAS, Some(1), None);
        assert!(matches!(
            rules.after_error(1, 0, 0),
            AfterError::Again { .. }
        ));
    }

    #[test]
    fn an_event_that_would_be_too_old_at_its_retry_is_over_at_once() {
        let rules = RetryRules::new(&LAMBDAS, None, Some(Duration::from_secs(60)));
        // Accepted at 1000, so too old at 61,000; the retry would be at 61,001.
        assert_eq!(
            rules.after_error(1, 1000, 1001),
            AfterError::Over(Condition::EventAgeExceeded)
        );
        assert_eq!(
            rules.after_error(1, 1000, 1000),
            AfterError::Again { due_ms: 61_000 }
        );
        assert_eq!(rules.expires_ms(1000), 61_000);
    }

    #[test]
    fn pauses_double_from_a_second_to_five_minutes() {
        let seconds: Vec<u64> = (1..=11).map(|n| pause(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
