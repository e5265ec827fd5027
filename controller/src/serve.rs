//! The HTTP server: listens, accepts connections, and drains them at shutdown.
//!
//! A client can't block the server. The number of connections is limited, and the idlest gives way to a new
//! one: [`crate::connections`]. The server closes a connection if a request's headers take too
//! long or if the client does not read its answer. The code that reads a body limits its size and its time.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::Instrument;

use crate::api;
use crate::assembly::{Controller, StartError};
use crate::auth::Authentication;
use crate::connections::{Connections, LAST_READ, LastingBody, Place};
use crate::repoll::Repoll;
use crate::settings::Settings;
use crate::web_pages::PageCheck;

/// Longest time for a request's headers, from the start of the connection or the end of the previous
/// response.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time in which a client reads nothing of an answer, in milliseconds. Without this limit a
/// client that never reads could keep its connection for ever: its kernel answers the probes of a full
/// window.
const UNREAD_LIMIT_MS: u32 = 120_000;

/// Largest request line and headers, in bytes. It is also the largest piece of a body.
const MAX_HEADERS: usize = 64 * 1024;
/// Most connections at once to the address for metrics.
const MONITORING_CONNECTIONS: usize = 32;
/// Time for the answers to invocations that the shutdown has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Why the controller could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A part of the controller could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The controller can't listen on the address.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address in the settings.
        address: SocketAddr,
        /// The kernel's error.
        source: std::io::Error,
    },
}

/// Runs a controller until `shutdown` completes, then drains it. Sends the address to `ready` as soon as
/// the controller accepts connections.
pub async fn serve(
    settings: Settings,
    ready: Option<oneshot::Sender<SocketAddr>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    settings.check().map_err(StartError::Settings)?;
    use_all_descriptors();
    let authentication = Authentication::of(&settings).map_err(StartError::Authentication)?;
    // The ports first, so that a second controller with the same ports starts no microVMs.
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
    controller.data.write_address(&address.to_string());
    tracing::info!("the controller listens on http://{address}");
    if let Some(ready) = ready {
        // An error means that the caller has dropped the receiver and does not need the address.
        let _ = ready.send(address);
    }
    if let Some((listener, address)) = monitoring {
        tracing::info!("the controller serves metrics on http://{address}/metrics");
        let pages = PageCheck::open(address, &settings.allowed_host, false);
        let router = api::monitoring(controller.app.clone(), pages);
        let end = controller.app.draining.clone().cancelled_owned();
        tokio::spawn(accept(
            listener,
            router,
            MONITORING_CONNECTIONS,
            Box::pin(end),
        ));
    }
    let pages = match &authentication {
        Authentication::Off => PageCheck::open(address, &settings.allowed_host, true),
        Authentication::Signatures(_) => PageCheck::signed(),
    };
    let router = api::router(controller.app.clone(), &authentication, pages);
    let leaving = controller.app.leaving.clone();
    let delay = Duration::from_secs(settings.drain_delay);
    let shutdown = Box::pin(async move {
        shutdown.await;
        announce_shutdown(&leaving, delay).await;
    });
    let connections = accept(
        listener,
        router,
        settings.max_connections as usize,
        shutdown,
    )
    .await;
    controller.app.draining.cancel();
    let drain = Duration::from_secs(settings.drain_timeout);
    drain_connections(&controller, &connections, drain).await;
    controller.stop().await;
    tracing::info!("the controller has ended");
    Ok(())
}

/// Raises the process's limit of open files as far as it may. A shell's 1,024 are those of about 170 instances.
fn use_all_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the controller can't raise its limit of open files");
    }
}

/// Makes /readyz answer 503 and keeps the port open for `delay`.
async fn announce_shutdown(leaving: &CancellationToken, delay: Duration) {
    leaving.cancel();
    if !delay.is_zero() {
        tracing::info!(
            seconds = delay.as_secs(),
            "/readyz answers 503 from now on; the controller still accepts connections"
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

/// Waits until all requests and events have ended. After `limit`, ends the instances that they wait for.
async fn drain_connections(controller: &Controller, connections: &Connections, limit: Duration) {
    tracing::info!(
        connections = connections.tasks.len(),
        "the controller accepts no more connections and waits for requests"
    );
    let events = &controller.app.events;
    let done = async { tokio::join!(connections.end(), events.drained()) };
    tokio::pin!(done);
    if tokio::time::timeout(limit, &mut done).await.is_ok() {
        return;
    }
    tracing::warn!(
        "some requests did not end within {} s, so the controller ends their instances",
        limit.as_secs()
    );
    events.abandon();
    controller.app.pool.close();
    controller.app.pool.kill();
    // The callers of the ended invocations get errors.
    if tokio::time::timeout(LAST_ANSWERS, done).await.is_err() {
        tracing::warn!("some clients did not read their answers");
    }
}

/// Sets the options of a client's socket. The kernel closes the connection if the client reads nothing
/// for `unread_limit` milliseconds.
fn prepare(stream: &TcpStream, unread_limit: u32) -> io::Result<()> {
    setsockopt(stream, sockopt::TcpUserTimeout, &unread_limit)?;
    stream.set_nodelay(true)
}

/// Accepts connections until `shutdown`, and returns the open ones.
async fn accept(
    listener: TcpListener,
    router: Router,
    max_connections: usize,
    mut shutdown: impl Future<Output = ()> + Unpin,
) -> Arc<Connections> {
    let connections = Connections::new(max_connections);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADERS);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Often too many open files.
                    tracing::warn!(%error, "the controller can't accept a connection");
                    connections.end_idlest();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        if let Err(error) = prepare(&stream, UNREAD_LIMIT_MS) {
            tracing::debug!(%error, "a client's socket does not take its options");
        }
        let place = tokio::select! {
            place = connections.place() => place,
            () = &mut shutdown => break,
        };
        let service = TowerToHyperService::new(service(router.clone(), peer, place.clone()));
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let ending = connections.ending.clone();
        let connection = async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                biased;
                ended = connection.as_mut() => ended,
                () = place.lost.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    match tokio::time::timeout(LAST_READ, connection.as_mut()).await {
                        Ok(ended) => ended,
                        // Its next request had arrived just before.
                        Err(_) if place.is_busy() => connection.await,
                        Err(_) => Ok(()),
                    }
                }
                () = ending.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a client's connection has failed");
            }
        };
        let span = tracing::debug_span!("connection", %peer);
        connections
            .tasks
            .spawn(Repoll::new(connection).instrument(span));
    }
    connections
}

/// Answers the requests of one connection, whose place is busy until an answer is written.
fn service(
    router: Router,
    peer: SocketAddr,
    place: Arc<Place>,
) -> impl tower::Service<
    Request<Incoming>,
    Response = Response,
    Error = Infallible,
    Future: Future<Output = Result<Response, Infallible>> + Send,
> + Clone {
    tower::service_fn(move |mut request: Request<Incoming>| {
        let busy = place.begin();
        request.extensions_mut().insert(api::Peer(peer));
        let answer = router.clone().oneshot(request);
        async move {
            Ok(answer
                .await?
                .map(|body| Body::new(LastingBody::new(body, busy))))
        }
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// The port closed at once, so that /readyz never said 503 to a load balancer.
    #[tokio::test]
    async fn readyz_answers_503_before_the_port_closes() {
        let leaving = CancellationToken::new();
        tokio::select! {
            () = announce_shutdown(&leaving, Duration::from_secs(600)) => panic!("the port is closed"),
            () = leaving.cancelled() => {}
        }
        announce_shutdown(&leaving, Duration::ZERO).await;
    }

    /// A client that never read could keep its connection, and the answer in memory, for ever.
    #[tokio::test]
    async fn the_connection_of_a_client_that_reads_nothing_ends() {
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
