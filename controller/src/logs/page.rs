//! Reads a function's log: in pages, or onwards from a position.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::record::{MAX_PAGE_BYTES, Query, Record, parse};
use super::segments::{self, Segment};

/// Longest line, in bytes. The store writes none that is longer.
const MAX_LINE: u64 = 4 << 20;

/// A page of records, oldest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) records: Vec<Record>,
    /// Whether there are more: after them if the query said `after`, else before them.
    pub(crate) more: bool,
}

/// Reads the page of a query.
pub(super) fn read(folder: &Path, query: &Query) -> io::Result<Page> {
    let least = query.filter.least_seq();
    let least = least.max(query.after.map_or(0, |after| after.saturating_add(1)));
    let mut found = Found::default();
    for segment in from(&segments::list(folder)?, least) {
        let Some(mut lines) = Lines::open(segment, 0)? else {
            continue;
        };
        while let Some((record, size)) = lines.next()? {
            if query.before.is_some_and(|before| record.seq >= before) {
                return Ok(found.page());
            }
            if record.seq < least || !query.filter.lets_through(&record) {
                continue;
            }
            if query.after.is_some() && found.is_full(query.limit, size) {
                found.more = true;
                return Ok(found.page());
            }
            found.push(record, size, query.limit);
        }
    }
    Ok(found.page())
}

/// The segments that may contain a record with a number of at least `least`.
fn from(segments: &[Segment], least: u64) -> &[Segment] {
    let later = segments.partition_point(|segment| segment.first <= least);
    &segments[later.saturating_sub(1)..]
}

#[derive(Debug, Default)]
struct Found {
    records: VecDeque<(Record, usize)>,
    bytes: usize,
    more: bool,
}

impl Found {
    fn is_full(&self, limit: usize, next: usize) -> bool {
        !self.records.is_empty()
            && (self.records.len() >= limit || self.bytes + next > MAX_PAGE_BYTES)
    }

    /// Adds a record, and removes the oldest ones while the page is too full.
    fn push(&mut self, record: Record, size: usize, limit: usize) {
        while self.is_full(limit, size) {
            self.bytes -= self.records.pop_front().map_or(0, |(_, size)| size);
            self.more = true;
        }
        self.bytes += size;
        self.records.push_back((record, size));
    }

    fn page(self) -> Page {
        Page {
            records: self.records.into_iter().map(|(record, _)| record).collect(),
            more: self.more,
        }
    }
}

/// A position in a log: all records before it have been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    segment: u64,
    offset: u64,
}

/// The result of reading onwards.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) records: Vec<Record>,
    pub(super) place: Place,
    /// Whether records between the last position and these may be lost, because their file was removed.
    pub(super) gap: bool,
    /// Whether there may be more records already.
    pub(super) more: bool,
}

/// Reads onwards from `place`, up to a limit and without a filter.
pub(super) fn read_on(folder: &Path, place: Place) -> io::Result<Step> {
    let segments = segments::list(folder)?;
    let mut step = Step {
        place,
        ..Step::default()
    };
    let at = segments.partition_point(|segment| segment.first < place.segment);
    step.gap = place != Place::default()
        && segments
            .get(at)
            .is_none_or(|segment| segment.first != place.segment)
        && at < segments.len();
    let mut bytes = 0;
    for segment in &segments[at..] {
        let same = segment.first == step.place.segment;
        let offset = if same { step.place.offset } else { 0 };
        let Some(mut lines) = Lines::open(segment, offset)? else {
            continue;
        };
        while let Some((record, size)) = lines.next()? {
            step.records.push(record);
            step.place = Place {
                segment: segment.first,
                offset: lines.offset,
            };
            bytes += size;
            if bytes >= MAX_PAGE_BYTES / 8 {
                step.more = true;
                return Ok(step);
            }
        }
        step.place = Place {
            segment: segment.first,
            offset: lines.offset,
        };
    }
    Ok(step)
}

/// The position of the first record with a number above `seq`; the end if there is none.
pub(super) fn place_after(folder: &Path, seq: u64) -> io::Result<Place> {
    let segments = segments::list(folder)?;
    let mut place = Place::default();
    for segment in from(&segments, seq) {
        let Some(mut lines) = Lines::open(segment, 0)? else {
            continue;
        };
        place = Place {
            segment: segment.first,
            offset: 0,
        };
        while let Some((record, _)) = lines.next()? {
            if record.seq > seq {
                return Ok(place);
            }
            place.offset = lines.offset;
        }
    }
    Ok(place)
}

/// Reads the complete records of a file.
struct Lines {
    file: BufReader<File>,
    /// Offset after the last line that was read.
    offset: u64,
    line: Vec<u8>,
}

impl Lines {
    /// `None` if the file has just been removed.
    fn open(segment: &Segment, offset: u64) -> io::Result<Option<Self>> {
        let mut file = match File::open(&segment.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(offset))?;
        Ok(Some(Self {
            file: BufReader::with_capacity(1 << 16, file),
            offset,
            line: Vec::new(),
        }))
    }

    /// The next record and its size in the file.
    fn next(&mut self) -> io::Result<Option<(Record, usize)>> {
        loop {
            self.line.clear();
            let mut part = self.file.by_ref().take(MAX_LINE);
            let size = part.read_until(b'\n', &mut self.line)?;
            let whole = self.line.last() == Some(&b'\n');
            if size == 0 || (!whole && (size as u64) < MAX_LINE) {
                // The end of the file, or a line that is being written.
                return Ok(None);
            }
            self.offset += size as u64;
            // A line that a crash has cut off, or that is damaged, is skipped.
            if let Some(record) = parse(&self.line) {
                return Ok(Some((record, size)));
            }
        }
    }
}
