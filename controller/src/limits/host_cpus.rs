//! Measures whether the host's CPUs are idle. Only then do more invocations at once get more done; otherwise
//! they would slow down each other.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::locks::lock;

/// The part of their time, as a fraction, that the CPUs must be idle.
const IDLE_PART: (u64, u64) = (1, 4);

/// Time of all CPUs together since the host started, in clock ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    all: u64,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    ticks: Ticks,
    time_left: bool,
}

/// The host's CPUs, with the load of all processes.
#[derive(Debug)]
pub(crate) struct HostCpus {
    /// Interval between two measurements.
    period: Duration,
    last: Mutex<Sample>,
}

impl HostCpus {
    /// Measures at most once in each `period`.
    pub(crate) fn new(period: Duration) -> Self {
        Self {
            period,
            last: Mutex::new(Sample {
                at: Instant::now(),
                ticks: read().unwrap_or_default(),
                time_left: false,
            }),
        }
    }

    /// CPUs that always have time.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        let cpus = Self::new(Duration::MAX);
        lock(&cpus.last).time_left = true;
        cpus
    }

    /// Whether the CPUs were idle enough in the last period.
    pub(crate) fn have_time(&self) -> bool {
        let mut last = lock(&self.last);
        if last.at.elapsed() >= self.period {
            // If `/proc/stat` can't be read, the CPUs count as busy.
            let now = read().unwrap_or_default();
            last.time_left = time_left(last.ticks, now);
            last.ticks = now;
            last.at = Instant::now();
        }
        last.time_left
    }
}

fn time_left(before: Ticks, now: Ticks) -> bool {
    let all = now.all.saturating_sub(before.all);
    let idle = now.idle.saturating_sub(before.idle);
    all > 0 && idle * IDLE_PART.1 >= all * IDLE_PART.0
}

fn read() -> Option<Ticks> {
    parse(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// Parses the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, then
/// guests, whose time `user` and `nice` already include.
fn parse(stat: &str) -> Option<Ticks> {
    let times: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .take(8)
        .map(|ticks| ticks.parse().ok())
        .collect::<Option<_>>()?;
    Some(Ticks {
        idle: times.get(3)? + times.get(4)?,
        all: times.iter().sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_iowait_are_time_left_and_steal_is_not() {
        let ticks = parse("cpu  100 1 20 500 30 2 3 44 90 0\ncpu0 1 2").unwrap();
        assert_eq!(
            ticks,
            Ticks {
                idle: 530,
                all: 700
            }
        );
        assert_eq!(parse("cpu0 1 2 3"), None);
        assert_eq!(parse("cpu  1 2 x 4 5 6 7 8"), None);
        assert!(read().is_some());
    }

    #[test]
    fn a_quarter_of_idle_time_is_enough() {
        let before = Ticks { idle: 10, all: 100 };
        let after = |idle, all| time_left(before, Ticks { idle, all });
        assert!(after(60, 300));
        assert!(!after(59, 300));
        assert!(!after(10, 100), "no time has passed");
    }
}
