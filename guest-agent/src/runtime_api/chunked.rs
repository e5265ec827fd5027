//! Chunked bodies: data in pieces of announced length, and a trailer in which a streaming runtime
//! reports an error that occurred after it had begun to answer.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::{Bytes, BytesMut};
use hearth_protocol::guest::{MAX_PAYLOAD, error_type};

use super::request::{Body, RequestError};

/// Maximum length of a line of the framing, extensions and trailer fields included.
const MAX_CHUNK_LINE: usize = 64 * 1024;

/// The error of a runtime that failed after it had begun to stream its result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamError {
    pub(crate) error_type: Option<String>,
    /// The error's body; empty if it had none, or none that can be decoded.
    pub(crate) body: Bytes,
}

/// A chunked body that is being received.
#[derive(Debug)]
pub(super) struct Chunked {
    body: BytesMut,
    too_long: bool,
    error: Option<StreamError>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Size,
    Data(usize),
    DataEnd,
    Trailer,
    Done,
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self {
            body: BytesMut::new(),
            too_long: false,
            error: None,
            stage: Stage::Size,
        }
    }

    /// The error in the trailer, once the body is complete.
    pub(super) fn take_error(&mut self) -> Option<StreamError> {
        self.error.take()
    }

    /// The part of the body that has arrived since the last call, for a body that is passed on in pieces.
    pub(super) fn take_piece(&mut self) -> Bytes {
        self.body.split().freeze()
    }

    /// The body, once it is complete.
    pub(super) fn take_body(&mut self) -> Body {
        if self.too_long {
            Body::TooLong
        } else {
            Body::Whole(std::mem::take(&mut self.body).freeze())
        }
    }

    /// Consumes as much of `input` as it can. True when the body and its trailer are complete.
    pub(super) fn advance(&mut self, input: &mut BytesMut) -> Result<bool, RequestError> {
        loop {
            match self.stage {
                Stage::Size => {
                    let Some(line) = take_line(input)? else {
                        return Ok(false);
                    };
                    let size = chunk_size(&line).ok_or(RequestError::Chunk)?;
                    self.stage = match size {
                        0 => Stage::Trailer,
                        size => Stage::Data(size),
                    };
                }
                Stage::Data(left) => {
                    let step = left.min(input.len());
                    let data = input.split_to(step);
                    if self.too_long || self.body.len() + step > MAX_PAYLOAD {
                        self.too_long = true;
                        self.body = BytesMut::new();
                    } else {
                        self.body.extend_from_slice(&data);
                    }
                    if step < left {
                        self.stage = Stage::Data(left - step);
                        return Ok(false);
                    }
                    self.stage = Stage::DataEnd;
                }
                Stage::DataEnd => match take_line(input)? {
                    None => return Ok(false),
                    Some(line) if line.is_empty() => self.stage = Stage::Size,
                    Some(_) => return Err(RequestError::Chunk),
                },
                Stage::Trailer => match take_line(input)? {
                    None => return Ok(false),
                    Some(line) if line.is_empty() => self.stage = Stage::Done,
                    Some(line) => {
                        let colon = line.iter().position(|b| *b == b':');
                        let (name, value) = line.split_at(colon.ok_or(RequestError::Chunk)?);
                        let value = &value[1..];
                        if name.eq_ignore_ascii_case(b"lambda-runtime-function-error-type") {
                            self.error.get_or_insert_default().error_type = error_type(value);
                        } else if name.eq_ignore_ascii_case(b"lambda-runtime-function-error-body") {
                            let body = BASE64_STANDARD.decode(value.trim_ascii());
                            self.error.get_or_insert_default().body =
                                body.unwrap_or_default().into();
                        }
                    }
                },
                Stage::Done => return Ok(true),
            }
        }
    }
}

/// Takes one line without its line end.
fn take_line(input: &mut BytesMut) -> Result<Option<BytesMut>, RequestError> {
    match input.iter().take(MAX_CHUNK_LINE).position(|b| *b == b'\n') {
        Some(end) => {
            let mut line = input.split_to(end + 1);
            line.truncate(end);
            if line.last() == Some(&b'\r') {
                line.truncate(end - 1);
            }
            Ok(Some(line))
        }
        None if input.len() >= MAX_CHUNK_LINE => Err(RequestError::Chunk),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|b| *b == b';').next()?.trim_ascii();
    // Eight digits are up to 4 GiB: more than any body, and no overflow.
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
