//! What becomes of an event after a run, and how long after it: Lambda's rules, as a function of
//! times that are passed in.
//!
//! A function error is tried again one and two minutes later, twice at most. What did not run at
//! all, for want of an instance, costs no attempt: it is tried again after ever longer pauses. Both
//! end at the event's greatest age.

use std::time::Duration;

/// Attempts after the first, unless the function's configuration says otherwise.
const RETRIES: u32 = 2;
/// First pause after a throttle or a failure of the host's.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What holds for every event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetrySettings {
    /// From the first function error to the second run; after the second error twice as long.
    pub(crate) base: Duration,
    /// Greatest age unless the function's configuration says otherwise.
    pub(crate) max_age: Duration,
}

/// What holds for the events of one function or version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryRules {
    retries: u32,
    base_ms: i64,
    max_age_ms: i64,
}

/// Why an event is over, in the words of Lambda's invocation records.
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

/// What follows a function error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterError {
    /// Another run, at this time.
    Again {
        due_ms: i64,
    },
    Over(Condition),
}

impl RetryRules {
    /// `retries` and `max_age` are the function's own, if it has any.
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

    /// When an event that was accepted at `accepted_ms` is too old.
    pub(crate) fn expires_ms(&self, accepted_ms: i64) -> i64 {
        accepted_ms.saturating_add(self.max_age_ms)
    }

    /// After the function has failed with it for the `runs`th time. A retry that would come too late
    /// is not waited for.
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

/// How long nothing is tried after the `failures`th time in a row that nothing could be run.
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
    fn a_retry_that_would_come_too_late_is_not_waited_for() {
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
