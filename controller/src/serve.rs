//! The HTTP server's life: listen, accept within limits, drain when told to.
//!
//! A client must not be able to hold the server up: headers have to arrive within a time, the
//! number of connections is bounded, and bodies are bounded and timed where they are read.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use crate::settings::{Settings, SettingsError};

/// Longest time for a request's headers, from the connection's (or the previous response's) end.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the controller could not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting is missing or makes no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Runs a controller until `shutdown` completes, then drains it. `ready` gets the address that it
/// listens on once it accepts connections.
pub async fn serve(
    settings: Settings,
    ready: Option<oneshot::Sender<SocketAddr>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    settings.check()?;
    let listen_error = |source| ServeError::Listen {
        address: settings.listen,
        source,
    };
    let listener = TcpListener::bind(settings.listen)
        .await
        .map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    tracing::info!("listening on http://{address}");
    if let Some(ready) = ready {
        // Whoever asked may have gone; then nobody needs the address.
        let _ = ready.send(address);
    }
    let router = Router::new().route("/healthz", axum::routing::get(|| async { "ok\n" }));
    let permits = Arc::new(Semaphore::new(settings.max_connections as usize));
    accept(
        listener,
        router,
        permits,
        Duration::from_secs(settings.drain_timeout),
        shutdown,
    )
    .await;
    Ok(())
}

/// Accepts connections until `shutdown`, then lets those that are in mid-request end.
async fn accept(
    listener: TcpListener,
    router: Router,
    permits: Arc<Semaphore>,
    drain: Duration,
    shutdown: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(64 * 1024);
    tokio::pin!(shutdown);
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit.expect("never closed"),
            () = &mut shutdown => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors or the like: give others time to give some back.
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
            drop(permit);
        });
    }
    drop(listener);
    tracing::info!(
        "no new connections; waiting for {} running",
        graceful.count()
    );
    if tokio::time::timeout(drain, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some requests did not end in {} s", drain.as_secs());
    }
}
