//! How much CPU time events have used of late: what decides whether more of them at a time would
//! get more done, or only keep each other and synchronous invocations waiting.

use std::time::Duration;

/// What lies this far back counts by 1/e.
const MEMORY_MS: f64 = 1000.0;
/// Part of the host's CPUs that events may use before no more of them are run at a time.
const ENOUGH: f64 = 0.75;

/// A sum that fades.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuLoad {
    cpus: f64,
    used_ms: f64,
    at_ms: i64,
}

impl CpuLoad {
    pub(crate) fn new(cpus: usize) -> Self {
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        Self {
            cpus: cpus.into(),
            used_ms: 0.0,
            at_ms: 0,
        }
    }

    pub(crate) fn add(&mut self, cpu: Duration, now_ms: i64) {
        self.fade(now_ms);
        self.used_ms += cpu.as_secs_f64() * 1000.0;
    }

    /// Whether CPUs are idle that more events could use.
    pub(crate) fn leaves_time(&mut self, now_ms: i64) -> bool {
        self.fade(now_ms);
        self.used_ms / MEMORY_MS < self.cpus * ENOUGH
    }

    fn fade(&mut self, now_ms: i64) {
        let gone = now_ms.saturating_sub(self.at_ms).max(0);
        let gone = u32::try_from(gone).unwrap_or(u32::MAX);
        self.used_ms *= (-f64::from(gone) / MEMORY_MS).exp();
        self.at_ms = now_ms.max(self.at_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_busy_cpus_of_two_leave_no_time_and_sleeping_functions_do() {
        let mut load = CpuLoad::new(2);
        for step in 0..300 {
            load.add(Duration::from_millis(20), step * 10);
        }
        assert!(!load.leaves_time(3000));
        // Nothing since then: it is idle again.
        assert!(load.leaves_time(5000));
        let mut sleeping = CpuLoad::new(2);
        for step in 0..300 {
            sleeping.add(Duration::from_millis(1), step * 10);
        }
        assert!(sleeping.leaves_time(3000));
    }

    #[test]
    fn a_clock_that_steps_back_does_no_harm() {
        let mut load = CpuLoad::new(1);
        load.add(Duration::from_secs(1), 5000);
        assert!(!load.leaves_time(1000));
        assert!(load.leaves_time(10_000));
    }
}
