//! Cuts what a function writes to stdout, stderr and its log into records, with bounded memory.
//!
//! A record is a line or a *frame*. A runtime that finds `_LAMBDA_TELEMETRY_LOG_FD` in its
//! environment writes each message there as a frame: a header with the message's length, and the
//! message, which may have line breaks. All output comes through one pipe, which keeps its order.
//! `framing` finds the frames.
//!
//! A function must never have to wait until its output is read, nor make the reader's memory grow.
//! Output that can't be kept is counted and dropped.

mod framing;

use bytes::{Bytes, BytesMut};
use framing::{Framing, Piece};

/// Maximum length of a record; a longer one is split.
pub const MAX_LINE: usize = 256 * 1024;
/// Once so many bytes of complete records are buffered, they should be sent.
const MAX_PENDING: usize = 64 * 1024;
/// Maximum number of multi-line records in one message, because each is listed by itself. Further
/// ones are sent as one record for each line.
const MAX_MULTILINE: usize = 1024;

/// Records that have not been sent yet.
#[derive(Debug, Default)]
pub struct LogBuffer {
    bytes: BytesMut,
    /// Length of the complete records at the start of `bytes`.
    whole: usize,
    multiline: Vec<(u32, u32)>,
    framing: Framing,
    dropped: u64,
}

/// Records to send.
#[derive(Debug, PartialEq, Eq)]
pub struct Lines {
    /// The records, each with a newline at its end.
    pub bytes: Bytes,
    /// Records of several lines: offset and length in `bytes`, without the last newline.
    pub multiline: Vec<(u32, u32)>,
    /// Bytes that were dropped before these records.
    pub dropped: u64,
}

impl Lines {
    /// Whether the bytes alone describe the records.
    pub fn is_text(&self) -> bool {
        self.multiline.is_empty() && self.dropped == 0
    }
}

impl LogBuffer {
    /// Takes output. At most [`MAX_LINE`] bytes of an incomplete record are kept.
    pub fn push(&mut self, output: &[u8]) {
        let mut framing = std::mem::take(&mut self.framing);
        framing.push(output, |piece| match piece {
            Piece::Text(text) => self.push_text(text),
            Piece::FrameBegins => self.finish_line(),
            Piece::Frame(part) => self.bytes.extend_from_slice(part),
            Piece::FrameEnds => self.finish_frame(),
        });
        self.framing = framing;
    }

    fn push_text(&mut self, text: &[u8]) {
        let mut rest = text;
        while !rest.is_empty() {
            let unfinished = self.bytes.len() - self.whole;
            let room = MAX_LINE - unfinished;
            let step = room.min(rest.len());
            let (now, later) = rest.split_at(step);
            self.bytes.extend_from_slice(now);
            if let Some(end) = now.iter().rposition(|b| *b == b'\n') {
                self.whole = self.bytes.len() - (now.len() - end - 1);
            } else if step == room {
                self.finish_line();
            }
            rest = later;
        }
    }

    /// Counts output that was dropped.
    pub fn drop_output(&mut self, len: usize) {
        // After a gap, the frame's header no longer matches the bytes that follow.
        self.finish_unfinished();
        self.framing = Framing::default();
        self.dropped += len as u64;
    }

    /// Whether there is a complete record, or a gap, to report.
    pub fn has_lines(&self) -> bool {
        self.whole > 0 || self.dropped > 0
    }

    /// Whether there is nothing, not even an incomplete record.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.dropped == 0 && self.framing.is_idle()
    }

    /// Whether the records should be sent without waiting for more.
    pub fn is_full(&self) -> bool {
        self.whole >= MAX_PENDING
    }

    /// Takes the complete records.
    pub fn take_lines(&mut self) -> Option<Lines> {
        if !self.has_lines() {
            return None;
        }
        let bytes = self.bytes.split_to(self.whole).freeze();
        self.whole = 0;
        Some(Lines {
            bytes,
            multiline: std::mem::take(&mut self.multiline),
            dropped: std::mem::take(&mut self.dropped),
        })
    }

    /// Takes everything. An incomplete record gets a newline.
    pub fn take_all(&mut self) -> Option<Lines> {
        self.finish_unfinished();
        self.take_lines()
    }

    fn finish_unfinished(&mut self) {
        if self.framing.is_in_frame() {
            self.finish_frame();
        } else {
            let header = self.framing.take_header();
            self.push_text(&header);
            self.finish_line();
        }
    }

    /// Completes a line.
    fn finish_line(&mut self) {
        if self.bytes.len() > self.whole {
            self.bytes.extend_from_slice(b"\n");
            self.whole = self.bytes.len();
        }
    }

    /// Makes one record of the bytes since the last record, without the line breaks at its end.
    fn finish_frame(&mut self) {
        while self.bytes.len() > self.whole && self.bytes.last() == Some(&b'\n') {
            self.bytes.truncate(self.bytes.len() - 1);
        }
        let text = &self.bytes[self.whole..];
        if text.contains(&b'\n') && self.multiline.len() < MAX_MULTILINE {
            let at = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            self.multiline.push((at(self.whole), at(text.len())));
        }
        self.finish_line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(buffer: &mut LogBuffer) -> Option<String> {
        let lines = buffer.take_lines()?;
        Some(String::from_utf8(lines.bytes.to_vec()).unwrap())
    }

    #[test]
    fn only_whole_lines_are_taken() {
        let mut buffer = LogBuffer::default();
        buffer.push(b"one\ntw");
        assert_eq!(lines(&mut buffer).as_deref(), Some("one\n"));
        assert_eq!(lines(&mut buffer), None);
        buffer.push(b"o\nthree\n");
        assert_eq!(lines(&mut buffer).as_deref(), Some("two\nthree\n"));
    }

    #[test]
    fn the_last_line_gets_its_newline() {
        let mut buffer = LogBuffer::default();
        assert_eq!(buffer.take_all(), None);
        buffer.push(b"one\ntwo");
        let all = buffer.take_all().unwrap();
        assert_eq!(&all.bytes[..], b"one\ntwo\n");
        assert_eq!(buffer.take_all(), None);
    }

    #[test]
    fn a_line_without_end_is_cut_and_nothing_is_lost() {
        let mut buffer = LogBuffer::default();
        let mut text = Vec::new();
        for _ in 0..5 {
            let part = vec![b'x'; 100_000];
            buffer.push(&part);
            text.extend(part);
            assert!(buffer.bytes.len() - buffer.whole < MAX_LINE);
        }
        let all = buffer.take_all().unwrap().bytes;
        assert!(
            all.split(|b| *b == b'\n')
                .all(|line| line.len() <= MAX_LINE)
        );
        let joined: Vec<u8> = all.iter().copied().filter(|b| *b != b'\n').collect();
        assert_eq!(joined, text);
    }

    #[test]
    fn what_was_thrown_away_is_told_with_the_next_lines() {
        let mut buffer = LogBuffer::default();
        buffer.drop_output(7);
        buffer.push(b"next\n");
        assert_eq!(
            buffer.take_lines(),
            Some(Lines {
                bytes: Bytes::from_static(b"next\n"),
                multiline: vec![],
                dropped: 7
            })
        );
        assert!(!buffer.has_lines());
    }
    fn frame(message: &[u8]) -> Vec<u8> {
        let len = u32::try_from(message.len()).unwrap();
        let header = [&[0xa5, 0x5a, 0, 3][..], &len.to_be_bytes(), &[0; 8]].concat();
        [&header, message].concat()
    }

    #[test]
    fn a_frame_is_one_record_however_it_arrives_and_keeps_its_place() {
        let wire = [
            b"before\nunfinished".to_vec(),
            frame(b"Traceback:\n  line\nError\n"),
            frame(b"one line\n"),
            "after \u{e5}Z\n".into(),
        ]
        .concat();
        let expected = "before\nunfinished\nTraceback:\n  line\nError\none line\nafter \u{e5}Z\n";
        for step in [1, 3, 17, wire.len()] {
            let mut buffer = LogBuffer::default();
            for part in wire.chunks(step) {
                buffer.push(part);
            }
            let lines = buffer.take_all().unwrap();
            assert_eq!(std::str::from_utf8(&lines.bytes).unwrap(), expected);
            assert_eq!(lines.multiline, [(18, 23)]);
        }
    }

    #[test]
    fn a_frame_that_does_not_end_is_told_in_parts_and_what_follows_a_gap_is_text() {
        let mut buffer = LogBuffer::default();
        let wire = frame(b"a\nb\nc");
        let (first, second) = wire.split_at(wire.len() - 2);
        buffer.push(first);
        assert_eq!(&buffer.take_all().unwrap().bytes[..], b"a\nb\n");
        buffer.push(second);
        assert_eq!(&buffer.take_all().unwrap().bytes[..], b"\nc\n");
        buffer.push(first);
        buffer.drop_output(1);
        buffer.push(b"text\n");
        let lines = buffer.take_lines().unwrap();
        assert_eq!((&lines.bytes[..], lines.dropped), (&b"a\nb\ntext\n"[..], 1));
    }

    #[test]
    fn what_only_looks_like_a_frame_is_text_and_bounded() {
        let mut buffer = LogBuffer::default();
        let mut long = frame(b"");
        long[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        buffer.push(&long);
        buffer.push(b"\n");
        assert_eq!(buffer.take_lines().unwrap().bytes.len(), 17);
        buffer.push(&[0xa5, 0x5a]);
        assert_eq!(&buffer.take_all().unwrap().bytes[..], b"\xa5\x5a\n");
        for _ in 0..2 * MAX_MULTILINE {
            buffer.push(&frame(b"a\nb"));
        }
        assert_eq!(buffer.take_lines().unwrap().multiline.len(), MAX_MULTILINE);
    }
}
