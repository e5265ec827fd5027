//! Log records on disk: two segments of JSON lines for each function, the older thrown away when
//! the newer is full.
//!
//! One thread writes. Invocations hand records over and never wait: when the thread can't keep up,
//! records are lost and counted, which is better than a function that slows down others by its
//! output.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::SystemTime;

use bytes::Bytes;
use prometheus::IntCounter;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::oneshot;

use crate::function::FunctionName;

/// Batches that may wait for the writer.
const QUEUE: usize = 4096;
/// Files kept open.
const MAX_OPEN: usize = 64;

/// Where a record comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The function's output.
    Function,
    /// `START`, `END`, `REPORT` and the like.
    Platform,
}

/// One line, as it is stored and as the API returns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Grows from record to record of a function, also over restarts.
    pub(crate) seq: u64,
    /// RFC 3339, UTC.
    pub(crate) time: String,
    pub(crate) request_id: Option<String>,
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

/// What a reader wants.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) since: Option<SystemTime>,
    pub(crate) after: Option<u64>,
    pub(crate) limit: usize,
}

#[derive(Debug)]
struct Batch {
    function: FunctionName,
    at: SystemTime,
    request_id: Option<String>,
    kind: Kind,
    text: Bytes,
}

#[derive(Debug)]
enum Order {
    Write(Batch),
    /// Answer when everything before this is in the files.
    Flush(oneshot::Sender<()>),
    Remove(FunctionName),
}

/// The writer's face.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    orders: SyncSender<Order>,
    folder: PathBuf,
    lost: IntCounter,
}

impl LogStore {
    /// Opens the store in `folder`, with at most `max_bytes` for each function. `lost` counts
    /// batches that the writer had no room for.
    pub(crate) fn open(folder: PathBuf, max_bytes: u64, lost: IntCounter) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let (orders, inbox) = sync_channel(QUEUE);
        let writer = Writer {
            folder: folder.clone(),
            segment: max_bytes / 2,
            open: HashMap::new(),
        };
        std::thread::Builder::new()
            .name("logs".into())
            .spawn(move || writer.run(&inbox))?;
        Ok(Self {
            orders,
            folder,
            lost,
        })
    }

    /// Records whole lines.
    pub(crate) fn append(
        &self,
        function: &FunctionName,
        request_id: Option<&str>,
        kind: Kind,
        text: Bytes,
    ) {
        let batch = Batch {
            function: function.clone(),
            at: SystemTime::now(),
            request_id: request_id.map(Into::into),
            kind,
            text,
        };
        match self.orders.try_send(Order::Write(batch)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.lost.inc(),
        }
    }

    /// Throws a function's log away.
    pub(crate) fn remove(&self, function: &FunctionName) {
        if self
            .orders
            .try_send(Order::Remove(function.clone()))
            .is_err()
        {
            tracing::warn!(%function, "log of a deleted function not removed: the writer is busy");
        }
    }

    /// The newest records that fit `query`, oldest first, everything appended before this call
    /// included.
    pub(crate) async fn read(
        &self,
        function: &FunctionName,
        query: Query,
    ) -> io::Result<Vec<Record>> {
        let (done, flushed) = oneshot::channel();
        let orders = self.orders.clone();
        let folder = self.folder.join(function.as_str());
        tokio::task::spawn_blocking(move || {
            // Without a writer there is nothing to wait for.
            if orders.send(Order::Flush(done)).is_ok() {
                let _ = flushed.blocking_recv();
            }
            read(&folder, &query)
        })
        .await
        .map_err(io::Error::other)?
    }
}

struct Writer {
    folder: PathBuf,
    segment: u64,
    open: HashMap<FunctionName, Segment>,
}

struct Segment {
    file: File,
    size: u64,
    last_seq: u64,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Order>) {
        while let Ok(order) = inbox.recv() {
            match order {
                Order::Write(batch) => {
                    if let Err(error) = self.write(&batch) {
                        tracing::warn!(function = %batch.function, %error, "log not written");
                        self.open.remove(&batch.function);
                    }
                }
                // Whoever asked may have gone.
                Order::Flush(done) => drop(done.send(())),
                Order::Remove(function) => {
                    self.open.remove(&function);
                    match fs::remove_dir_all(self.folder.join(function.as_str())) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            tracing::warn!(%function, %error, "log not removed");
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        if !self.open.contains_key(&batch.function) {
            if self.open.len() >= MAX_OPEN {
                self.open.clear();
            }
            let segment = Segment::open(&self.folder.join(batch.function.as_str()))?;
            self.open.insert(batch.function.clone(), segment);
        }
        let segment = self.open.get_mut(&batch.function).expect("put in above");
        let micros = batch
            .at
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
            });
        let time = OffsetDateTime::from(batch.at)
            .format(&Rfc3339)
            .map_err(io::Error::other)?;
        let mut text = Vec::new();
        for line in batch
            .text
            .strip_suffix(b"\n")
            .unwrap_or(&batch.text)
            .split(|b| *b == b'\n')
        {
            // The clock may stand still or be set back: order must not depend on it.
            segment.last_seq = micros.max(segment.last_seq + 1);
            let record = Record {
                seq: segment.last_seq,
                time: time.clone(),
                request_id: batch.request_id.clone(),
                kind: batch.kind,
                message: String::from_utf8_lossy(line).trim_end_matches('\r').into(),
            };
            serde_json::to_writer(&mut text, &record)?;
            text.push(b'\n');
        }
        segment.file.write_all(&text)?;
        segment.size += text.len() as u64;
        if segment.size > self.segment {
            let folder = self.folder.join(batch.function.as_str());
            fs::rename(newer(&folder), older(&folder))?;
            let last_seq = segment.last_seq;
            *segment = Segment {
                last_seq,
                ..Segment::open(&folder)?
            };
        }
        Ok(())
    }
}

impl Segment {
    fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(newer(folder))?;
        let size = file.metadata()?.len();
        Ok(Self {
            file,
            size,
            last_seq: 0,
        })
    }
}

fn newer(folder: &Path) -> PathBuf {
    folder.join("log.jsonl")
}

fn older(folder: &Path) -> PathBuf {
    folder.join("log.1.jsonl")
}

fn read(folder: &Path, query: &Query) -> io::Result<Vec<Record>> {
    let since = query.since.map(OffsetDateTime::from);
    let mut found = std::collections::VecDeque::new();
    for path in [older(folder), newer(folder)] {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file).split(b'\n') {
            // A line cut short by a crash is no record.
            let Ok(record) = serde_json::from_slice::<Record>(&line?) else {
                continue;
            };
            let new = query.after.is_none_or(|after| record.seq > after);
            let recent = since.is_none_or(|since| {
                OffsetDateTime::parse(&record.time, &Rfc3339).is_ok_and(|time| time >= since)
            });
            if new && recent {
                if found.len() == query.limit {
                    found.pop_front();
                }
                found.push_back(record);
            }
        }
    }
    Ok(found.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path, max: u64) -> (LogStore, FunctionName) {
        let lost = IntCounter::new("lost", "lost").unwrap();
        (
            LogStore::open(dir.into(), max, lost).unwrap(),
            FunctionName::parse("f").unwrap(),
        )
    }

    const ALL: Query = Query {
        since: None,
        after: None,
        limit: 10_000,
    };

    #[tokio::test]
    async fn each_line_is_a_record_and_readers_see_what_was_appended_before() {
        let dir = tempfile::tempdir().unwrap();
        let (store, f) = store(dir.path(), 1 << 20);
        store.append(
            &f,
            Some("r"),
            Kind::Function,
            Bytes::from_static(b"one\ntwo\xff\n"),
        );
        store.append(&f, None, Kind::Platform, Bytes::from_static(b"START"));
        let records = store.read(&f, ALL).await.unwrap();
        let messages: Vec<&str> = records.iter().map(|r| r.message.as_str()).collect();
        assert_eq!(messages, ["one", "two\u{fffd}", "START"]);
        assert_eq!(records[0].request_id.as_deref(), Some("r"));
        assert!(records.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        let rest = Query {
            after: Some(records[1].seq),
            ..ALL
        };
        assert_eq!(store.read(&f, rest).await.unwrap(), records[2..]);
        let newest = Query { limit: 1, ..ALL };
        assert_eq!(store.read(&f, newest).await.unwrap(), records[2..]);
        let future = SystemTime::now() + std::time::Duration::from_secs(60);
        let none = Query {
            since: Some(future),
            ..ALL
        };
        assert_eq!(store.read(&f, none).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_log_never_grows_past_its_limit_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let (store, f) = store(dir.path(), 8192);
        for n in 0..200 {
            store.append(
                &f,
                None,
                Kind::Function,
                Bytes::from(format!("{n} {}", "x".repeat(100))),
            );
        }
        let records = store.read(&f, ALL).await.unwrap();
        assert!(records.last().unwrap().message.starts_with("199 "));
        assert!(records.len() < 200);
        let size: u64 = fs::read_dir(dir.path().join("f"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(size <= 8192 + 512, "{size}");
    }

    #[tokio::test]
    async fn a_removed_log_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (store, f) = store(dir.path(), 8192);
        store.append(&f, None, Kind::Function, Bytes::from_static(b"x"));
        store.remove(&f);
        assert_eq!(store.read(&f, ALL).await.unwrap(), []);
        assert!(!dir.path().join("f").exists());
    }
}
