//! A function's log on disk: files of JSON lines, each named by the number of its first record.
//!
//! Files are appended to and removed as a whole, oldest first: when all of them together are larger than
//! a log's maximum size, or when the newest record of a file is older than the maximum age.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::record::{MAX_SEQ, micros, parse};

/// Number of files of a log that has its maximum size.
const FILES: u64 = 8;
const EXTENSION: &str = "jsonl";

/// The limits of each function's log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    /// Maximum size of one function's log, in bytes.
    pub(crate) max_bytes: u64,
    /// Maximum age. Readers do not get older records, and their files are removed.
    pub(crate) max_age: Duration,
}

impl Kept {
    /// Maximum number of bytes that are collected before they are written: a small part of a file.
    pub(super) fn at_once(&self) -> u64 {
        (self.max_bytes / FILES / 4).min(1 << 20)
    }
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Number of its first record.
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

/// The files of a folder, oldest first; none if the folder does not exist.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let first = match stem {
            _ if path.extension().is_none_or(|is| is != EXTENSION) => None,
            // Names of earlier versions, which kept two files.
            Some("log.1") => Some(0),
            Some("log") => Some(1),
            stem => stem.and_then(|stem| stem.parse().ok().filter(|first| *first <= MAX_SEQ)),
        };
        segments.extend(first.map(|first| Segment { first, path }));
    }
    segments.sort_unstable_by_key(|segment| segment.first);
    Ok(segments)
}

/// Appends to a function's log.
#[derive(Debug)]
pub(super) struct Appender {
    folder: PathBuf,
    file: Option<File>,
    /// Size of the newest file.
    size: u64,
    /// When the newest file was begun.
    began: SystemTime,
    /// The older files and their sizes.
    older: VecDeque<(Segment, u64)>,
    newest: Option<Segment>,
    last_seq: u64,
}

impl Appender {
    /// Opens a log to append to it; creates it if needed.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut appender = Self {
            folder,
            file: None,
            size: 0,
            began: SystemTime::UNIX_EPOCH,
            older: VecDeque::new(),
            newest: None,
            last_seq: 0,
        };
        for segment in list(&appender.folder)? {
            let size = fs::metadata(&segment.path)?.len();
            appender.older.push_back((segment, size));
        }
        for (segment, _) in appender.older.iter().rev() {
            appender.last_seq = last_number(&segment.path)?;
            if appender.last_seq > 0 {
                break;
            }
        }
        // A file that a crash has left with half a line at its end is not appended to.
        if let Some((segment, size)) = appender.older.pop_back() {
            if size == 0 || ends_with_a_line(&segment.path)? {
                let file = OpenOptions::new().append(true).open(&segment.path)?;
                appender.file = Some(file);
                appender.size = size;
                appender.began = SystemTime::UNIX_EPOCH + Duration::from_micros(segment.first);
                appender.newest = Some(segment);
            } else {
                appender.older.push_back((segment, size));
            }
        }
        Ok(appender)
    }

    /// The number of the next record. It increases even if the clock stands still or is set back.
    pub(super) fn number(&mut self, at: SystemTime) -> u64 {
        self.last_seq = micros(at).max(self.last_seq.saturating_add(1));
        self.last_seq
    }

    /// Writes complete lines. `first` is the number of the first record.
    pub(super) fn append(&mut self, first: u64, lines: &[u8], kept: Kept) -> io::Result<()> {
        let full = self.size + lines.len() as u64 > kept.max_bytes / FILES;
        // A file is removed as a whole. So it must not contain new records beside records that are much
        // older.
        let old = self.began.elapsed().is_ok_and(|age| age > kept.max_age / 4);
        if self.file.is_none() || (self.size > 0 && (full || old)) {
            self.begin(first)?;
        }
        let file = self.file.as_mut().expect("begun above");
        // One write, so that a reader sees all lines, or the beginning of one, which it reads later.
        file.write_all(lines)?;
        self.size += lines.len() as u64;
        self.trim(kept.max_bytes)
    }

    fn begin(&mut self, first: u64) -> io::Result<()> {
        let segment = Segment {
            first,
            path: self.folder.join(format!("{first:020}.{EXTENSION}")),
        };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&segment.path)?;
        let before = self.newest.replace(segment).zip(Some(self.size));
        self.older.extend(before);
        self.size = file.metadata()?.len();
        self.file = Some(file);
        self.began = SystemTime::now();
        Ok(())
    }

    fn trim(&mut self, max_bytes: u64) -> io::Result<()> {
        let mut total = self.size + self.older.iter().map(|(_, size)| size).sum::<u64>();
        while total > max_bytes
            && let Some((segment, size)) = self.older.pop_front()
        {
            remove(&segment.path)?;
            total -= size;
        }
        Ok(())
    }
}

/// Removes the files whose newest record is older than `max_age`. Returns whether there were any.
pub(super) fn prune(folder: &Path, max_age: Duration, now: SystemTime) -> io::Result<bool> {
    let mut removed = false;
    for segment in list(folder)? {
        let written = fs::metadata(&segment.path)?.modified()?;
        if now.duration_since(written).is_ok_and(|age| age > max_age) {
            remove(&segment.path)?;
            removed = true;
        }
    }
    Ok(removed)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The number of the last complete record of a file; 0 if there is none near its end.
fn last_number(path: &Path) -> io::Result<u64> {
    // The second size is larger than any record.
    for near in [1 << 16, 4 << 20] {
        let end = end_of(path, near)?;
        let records = end.rsplit(|byte| *byte == b'\n');
        let mut whole = records.filter_map(parse);
        if let Some(record) = whole.next() {
            return Ok(record.seq);
        }
    }
    Ok(0)
}

fn ends_with_a_line(path: &Path) -> io::Result<bool> {
    Ok(end_of(path, 1)?.last() == Some(&b'\n'))
}

/// The last `near` bytes of a file.
fn end_of(path: &Path, near: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(near)))?;
    let mut end = Vec::new();
    file.take(near).read_to_end(&mut end)?;
    Ok(end)
}
