//! The function's CPU time.
//!
//! The cgroup's `cpu.stat` counts every process in it, but to read it the guest kernel adds up and prints
//! the statistics of all controllers: thousands of instructions while the host waits for an answer. So
//! the agent reads the CPU clock of the runtime's own process, its threads included: one system call.
//! The CPU time of its children counts once they have been waited for and the runtime has ended.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// `CPUCLOCK_SCHED`: the exact run time, not rounded to ticks.
const SCHED: libc::clockid_t = 2;

/// CPU time of a running process in microseconds; 0 if there is no such process.
pub(crate) fn of(process: Pid) -> u64 {
    // What clock_getcpuclockid(3) computes; it would make a system call to check it.
    let clock = ClockId::from_raw((!process.as_raw() << 3) | SCHED);
    clock_gettime(clock).map_or(0, |time| micros(time.num_microseconds()))
}

/// CPU time in microseconds of all processes that the agent has reaped, and of the children that they had
/// waited for.
pub(crate) fn of_the_reaped() -> u64 {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| {
        micros((usage.user_time() + usage.system_time()).num_microseconds())
    })
}

fn micros(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_living_process_is_charged_what_it_has_used_and_a_stranger_nothing() {
        let before = of(Pid::this());
        let mut x = 0u64;
        while of(Pid::this()) <= before + 1000 {
            x = std::hint::black_box(x + 1);
        }
        assert_eq!(of(Pid::from_raw(0x3fff_fff0 >> 4)), 0);
    }

    #[test]
    fn what_a_process_used_is_known_after_its_end() {
        let before = of_the_reaped();
        let status = Command::new("/bin/sh")
            .args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])
            .status()
            .unwrap();
        assert!(status.success());
        assert!(of_the_reaped() > before);
    }
}
