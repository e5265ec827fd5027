//! The HTTP server's life: listen, accept within limits, drain when told to.
//!
//! A client must not be able to hold the server up: headers have to arrive within a time, the
//! number of connections is bounded, bodies are bounded and timed where they are read, and answers
//! have to be taken.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tower::util::MapRequest;

use crate::api;
use crate::assembly::{Controller, StartError};
use crate::auth::Authentication;
use crate::data_dir::DataDirError;
use crate::repoll::Repoll;
use crate::settings::Settings;

/// Longest time for a request's headers, from the connection's (or the previous response's) end.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time in which a client takes nothing of what is sent to it, in milliseconds. Without it one
/// that never reads keeps its connection for ever: the kernel goes on asking for room, and is answered.
const UNTAKEN: u32 = 120_000;

/// Largest request line and headers, in bytes; bodies are read in pieces of at most this.
const MAX_HEADERS: usize = 64 * 1024;
/// Most connections at once to the address for metrics.
const MONITORS: usize = 32;
/// For answers to invocations that were ended by the shutdown.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why the controller could not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Something that it needs is missing.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The address file can't be written.
    #[error(transparent)]
    Address(DataDirError),
}

/// Runs a controller until `shutdown` completes, then drains it. `ready` gets the address that it
/// listens on once it accepts connections.
pub async fn serve(
    settings: Settings,
    ready: Option<oneshot::Sender<SocketAddr>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    settings.check().map_err(StartError::Settings)?;
    let authentication = Authentication::of(&settings).map_err(StartError::Authentication)?;
    // The ports first: a second controller on them should not get as far as starting microVMs.
    let (listener, address) = listen(settings.listen).await?;
    let monitoring = match settings.metrics_listen {
        Some(wanted) => Some(listen(wanted).await?),
        None => None,
    };
    tokio::pin!(shutdown);
    let controller = tokio::select! {
        started = Controller::start(&settings) => started?,
        () = &mut shutdown => return Ok(()),
    };
    if let Err(error) = controller.data.write_address(&address.to_string()) {
        controller.stop().await;
        return Err(ServeError::Address(error));
    }
    tracing::info!("listening on http://{address}");
    if let Some(ready) = ready {
        // Whoever asked may have gone; then nobody needs the address.
        let _ = ready.send(address);
    }
    if let Some((listener, address)) = monitoring {
        tracing::info!("metrics on http://{address}/metrics");
        let router = api::monitoring(controller.app.clone());
        let end = controller.app.draining.clone().cancelled_owned();
        tokio::spawn(accept(listener, router, MONITORS, Box::pin(end)));
    }
    let router = api::router(controller.app.clone(), &authentication);
    let leaving = controller.app.leaving.clone();
    let delay = Duration::from_secs(settings.drain_delay);
    let shutdown = Box::pin(async move {
        shutdown.await;
        leave(&leaving, delay).await;
    });
    let graceful = accept(
        listener,
        router,
        settings.max_connections as usize,
        shutdown,
    )
    .await;
    controller.app.draining.cancel();
    let drain = Duration::from_secs(settings.drain_timeout);
    drain_connections(&controller, graceful, drain).await;
    controller.stop().await;
    tracing::info!("ended");
    Ok(())
}

/// Says that the controller is about to end, and lets the port stay open for a while.
async fn leave(leaving: &CancellationToken, delay: Duration) {
    leaving.cancel();
    if !delay.is_zero() {
        tracing::info!(
            seconds = delay.as_secs(),
            "not ready any more; new connections are accepted for a while"
        );
        tokio::time::sleep(delay).await;
    }
}

async fn listen(wanted: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let error = |source| ServeError::Listen {
        address: wanted,
        source,
    };
    let listener = TcpListener::bind(wanted).await.map_err(error)?;
    let address = listener.local_addr().map_err(error)?;
    Ok((listener, address))
}

/// Lets requests and events that run end, up to a limit; then ends what they wait for.
async fn drain_connections(controller: &Controller, graceful: GracefulShutdown, limit: Duration) {
    tracing::info!(
        connections = graceful.count(),
        "no new connections; waiting for requests"
    );
    let events = &controller.app.events;
    let done = async { tokio::join!(graceful.shutdown(), events.drained()) };
    tokio::pin!(done);
    if tokio::time::timeout(limit, &mut done).await.is_ok() {
        return;
    }
    tracing::warn!("some requests did not end within {} s", limit.as_secs());
    events.abandon();
    controller.app.pool.close();
    controller.app.pool.kill();
    // Their callers hear what became of them.
    if tokio::time::timeout(LAST_WORDS, done).await.is_err() {
        tracing::warn!("some clients did not take their answers");
    }
}

/// How a client's connection sends. It ends when the client takes nothing for `untaken` milliseconds.
fn prepare(stream: &TcpStream, untaken: u32) -> io::Result<()> {
    setsockopt(stream, sockopt::TcpUserTimeout, &untaken)?;
    stream.set_nodelay(true)
}

/// Accepts connections until `shutdown`, and returns those that are there.
async fn accept(
    listener: TcpListener,
    router: Router,
    max_connections: usize,
    mut shutdown: impl Future<Output = ()> + Unpin,
) -> GracefulShutdown {
    let permits = Arc::new(Semaphore::new(max_connections));
    let graceful = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADERS);
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit.expect("never closed"),
            () = &mut shutdown => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors or the like: give others time to give some back.
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        if let Err(error) = prepare(&stream, UNTAKEN) {
            tracing::debug!(%error, "socket options");
        }
        let told = move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(api::Peer(peer));
            request
        };
        let service = TowerToHyperService::new(MapRequest::new(router.clone(), told));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = Repoll::new(connection).await {
                tracing::debug!(%error, "connection");
            }
            drop(permit);
        });
    }
    graceful
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// The port closed at once, so that /readyz never said 503 to a load balancer.
    #[tokio::test]
    async fn a_controller_says_that_it_leaves_before_its_port_closes() {
        let leaving = CancellationToken::new();
        tokio::select! {
            () = leave(&leaving, Duration::from_secs(600)) => panic!("the port is closed"),
            () = leaving.cancelled() => {}
        }
        leave(&leaving, Duration::ZERO).await;
    }

    /// One that never read kept its connection, and its answer, for as long as it liked.
    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (mut stream, _) = accepted.unwrap();
        prepare(&stream, 300).unwrap();
        // More than the sockets' buffers hold.
        let answer = vec![0; 64 << 20];
        let sent = tokio::time::timeout(Duration::from_secs(30), stream.write_all(&answer)).await;
        let error = sent.expect("the kernel gives up").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
