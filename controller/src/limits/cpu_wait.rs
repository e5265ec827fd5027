//! Measures how long a process has waited for a CPU.

use std::fs;
use std::time::Duration;

/// Time in which threads of the process were ready to run and waited for a CPU, all threads together, since
/// they began. `None` if the host's kernel does not tell, or if there is no such process.
pub(crate) fn cpu_wait(pid: u32) -> Option<Duration> {
    let mut all = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end meanwhile.
        if let Ok(figures) = fs::read_to_string(thread.ok()?.path().join("schedstat")) {
            all += parse(&figures)?;
        }
    }
    Some(all)
}

/// Parses a thread's `schedstat`: time on a CPU and time of waiting for one, in nanoseconds, and the number
/// of its turns.
fn parse(figures: &str) -> Option<Duration> {
    let waited = figures.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(waited))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_figure_is_the_time_of_waiting() {
        assert_eq!(
            parse("196172 7261511 2\n"),
            Some(Duration::from_nanos(7_261_511))
        );
        assert_eq!(parse("196172"), None);
        assert_eq!(parse("1 x 2"), None);
    }

    #[test]
    fn an_unknown_process_has_waited_for_nothing_that_is_known() {
        assert_eq!(cpu_wait(u32::MAX), None);
    }
}
