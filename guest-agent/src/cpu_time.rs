//! What the function has used of the CPU.
//!
//! The cgroup's `cpu.stat` would count every process in it, but reading it makes the kernel add up
//! the statistics of all its controllers and print them: thousands of instructions in the middle
//! of an answer. So the clock of the runtime's own process is read, its threads included: one
//! system call. What its children use counts once they have been waited for and it has ended.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// `CPUCLOCK_SCHED`: the exact run time, which is not made of ticks.
const SCHED: libc::clockid_t = 2;

/// CPU time of a living process, microseconds; 0 when there is none.
pub(crate) fn of(process: Pid) -> u64 {
    // What clock_getcpuclockid(3) computes; it would make a system call to check it.
    let clock = ClockId::from_raw((!process.as_raw() << 3) | SCHED);
    clock_gettime(clock).map_or(0, |time| micros(time.num_microseconds()))
}

/// CPU time of all processes that have ended and were reaped here, with what they had waited for,
/// microseconds.
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
