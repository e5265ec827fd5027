//! The controller's settings, from the command line or environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser};

use crate::function::{is_account, is_region};
use crate::instance::MailboxUse;
use crate::limits::CpuLimit;
use crate::web_pages::host_name;

/// Settings of a controller. `hearthd`, `hearth serve` and `hearth dev` share them.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Address to listen on; port 0 picks a free one, which is in the log and in
    /// DATA/hearthd.addr.
    #[arg(
        long,
        env = "HEARTH_LISTEN",
        default_value = "127.0.0.1:9070",
        value_name = "ADDR:PORT",
        value_parser = address
    )]
    pub listen: SocketAddr,

    /// Check no signatures on an address that is not loopback: every client that reaches the port can
    /// run code. Without this option such an address needs access keys (`hearth keys create`).
    #[arg(long, env = "HEARTH_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// Check signatures on loopback too, for example behind a proxy that other machines reach.
    #[arg(long, env = "HEARTH_REQUIRE_SIGNATURES", value_parser = BoolishValueParser::new())]
    pub require_signatures: bool,

    /// Second address that serves only /metrics, /healthz and /readyz, without signatures: for a
    /// Prometheus if the first address needs signatures.
    #[arg(long, env = "HEARTH_METRICS_LISTEN", value_name = "ADDR:PORT", value_parser = address)]
    pub metrics_listen: Option<SocketAddr>,

    /// Host names, beside IP addresses and localhost, by which clients reach an address without signatures
    /// (--listen or --metrics-listen): the address refuses requests for other names, because a web page
    /// may have chosen them. Several are separated by commas.
    #[arg(
        long,
        env = "HEARTH_ALLOWED_HOST",
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = host_name
    )]
    pub allowed_host: Vec<String>,

    /// Directory of all data that the controller keeps: registry, packages, images, snapshots, logs
    /// [default: /var/lib/hearth for root, else ~/.local/share/hearth].
    #[arg(long, env = "HEARTH_DATA", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Key file for the environment variables, which are encrypted in the registry. The controller makes
    /// it at the first start. Without the file they are lost: keep a copy elsewhere [default: DATA/secrets.key].
    #[arg(long, env = "HEARTH_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Directory in which `hearth-rootfs` stores the kernel and runtime images [default: ~/.cache/hearth].
    #[arg(long, env = "HEARTH_CACHE", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// The sandbox program [default: `hearth-sandbox` beside this executable].
    #[arg(long, env = "HEARTH_SANDBOX_BIN", value_name = "FILE")]
    pub sandbox_bin: Option<PathBuf>,

    /// Region in ARNs and in `AWS_REGION`.
    #[arg(long, env = "HEARTH_REGION", default_value = "us-east-1")]
    pub region: String,

    /// Twelve-digit account in ARNs.
    #[arg(long, env = "HEARTH_ACCOUNT", default_value = "000000000000")]
    pub account: String,

    /// Maximum concurrent invocations of all functions together (Lambda's account limit). Reserved
    /// concurrency counts against it.
    #[arg(long, env = "HEARTH_ACCOUNT_CONCURRENCY", default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub account_concurrency: u32,

    /// Most instances at once, busy and idle, of all functions together.
    #[arg(long, env = "HEARTH_MAX_INSTANCES", default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_instances: u32,

    /// Most instances at once of one function [default: half of --max-instances and at most half of
    /// --memory-budget-mib, so that one function does not take the whole host].
    #[arg(long, env = "HEARTH_MAX_INSTANCES_PER_FUNCTION", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_instances_per_function: Option<u32>,

    /// Most memory of all instances together, as the sum of their functions' memory sizes, in MiB
    /// [default: 70 % of the host's memory].
    #[arg(long, env = "HEARTH_MEMORY_BUDGET_MIB", value_name = "MIB")]
    pub memory_budget_mib: Option<u64>,

    /// Whether runtimes that support it exchange events and answers with the host through shared memory
    /// instead of the guest's kernel.
    #[arg(long, env = "HEARTH_MAILBOX", value_enum, default_value_t = MailboxUse::On)]
    pub mailbox: MailboxUse,

    /// Seconds after which the controller ends an idle instance.
    #[arg(
        long,
        env = "HEARTH_IDLE_TIMEOUT",
        default_value_t = 600,
        value_name = "SECONDS"
    )]
    pub idle_timeout: u64,

    /// Milliseconds that an invocation waits for an instance if a limit is reached. Then the controller
    /// refuses it with 429.
    #[arg(
        long,
        env = "HEARTH_THROTTLE_WAIT_MS",
        default_value_t = 1000,
        value_name = "MS"
    )]
    pub throttle_wait_ms: u64,

    /// Most starts of instances under way at once; others wait for their turn [default: the number of CPUs].
    #[arg(long, env = "HEARTH_MAX_STARTS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_starts: Option<u32>,

    /// Milliseconds that an invocation waits for its turn to start an instance, if no limit is reached. Then
    /// the controller refuses it with 429.
    #[arg(
        long,
        env = "HEARTH_START_WAIT_MS",
        default_value_t = 5000,
        value_name = "MS"
    )]
    pub start_wait_ms: u64,

    /// Most invocations of one function that wait for an instance; the controller refuses further ones with
    /// 429 at once. Events do not count [default: half of --account-concurrency].
    #[arg(long, env = "HEARTH_MAX_WAITING_PER_FUNCTION", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_waiting_per_function: Option<u32>,

    /// Sandbox processes that the controller starts in advance.
    #[arg(long, env = "HEARTH_SHELLS", default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub shells: u32,

    /// Most deploys that run at the same time.
    #[arg(long, env = "HEARTH_MAX_DEPLOYS", default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_deploys: u32,

    /// Most disk space of the snapshots of replaced code, in MiB. A rollback to such code, with unchanged
    /// environment variables, does not run init again. 0 keeps none.
    #[arg(long, env = "HEARTH_KEPT_SNAPSHOTS_MIB", default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    pub kept_snapshots_mib: u64,

    /// Seconds that a function's init may take at deploy [default: 10; 300 on software-KVM hosts,
    /// where the guest's kernel is interpreted].
    #[arg(long, env = "HEARTH_INIT_TIMEOUT", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=900))]
    pub init_timeout: Option<u64>,

    /// Seconds that a kernel may take to boot for a runtime snapshot.
    #[arg(long, env = "HEARTH_BOOT_TIMEOUT", default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=900))]
    pub boot_timeout: u64,

    /// Seconds that the controller waits for running invocations after SIGTERM.
    #[arg(
        long,
        env = "HEARTH_DRAIN_TIMEOUT",
        default_value_t = 25,
        value_name = "SECONDS"
    )]
    pub drain_timeout: u64,

    /// Seconds after SIGTERM during which the controller still accepts connections and /readyz answers
    /// 503, so that a load balancer sends its requests elsewhere before the port closes.
    #[arg(long, env = "HEARTH_DRAIN_DELAY", default_value_t = 0, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub drain_delay: u64,

    /// How a function's CPU share (1,769 MB is one vCPU) is enforced. A share is work-conserving:
    /// it counts only when CPUs are contended. A cap is a hard limit at any time.
    #[arg(long, env = "HEARTH_CPU_LIMIT", value_enum, default_value_t = CpuLimit::Share)]
    pub cpu_limit: CpuLimit,

    /// Refuse to start if the jail of sandboxes would be incomplete. Its parts: a user for each sandbox,
    /// empty root, namespaces, Landlock, system call filters. This needs root.
    #[arg(long, env = "HEARTH_REQUIRE_JAIL", value_parser = BoolishValueParser::new())]
    pub require_jail: bool,

    /// First of 16,384 user and group ids. If the controller is root, each sandbox runs with one of them.
    /// Nothing else on the host may use them [default: a range from 1,879,048,192 on that depends on the
    /// data directory].
    #[arg(long, env = "HEARTH_JAIL_FIRST_ID", value_name = "ID", value_parser = clap::value_parser!(u32).range(1..=0xffff_0000))]
    pub jail_first_id: Option<u32>,

    /// Most HTTP connections at once; further ones wait in the kernel's queue.
    #[arg(long, env = "HEARTH_MAX_CONNECTIONS", default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_connections: u32,

    /// Most events (asynchronous invocations) in the queue. The controller refuses further ones with 429.
    #[arg(long, env = "HEARTH_EVENT_QUEUE_EVENTS", default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub event_queue_events: u64,

    /// Most disk space for queued events, in MiB. The controller refuses further ones with 429.
    #[arg(long, env = "HEARTH_EVENT_QUEUE_MIB", default_value_t = 4096, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub event_queue_mib: u64,

    /// Most events that run at the same time, of all functions together [default: nine tenths of the
    /// maximum of instances, so that some are left for synchronous invocations].
    #[arg(long, env = "HEARTH_EVENT_CONCURRENCY", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub event_concurrency: Option<u32>,

    /// Milliseconds from an event's first function error to its second run. Twice this time passes before
    /// the third run.
    #[arg(long, env = "HEARTH_EVENT_RETRY_BASE_MS", default_value_t = 60_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub event_retry_base_ms: u64,

    /// Seconds after which the controller drops an event that could not run, if the function has no
    /// setting of its own.
    #[arg(long, env = "HEARTH_EVENT_MAX_AGE", default_value_t = 21_600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=1_209_600))]
    pub event_max_age: u64,

    /// Free space of the data directory's file system in MiB below which the controller refuses deploys
    /// and events [default: 256, or 5 % of the file system if that is less].
    #[arg(long, env = "HEARTH_MIN_FREE_MIB", value_name = "MIB", value_parser = clap::value_parser!(u64).range(0..=1 << 30))]
    pub min_free_mib: Option<u64>,

    /// Most disk space for the log records of each function, in MiB.
    #[arg(long, env = "HEARTH_LOG_MIB", default_value_t = 16, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub log_mib: u64,

    /// Seconds after which the controller deletes log records; earlier if their space is full
    /// [default: two weeks].
    #[arg(long, env = "HEARTH_LOG_RETENTION", default_value_t = 1_209_600, hide_default_value = true, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(60..=315_360_000))]
    pub log_retention: u64,
}

/// A setting is wrong, or its default can't be determined.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The default needs `$HOME`.
    #[error("$HOME is not set: use {0} DIR")]
    NoHome(&'static str),
    /// The default needs the path of this executable.
    #[error("can't find the path of this executable ({0}): use --sandbox-bin FILE")]
    NoExecutable(std::io::Error),
    /// The account is not twelve digits.
    #[error("account {0:?}: expected twelve digits")]
    Account(String),
    /// The region does not have the form of a region.
    #[error("region {0:?}: expected a form like us-east-1")]
    Region(String),
}

/// Parses an address of the command line.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost:");
    let numeric = local.map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
        let port = text
            .rsplit(':')
            .next()
            .and_then(|port| port.parse::<u16>().ok());
        format!(
            "expected ADDRESS:PORT, such as 127.0.0.1:{}",
            port.unwrap_or(9070)
        )
    })
}

impl Settings {
    /// The settings of an empty command line, with the environment variables.
    pub fn defaults() -> Result<Self, clap::Error> {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            settings: Settings,
        }
        Alone::try_parse_from(["hearthd"]).map(|alone| alone.settings)
    }

    /// Checks the account and the region.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        if !is_account(&self.account) {
            return Err(SettingsError::Account(self.account.clone()));
        }
        if !is_region(&self.region) {
            return Err(SettingsError::Region(self.region.clone()));
        }
        Ok(())
    }

    /// The data directory, or its default.
    pub fn data_dir(&self) -> Result<PathBuf, SettingsError> {
        if let Some(dir) = &self.data_dir {
            return Ok(dir.clone());
        }
        if nix::unistd::geteuid().is_root() {
            return Ok("/var/lib/hearth".into());
        }
        let home = home().ok_or(SettingsError::NoHome("--data-dir"))?;
        Ok(home.join(".local/share/hearth"))
    }

    /// The artefact cache, or its default.
    pub fn cache_dir(&self) -> Result<PathBuf, SettingsError> {
        match &self.cache_dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(home()
                .ok_or(SettingsError::NoHome("--cache-dir"))?
                .join(".cache/hearth")),
        }
    }

    /// The sandbox program, or its default.
    pub fn sandbox_bin(&self) -> Result<PathBuf, SettingsError> {
        match &self.sandbox_bin {
            Some(file) => Ok(file.clone()),
            None => std::env::current_exe()
                .map(|exe| exe.with_file_name("hearth-sandbox"))
                .map_err(SettingsError::NoExecutable),
        }
    }

    /// Maximum number of instances of one function.
    pub(crate) fn max_per_function(&self) -> u32 {
        let half = self.max_instances.div_ceil(2);
        self.max_instances_per_function.unwrap_or(half)
    }

    /// Maximum memory of the instances of one function, of this budget for all.
    pub(crate) fn memory_per_function_mib(&self, budget_mib: u64) -> u64 {
        match self.max_instances_per_function {
            Some(_) => budget_mib,
            None => budget_mib.div_ceil(2),
        }
    }

    /// Maximum number of invocations of one function that wait for an instance.
    pub(crate) fn max_waiting(&self) -> usize {
        let most = self.max_waiting_per_function;
        most.unwrap_or((self.account_concurrency / 2).max(1)) as usize
    }

    /// How long an invocation waits for an instance if a limit is reached.
    pub(crate) fn throttle_wait(&self) -> Duration {
        Duration::from_millis(self.throttle_wait_ms)
    }
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        settings: Settings,
    }

    /// 21 options had no variable, although `deploy/README.md` tells readers to use an environment file.
    #[test]
    fn every_setting_has_an_environment_variable_named_after_it() {
        for arg in Alone::command().get_arguments() {
            let expected = match arg.get_id().as_str() {
                "data_dir" => "HEARTH_DATA".to_owned(),
                "cache_dir" => "HEARTH_CACHE".to_owned(),
                id => format!("HEARTH_{}", id.to_uppercase()),
            };
            let variable = arg.get_env().map(|name| name.to_string_lossy());
            assert_eq!(variable.as_deref(), Some(&*expected), "{}", arg.get_id());
        }
    }

    #[test]
    fn account_and_region_must_fit_into_an_arn() {
        let mut settings = Settings::defaults().unwrap();
        settings.check().unwrap();
        settings.account = "12345678901a".into();
        assert!(matches!(settings.check(), Err(SettingsError::Account(_))));
        settings.account = "123456789012".into();
        settings.region = "us:east".into();
        assert!(matches!(settings.check(), Err(SettingsError::Region(_))));
    }
}
