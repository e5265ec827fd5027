//! Whether the host's CPUs have time left: what decides if more events at a time would get more
//! done, or would only keep each other, and callers that wait, waiting.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::locks::lock;

/// How long an answer is good for.
const PERIOD: Duration = Duration::from_millis(250);
/// Part of their time that CPUs have to be idle for there to be some left.
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

/// The host's CPUs, whoever uses them.
#[derive(Debug)]
pub(crate) struct HostCpus {
    last: Mutex<Sample>,
}

impl HostCpus {
    pub(crate) fn new() -> Self {
        Self {
            last: Mutex::new(Sample {
                at: Instant::now(),
                ticks: read().unwrap_or_default(),
                time_left: false,
            }),
        }
    }

    /// Whether they have been idle for a good part of the last moments.
    pub(crate) fn have_time(&self) -> bool {
        let mut last = lock(&self.last);
        if last.at.elapsed() >= PERIOD {
            // Where that can't be read nothing grows.
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

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, and then
/// guests, whose time is in that of users already.
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
    fn idle_and_waiting_for_disks_is_time_left_and_what_was_stolen_is_not() {
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
        assert!(!after(10, 100), "nothing is known yet");
    }
}
