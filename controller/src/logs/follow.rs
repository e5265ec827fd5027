//! Follows one function's log as it grows.
//!
//! A follower reads the files at its own speed and remembers its position. Records that it has not read
//! yet are on disk, not in memory, so a slow follower costs nothing. If files are removed before it has
//! read them, it reports a gap.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::page::{self, Place, Step};
use super::record::{Filter, Record};

/// Minimum interval between two reads, so that a busy log is read in batches.
const PAUSE: Duration = Duration::from_millis(50);

/// New records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) records: Vec<Record>,
    /// Records before these may be missing.
    pub(crate) gap: bool,
}

/// A position in a log, and notifications of changes.
#[derive(Debug)]
pub(crate) struct Follower {
    folder: PathBuf,
    place: Place,
    /// Records up to this number are skipped: the client has them.
    after: u64,
    filter: Filter,
    changes: watch::Receiver<u64>,
    /// Whether the last read has ended at its limit, so that there may be more records already.
    more: bool,
    _seat: OwnedSemaphorePermit,
}

impl Follower {
    pub(super) async fn begin(
        folder: PathBuf,
        after: Option<u64>,
        filter: Filter,
        changes: watch::Receiver<u64>,
        seat: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        let files = folder.clone();
        let seq = after.unwrap_or(u64::MAX);
        let place = blocking(move || page::place_after(&files, seq)).await?;
        Ok(Self {
            folder,
            place,
            after: after.unwrap_or(0),
            filter,
            changes,
            more: true,
            _seat: seat,
        })
    }

    /// The next records; `None` when the log was removed or the writer has ended.
    pub(crate) async fn next(&mut self) -> io::Result<Option<News>> {
        loop {
            if !self.more {
                if self.changes.changed().await.is_err() {
                    return Ok(None);
                }
                tokio::time::sleep(PAUSE).await;
            }
            self.changes.mark_unchanged();
            let (folder, place) = (self.folder.clone(), self.place);
            let step: Step = blocking(move || page::read_on(&folder, place)).await?;
            self.place = step.place;
            self.more = step.more;
            let news = News {
                records: step
                    .records
                    .into_iter()
                    .filter(|record| record.seq > self.after && self.filter.lets_through(record))
                    .collect(),
                gap: step.gap,
            };
            if news != News::default() {
                return Ok(Some(news));
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(read)
        .await
        .map_err(io::Error::other)?
}
