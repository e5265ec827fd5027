//! Follows one function's log as it grows.
//!
//! A follower reads the files at its own speed, on from where it was: what it has not taken yet is
//! on disk and not in memory, however slow it is. One that is so slow that files were removed
//! before it came to them is told of the gap.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::page::{self, Place, Step};
use super::record::{Filter, Record};

/// Looks are at least this far apart: a busy log is followed in batches.
const PAUSE: Duration = Duration::from_millis(50);

/// What came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) records: Vec<Record>,
    /// Records before these may be missing.
    pub(crate) gap: bool,
}

/// A place in a log, and word of changes.
#[derive(Debug)]
pub(crate) struct Follower {
    folder: PathBuf,
    place: Place,
    /// Records up to this number have been seen, whatever the place.
    after: u64,
    filter: Filter,
    changes: watch::Receiver<u64>,
    /// There may be more than the last look had room for.
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

    /// The next records; `None` when the log is gone, or there is no writer any more.
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
