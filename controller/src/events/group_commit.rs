//! Group commit: a thread that writes all waiting changes in one transaction.
//!
//! A commit waits for the disk, and on most disks it waits as long for one row as for hundreds. So all
//! changes that arrive during a commit share the next one. A change is reported as done only when it is
//! on disk, and a batch that fails has changed nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, Transaction};
use tokio::sync::{mpsc, oneshot};

/// Maximum number of changes in one transaction.
const MAX_CHANGES: usize = 1024;
/// Approximate maximum size of one transaction, in bytes: in memory and in the write-ahead log.
const MAX_BYTES: u64 = 16 << 20;

/// Why events could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EventsError {
    /// SQLite failed.
    #[error("event queue {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        source: Arc<rusqlite::Error>,
    },
    /// The file was written by a newer version of this program.
    #[error("event queue {} has schema {found}, this version knows up to {known}: use a newer hearthd", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that this program knows.
        known: usize,
    },
    /// An event invoke configuration can't be written.
    #[error("event queue: event invoke configuration of function {function:?}: {why}")]
    Config {
        /// The function's name.
        function: String,
        /// The error.
        why: String,
    },
    /// The writer's thread has ended.
    #[error("the event queue's thread has ended")]
    Closed,
}

impl EventsError {
    /// The text for clients, who need not know the host's paths.
    pub(crate) fn for_clients(&self) -> String {
        match self {
            Self::Sqlite { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    /// Whether the file is damaged as a whole.
    pub(crate) fn is_damage(&self) -> bool {
        let Self::Sqlite { source, .. } = self else {
            return false;
        };
        matches!(
            source.sqlite_error_code(),
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
        )
    }

    pub(crate) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        Self::Sqlite {
            path: path.into(),
            source: Arc::new(source),
        }
    }
}

/// A change that waits for its transaction.
trait Change: Send {
    /// Approximate number of bytes that it writes.
    fn weight(&self) -> u64;
    fn apply(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()>;
    /// Called when the change is on disk, or has failed.
    fn done(self: Box<Self>, result: Result<(), EventsError>);
}

struct Pending<T, W, F> {
    weight: u64,
    work: Option<W>,
    value: Option<T>,
    then: F,
    reply: oneshot::Sender<Result<T, EventsError>>,
}

impl<T, W, F> Change for Pending<T, W, F>
where
    T: Send,
    W: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send,
    F: FnOnce(Result<&T, &EventsError>) + Send,
{
    fn weight(&self) -> u64 {
        self.weight
    }

    fn apply(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.value = Some(work(transaction)?);
        }
        Ok(())
    }

    fn done(self: Box<Self>, result: Result<(), EventsError>) {
        let Self {
            value, then, reply, ..
        } = *self;
        let result = result.and_then(|()| value.ok_or(EventsError::Closed));
        then(result.as_ref());
        // The caller may have been dropped. `then` has done everything that must be done.
        let _ = reply.send(result);
    }
}

/// Sends changes to the writer's thread, which ends when the last clone of this is dropped.
#[derive(Clone)]
pub(crate) struct GroupCommit {
    changes: mpsc::UnboundedSender<Box<dyn Change>>,
}

impl fmt::Debug for GroupCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupCommit").finish_non_exhaustive()
    }
}

impl GroupCommit {
    /// Starts the thread that owns the connection.
    pub(crate) fn start(connection: Connection, path: PathBuf) -> Result<Self, EventsError> {
        let (changes, inbox) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("events".into())
            .spawn(move || write(connection, &path, inbox))
            .map_err(|_| EventsError::Closed)?;
        Ok(Self { changes })
    }

    /// Whether the thread that owns the connection runs.
    pub(crate) fn is_alive(&self) -> bool {
        !self.changes.is_closed()
    }

    /// Runs `work` in the next transaction. After the commit has succeeded or failed, the writer's thread
    /// calls `then`, even if the caller has been dropped. Calls of `then` have the order of the changes.
    pub(crate) async fn commit<T: Send + 'static>(
        &self,
        weight: u64,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
        then: impl FnOnce(Result<&T, &EventsError>) + Send + 'static,
    ) -> Result<T, EventsError> {
        let (reply, answer) = oneshot::channel();
        let change = Box::new(Pending {
            weight,
            work: Some(work),
            value: None,
            then,
            reply,
        });
        if let Err(unsent) = self.changes.send(change) {
            unsent.0.done(Err(EventsError::Closed));
        }
        answer.await.unwrap_or(Err(EventsError::Closed))
    }
}

fn write(
    mut connection: Connection,
    path: &Path,
    mut inbox: mpsc::UnboundedReceiver<Box<dyn Change>>,
) {
    while let Some(first) = inbox.blocking_recv() {
        let mut bytes = first.weight();
        let mut batch = vec![first];
        while batch.len() < MAX_CHANGES && bytes < MAX_BYTES {
            let Ok(change) = inbox.try_recv() else { break };
            bytes += change.weight();
            batch.push(change);
        }
        let result =
            commit(&mut connection, &mut batch).map_err(|source| EventsError::sqlite(path, source));
        if let Err(error) = &result {
            tracing::error!(
                changes = batch.len(),
                %error,
                "the controller could not write changes of the event queue"
            );
        }
        for change in batch {
            change.done(result.clone());
        }
    }
}

fn commit(connection: &mut Connection, batch: &mut [Box<dyn Change>]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in batch {
        change.apply(&transaction)?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc as blocking};

    use super::*;

    fn table(dir: &Path) -> (GroupCommit, PathBuf) {
        let path = dir.join("g.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT")
            .unwrap();
        let commits = GroupCommit::start(connection, path.clone()).unwrap();
        (commits, path)
    }

    fn insert(n: i64) -> impl FnOnce(&Transaction<'_>) -> rusqlite::Result<i64> + Send {
        move |rows| rows.execute("INSERT INTO t VALUES (?1)", [n]).map(|_| n)
    }

    /// Blocks the thread inside a transaction until the sender is used.
    async fn hold(
        commits: &GroupCommit,
    ) -> (
        blocking::Sender<()>,
        tokio::task::JoinHandle<Result<(), EventsError>>,
    ) {
        let (go, wait) = blocking::channel();
        let (enter, entered) = oneshot::channel();
        let commits = commits.clone();
        let held = tokio::spawn(async move {
            let work = move |_: &Transaction<'_>| {
                enter.send(()).unwrap();
                wait.recv().unwrap();
                Ok(())
            };
            commits.commit(0, work, |_| {}).await
        });
        entered.await.unwrap();
        (go, held)
    }

    #[tokio::test]
    async fn changes_that_arrive_during_a_commit_share_one_transaction() {
        let dir = tempfile::tempdir().unwrap();
        let (commits, path) = table(dir.path());
        let (go, held) = hold(&commits).await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..100)
            .map(|n| {
                let (commits, seen, path) = (commits.clone(), seen.clone(), path.clone());
                tokio::spawn(async move {
                    let count = move |_: Result<&i64, &EventsError>| {
                        let rows: i64 = Connection::open(path)
                            .unwrap()
                            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
                            .unwrap();
                        seen.lock().unwrap().push(rows);
                    };
                    commits.commit(1, insert(n), count).await
                })
            })
            .collect();
        // The runtime polls a few tasks at a time; each must have reached its commit.
        for _ in 0..waiting.len() {
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        held.await.unwrap().unwrap();
        for (n, task) in (0..).zip(waiting) {
            assert_eq!(task.await.unwrap().unwrap(), n);
        }
        // Already the first call of `then` sees all changes on disk.
        assert_eq!(*seen.lock().unwrap(), [100; 100]);
    }

    #[tokio::test]
    async fn a_batch_that_fails_is_an_error_for_each_change_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (commits, _) = table(dir.path());
        commits.commit(1, insert(7), |_| {}).await.unwrap();
        let (go, held) = hold(&commits).await;
        let tasks: Vec<_> = [8, 7, 9]
            .map(|n| {
                let commits = commits.clone();
                tokio::spawn(async move { commits.commit(1, insert(n), |_| {}).await })
            })
            .into();
        tokio::task::yield_now().await;
        go.send(()).unwrap();
        held.await.unwrap().unwrap();
        for task in tasks {
            assert!(task.await.unwrap().is_err());
        }
        let count = |rows: &Transaction<'_>| {
            rows.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))
        };
        assert_eq!(commits.commit(0, count, |_| {}).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn then_is_called_even_if_the_caller_has_been_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (commits, _) = table(dir.path());
        let (go, held) = hold(&commits).await;
        let (called, was_called) = oneshot::channel();
        let caller = tokio::spawn({
            let commits = commits.clone();
            async move {
                let then = move |result: Result<&i64, &EventsError>| {
                    called.send(result.is_ok()).unwrap();
                };
                commits.commit(1, insert(1), then).await
            }
        });
        tokio::task::yield_now().await;
        caller.abort();
        go.send(()).unwrap();
        held.await.unwrap().unwrap();
        assert!(was_called.await.unwrap());
    }
}
