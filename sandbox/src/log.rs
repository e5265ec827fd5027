//! The sandbox's log: lines on standard error. The rate of each source is limited, so that a guest
//! that misbehaves in a loop fills neither a disk nor the controller's pipe. The caller passes the
//! time in; nothing here reads a clock, blocks on anything but standard error, or panics when
//! standard error is closed.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// A budget that fills up with time: `capacity` units at once, `per_second` on average.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    capacity: u32,
    per_second: u32,
    level: u32,
    refilled: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(capacity: u32, per_second: u32) -> Self {
        Self {
            capacity,
            per_second,
            level: capacity,
            refilled: None,
        }
    }

    /// Takes `amount` units and returns `true`, or takes none and returns `false`.
    pub fn take(&mut self, now: Instant, amount: u32) -> bool {
        if self.level < amount {
            self.refill(now);
        }
        if self.level == self.capacity {
            // A full bucket earns nothing, so the time counts from now on.
            self.refilled = Some(now);
        }
        match self.level.checked_sub(amount) {
            Some(rest) => {
                self.level = rest;
                true
            }
            None => false,
        }
    }

    fn refill(&mut self, now: Instant) {
        let since = self
            .refilled
            .map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        let earned = since.as_micros() * u128::from(self.per_second) / 1_000_000;
        // Keep the fraction of a unit: move the time only when a unit was added.
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.level = self.level.saturating_add(earned).min(self.capacity);
            self.refilled = Some(now);
        }
    }
}

/// Writes a line to standard error.
///
/// The line is one write, so that lines stay whole when several processes share the stream. An
/// error is ignored: there is no other place to report it, and a microVM must not end because its
/// log is gone.
pub fn write_line(line: fmt::Arguments<'_>) {
    let text = format!("{line}\n");
    if cfg!(test) {
        // `eprint!`, because the test harness captures it and shows it for tests that fail.
        eprint!("{text}");
        return;
    }
    let _closed = io::stderr().write_all(text.as_bytes());
}

/// One source of log lines, with its limit.
#[derive(Debug, Clone)]
pub struct Log {
    source: &'static str,
    bucket: TokenBucket,
    suppressed: u64,
}

impl Log {
    /// How many lines a source may write at once.
    pub const BURST: u32 = 10;
    /// How many lines per second it may write after that.
    pub const PER_SECOND: u32 = 1;

    /// A log whose lines begin with `source`.
    pub fn new(source: &'static str) -> Self {
        Self {
            source,
            bucket: TokenBucket::new(Self::BURST, Self::PER_SECOND),
            suppressed: 0,
        }
    }

    /// Writes one line, or only counts it if the limit is reached. The next line that is written
    /// says how many were left out.
    pub fn line(&mut self, now: Instant, message: fmt::Arguments<'_>) {
        if let Some(suppressed) = self.admit(now) {
            let source = self.source;
            if suppressed > 0 {
                write_line(format_args!(
                    "hearth-sandbox: {source}: {message} \
                     ({suppressed} lines before this one left out)"
                ));
            } else {
                write_line(format_args!("hearth-sandbox: {source}: {message}"));
            }
        }
    }

    /// The number of lines left out since the last one, if a line may be written now.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.bucket.take(now, 1) {
            Some(std::mem::take(&mut self.suppressed))
        } else {
            self.suppressed = self.suppressed.saturating_add(1);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_then_the_rest_is_counted_until_time_passes() {
        let mut log = Log::new("test");
        let start = Instant::now();
        for _ in 0..Log::BURST {
            assert_eq!(log.admit(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(log.admit(start), None);
        }
        assert_eq!(log.admit(start + Duration::from_secs(1)), Some(1000));
        assert_eq!(log.admit(start + Duration::from_secs(1)), None);
    }

    #[test]
    fn a_bucket_never_holds_more_than_its_capacity() {
        let mut bucket = TokenBucket::new(4, 1000);
        let start = Instant::now();
        assert!(bucket.take(start, 4));
        let much_later = start + Duration::from_secs(1_000_000_000);
        assert!(!bucket.take(much_later, 5));
        assert!(bucket.take(much_later, 4));
        assert!(!bucket.take(much_later, 1));
    }

    #[test]
    fn fractions_of_a_unit_are_not_lost_by_asking_often() {
        let mut bucket = TokenBucket::new(1, 1);
        let start = Instant::now();
        assert!(bucket.take(start, 1));
        for step in 1..10 {
            assert!(!bucket.take(start + Duration::from_millis(step * 100), 1));
        }
        assert!(bucket.take(start + Duration::from_secs(1), 1));
    }

    #[test]
    fn a_clock_that_goes_backwards_earns_nothing() {
        let mut bucket = TokenBucket::new(1, 1000);
        let later = Instant::now() + Duration::from_secs(5);
        assert!(bucket.take(later, 1));
        assert!(!bucket.take(later - Duration::from_secs(1), 1));
    }
}
