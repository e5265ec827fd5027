//! Frames of `application/vnd.amazon.eventstream`, the format of a streamed result.
//!
//! ```text
//! offset  size  field, big-endian
//!      0     4  length of the whole frame
//!      4     4  length of the headers
//!      8     4  CRC-32 of the eight bytes before
//!     12     …  headers: length of the name (1), name, type (1), length of the value (2), value
//!      …     …  payload
//!      …     4  CRC-32 of everything before
//! ```
//!
//! AWS's crate for this format depends on two generations of HTTP types, too much for one function.

use bytes::{BufMut, Bytes, BytesMut};

/// Type of a header whose value is a string.
const STRING: u8 = 7;
/// Size of a frame without headers and payload: lengths and checksum at the beginning, checksum at the
/// end.
const FRAMING: usize = 12 + 4;

/// A frame that carries an event.
pub(crate) fn event(name: &str, content_type: &str, payload: &[u8]) -> Bytes {
    let headers = [
        (":message-type", "event"),
        (":event-type", name),
        (":content-type", content_type),
    ];
    let headers_len: usize = headers
        .iter()
        .map(|(name, value)| 1 + name.len() + 1 + 2 + value.len())
        .sum();
    let len = FRAMING + headers_len + payload.len();
    let mut frame = BytesMut::with_capacity(len);
    frame.put_u32(as_u32(len));
    frame.put_u32(as_u32(headers_len));
    frame.put_u32(crc32fast::hash(&frame));
    for (name, value) in headers {
        frame.put_u8(u8::try_from(name.len()).expect("names are those above"));
        frame.put_slice(name.as_bytes());
        frame.put_u8(STRING);
        frame.put_u16(u16::try_from(value.len()).expect("values are short words"));
        frame.put_slice(value.as_bytes());
    }
    frame.put_slice(payload);
    frame.put_u32(crc32fast::hash(&frame));
    frame.freeze()
}

fn as_u32(len: usize) -> u32 {
    u32::try_from(len).expect("payloads are a few megabytes at most")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_laid_out_as_clients_read_it() {
        let frame = event("PayloadChunk", "application/octet-stream", b"hi");
        let be = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        assert_eq!(be(0) as usize, frame.len());
        assert_eq!(be(8), crc32fast::hash(&frame[..8]));
        let end = frame.len() - 4;
        assert_eq!(be(end), crc32fast::hash(&frame[..end]));
        let headers = &frame[12..12 + be(4) as usize];
        assert_eq!(
            headers,
            b"\x0d:message-type\x07\x00\x05event\x0b:event-type\x07\x00\x0cPayloadChunk\
              \x0d:content-type\x07\x00\x18application/octet-stream"
        );
        assert_eq!(&frame[12 + headers.len()..end], b"hi");
    }
}
