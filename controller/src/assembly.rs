//! Starts and stops a controller: opens, checks and cleans up everything before it serves, and closes
//! everything in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_protocol::jail::Jail;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{App, Downloads};
use crate::auth::AuthSetupError;
use crate::data_dir::{DataDir, DataDirError};
use crate::deploy::{
    Builder, BuilderSettings, BuilderTools, Deployer, Host, Packages, Rebuilder, Times,
};
use crate::events::{
    Bounds, EventSettings, Events, EventsError, EventsStartError, PooledFunctions, RetrySettings,
};
use crate::function::ArnScope;
use crate::instance::{Identities, JailSettings, ProcessLauncher};
use crate::limits::{CpuCgroups, HostCpus, Isolation};
use crate::logs::{Kept, LogStore};
use crate::metrics::Metrics;
use crate::pool::{ERROR_KINDS, Pool, PoolSettings, Shells};
use crate::registry::{Catalog, Contents, Database, RegistryError};
use crate::revival::{revive, sweep};
use crate::settings::{Settings, SettingsError};
use crate::sqlite::checkpoint;

/// Default share of the host's memory for instances, as a fraction.
const MEMORY_SHARE: (u64, u64) = (7, 10);
/// Share of all instances, and of their memory, that events may use, as a fraction.
const EVENTS_SHARE: (u64, u64) = (9, 10);
/// First window of a function's events for each CPU: how many of them run at once.
const EVENTS_PER_CPU: usize = 2;
/// Default timeout of init with hardware KVM, in seconds: Lambda's.
const INIT_HARDWARE: u64 = 10;
/// Default timeout of init with software KVM, in seconds.
const INIT_SOFTWARE: u64 = 300;
/// Time in which a runtime that has sent a result is expected to ask for its next event: about as long
/// as the start of another instance takes. With software KVM both take many times longer.
const GRACE_HARDWARE: Duration = Duration::from_millis(50);
const GRACE_SOFTWARE: Duration = Duration::from_secs(1);
/// Time after the restore for which a start counts as one at most: about as long as a guest needs for its
/// first answer if the function itself takes no time. With software KVM that was 40 to 50 ms.
const TAIL_HARDWARE: Duration = Duration::from_millis(25);
const TAIL_SOFTWARE: Duration = Duration::from_millis(100);
/// Interval between two measurements of the host's CPUs. Short, because a burst starts instances until the
/// first measurement.
const CPUS_PERIOD: Duration = Duration::from_millis(100);
/// Maximum time until killed sandboxes have ended.
const REAP_LIMIT: Duration = Duration::from_secs(10);

/// Why a controller could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Clients can't be authenticated as the settings require it.
    #[error(transparent)]
    Authentication(#[from] AuthSetupError),
    /// The data directory can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The registry can't be opened.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The event queue can't be opened.
    #[error(transparent)]
    Events(#[from] EventsError),
    /// There is no sandbox program.
    #[error("there is no sandbox program at {}: build it (`make`), or name it with --sandbox-bin FILE", .0.display())]
    NoSandbox(PathBuf),
    /// The sandbox program could not start a microVM.
    #[error(
        "the sandbox program can't start a microVM on this host: {0}. Does /dev/kvm exist, and may this user open it? Run `hearth doctor` for a check"
    )]
    NoMicroVm(String),
    /// The guest kernel or a runtime image is missing or damaged.
    #[error("{0}")]
    Artefacts(String),
    /// An operation of the host has failed.
    #[error("{doing}: {source}")]
    Host {
        /// The operation.
        doing: &'static str,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// Two metrics have the same name: a bug in this program.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The package store can't be opened.
    #[error("package store: {0}")]
    Packages(#[from] object_store::Error),
}

/// A controller that is ready to serve.
#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) app: Arc<App>,
    pub(crate) data: Arc<DataDir>,
    cgroups: Arc<CpuCgroups>,
    reaper: TaskTracker,
}

impl Controller {
    /// Opens and starts all parts. Must run in a tokio runtime.
    pub(crate) async fn start(settings: &Settings) -> Result<Self, StartError> {
        settings.check()?;
        let started = Instant::now();
        let data = Arc::new(DataDir::open(&settings.data_dir()?)?);
        if let Some(mib) = settings.min_free_mib {
            data.set_floor(mib << 20);
        }
        let sandbox = settings.sandbox_bin()?;
        if !sandbox.is_file() {
            return Err(StartError::NoSandbox(sandbox));
        }
        let name = format!("hearth-{}", data.tag());
        let mount = Path::new("/sys/fs/cgroup");
        let cgroups = Arc::new(CpuCgroups::open(mount, &name, settings.cpu_limit));
        let reaper = TaskTracker::new();
        let assembled = Self::assemble(settings, started, data, sandbox, &cgroups, &reaper).await;
        if assembled.is_err() {
            clear_away(&cgroups, &reaper).await;
        }
        assembled
    }

    /// Everything that needs processes.
    async fn assemble(
        settings: &Settings,
        started: Instant,
        data: Arc<DataDir>,
        sandbox: PathBuf,
        cgroups: &Arc<CpuCgroups>,
        reaper: &TaskTracker,
    ) -> Result<Self, StartError> {
        let (cgroups, reaper) = (cgroups.clone(), reaper.clone());
        let host = |doing| move |source| StartError::Host { doing, source };
        let metrics = Arc::new(Metrics::new(&ERROR_KINDS)?);
        let logs = LogStore::open(
            data.logs(),
            Kept {
                max_bytes: settings.log_mib << 20,
                max_age: Duration::from_secs(settings.log_retention),
            },
            metrics.logs_lost.clone(),
        )
        .map_err(host("opening the logs"))?;
        let jail = jail_settings(settings, &data);
        let launcher = ProcessLauncher::new(
            sandbox.clone(),
            jail,
            settings.mailbox,
            cgroups.clone(),
            reaper.clone(),
        )
        .map_err(host("starting the launcher's thread"))?;
        let shells = Arc::new(Shells::new(Arc::new(launcher), settings.shells as usize));
        let (kind, jail) = first_shell(&shells).await?;
        let artefacts =
            |error: crate::deploy::DeployError| StartError::Artefacts(error.to_string());
        let host_facts = Host::new(&settings.cache_dir()?, &sandbox, kind, settings.mailbox)
            .map_err(artefacts)?;
        if host_facts.kernel().map_err(artefacts)?.is_none() {
            return Err(StartError::Artefacts(format!(
                "there is no guest kernel in {}: run `make images`, or `hearth-rootfs kernel`; \
                 --cache-dir or HEARTH_CACHE say where to look",
                settings.cache_dir()?.display()
            )));
        }
        let memory_budget_mib = match settings.memory_budget_mib {
            Some(mib) => mib,
            None => host_memory_mib()? * MEMORY_SHARE.0 / MEMORY_SHARE.1,
        };
        metrics.set_host(cgroups.isolation(), memory_budget_mib);
        let arn_scope = ArnScope {
            region: settings.region.clone(),
            account: settings.account.clone(),
        };
        metrics.set_jail(&jail);
        metrics.set_free_floor(data.floor());
        let warnings = warnings(settings, &cgroups, &host_facts, &jail);
        let init = settings
            .init_timeout
            .unwrap_or(if host_facts.is_software() {
                INIT_SOFTWARE
            } else {
                INIT_HARDWARE
            });
        let software = host_facts.is_software();
        let times = Times {
            boot: Duration::from_secs(settings.boot_timeout),
            init: Duration::from_secs(init),
        };

        let key = settings.key_file.clone().unwrap_or_else(|| data.key());
        let (database, stored) = Database::open(&data.registry(), &key)?;
        sweep(&data, &database, &stored)?;
        let Contents { functions, layers } = stored;
        let tools = BuilderTools {
            data: data.clone(),
            host: host_facts,
            packages: Packages::in_folder(&data.packages())?,
            shells: shells.clone(),
            logs: logs.clone(),
            metrics: metrics.clone(),
        };
        let builder_settings = BuilderSettings {
            arn_scope: arn_scope.clone(),
            times,
            mailbox: settings.mailbox,
            max_deploys: settings.max_deploys as usize,
            kept_snapshot_bytes: settings.kept_snapshots_mib << 20,
        };
        let builder = Arc::new(Builder::new(tools, builder_settings));
        let functions = functions
            .into_iter()
            .map(|function| revive(&builder, function))
            .collect();
        let damaged = database.is_damaged();
        let catalog = Arc::new(Catalog::new(database, functions, layers));
        if !damaged {
            builder.remove_unused_runtimes(&catalog, 0);
        }
        let rebuilder = Arc::new(Rebuilder::new(builder.clone(), catalog.clone()));
        let pool_settings = PoolSettings {
            account_concurrency: settings.account_concurrency,
            max_instances: settings.max_instances as usize,
            max_per_function: settings.max_per_function() as usize,
            memory_budget_mib,
            memory_per_function_mib: settings.memory_per_function_mib(memory_budget_mib),
            idle_timeout: Duration::from_secs(settings.idle_timeout),
            throttle_wait: settings.throttle_wait(),
            max_starts: settings
                .max_starts
                .map_or_else(cpus, |starts| starts as usize),
            max_waiting: settings.max_waiting(),
            start_wait: Duration::from_millis(settings.start_wait_ms),
            start_tail: if software {
                TAIL_SOFTWARE
            } else {
                TAIL_HARDWARE
            },
            finish_grace: if software {
                GRACE_SOFTWARE
            } else {
                GRACE_HARDWARE
            },
        };
        let pool = Pool::new(
            pool_settings,
            shells,
            rebuilder,
            metrics.clone(),
            logs.clone(),
            HostCpus::new(CPUS_PERIOD),
        );
        let deployer = Deployer::new(
            catalog.clone(),
            builder.clone(),
            pool.clone(),
            logs.clone(),
            metrics.clone(),
        );
        deployer.resume();
        let draining = CancellationToken::new();
        let events = start_events(
            settings,
            &data,
            PooledFunctions::new(
                catalog.clone(),
                pool.clone(),
                arn_scope.clone(),
                for_events(memory_budget_mib),
            ),
            &metrics,
            draining.clone(),
        )
        .await?;
        let isolation = cgroups.isolation();
        let downloads = Downloads::new().map_err(host("making a key for links"))?;
        let app = Arc::new(App {
            arn_scope,
            catalog,
            pool,
            events,
            deployer,
            builder,
            logs,
            metrics,
            isolation,
            jail,
            warnings,
            started,
            uploads: App::upload_permits(),
            downloads,
            leaving: CancellationToken::new(),
            draining,
        });
        Ok(Self {
            app,
            data,
            cgroups,
            reaper,
        })
    }

    /// Ends all deploys, instances and sandbox processes.
    pub(crate) async fn stop(&self) {
        let goodbyes = self.app.pool.has_layers();
        self.app.pool.close();
        self.app.deployer.close().await;
        if goodbyes {
            // Extensions of idle instances have this time to shut down. All that still run are killed.
            let _ = tokio::time::timeout(GOODBYES, self.app.pool.drained()).await;
        }
        self.app.pool.kill();
        self.app.pool.drained().await;
        self.app.logs.flush().await;
        clear_away(&self.cgroups, &self.reaper).await;
        self.checkpoint().await;
        self.data.remove_address();
    }

    /// Completes the SQLite files: a copy of the file alone is then a copy of everything.
    async fn checkpoint(&self) {
        let files = [self.data.registry(), self.data.events()];
        let checkpoints = move || files.map(|file| (checkpoint(&file), file));
        let Ok(results) = tokio::task::spawn_blocking(checkpoints).await else {
            return;
        };
        for (result, file) in results {
            if let Err(error) = result {
                tracing::warn!(
                    path = %file.display(),
                    %error,
                    "the controller could not complete a file from its write-ahead log"
                );
            }
        }
    }
}

/// Maximum time to wait for extensions at the end: a little longer than the timeout of an instance's
/// shutdown.
const GOODBYES: Duration = Duration::from_secs(5);

/// The number of CPUs that this process may use.
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The part of a limit that events may use, so that the rest is left for synchronous invocations.
fn for_events(all: u64) -> u64 {
    (all * EVENTS_SHARE.0 / EVENTS_SHARE.1).max(1)
}

/// Starts the event queue with the limits of the settings.
async fn start_events(
    settings: &Settings,
    data: &DataDir,
    functions: PooledFunctions,
    metrics: &Metrics,
    draining: CancellationToken,
) -> Result<Events, StartError> {
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let most = settings
        .event_concurrency
        .map_or_else(|| for_events(settings.max_instances.into()), u64::from);
    let of_one = settings.max_per_function();
    let bounds = Bounds {
        running: count(most),
        per_function: count(for_events(of_one.into()).min(most)),
        first_window: cpus() * EVENTS_PER_CPU,
        events: settings.event_queue_events,
        bytes: settings.event_queue_mib << 20,
    };
    let retry = RetrySettings {
        base: Duration::from_millis(settings.event_retry_base_ms),
        max_age: Duration::from_secs(settings.event_max_age),
    };
    let settings = EventSettings { bounds, retry };
    Events::start(
        &data.events(),
        settings,
        Arc::new(functions),
        metrics,
        draining,
    )
    .await
    .map_err(|error| match error {
        EventsStartError::Queue(error) => error.into(),
        EventsStartError::Metrics(error) => error.into(),
    })
}

/// Waits until all sandbox processes have been reaped, and removes the folder of their cgroups.
async fn clear_away(cgroups: &CpuCgroups, reaper: &TaskTracker) {
    reaper.close();
    if tokio::time::timeout(REAP_LIMIT, reaper.wait())
        .await
        .is_err()
    {
        tracing::error!("some sandbox processes did not end");
    }
    cgroups.close();
}

/// The settings of jails. Only a controller that runs as root can give each sandbox a user of its own.
fn jail_settings(settings: &Settings, data: &DataDir) -> JailSettings {
    let first = settings.jail_first_id.unwrap_or_else(|| {
        let number = u32::from_str_radix(&data.tag(), 16).expect("a tag is eight digits");
        Identities::range_of(number)
    });
    JailSettings {
        identities: nix::unistd::geteuid()
            .is_root()
            .then(|| Identities::new(first, std::process::id())),
        required: settings.require_jail,
    }
}

/// Starts a first shell. This checks that microVMs can be started on this host, and returns the kind of
/// host and the parts of the jail that work.
async fn first_shell(shells: &Shells) -> Result<(String, Jail), StartError> {
    let (vm, status) = shells
        .launch()
        .await
        .map_err(|error| StartError::NoMicroVm(error.to_string()))?;
    shells.put_back(vm);
    Ok((status.host_kind, status.jail))
}

fn warnings(settings: &Settings, cgroups: &CpuCgroups, host: &Host, jail: &Jail) -> Vec<String> {
    let mut warnings = cgroups.warnings().to_vec();
    if cgroups.isolation() == Isolation::None {
        warnings.push("CPU shares do not depend on the memory size of functions".into());
    }
    if !jail.is_complete() {
        warnings.push(format!("the jail of sandboxes is incomplete: {jail}"));
    }
    if host.is_software() {
        warnings.push(
            "this host has no virtualization extensions: KVM interprets guest kernels, which is slow"
                .into(),
        );
    }
    if !settings.listen.ip().is_loopback() && settings.insecure && !settings.require_signatures {
        warnings.push(format!(
            "listening on {} without authentication: every client that reaches it can run code",
            settings.listen
        ));
    }
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    warnings
}

fn host_memory_mib() -> Result<u64, StartError> {
    let doing = "reading /proc/meminfo";
    let text = std::fs::read_to_string("/proc/meminfo")
        .map_err(|source| StartError::Host { doing, source })?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib / 1024).ok_or_else(|| StartError::Host {
        doing,
        source: std::io::Error::other("there is no MemTotal in it"),
    })
}
