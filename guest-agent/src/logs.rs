//! What the function writes to stdout and stderr, cut into whole lines, within bounds.
//!
//! The function must never wait for its output to be carried off, nor make the agent grow: what
//! can't be sent is counted and thrown away.

use bytes::{Bytes, BytesMut};

/// Longest line; a longer one is cut in two.
pub(crate) const MAX_LINE: usize = 256 * 1024;
/// Complete lines kept before they must be sent.
const MAX_PENDING: usize = 64 * 1024;

/// Lines that have not been sent.
#[derive(Debug, Default)]
pub(crate) struct LogBuffer {
    bytes: BytesMut,
    /// Length of the part of `bytes` that is whole lines.
    whole: usize,
    dropped: u64,
}

/// Lines to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) bytes: Bytes,
    /// Bytes that were thrown away before these.
    pub(crate) dropped: u64,
}

impl LogBuffer {
    /// Takes output. At most [`MAX_LINE`] of unfinished line stays.
    pub(crate) fn push(&mut self, output: &[u8]) {
        let mut rest = output;
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

    /// Counts output that was thrown away.
    pub(crate) fn drop_output(&mut self, len: usize) {
        self.dropped += len as u64;
    }

    /// Whether there is a whole line, or a gap, to tell of.
    pub(crate) fn has_lines(&self) -> bool {
        self.whole > 0 || self.dropped > 0
    }

    /// Whether the lines should not wait for company any longer.
    pub(crate) fn is_full(&self) -> bool {
        self.whole >= MAX_PENDING
    }

    /// Takes the whole lines.
    pub(crate) fn take_lines(&mut self) -> Option<Lines> {
        if !self.has_lines() {
            return None;
        }
        let bytes = self.bytes.split_to(self.whole).freeze();
        self.whole = 0;
        Some(Lines {
            bytes,
            dropped: std::mem::take(&mut self.dropped),
        })
    }

    /// Takes everything; an unfinished line gets its newline.
    pub(crate) fn take_all(&mut self) -> Option<Lines> {
        if self.bytes.len() > self.whole {
            self.finish_line();
        }
        self.take_lines()
    }

    fn finish_line(&mut self) {
        self.bytes.extend_from_slice(b"\n");
        self.whole = self.bytes.len();
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
                dropped: 7
            })
        );
        assert!(!buffer.has_lines());
    }
}
