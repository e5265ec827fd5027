//! How much time a process has had for its work: all time except that in which a thread of it waited for a
//! CPU.
//!
//! A thread that sleeps has had its time, and so has one that has computed. One that has been ready to run
//! on a busy host has not. The kernel adds to a thread's waiting time only when the thread gets its CPU. So of
//! a thread that is ready at the moment, only the CPU time counts.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A thread's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Thread {
    used: Duration,
    waited: Duration,
    /// Whether it runs, or would if it had a CPU.
    ready: bool,
}

/// The progress of one process since a moment.
#[derive(Debug)]
pub(crate) struct CpuProgress {
    pid: u32,
    began: Instant,
    before: HashMap<String, Thread>,
}

impl CpuProgress {
    /// From now on.
    pub(crate) fn of(pid: u32) -> Self {
        Self {
            pid,
            began: Instant::now(),
            before: threads(pid).unwrap_or_default(),
        }
    }

    /// Time that the process has had: that of the thread that has had the least. All time, if the kernel does
    /// not tell.
    pub(crate) fn had(&self) -> Duration {
        let elapsed = self.began.elapsed();
        let now = threads(self.pid).unwrap_or_default();
        let of_each = now.iter().map(|(id, thread)| {
            let before = self.before.get(id).copied().unwrap_or_default();
            had(before, *thread, elapsed)
        });
        of_each.min().unwrap_or(elapsed)
    }
}

fn had(before: Thread, now: Thread, elapsed: Duration) -> Duration {
    if now.ready {
        now.used.saturating_sub(before.used)
    } else {
        elapsed.saturating_sub(now.waited.saturating_sub(before.waited))
    }
}

/// The threads of a process, by id; `None` if it has ended, or if the kernel does not tell.
fn threads(pid: u32) -> Option<HashMap<String, Thread>> {
    let mut threads = HashMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let entry = entry.ok()?;
        let read = |file| std::fs::read_to_string(entry.path().join(file)).ok();
        let thread = parse(&read("schedstat")?, &read("stat")?)?;
        threads.insert(entry.file_name().into_string().ok()?, thread);
    }
    Some(threads)
}

/// Parses nanoseconds on a CPU and nanoseconds of waiting for one from `schedstat`, and the state, which
/// follows the name in brackets, from `stat`.
fn parse(schedstat: &str, stat: &str) -> Option<Thread> {
    let mut times = schedstat.split_whitespace();
    let mut next = || times.next()?.parse().ok().map(Duration::from_nanos);
    let (used, waited) = (next()?, next()?);
    let state = stat.rsplit_once(')')?.1.split_whitespace().next()?;
    Some(Thread {
        used,
        waited,
        ready: state == "R",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn waiting_for_a_cpu_is_no_progress_and_sleeping_is() {
        let thread = |used, waited, ready| Thread {
            used: ms(used),
            waited: ms(waited),
            ready,
        };
        let before = thread(10, 10, false);
        assert_eq!(had(before, thread(10, 10, false), ms(100)), ms(100));
        assert_eq!(had(before, thread(30, 70, false), ms(100)), ms(40));
        assert_eq!(had(before, thread(30, 10, true), ms(100)), ms(20));
    }

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "7 (a) R (b)) S 1 2";
        let thread = parse("5000000 7000000 12\n", stat).unwrap();
        assert_eq!(
            (thread.used, thread.waited, thread.ready),
            (ms(5), ms(7), false)
        );
        assert!(parse("1 2 3", "7 (a) R 1").unwrap().ready);
        assert_eq!(parse("1", stat), None);
        assert!(!threads(std::process::id()).unwrap().is_empty());
        assert!(threads(u32::MAX).is_none());
    }

    #[test]
    fn of_a_process_that_is_not_there_all_time_counts() {
        let progress = CpuProgress::of(u32::MAX);
        std::thread::sleep(ms(2));
        assert!(progress.had() >= ms(2));
    }
}
