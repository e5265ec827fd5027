//! The queue: events on disk and their schedule, kept consistent.
//!
//! The disk always changes first. An event enters the schedule once it is stored, and leaves it once its
//! outcome is stored. The writer's thread changes the schedule, so that it is changed even if the task
//! that has called is dropped meanwhile.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::Connection;
use tokio::sync::Notify;

use super::event::{Event, EventRequest, cost};
use super::group_commit::{EventsError, GroupCommit};
use super::rows;
use super::schedule::{Obstacle, QueueFull, Schedule, Turn};
use crate::function::FunctionName;
use crate::locks::lock;

/// Maximum number of events of a deleted function that one transaction removes, so that other changes
/// do not wait long.
const REMOVED_AT_ONCE: u32 = 1000;

/// Why an event was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NotAccepted {
    /// The queue is full.
    #[error(transparent)]
    Full(#[from] QueueFull),
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] EventsError),
}

/// The outcome of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The event is over. The invocation record for its destination is stored in the same transaction.
    Over { record: Option<EventRequest> },
    /// Another run is due later.
    Again { runs: u32, due_ms: i64 },
}

/// The state that the writer's thread changes after a commit.
#[derive(Debug)]
struct Shared {
    schedule: Mutex<Schedule>,
    changed: Notify,
}

impl Shared {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        lock(&self.schedule)
    }
}

/// Ids of events, in the order in which they are stored. Only the writer's thread takes new ones.
#[derive(Debug, Clone)]
struct Ids(Arc<AtomicI64>);

impl Ids {
    fn after(last: i64) -> Self {
        Self(Arc::new(AtomicI64::new(last + 1)))
    }

    fn next(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Above all ids that were taken.
    fn end(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All accepted events that are not over.
#[derive(Debug)]
pub(crate) struct Queue {
    shared: Arc<Shared>,
    commits: GroupCommit,
    reader: Arc<Mutex<Connection>>,
    path: PathBuf,
    ids: Ids,
}

impl Queue {
    /// Opens the file and schedules the events in it.
    pub(crate) fn open(path: &Path, mut schedule: Schedule) -> Result<Self, EventsError> {
        let connection = rows::open(path)?;
        let sqlite = |error| EventsError::sqlite(path, error);
        let stored = rows::all(&connection).map_err(sqlite)?;
        // If a table can't be read, the file is damaged, and the caller must know it now.
        rows::configs(&connection).map_err(sqlite)?;
        let ids = Ids::after(stored.last().map_or(0, |last| last.id));
        for event in stored {
            let Ok(function) = FunctionName::parse(&event.function) else {
                tracing::error!(
                    event = event.id,
                    "the controller skips an event that is damaged: it has no function"
                );
                continue;
            };
            let cost = cost(event.payload_len);
            schedule.hold(cost);
            schedule.add(&function, event.id, cost, Some(event.due_ms));
        }
        let reader = Arc::new(Mutex::new(rows::open_reader(path)?));
        Ok(Self {
            shared: Arc::new(Shared {
                schedule: Mutex::new(schedule),
                changed: Notify::new(),
            }),
            commits: GroupCommit::start(connection, path.into())?,
            reader,
            path: path.into(),
            ids,
        })
    }

    /// Whether the writer's thread runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.commits.is_alive()
    }

    /// The writer of the file, which also holds the event invoke configurations.
    pub(crate) fn commits(&self) -> GroupCommit {
        self.commits.clone()
    }

    /// Every event invoke configuration in the file.
    pub(crate) async fn configs(&self) -> Result<Vec<rows::ConfigRow>, EventsError> {
        self.with_reader(rows::configs).await
    }

    /// Never held across an `await`.
    pub(crate) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.shared.schedule()
    }

    /// Waits for a change of the schedule.
    pub(crate) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Wakes the dispatcher, so that it looks at the clock.
    #[cfg(test)]
    pub(crate) fn nudge(&self) {
        self.shared.changed.notify_one();
    }

    /// Stores an event. When this returns, the event is on disk.
    pub(crate) async fn accept(
        &self,
        request: EventRequest,
        now_ms: i64,
    ) -> Result<(), NotAccepted> {
        let cost = request.cost();
        self.schedule().reserve(cost)?;
        let (shared, function) = (self.shared.clone(), request.function.clone());
        let ids = self.ids.clone();
        self.commits
            .commit(
                cost,
                move |rows| {
                    let id = ids.next();
                    rows::insert(rows, id, now_ms, &request).map(|()| id)
                },
                move |stored| {
                    let mut schedule = shared.schedule();
                    match stored {
                        Ok(id) => schedule.add(&function, *id, cost, None),
                        Err(_) => schedule.release(cost),
                    }
                    drop(schedule);
                    shared.changed.notify_one();
                },
            )
            .await?;
        Ok(())
    }

    /// Reads an event; `None` if it was deleted meanwhile.
    pub(crate) async fn read(&self, id: i64) -> Result<Option<Event>, EventsError> {
        self.with_reader(move |rows| rows::read(rows, id)).await
    }

    /// When the oldest event was accepted.
    pub(crate) async fn oldest_ms(&self) -> Result<Option<i64>, EventsError> {
        self.with_reader(rows::oldest).await
    }

    /// Stores the outcome of an event's run, and the invocation record if there is one. Returns whether
    /// a record was stored.
    pub(crate) async fn record(
        &self,
        event: &Event,
        outcome: &Outcome,
        now_ms: i64,
    ) -> Result<bool, EventsError> {
        let turn = turn(event);
        if !self.schedule().holds(&turn) {
            // Its function was deleted, and so were its events.
            self.abandon(&turn);
            return Ok(false);
        }
        let (id, cost) = (event.id, event.request.cost());
        match outcome {
            Outcome::Again { runs, due_ms } => {
                let (runs, due_ms) = (*runs, *due_ms);
                self.settle(
                    0,
                    move |rows| rows::postpone(rows, id, runs, due_ms).map(|()| None),
                    move |schedule, _| schedule.retry(&turn, due_ms),
                )
                .await
            }
            Outcome::Over { record: None } => {
                self.settle(
                    0,
                    move |rows| rows::remove(rows, id).map(|_| None),
                    move |schedule, _| schedule.finish(&turn, cost),
                )
                .await
            }
            Outcome::Over {
                record: Some(record),
            } => {
                let (ids, record, weight) = (self.ids.clone(), record.clone(), record.cost());
                let to = record.function.clone();
                self.settle(
                    weight,
                    move |rows| {
                        if !rows::remove(rows, id)? {
                            return Ok(None);
                        }
                        let id = ids.next();
                        rows::insert(rows, id, now_ms, &record)?;
                        Ok(Some(id))
                    },
                    move |schedule, sent| {
                        schedule.finish(&turn, cost);
                        if let Some(id) = sent {
                            // Even if the queue is full: the record takes the place of its event.
                            schedule.hold(weight);
                            schedule.add(&to, id, weight, None);
                        }
                    },
                )
                .await
            }
        }
    }

    /// Changes the file and then the schedule. `on_disk` returns the id of the record that it has
    /// stored; `after` gets it. Returns whether there is one.
    async fn settle(
        &self,
        weight: u64,
        on_disk: impl FnOnce(&Connection) -> rusqlite::Result<Option<i64>> + Send + 'static,
        after: impl FnOnce(&mut Schedule, Option<i64>) + Send + 'static,
    ) -> Result<bool, EventsError> {
        let shared = self.shared.clone();
        let then = move |written: Result<&Option<i64>, &EventsError>| {
            if let Ok(sent) = written {
                after(&mut shared.schedule(), *sent);
                shared.changed.notify_one();
            }
        };
        let sent = self
            .commits
            .commit(weight, move |rows| on_disk(rows), then)
            .await?;
        Ok(sent.is_some())
    }

    /// The event did not run. It becomes the next of its function, after a pause that ends at `until_ms`
    /// at the latest.
    pub(crate) fn put_back(&self, turn: &Turn, why: Obstacle, until_ms: i64, now_ms: i64) {
        self.schedule().put_back(turn, why, until_ms, now_ms);
        self.shared.changed.notify_one();
    }

    /// Ends a run without an outcome: on disk the event stays as it is, for the next start.
    pub(crate) fn abandon(&self, turn: &Turn) {
        self.schedule().abandon(turn);
        self.shared.changed.notify_one();
    }

    /// Deletes a deleted function's events and returns their number. Events that are accepted meanwhile
    /// for a new function of the same name stay.
    pub(crate) async fn forget(&self, function: &FunctionName) -> Result<u64, EventsError> {
        let mut forgotten = 0;
        let mut before = None;
        loop {
            let (shared, ids, name) = (self.shared.clone(), self.ids.clone(), function.clone());
            let first = before.is_none();
            let of = function.clone();
            let (removed, end) = self
                .commits
                .commit(
                    0,
                    move |rows| {
                        let end = before.unwrap_or_else(|| ids.end());
                        rows::remove_some(rows, of.as_str(), end, REMOVED_AT_ONCE)
                            .map(|removed| (removed, end))
                    },
                    // The schedule changes in the order of the commits. So now it contains all events
                    // that were stored before this commit, and none that is stored after it.
                    move |removed| {
                        if first && removed.is_ok() {
                            shared.schedule().forget(&name);
                        }
                    },
                )
                .await?;
            before = Some(end);
            forgotten += removed as u64;
            if removed < REMOVED_AT_ONCE as usize {
                return Ok(forgotten);
            }
        }
    }

    async fn with_reader<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, EventsError> {
        let reader = self.reader.clone();
        tokio::task::spawn_blocking(move || read(&lock(&reader)))
            .await
            .map_err(|_| EventsError::Closed)?
            .map_err(|error| EventsError::sqlite(&self.path, error))
    }
}

fn turn(event: &Event) -> Turn {
    Turn {
        id: event.id,
        function: event.request.function.clone(),
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
pub(super) mod tests;
