//! The open connections of a listener: how many there may be, and which one ends if another client wants
//! its place.
//!
//! A client can't keep others out by connections that it does not use: if all places are taken, the
//! connection that has had no request for the longest time ends. One with a request never does.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::locks::lock;

/// Time in which the client of a connection that has lost its place may read the rest of its last answer.
pub(crate) const LAST_READ: Duration = Duration::from_secs(1);

/// The open connections of a listener.
#[derive(Debug)]
pub(crate) struct Connections {
    max: usize,
    open: Mutex<Open>,
    /// Notified when a place is free or a connection has no request any more.
    freed: Notify,
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the server ends: connections end with their requests.
    pub(crate) ending: CancellationToken,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    places: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Since when the connection has had no request; `None` while it has one.
    idle_since: Option<Instant>,
    lost: CancellationToken,
}

/// The place of one connection; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    id: u64,
    connections: Arc<Connections>,
    busy: AtomicBool,
    /// Cancelled when another connection has got the place.
    pub(crate) lost: CancellationToken,
}

/// A request on a connection, until the answer is written.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Place>);

impl Connections {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            open: Mutex::default(),
            freed: Notify::new(),
            tasks: TaskTracker::new(),
            ending: CancellationToken::new(),
        })
    }

    /// A place for a new connection. Waits if every connection has a request.
    pub(crate) async fn place(self: &Arc<Self>) -> Arc<Place> {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_place() {
                return place;
            }
            freed.await;
        }
    }

    fn try_place(self: &Arc<Self>) -> Option<Arc<Place>> {
        let mut open = lock(&self.open);
        if open.places.len() >= self.max && !open.end_idlest() {
            return None;
        }
        let id = open.next;
        open.next += 1;
        let lost = CancellationToken::new();
        let entry = Entry {
            idle_since: Some(Instant::now()),
            lost: lost.clone(),
        };
        open.places.insert(id, entry);
        Some(Arc::new(Place {
            id,
            connections: self.clone(),
            busy: AtomicBool::new(false),
            lost,
        }))
    }

    /// Ends the connection that has had no request for the longest time, for its file descriptor.
    pub(crate) fn end_idlest(&self) {
        lock(&self.open).end_idlest();
    }

    fn set(&self, id: u64, idle_since: Option<Instant>) {
        if let Some(entry) = lock(&self.open).places.get_mut(&id) {
            entry.idle_since = idle_since;
        }
    }

    /// Lets connections end with their requests, and waits until all have ended.
    pub(crate) async fn end(&self) {
        self.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Open {
    fn end_idlest(&mut self) -> bool {
        let idle = self.places.iter();
        let idle = idle.filter_map(|(id, entry)| Some((entry.idle_since?, *id)));
        let Some((_, id)) = idle.min() else {
            return false;
        };
        let entry = self.places.remove(&id).expect("it was found");
        entry.lost.cancel();
        true
    }
}

impl Place {
    /// The connection has a request, until the value is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.store(true, Ordering::Relaxed);
        self.connections.set(self.id, None);
        Busy(self.clone())
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.connections.open).places.remove(&self.id);
        self.connections.freed.notify_one();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Place {
            id,
            connections,
            busy,
            ..
        } = &*self.0;
        busy.store(false, Ordering::Relaxed);
        connections.set(*id, Some(Instant::now()));
        connections.freed.notify_one();
    }
}

/// The body of an answer: its request lasts until the body is written.
#[derive(Debug)]
pub(crate) struct LastingBody {
    body: Body,
    _busy: Busy,
}

impl LastingBody {
    pub(crate) fn new(body: Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl HttpBody for LastingBody {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_connection_that_has_been_idle_for_longest_gives_its_place() {
        let connections = Connections::new(3);
        let mut places = Vec::new();
        for _ in 0..3 {
            places.push(connections.place().await);
        }
        // The oldest has just had a request.
        drop(places[0].begin());
        let _new = connections.place().now_or_never().expect("one gives way");
        let lost: Vec<bool> = places
            .iter()
            .map(|place| place.lost.is_cancelled())
            .collect();
        assert_eq!(lost, [false, true, false]);
    }

    #[tokio::test]
    async fn a_connection_with_a_request_keeps_its_place_and_the_next_waits_for_it() {
        let connections = Connections::new(2);
        let places = [connections.place().await, connections.place().await];
        let requests = [places[0].begin(), places[1].begin()];
        let waiting = connections.place();
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        let [first, second] = requests;
        drop(second);
        waiting.await;
        assert!(!places[0].lost.is_cancelled() && places[1].lost.is_cancelled());
        drop(first);
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_connection_ends() {
        let connections = Connections::new(1);
        let place = connections.place().await;
        let busy = place.begin();
        drop((place, busy));
        let _next = connections.place().now_or_never().expect("it is free");
    }
}
