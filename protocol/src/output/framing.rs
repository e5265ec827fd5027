//! Frames in a function's output: log messages that a runtime hands over whole.
//!
//! ```text
//! offset  size  field, big-endian
//!      0     4  type: 0xa55a00tt, where tt tells of format and level
//!      4     4  length of the message
//!      8     8  microseconds since the epoch
//!     16     …  message
//! ```
//!
//! They may stand anywhere between other output. No text in UTF-8 begins like one: 0xa5 can only
//! continue a character, and is then not followed by `Z` and NUL. What has another header, or
//! speaks of more bytes than a record may have, is text like any other.

use super::MAX_LINE;

const HEADER: usize = 16;
const TYPE: [u8; 3] = [0xa5, 0x5a, 0x00];

/// A part of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Text(&'a [u8]),
    FrameBegins,
    /// A part of a frame's message.
    Frame(&'a [u8]),
    FrameEnds,
}

/// Where in the output one is.
#[derive(Debug, Default)]
pub(super) struct Framing {
    /// A header's beginning.
    header: Vec<u8>,
    /// Bytes that are left of a frame's message.
    left: usize,
}

impl Framing {
    /// Whether a frame has begun and not ended.
    pub(super) fn is_in_frame(&self) -> bool {
        self.left > 0
    }

    /// Whether what comes next is text, and nothing is held back.
    pub(super) fn is_idle(&self) -> bool {
        self.left == 0 && self.header.is_empty()
    }

    /// What was held back because it might have been a header.
    pub(super) fn take_header(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.header)
    }

    /// Cuts output into pieces.
    pub(super) fn push(&mut self, output: &[u8], mut take: impl FnMut(Piece<'_>)) {
        let mut rest = output;
        while let Some(first) = rest.first() {
            if self.left > 0 {
                let (now, later) = rest.split_at(self.left.min(rest.len()));
                take(Piece::Frame(now));
                self.left -= now.len();
                if self.left == 0 {
                    take(Piece::FrameEnds);
                }
                rest = later;
            } else if !self.header.is_empty() {
                if TYPE
                    .get(self.header.len())
                    .is_some_and(|byte| byte != first)
                {
                    // It was none; this byte is looked at again.
                    take(Piece::Text(&self.take_header()));
                    continue;
                }
                self.header.push(*first);
                rest = &rest[1..];
                if self.header.len() == HEADER {
                    self.begin(&mut take);
                }
            } else {
                let end = rest.iter().position(|byte| *byte == TYPE[0]);
                let (text, later) = rest.split_at(end.unwrap_or(rest.len()));
                if !text.is_empty() {
                    take(Piece::Text(text));
                }
                rest = later;
                if !rest.is_empty() {
                    self.header.push(TYPE[0]);
                    rest = &rest[1..];
                }
            }
        }
    }

    fn begin(&mut self, take: &mut impl FnMut(Piece<'_>)) {
        let header = self.take_header();
        let len = header[4..8].try_into().map(u32::from_be_bytes);
        match len.map(|len| len as usize) {
            Ok(len) if len <= MAX_LINE => {
                take(Piece::FrameBegins);
                self.left = len;
                if len == 0 {
                    take(Piece::FrameEnds);
                }
            }
            _ => take(Piece::Text(&header)),
        }
    }
}
