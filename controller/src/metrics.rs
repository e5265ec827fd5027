//! The controller's metrics for Prometheus. The parts of the controller share one [`Metrics`] and count
//! in it.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use hearth_protocol::jail::{Jail, JailPart};
use prometheus::core::Collector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::limits::Isolation;
use crate::process_metrics::ProcessMetrics;

/// From a tenth of a millisecond, a warm invocation by the mailbox, to Lambda's longest timeout.
const SECONDS: [f64; 20] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
];

/// The outcomes of a deploy.
const DEPLOY_OUTCOMES: [&str; 3] = ["successful", "failed", "superseded"];

/// A kind of metric: one value, or a family with one value for each combination of its labels' values.
trait Kind: Collector + Clone + Sized + 'static {
    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self>;
}

impl Kind for IntCounter {
    fn make(name: &str, help: &str, _: &[&str]) -> prometheus::Result<Self> {
        Self::new(name, help)
    }
}

impl Kind for IntGauge {
    fn make(name: &str, help: &str, _: &[&str]) -> prometheus::Result<Self> {
        Self::new(name, help)
    }
}

impl Kind for IntCounterVec {
    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self> {
        Self::new(Opts::new(name, help), labels)
    }
}

impl Kind for IntGaugeVec {
    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self> {
        Self::new(Opts::new(name, help), labels)
    }
}

impl Kind for HistogramVec {
    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self> {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        Self::new(options, labels)
    }
}

fn register<K: Kind>(
    registry: &Registry,
    name: &str,
    labels: &[&str],
    help: &str,
) -> prometheus::Result<K> {
    let metric = K::make(name, help, labels)?;
    registry.register(Box::new(metric.clone())).map(|()| metric)
}

/// Defines [`Metrics`] and its constructor from a table: field, kind, name, labels, help.
macro_rules! metrics {
    ($($visibility:vis $field:ident: $kind:ty = $name:literal $labels:expr, $help:literal;)*) => {
        /// All metrics of a controller. Those of a function are named after Lambda's metrics in CloudWatch.
        #[derive(Debug)]
        pub(crate) struct Metrics {
            registry: Registry,
            /// Every value of the label `error`.
            error_kinds: &'static [&'static str],
            $($visibility $field: $kind,)*
        }

        impl Metrics {
            fn registered(
                registry: Registry,
                error_kinds: &'static [&'static str],
            ) -> prometheus::Result<Self> {
                Ok(Self {
                    $($field: register(&registry, $name, &$labels, $help)?,)*
                    registry,
                    error_kinds,
                })
            }
        }
    };
}

metrics! {
    build: IntGaugeVec = "hearth_build_info" ["version"],
        "1, with the controller's version as a label.";
    invocations: IntCounterVec = "hearth_invocations_total" ["function"],
        "Invocations that ran, including those that failed.";
    errors: IntCounterVec = "hearth_errors_total" ["function", "error"],
        "Invocations that ended in a function error, including timeouts.";
    throttles: IntCounterVec = "hearth_throttles_total" ["function"],
        "Invocations that the controller refused because of a concurrency or memory limit.";
    duration: HistogramVec = "hearth_duration_seconds" ["function"],
        "Time from when the controller sends the event until it has the function's answer.";
    restore: HistogramVec = "hearth_restore_duration_seconds" ["function"],
        "Time to restore a snapshot into a sandbox, until the guest runs.";
    init: HistogramVec = "hearth_init_duration_seconds" ["function"],
        "Time of a function's init, at deploy or in an instance.";
    post_runtime_extensions: HistogramVec = "hearth_post_runtime_extensions_duration_seconds" ["function"],
        "Time that extensions ran after the function's answer.";
    starts: IntCounterVec = "hearth_starts_total" ["function", "start"],
        "Invocations by start type: cold (in a new instance) or warm (in an idle instance).";
    deploys: IntCounterVec = "hearth_deploys_total" ["outcome"],
        "Deploys by outcome: successful, failed or superseded.";
    failures: IntCounterVec = "hearth_instance_failures_total" ["reason"],
        "Instances that failed or that the controller killed, by reason.";
    instances: IntGaugeVec = "hearth_instances" ["state"],
        "Instances by state.";
    memory: IntGauge = "hearth_instance_memory_bytes" [],
        "Sum of the memory sizes of all instances.";
    memory_budget: IntGauge = "hearth_instance_memory_budget_bytes" [],
        "Maximum sum of the memory sizes of all instances.";
    shells: IntGauge = "hearth_shells" [],
        "Shells: sandbox processes that wait for a restore.";
    cpu_isolation: IntGaugeVec = "hearth_cpu_isolation" ["mode"],
        "1 for the cgroup version that enforces CPU shares, or for the mode none; 0 for all others.";
    jail: IntGaugeVec = "hearth_jail" ["part"],
        "1 for each active part of the sandboxes' jail, 0 for each inactive part.";
    queue: HistogramVec = "hearth_queue_duration_seconds" ["function"],
        "Time from when the controller accepts an invocation until an instance is ready for it.";
    start_wait: HistogramVec = "hearth_start_wait_duration_seconds" [],
        "Time from when the controller accepts an invocation until it begins to start an instance for it. \
         Events do not count.";
    starts_under_way: IntGauge = "hearth_starts_under_way" [],
        "Starts of instances that are under way (at most --max-starts).";
    waiting: IntGauge = "hearth_invocations_waiting" [],
        "Invocations that wait for an instance.";
    requests: IntCounterVec = "hearth_http_requests_total" ["method", "route", "status"],
        "HTTP requests by method, route and status. The route is none for function URLs and for \
         requests that the controller refused before routing.";
    deploys_under_way: IntGaugeVec = "hearth_deploys" ["state"],
        "Current deploys by state: running, or waiting for other deploys (--max-deploys).";
    deploy_duration: HistogramVec = "hearth_deploy_duration_seconds" [],
        "Time of a successful deploy, including the time that it waited for other deploys.";
    data_free: IntGauge = "hearth_data_directory_free_bytes" [],
        "Free space of the file system that the data directory is on.";
    data_floor: IntGauge = "hearth_data_directory_free_floor_bytes" [],
        "Free space below which the controller refuses deploys and events (--min-free-mib).";
    pub(crate) evictions: IntCounter = "hearth_evictions_total" [],
        "Idle instances that the controller ended because other instances needed their memory or their slot.";
    pub(crate) logs_lost: IntCounter = "hearth_log_batches_lost_total" [],
        "Batches of log lines that the controller dropped because it could not store them, or not in time.";
    pub(crate) rebuilds: IntCounter = "hearth_snapshot_rebuilds_total" [],
        "Snapshots that the controller rebuilt because the stored one was unusable.";
    pub(crate) reuses: IntCounter = "hearth_snapshot_reuses_total" [],
        "Deploys that used the function snapshot of an earlier deploy instead of running init.";
    kept_snapshots: IntGauge = "hearth_kept_snapshot_bytes" [],
        "Space on disk of the snapshots of replaced code that the controller keeps for a rollback.";
}

/// Instances by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) starting: u32,
    pub(crate) busy: u32,
    pub(crate) finishing: u32,
    pub(crate) idle: u32,
    pub(crate) memory_mib: u64,
    /// Number of start slots in use.
    pub(crate) starts: usize,
    /// Number of invocations that wait for an instance.
    pub(crate) waiting: usize,
}

impl Metrics {
    /// `error_kinds`: all kinds that callers pass to [`Metrics::error`]. [`Metrics::forget`] removes
    /// only the series of these.
    pub(crate) fn new(error_kinds: &'static [&'static str]) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessMetrics::new()?))?;
        let metrics = Self::registered(registry, error_kinds)?;
        metrics.build.with_label_values(&[crate::VERSION]).set(1);
        // A counter that appears with its first event hides that event from increase().
        for outcome in DEPLOY_OUTCOMES {
            metrics.deploys.with_label_values(&[outcome]);
        }
        Ok(metrics)
    }

    /// For parts of the controller that register further metrics.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts an invocation that ran in an instance.
    pub(crate) fn invocation(&self, function: &str, cold: bool, took: Duration) {
        self.invocations.with_label_values(&[function]).inc();
        let start = if cold { "cold" } else { "warm" };
        self.starts.with_label_values(&[function, start]).inc();
        self.duration
            .with_label_values(&[function])
            .observe(took.as_secs_f64());
    }

    /// Counts an invocation that ended in a function error of this kind, one of a fixed set.
    pub(crate) fn error(&self, function: &str, kind: &'static str) {
        self.errors.with_label_values(&[function, kind]).inc();
    }

    pub(crate) fn throttle(&self, function: &str) {
        self.throttles.with_label_values(&[function]).inc();
    }

    pub(crate) fn restored(&self, function: &str, took: Duration) {
        self.restore
            .with_label_values(&[function])
            .observe(took.as_secs_f64());
    }

    pub(crate) fn post_runtime_extensions(&self, function: &str, took: Duration) {
        self.post_runtime_extensions
            .with_label_values(&[function])
            .observe(took.as_secs_f64());
    }

    pub(crate) fn init(&self, function: &str, took: Duration) {
        self.init
            .with_label_values(&[function])
            .observe(took.as_secs_f64());
    }

    /// Records how long an invocation waited for its instance.
    pub(crate) fn queued(&self, function: &str, took: Duration) {
        self.queue
            .with_label_values(&[function])
            .observe(took.as_secs_f64());
    }

    /// Records how long an invocation waited until the start of its instance began.
    pub(crate) fn start_waited(&self, took: Duration) {
        self.start_wait
            .with_label_values::<&str>(&[])
            .observe(took.as_secs_f64());
    }

    /// Counts an answered request. Unusual methods count as `other`. Otherwise clients could create any
    /// number of series.
    pub(crate) fn request(&self, method: &Method, route: &str, status: StatusCode) {
        let method = match method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS") => known,
            _ => "other",
        };
        let labels = [method, route, status.as_str()];
        self.requests.with_label_values(&labels).inc();
    }

    /// Records how long a successful deploy took.
    pub(crate) fn deployed(&self, took: Duration) {
        self.deploy_duration
            .with_label_values::<&str>(&[])
            .observe(took.as_secs_f64());
    }

    /// Sets the gauges whose values are read only when a client requests the metrics.
    pub(crate) fn set_current(&self, running: usize, waiting: usize, data_free: Option<u64>) {
        for (state, count) in [("running", running), ("waiting", waiting)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.deploys_under_way
                .with_label_values(&[state])
                .set(count);
        }
        if let Some(free) = data_free {
            self.data_free.set(i64::try_from(free).unwrap_or(i64::MAX));
        }
    }

    /// Sets the space on disk of kept snapshots, in bytes.
    pub(crate) fn set_kept_snapshots(&self, bytes: u64) {
        self.kept_snapshots
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Sets the free space below which deploys and events are refused, in bytes.
    pub(crate) fn set_free_floor(&self, bytes: u64) {
        self.data_floor
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn deploy(&self, outcome: &'static str) {
        self.deploys.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn instance_failure(&self, reason: &'static str) {
        self.failures.with_label_values(&[reason]).inc();
    }

    /// Removes the series of a deleted function. Otherwise they would accumulate.
    pub(crate) fn forget(&self, function: &str) {
        // An error means that there is no such series.
        let _ = self.invocations.remove_label_values(&[function]);
        let _ = self.throttles.remove_label_values(&[function]);
        let _ = self.duration.remove_label_values(&[function]);
        let _ = self.restore.remove_label_values(&[function]);
        let _ = self.init.remove_label_values(&[function]);
        let _ = self.queue.remove_label_values(&[function]);
        let _ = self
            .post_runtime_extensions
            .remove_label_values(&[function]);
        for start in ["cold", "warm"] {
            let _ = self.starts.remove_label_values(&[function, start]);
        }
        for kind in self.error_kinds {
            let _ = self.errors.remove_label_values(&[function, *kind]);
        }
    }

    pub(crate) fn set_host(&self, isolation: Isolation, memory_budget_mib: u64) {
        for mode in Isolation::ALL {
            let value = i64::from(mode == isolation);
            self.cpu_isolation
                .with_label_values(&[mode.name()])
                .set(value);
        }
        self.memory_budget.set(bytes(memory_budget_mib));
    }

    pub(crate) fn set_jail(&self, jail: &Jail) {
        for part in JailPart::ALL {
            let value = i64::from(jail.has(part));
            self.jail.with_label_values(&[part.name()]).set(value);
        }
    }

    /// All metrics in Prometheus's text format.
    pub(crate) fn text(&self, census: Census, shells: usize) -> Result<String, prometheus::Error> {
        for (state, count) in [
            ("starting", census.starting),
            ("busy", census.busy),
            ("finishing", census.finishing),
            ("idle", census.idle),
        ] {
            self.instances.with_label_values(&[state]).set(count.into());
        }
        self.memory.set(bytes(census.memory_mib));
        for (gauge, count) in [
            (&self.shells, shells),
            (&self.starts_under_way, census.starts),
            (&self.waiting, census.waiting),
        ] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

fn bytes(mib: u64) -> i64 {
    i64::try_from(mib.saturating_mul(1024 * 1024)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use hearth_protocol::jail::MissingPart;

    use super::*;

    #[test]
    fn the_text_has_all_series_except_those_of_deleted_functions() {
        let metrics = Metrics::new(&["timeout"]).unwrap();
        metrics.set_host(Isolation::V1, 1);
        metrics.set_jail(&Jail {
            missing: vec![MissingPart {
                part: JailPart::User,
                why: "not root".into(),
            }],
        });
        metrics.invocation("f", true, Duration::from_millis(3));
        metrics.error("f", "timeout");
        metrics.queued("f", Duration::from_millis(2));
        let get = Method::from_bytes(b"INVENTED").unwrap();
        metrics.request(&get, "/metrics", StatusCode::OK);
        metrics.set_current(1, 2, Some(4096));
        metrics.deployed(Duration::from_secs(7));
        metrics.start_waited(Duration::from_millis(2));
        let text = metrics
            .text(
                Census {
                    idle: 2,
                    starts: 3,
                    waiting: 4,
                    ..Census::default()
                },
                1,
            )
            .unwrap();
        for line in [
            "hearth_invocations_total{function=\"f\"} 1",
            "hearth_starts_total{function=\"f\",start=\"cold\"} 1",
            "hearth_errors_total{error=\"timeout\",function=\"f\"} 1",
            "hearth_instances{state=\"idle\"} 2",
            "hearth_cpu_isolation{mode=\"v1\"} 1",
            "hearth_cpu_isolation{mode=\"none\"} 0",
            "hearth_instance_memory_budget_bytes 1048576",
            "hearth_shells 1",
            "hearth_jail{part=\"user\"} 0",
            "hearth_jail{part=\"seccomp\"} 1",
            "hearth_queue_duration_seconds_bucket{function=\"f\",le=\"0.0025\"} 1",
            "hearth_http_requests_total{method=\"other\",route=\"/metrics\",status=\"200\"} 1",
            "hearth_deploys{state=\"waiting\"} 2",
            "hearth_deploys_total{outcome=\"failed\"} 0",
            "hearth_deploy_duration_seconds_count 1",
            "hearth_data_directory_free_bytes 4096",
            "hearth_starts_under_way 3",
            "hearth_invocations_waiting 4",
            "hearth_start_wait_duration_seconds_count 1",
            concat!(
                "hearth_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        metrics.forget("f");
        let text = metrics.text(Census::default(), 0).unwrap();
        assert!(!text.contains("function=\"f\""), "{text}");
    }
}
