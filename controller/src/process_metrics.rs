//! The standard process metrics of Prometheus's client libraries, with the names that dashboards expect.
//! They are read from `/proc/self` when a client requests the metrics.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// `USER_HZ`: the unit of times in `/proc`, the same on every x86-64 Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// The page size of x86-64.
const PAGE: f64 = 4096.0;

/// The process metrics of the controller.
#[derive(Debug)]
pub(crate) struct ProcessMetrics {
    cpu: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start: Gauge,
}

impl ProcessMetrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "CPU time of the controller's process, without its sandboxes.",
            )?,
            resident: Gauge::new(
                "process_resident_memory_bytes",
                "Memory of the controller's process that is in RAM.",
            )?,
            virtual_memory: Gauge::new(
                "process_virtual_memory_bytes",
                "Address space of the controller's process.",
            )?,
            open_fds: Gauge::new("process_open_fds", "Open file descriptors.")?,
            max_fds: Gauge::new("process_max_fds", "Limit of open file descriptors.")?,
            threads: Gauge::new("process_threads", "Threads of the controller's process.")?,
            start: Gauge::new(
                "process_start_time_seconds",
                "Start of the controller's process, in seconds since 1970.",
            )?,
        })
    }

    /// Updates the metrics. A value that can't be read stays the last one.
    fn read(&self) {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        if let Some(stat) = Stat::parse(&text("/proc/self/stat")) {
            let seconds = stat.ticks / TICKS_PER_SECOND;
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
            self.resident.set(stat.resident_pages * PAGE);
            self.virtual_memory.set(stat.virtual_bytes);
            self.threads.set(stat.threads);
            if let Some(boot) = boot_time(&text("/proc/stat")) {
                self.start.set(boot + stat.start_ticks / TICKS_PER_SECOND);
            }
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // One of the descriptors is that of this folder.
            let open = u32::try_from(open.count().saturating_sub(1)).unwrap_or(u32::MAX);
            self.open_fds.set(open.into());
        }
        if let Ok((soft, _)) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        {
            #[allow(clippy::cast_precision_loss, reason = "metrics are floating point")]
            self.max_fds.set(soft as f64);
        }
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu,
            &self.resident,
            &self.virtual_memory,
            &self.open_fds,
            &self.max_fds,
            &self.threads,
            &self.start,
        ]
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all()
            .into_iter()
            .flat_map(|metric| metric.desc())
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        self.all()
            .into_iter()
            .flat_map(|metric| metric.collect())
            .collect()
    }
}

/// Some fields of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    /// CPU time in user and kernel mode.
    ticks: f64,
    threads: f64,
    /// Start of the process after the host's boot.
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name of the program, in parentheses, may hold anything; the third field follows it.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_may_hold_spaces_and_parentheses() {
        let text =
            "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 1234 4096 3 18446744073709551615";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.ticks, stat.threads), (300.0, 9.0));
        assert_eq!((stat.start_ticks, stat.virtual_bytes), (1234.0, 4096.0));
        assert_eq!(stat.resident_pages, 3.0);
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(
            boot_time("cpu 1 2\nbtime 1700000000\n"),
            Some(1_700_000_000.0)
        );
    }

    #[test]
    fn this_process_has_all_of_them() {
        let metrics = ProcessMetrics::new().unwrap();
        assert_eq!(metrics.collect().len(), 7);
        assert!(metrics.resident.get() > PAGE && metrics.threads.get() >= 1.0);
        assert!(metrics.open_fds.get() >= 3.0 && metrics.max_fds.get() >= 3.0);
        assert!(metrics.start.get() > 1_600_000_000.0);
    }
}
