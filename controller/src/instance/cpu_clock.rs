//! The CPU time of another process, from its CPU clock.

use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// CPU time that all threads of `pid` have used, the VM's guest time included. `None` once it has
/// ended. Takes two system calls and reads no files.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    let now = clock_getcpuclockid(pid).ok()?.now().ok()?;
    Some(Duration::from(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_cpu_time_and_a_process_that_is_none_has_not() {
        let before = cpu_time(std::process::id()).unwrap();
        let mut x = 0u64;
        while cpu_time(std::process::id()).unwrap() == before {
            x = std::hint::black_box(x + 1);
        }
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
