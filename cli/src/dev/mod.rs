//! `hearth dev`: a controller in this process, a folder that is deployed whenever it changes, and
//! an address in front that never answers from older code than the folder holds.
//!
//! * [`fingerprint`]: which state the folder is in
//! * [`gate`]: holds requests until the state that they see is deployed
//! * [`deployer`]: deploys one state after another
//! * [`front`]: the HTTP server; asks the gate, then hands the request to the controller

mod deployer;
mod fingerprint;
mod front;
mod gate;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deployer::Deployer;
use front::Front;
use gate::Gate;
use hearth_controller::{LogError, PageCheck, ServeError, Settings};
use notify::{RecursiveMode, Watcher};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::args::Dev;
use crate::client::{Client, ClientError};
use crate::output::{Output, Stream, Tone};
use crate::project::{Project, ProjectError};
use crate::signals::told_to_end;

/// Maximum time for requests in progress after SIGINT or SIGTERM.
const DRAIN: Duration = Duration::from_secs(3);

/// Why the development server does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    /// The address is taken, or not this machine's.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address is open to other machines.
    #[error(
        "{0} is reachable from other machines, and every client that reaches it can run code; listen on 127.0.0.1"
    )]
    Exposed(SocketAddr),
    /// The controller's own settings, from the environment.
    #[error("settings of the controller: {0}")]
    Settings(String),
    /// The log's settings, from the environment.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The controller in this process.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The controller ended without a reason.
    #[error("the controller in this process ended; its log is above")]
    ControllerGone,
    /// The controller's address can't be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The folder can't be watched.
    #[error("can't watch {path}: {source}")]
    Watch {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: notify::Error,
    },
    /// The folder changed and can't be read any more.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// Threads, signals, the server's sockets.
    #[error("the development server: {0}")]
    Io(#[from] io::Error),
}

impl DevError {
    /// Whether the caller can mend it.
    pub(crate) fn is_callers(&self) -> bool {
        matches!(
            self,
            Self::Listen { .. }
                | Self::Exposed(_)
                | Self::Settings(_)
                | Self::Log(_)
                | Self::Project(_)
        )
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Project(error) => error.hint(),
            Self::Client(error) => error.hint(),
            Self::Listen { .. } => Some("--listen ADDRESS:PORT takes another".to_owned()),
            Self::Watch { .. } => {
                Some("the limit fs.inotify.max_user_watches may be too low".to_owned())
            }
            _ => None,
        }
    }
}

/// Runs the command until SIGINT or SIGTERM.
pub(crate) fn run(dev: Dev, output: Output) -> Result<(), DevError> {
    // An unusable folder is reported before a controller starts.
    Project::load(&dev.dir, &dev.settings)?;
    if !dev.listen.ip().is_loopback() {
        return Err(DevError::Exposed(dev.listen));
    }
    dev.log.start("warn")?;
    let settings = settings(&dev)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(serve(dev, settings, output));
    // Whatever still waits for a function on a thread of its own is not waited for.
    runtime.shutdown_background();
    ended
}

/// The controller's settings: as for `hearth serve`, but on a port and with data of its own.
fn settings(dev: &Dev) -> Result<Settings, DevError> {
    let bad = |error: String| DevError::Settings(error);
    let mut settings = Settings::defaults().map_err(|error| bad(error.to_string()))?;
    settings.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    // What the environment says of these is for the controller that serves others.
    settings.insecure = false;
    settings.require_signatures = false;
    settings.metrics_listen = None;
    settings.jail_first_id = None;
    let cache = settings
        .cache_dir()
        .map_err(|error| bad(error.to_string()))?;
    settings.data_dir = Some(dev.data_dir.clone().unwrap_or_else(|| cache.join("dev")));
    Ok(settings)
}

async fn serve(dev: Dev, settings: Settings, output: Output) -> Result<(), DevError> {
    let signal = told_to_end()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, address) = oneshot::channel();
    let allowed_hosts = settings.allowed_host.clone();
    let controller = hearth_controller::serve(settings, Some(ready), async {
        // Sent or dropped, either way it is time.
        let _ = stopped.await;
    });
    tokio::pin!(controller);
    let front = async {
        let address = address.await.map_err(|_| DevError::ControllerGone)?;
        serve_front(dev, address, &allowed_hosts, signal, output).await
    };
    let front_ended = tokio::select! {
        ended = &mut controller => {
            ended?;
            return Err(DevError::ControllerGone);
        }
        ended = front => ended,
    };
    // The controller may have gone by itself in the meantime; its end is awaited below.
    let _ = stop.send(());
    controller.await?;
    front_ended
}

/// Serves until `signal`, in front of the controller at `controller`.
async fn serve_front(
    dev: Dev,
    controller: SocketAddr,
    allowed_hosts: &[String],
    signal: impl Future<Output = ()> + Send + 'static,
    output: Output,
) -> Result<(), DevError> {
    let listen_error = |source| DevError::Listen {
        address: dev.listen,
        source,
    };
    let listener = TcpListener::bind(dev.listen).await.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let client = Client::new(&format!("http://{controller}"))?;
    let gate = Arc::new(Gate::new());
    let deployer = Deployer::new(client.clone(), &dev, gate.clone(), output)?;
    let front = Front {
        client,
        name: deployer.name().clone(),
        gate: gate.clone(),
        files: deployer.files(),
        output,
    };
    let _watcher = watch(&deployer, &gate)?;
    std::thread::Builder::new()
        .name("deployer".to_owned())
        .spawn(move || deployer.run())?;
    let url = output.paint(Stream::Stderr, Tone::Strong, &format!("http://{address}/"));
    output.note(&format!(
        "{} at {url}, deployed on every change; Ctrl-C ends it",
        front.name
    ));

    let (closed, drain) = oneshot::channel::<()>();
    let pages = PageCheck::open(address, allowed_hosts, true);
    let routes = front::router(front, pages);
    let server = axum::serve(listener, routes).with_graceful_shutdown(async move {
        signal.await;
        gate.close();
        // The receiver is gone if the server has ended already.
        let _ = closed.send(());
    });
    let too_long = async {
        if drain.await.is_ok() {
            tokio::time::sleep(DRAIN).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = async { server.await } => ended?,
        () = too_long => {}
    }
    Ok(())
}

/// Wakes the deployer when a file of the function changes, so that the next request need not wait.
/// Nothing depends on it: every request looks at the folder itself.
fn watch(deployer: &Deployer, gate: &Arc<Gate>) -> Result<impl Watcher + use<>, DevError> {
    let watch_error = |source| DevError::Watch {
        path: deployer.dir().to_owned(),
        source,
    };
    let gate = gate.clone();
    let files = deployer.files();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let files = files
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let changed = match event {
            Ok(event) if event.kind.is_access() => false,
            // Events were lost: any file may have changed.
            Ok(event) if event.paths.is_empty() => true,
            Ok(event) => event.paths.iter().any(|path| files.concerns(path)),
            Err(_) => true,
        };
        if changed {
            gate.changed();
        }
    })
    .map_err(watch_error)?;
    watcher
        .watch(deployer.dir(), RecursiveMode::Recursive)
        .map_err(watch_error)?;
    Ok(watcher)
}
