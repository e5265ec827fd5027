//! Why `hearth dev` does not serve. This is no part of [`crate::dev`]: `failure` imports the errors of
//! all commands, and `dev` imports `failure`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use hearth_controller::ServeError;

use crate::client::ClientError;
use crate::project::ProjectError;

/// Why the development server does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    /// The address is taken, or not this machine's.
    #[error("can't listen on {address}: {source}; --listen ADDRESS:PORT takes another")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address is open to other machines.
    #[error(
        "{0} is reachable from other machines and whoever reaches it can run code; listen on 127.0.0.1"
    )]
    Exposed(SocketAddr),
    /// The controller's own settings, from the environment.
    #[error("settings of the controller: {0}")]
    Settings(String),
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
    #[error("can't watch {path}: {source}; the limit fs.inotify.max_user_watches may be too low")]
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
            Self::Listen { .. } | Self::Exposed(_) | Self::Settings(_) | Self::Project(_)
        )
    }
}
