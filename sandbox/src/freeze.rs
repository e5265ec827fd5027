//! Waits for a guest to come to rest before its vCPUs are stopped.
//!
//! The agent sends its last frame in the middle of a system call. After that, the guest still has
//! to return from the call, wait for the next event, and halt. A vCPU that is stopped before it has
//! done that does it after the next resume, while a client waits for its answer. So a freeze looks
//! at the vCPUs' CPU time a few times, and stops the vCPUs when they use none.
//!
//! On a host that is too busy to run a vCPU, the guest looks as if it were at rest. It is then
//! stopped early, which costs time later but is always correct.

use std::time::{Duration, Instant};

/// Interval between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// A guest that has used less CPU time than this between two looks is at rest. This is less than
/// one interrupt takes where KVM interprets the guest's kernel, and more than the host spends on a
/// halted vCPU.
const MAX_CPU_AT_REST: Duration = Duration::from_micros(250);

/// A freeze in progress.
#[derive(Debug)]
pub(crate) struct Freeze {
    /// The request to answer.
    pub(crate) id: u64,
    deadline: Instant,
    next_look: Instant,
    cpu: Duration,
}

impl Freeze {
    /// Begins at `now`; `cpu` is the CPU time that the vCPUs have used so far.
    pub(crate) fn new(id: u64, within: Duration, cpu: Duration, now: Instant) -> Self {
        Self {
            id,
            deadline: now + within,
            next_look: now + LOOK_INTERVAL,
            cpu,
        }
    }

    /// Whether the vCPUs should be stopped now.
    pub(crate) fn is_due(&mut self, cpu: impl FnOnce() -> Duration, now: Instant) -> bool {
        if now >= self.deadline {
            return true;
        }
        if now < self.next_look {
            return false;
        }
        self.next_look = now + LOOK_INTERVAL;
        let cpu = cpu();
        let used = cpu.saturating_sub(std::mem::replace(&mut self.cpu, cpu));
        used < MAX_CPU_AT_REST
    }

    /// Time until the next look.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        self.next_look
            .min(self.deadline)
            .saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_millis(20);

    #[test]
    fn a_guest_that_works_is_given_its_time_and_no_more() {
        let start = Instant::now();
        let mut freeze = Freeze::new(1, WITHIN, Duration::ZERO, start);
        for step in 1..10 {
            let passed = LOOK_INTERVAL * step;
            assert!(!freeze.is_due(|| passed, start + passed), "{passed:?}");
        }
        assert!(freeze.is_due(|| WITHIN, start + WITHIN));
    }

    #[test]
    fn a_guest_at_rest_is_stopped_at_the_first_look_that_shows_it() {
        let start = Instant::now();
        let mut freeze = Freeze::new(1, WITHIN, Duration::ZERO, start);
        assert_eq!(freeze.wait(start), LOOK_INTERVAL);
        assert!(!freeze.is_due(|| panic!("too early to look"), start + LOOK_INTERVAL / 2));
        assert!(!freeze.is_due(|| LOOK_INTERVAL, start + LOOK_INTERVAL));
        let idle = LOOK_INTERVAL + MAX_CPU_AT_REST / 2;
        assert!(freeze.is_due(|| idle, start + LOOK_INTERVAL * 2));
    }

    #[test]
    fn a_freeze_within_no_time_is_due_at_once() {
        let now = Instant::now();
        let mut freeze = Freeze::new(1, Duration::ZERO, Duration::ZERO, now);
        assert_eq!(freeze.wait(now), Duration::ZERO);
        assert!(freeze.is_due(|| Duration::ZERO, now));
    }
}
