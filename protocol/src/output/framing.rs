//! Frames in a function's output: log messages that a runtime passes as a whole.
//!
//! ```text
//! offset  size  field, big-endian
//!      0     4  type: 0xa55a00tt, where tt encodes format and level
//!      4     4  length of the message
//!      8     8  microseconds since the epoch
//!     16     …  message
//! ```
//!
//! Frames may be anywhere between other output. No UTF-8 text looks like the beginning of one: the byte
//! 0xa5 only continues a character, and there it is not followed by `Z` and NUL. Bytes with another
//! header, or with a length over a record's maximum, are text like any other.

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

/// The position in the output.
#[derive(Debug, Default)]
pub(super) struct Framing {
    /// The bytes of a header that has begun.
    header: Vec<u8>,
    /// Bytes of a frame's message that have not come yet.
    left: usize,
}

impl Framing {
    /// Whether a frame's message has begun and not ended.
    pub(super) fn is_in_frame(&self) -> bool {
        self.left > 0
    }

    /// Whether the next byte is text and no byte is held back.
    pub(super) fn is_idle(&self) -> bool {
        self.left == 0 && self.header.is_empty()
    }

    /// The bytes that were held back because they might have been a header.
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
                    // It was no header. Look at this byte again.
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
