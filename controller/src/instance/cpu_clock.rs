//! Measures the CPU time of another process with its CPU clock.

use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// The CPU clock of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuClock(ClockId);

impl CpuClock {
    /// The clock of `pid`, if there is such a process.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?);
        clock_getcpuclockid(pid).ok().map(Self)
    }

    /// The CPU time of all threads, including the time in the guest. `None` once the process has ended.
    /// Takes one system call and reads no files.
    pub(crate) fn now(self) -> Option<Duration> {
        self.0.now().ok().map(Duration::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_cpu_time_and_an_unknown_process_has_no_clock() {
        let clock = CpuClock::of(std::process::id()).unwrap();
        let before = clock.now().unwrap();
        let mut x = 0u64;
        while clock.now().unwrap() == before {
            x = std::hint::black_box(x + 1);
        }
        assert!(CpuClock::of(u32::MAX).is_none());
    }
}
