//! The CPU time of another process, from its CPU clock.

use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// The clock of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuClock(ClockId);

impl CpuClock {
    /// Of `pid`, if there is such a process.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?);
        clock_getcpuclockid(pid).ok().map(Self)
    }

    /// CPU time that all its threads have used, the VM's guest time included. `None` once it has
    /// ended. Takes one system call and reads no files.
    pub(crate) fn now(self) -> Option<Duration> {
        self.0.now().ok().map(Duration::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_cpu_time_and_a_process_that_is_none_has_not() {
        let clock = CpuClock::of(std::process::id()).unwrap();
        let before = clock.now().unwrap();
        let mut x = 0u64;
        while clock.now().unwrap() == before {
            x = std::hint::black_box(x + 1);
        }
        assert!(CpuClock::of(u32::MAX).is_none());
    }
}
