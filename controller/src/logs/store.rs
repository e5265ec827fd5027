//! The log store. Invocations append records and never wait; one thread writes them to files. If the
//! thread can't keep up, records are dropped and counted, because otherwise one function's output would
//! slow down all others.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, io};

use prometheus::IntCounter;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Semaphore, oneshot, watch};

use super::follow::Follower;
use super::page::{self, Page};
use super::record::{Filter, Kind, Query, Record};
use super::segments::{self, Appender, Kept};
use super::text::Text;
use crate::function::{FunctionName, Incarnation, Version, VersionId};
use crate::locks::lock;

/// Maximum number of batches that wait for the writer.
const QUEUE: usize = 4096;
/// Maximum size of the waiting batches, approximately as in the files, in bytes: a guest decides how
/// large a batch is. Output of functions may use half of it; the other half is for platform events, so
/// that no function's output displaces them.
const QUEUE_BYTES: usize = 64 << 20;
/// The size with which a small batch counts, so that small batches can't use up the whole queue either.
const LEAST: usize = QUEUE_BYTES / QUEUE;
/// How long the writer collects records after it has woken up. Waking it for each record would take a
/// tenth of a short invocation's time.
const GATHER: Duration = Duration::from_millis(5);
/// Maximum number of logs that are kept open.
const MAX_OPEN: usize = 64;
/// Interval between two removals of old files.
const PRUNE: Duration = Duration::from_secs(600);
/// Maximum number of reads at once, because each reads through files.
const READERS: usize = 4;
/// Maximum number of followers of all functions.
const MAX_FOLLOWERS: usize = 256;

/// The function, version and invocation that a record belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The life of the function. After its end nothing is written any more.
    pub(crate) incarnation: Incarnation,
    pub(crate) function: FunctionName,
    pub(crate) version: VersionId,
    pub(crate) request_id: Option<String>,
}

impl Origin {
    pub(crate) fn of(version: &Version, request_id: Option<&str>) -> Self {
        Self {
            incarnation: version.incarnation.clone(),
            function: version.name.clone(),
            version: version.id,
            request_id: request_id.map(Into::into),
        }
    }
}

#[derive(Debug)]
struct Batch {
    origin: Origin,
    at: SystemTime,
    kind: Kind,
    text: Text,
    /// The size with which it counts in the queue.
    size: usize,
}

#[derive(Debug)]
enum Order {
    Write(Batch),
    /// Reply when everything before this is in the files.
    Flush(oneshot::Sender<()>),
    Remove(FunctionName),
}

/// For each function with followers, a number that changes with each write.
type Followers = Arc<Mutex<HashMap<FunctionName, watch::Sender<u64>>>>;

/// Appends to logs and reads them.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    orders: SyncSender<Order>,
    /// Bytes in the batches among them.
    waiting: Arc<AtomicUsize>,
    writer: Arc<JoinHandle<()>>,
    folder: PathBuf,
    kept: Kept,
    lost: IntCounter,
    followers: Followers,
    readers: Arc<Semaphore>,
    seats: Arc<Semaphore>,
}

impl LogStore {
    /// Opens the store in `folder`. `lost` counts batches that were dropped.
    pub(crate) fn open(folder: PathBuf, kept: Kept, lost: IntCounter) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let (orders, inbox) = sync_channel(QUEUE);
        let followers = Followers::default();
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            waiting: waiting.clone(),
            folder: folder.clone(),
            kept,
            open: HashMap::new(),
            gathered: None,
            lost: lost.clone(),
            followers: followers.clone(),
        };
        let writer = thread::Builder::new()
            .name("logs".into())
            .spawn(move || writer.run(&inbox))?;
        Ok(Self {
            orders,
            waiting,
            writer: Arc::new(writer),
            folder,
            kept,
            lost,
            followers,
            readers: Arc::new(Semaphore::new(READERS)),
            seats: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        })
    }

    /// Whether the writer's thread runs.
    pub(crate) fn is_alive(&self) -> bool {
        !self.writer.is_finished()
    }

    /// Appends records, without waiting. Drops them if the queue is full.
    pub(crate) fn append(&self, origin: Origin, kind: Kind, text: Text) {
        let size = text.written_size().max(LEAST);
        let limit = match kind {
            Kind::Function => QUEUE_BYTES / 2,
            Kind::Platform => QUEUE_BYTES,
        };
        // One batch may exceed the limit: otherwise a large one would be dropped even if none waits.
        if self.waiting.load(Ordering::Relaxed) >= limit {
            return self.lost.inc();
        }
        let batch = Batch {
            origin,
            at: SystemTime::now(),
            kind,
            text: text.detached(),
            size,
        };
        // Before the batch is sent: the writer subtracts the size when it takes the batch.
        self.waiting.fetch_add(size, Ordering::Relaxed);
        match self.orders.try_send(Order::Write(batch)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.waiting.fetch_sub(size, Ordering::Relaxed);
                self.lost.inc();
            }
        }
    }

    /// Removes a function's log with everything that was appended before this call, as soon as the
    /// writer gets to it.
    pub(crate) async fn remove(&self, function: &FunctionName) {
        let (store, order) = (self.clone(), Order::Remove(function.clone()));
        // If the queue is full, this waits: the order must not be dropped, because a new function of
        // the same name would get the old log.
        let sent = tokio::task::spawn_blocking(move || store.order(order)).await;
        if !matches!(sent, Ok(true)) {
            tracing::warn!(
                %function,
                "the controller could not remove the log of a deleted function: its thread for logs has \
                 ended"
            );
        }
    }

    /// Waits until everything appended before this call is in the files.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let store = self.clone();
        let sent = tokio::task::spawn_blocking(move || store.order(Order::Flush(done)));
        // If the writer has ended, there is nothing to wait for.
        if matches!(sent.await, Ok(true)) {
            let _ = flushed.await;
        }
    }

    /// Sends an order, waiting if the queue is full, and wakes the writer. `false`: the writer has ended.
    fn order(&self, order: Order) -> bool {
        let sent = self.orders.send(order).is_ok();
        self.writer.thread().unpark();
        sent
    }

    /// Reads the page of a query, including everything that was appended before this call.
    pub(crate) async fn read(&self, function: &FunctionName, mut query: Query) -> io::Result<Page> {
        let kept = SystemTime::now().checked_sub(self.kept.max_age);
        query.filter.since = query.filter.since.max(kept);
        let (done, flushed) = oneshot::channel();
        let store = self.clone();
        let folder = self.folder.join(function.as_str());
        let turn = self.readers.clone().acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            // If the writer has ended, there is nothing to wait for.
            if store.order(Order::Flush(done)) {
                let _ = flushed.blocking_recv();
            }
            page::read(&folder, &query)
        })
        .await
        .map_err(io::Error::other)?
    }

    /// Follows a function's log after the record `after`, or from its end. `None` if there are too many
    /// followers already.
    pub(crate) async fn follow(
        &self,
        function: &FunctionName,
        after: Option<u64>,
        filter: Filter,
    ) -> io::Result<Option<Follower>> {
        let Ok(seat) = self.seats.clone().try_acquire_owned() else {
            return Ok(None);
        };
        if after.is_none() {
            // Records that were appended before this call must not be seen, so they must be in the file.
            self.flush().await;
        }
        // Subscribe before the first read, so that a write in between is not missed.
        let changes = lock(&self.followers)
            .entry(function.clone())
            .or_default()
            .subscribe();
        let folder = self.folder.join(function.as_str());
        Follower::begin(folder, after, filter, changes, seat)
            .await
            .map(Some)
    }
}

struct Writer {
    waiting: Arc<AtomicUsize>,
    folder: PathBuf,
    kept: Kept,
    open: HashMap<FunctionName, Appender>,
    gathered: Option<Gathered>,
    lost: IntCounter,
    followers: Followers,
}

/// Collected records of one log that are not in its file yet.
struct Gathered {
    function: FunctionName,
    /// Number of the first record.
    first: u64,
    lines: Vec<u8>,
    /// Number of batches that these lines are of.
    batches: u64,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Order>) {
        let mut pruned = Instant::now();
        self.prune();
        loop {
            match inbox.recv_timeout(PRUNE) {
                Ok(order) => {
                    if let Order::Write(_) = order {
                        thread::park_timeout(GATHER);
                    }
                    self.obey(order);
                    while let Ok(order) = inbox.try_recv() {
                        self.obey(order);
                    }
                    self.write();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if pruned.elapsed() >= PRUNE {
                self.prune();
                pruned = Instant::now();
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Write(batch) => {
                self.waiting.fetch_sub(batch.size, Ordering::Relaxed);
                // A deleted function's log is removed after the end of its incarnation. So nothing of it
                // is left, and nothing gets into the log of the next function of that name.
                if batch.origin.incarnation.is_over() {
                    return;
                }
                // A panic because of one function's files must not end the logs of all others.
                let gathered = catch_unwind(AssertUnwindSafe(|| self.gather(&batch)));
                let error = match gathered {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error,
                    Err(_) => io::Error::other("a bug in the controller, which has panicked"),
                };
                let function = &batch.origin.function;
                tracing::warn!(%function, %error, "the controller could not write a function's log");
                self.open.remove(function);
                self.lost.inc();
            }
            Order::Flush(done) => {
                self.write();
                // The caller may have been dropped.
                let _ = done.send(());
            }
            Order::Remove(function) => {
                self.write();
                self.open.remove(&function);
                match fs::remove_dir_all(self.folder.join(function.as_str())) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(
                            %function,
                            %error,
                            "the controller could not remove the log of a deleted function"
                        );
                    }
                    _ => {}
                }
                // Dropping the sender ends the followers.
                lock(&self.followers).remove(&function);
            }
        }
    }

    /// Writes the collected records.
    fn write(&mut self) {
        let Some(gathered) = self.gathered.take() else {
            return;
        };
        let function = &gathered.function;
        if let Some(appender) = self.open.get_mut(function)
            && let Err(error) = appender.append(gathered.first, &gathered.lines, self.kept)
        {
            tracing::warn!(%function, %error, "the controller could not write a function's log");
            self.open.remove(function);
            self.lost.inc_by(gathered.batches);
        }
        self.notify_followers(function);
    }

    fn notify_followers(&self, function: &FunctionName) {
        let mut followers = lock(&self.followers);
        if let Some(changes) = followers.get(function) {
            if changes.receiver_count() == 0 {
                followers.remove(function);
            } else {
                changes.send_modify(|writes| *writes = writes.wrapping_add(1));
            }
        }
    }

    fn gather(&mut self, batch: &Batch) -> io::Result<()> {
        let function = &batch.origin.function;
        let limit = self.kept.at_once();
        let goes_on = |g: &Gathered| g.function == *function && (g.lines.len() as u64) < limit;
        if !self.gathered.as_ref().is_some_and(goes_on) {
            self.write();
        }
        if !self.open.contains_key(function) {
            if self.open.len() >= MAX_OPEN {
                self.open.clear();
            }
            let appender = Appender::open(self.folder.join(function.as_str()))?;
            self.open.insert(function.clone(), appender);
        }
        let time = OffsetDateTime::from(batch.at)
            .format(&Rfc3339)
            .map_err(io::Error::other)?;
        let mut counted = false;
        for line in batch.text.records() {
            // A write has failed and has closed the log.
            let Some(appender) = self.open.get_mut(function) else {
                break;
            };
            let seq = appender.number(batch.at);
            let gathered = self.gathered.get_or_insert_with(|| Gathered {
                function: function.clone(),
                first: seq,
                lines: Vec::new(),
                batches: 0,
            });
            if !counted || gathered.lines.is_empty() {
                gathered.batches += 1;
                counted = true;
            }
            let record = Record {
                seq,
                time: time.clone(),
                version: batch.origin.version.to_string(),
                request_id: batch.origin.request_id.clone(),
                kind: batch.kind,
                message: String::from_utf8_lossy(line).trim_end_matches('\r').into(),
            };
            serde_json::to_writer(&mut gathered.lines, &record)?;
            gathered.lines.push(b'\n');
            // A guest's line break is one byte, but a record of more than a hundred bytes here.
            if gathered.lines.len() as u64 >= limit {
                self.write();
            }
        }
        Ok(())
    }

    fn prune(&mut self) {
        let folders = match fs::read_dir(&self.folder) {
            Ok(folders) => folders,
            Err(error) => {
                return tracing::warn!(%error, "the controller could not list the logs");
            }
        };
        let now = SystemTime::now();
        for folder in folders.flatten() {
            match segments::prune(&folder.path(), self.kept.max_age, now) {
                Ok(false) => {}
                // Open files may be among those that were removed.
                Ok(true) => self
                    .open
                    .retain(|function, _| folder.file_name() != *function.as_str()),
                Err(error) => {
                    tracing::warn!(
                        folder = %folder.path().display(),
                        %error,
                        "the controller could not remove a log's old files"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
