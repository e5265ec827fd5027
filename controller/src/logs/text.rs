//! A function's output, and how it is split into records.

use std::ops::Range;

use bytes::Bytes;
use hearth_protocol::agent::Log;

/// Approximate size of a stored record without its text, in bytes: number, time, version, request id.
const RECORD: usize = 150;

/// Output as it comes from a guest. Each record ends with a newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    bytes: Bytes,
    /// Records of several lines, in order and without overlaps.
    multiline: Vec<Range<usize>>,
}

impl Text {
    /// One record for each line.
    #[cfg(test)]
    pub(crate) fn lines(bytes: Bytes) -> Self {
        Self {
            bytes,
            multiline: Vec::new(),
        }
    }

    /// One record.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        let all = 0..bytes.strip_suffix(b"\n").unwrap_or(&bytes).len();
        Self {
            bytes,
            multiline: vec![all],
        }
    }

    /// With the records of several lines that the guest reports. Ranges that are not valid are ignored:
    /// their bytes become one record for each line.
    pub(crate) fn of_guest(log: &Log, bytes: Bytes) -> Self {
        let mut multiline = Vec::new();
        let mut end = 0;
        for (offset, len) in &log.multiline {
            let range = *offset as usize..(*offset as usize).saturating_add(*len as usize);
            if range.start >= end && range.end <= bytes.len() {
                end = range.end;
                multiline.push(range);
            }
        }
        Self { bytes, multiline }
    }

    /// A copy in memory of its own. A text shares a receive buffer, of which one line could keep
    /// megabytes in memory.
    pub(super) fn detached(self) -> Self {
        let bytes = Bytes::copy_from_slice(&self.bytes);
        Self { bytes, ..self }
    }

    /// Approximate size of its records in a file, in bytes; at least the size of the text.
    pub(super) fn written_size(&self) -> usize {
        let lines = self.bytes.iter().filter(|byte| **byte == b'\n').count();
        self.bytes.len() + (lines + self.multiline.len()) * RECORD
    }

    /// The records, in order.
    pub(crate) fn records(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.multiline.iter().map(|range| range.end);
        let starts = self.multiline.iter().map(|range| range.start);
        let gaps = std::iter::once(0)
            .chain(ends)
            .zip(starts.chain([self.bytes.len()]));
        let last = self.multiline.len();
        gaps.enumerate().flat_map(move |(index, (from, to))| {
            let lines = &self.bytes[from..to];
            // Without the newline that ends the record before.
            let lines = match index {
                0 => lines,
                _ => lines.strip_prefix(b"\n").unwrap_or(lines),
            };
            let ended = lines.strip_suffix(b"\n").unwrap_or(lines);
            let any = !lines.is_empty();
            let lines = any.then(|| ended.split(|byte| *byte == b'\n'));
            let record = (index < last).then(|| &self.bytes[self.multiline[index].clone()]);
            lines.into_iter().flatten().chain(record)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str, multiline: &[(u32, u32)]) -> Vec<String> {
        let log = Log {
            multiline: multiline.to_vec(),
            ..Log::default()
        };
        let text = Text::of_guest(&log, Bytes::from(text.to_owned()));
        let records = text.records();
        records
            .map(|record| String::from_utf8(record.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn each_line_is_a_record_unless_a_record_has_several() {
        assert_eq!(records("a\n\nb\n", &[]), ["a", "", "b"]);
        assert_eq!(records("a\nb\nc\nd\n", &[(2, 3)]), ["a", "b\nc", "d"]);
        assert_eq!(records("a\nb\nc\nd\n", &[(0, 3), (4, 3)]), ["a\nb", "c\nd"]);
        let whole = Text::whole(Bytes::from_static(b"a\nb\n"));
        assert_eq!(whole.records().collect::<Vec<_>>(), [b"a\nb"]);
        let empty = Text::whole(Bytes::new());
        assert_eq!(empty.records().collect::<Vec<_>>(), [b""]);
    }

    #[test]
    fn invalid_ranges_of_a_guest_are_split_into_lines() {
        for multiline in [
            &[(0, 100)][..],
            &[(u32::MAX, u32::MAX)],
            &[(2, 1), (0, 1)],
            &[(0, 2), (1, 2)],
        ] {
            let found = records("a\nb\n", multiline);
            assert_eq!(found.concat().replace('\n', ""), "ab", "{multiline:?}");
        }
    }
}
