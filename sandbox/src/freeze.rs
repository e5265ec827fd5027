//! Waits for a guest to come to rest before its vCPUs are stopped.
//!
//! The agent's last frame leaves in the middle of a system call: the guest has still to return from
//! it, to wait for the next event and to halt. A vCPU that is stopped before that does the rest
//! when it is let run again, while somebody waits for its answer. So a freeze looks, a few times,
//! whether the vCPUs use any CPU time, and stops them when they do not.
//!
//! A host that is too busy to let a vCPU run makes its guest look at rest. Then it is stopped
//! early, which costs time later and is never wrong.

use std::time::{Duration, Instant};

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(2);
/// A guest that used the CPU for less than this between two looks is at rest. Less than one
/// interrupt takes where guest kernels are interpreted, more than the host spends on a halted vCPU.
const REST: Duration = Duration::from_micros(250);

/// A freeze under way.
#[derive(Debug)]
pub(crate) struct Freeze {
    /// The request to answer.
    pub(crate) id: u64,
    deadline: Instant,
    next_look: Instant,
    cpu: Duration,
}

impl Freeze {
    /// Begins at `now`; `cpu` is what the vCPUs have used so far.
    pub(crate) fn new(id: u64, within: Duration, cpu: Duration, now: Instant) -> Self {
        Self {
            id,
            deadline: now + within,
            next_look: now + LOOK,
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
        self.next_look = now + LOOK;
        let cpu = cpu();
        let used = cpu.saturating_sub(std::mem::replace(&mut self.cpu, cpu));
        used < REST
    }

    /// How long to wait for the next look.
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
            let passed = LOOK * step;
            assert!(!freeze.is_due(|| passed, start + passed), "{passed:?}");
        }
        assert!(freeze.is_due(|| WITHIN, start + WITHIN));
    }

    #[test]
    fn a_guest_at_rest_is_stopped_at_the_first_look_that_shows_it() {
        let start = Instant::now();
        let mut freeze = Freeze::new(1, WITHIN, Duration::ZERO, start);
        assert_eq!(freeze.wait(start), LOOK);
        assert!(!freeze.is_due(|| panic!("too early to look"), start + LOOK / 2));
        assert!(!freeze.is_due(|| LOOK, start + LOOK));
        let idle = LOOK + REST / 2;
        assert!(freeze.is_due(|| idle, start + LOOK * 2));
    }

    #[test]
    fn a_freeze_within_no_time_is_due_at_once() {
        let now = Instant::now();
        let mut freeze = Freeze::new(1, Duration::ZERO, Duration::ZERO, now);
        assert_eq!(freeze.wait(now), Duration::ZERO);
        assert!(freeze.is_due(|| Duration::ZERO, now));
    }
}
