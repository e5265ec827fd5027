//! Frames: an 8-byte header, a small JSON part (`meta`) and raw payload bytes.
//!
//! ```text
//! offset  size  field
//!      0     1  kind
//!      1     1  version, 1
//!      2     2  length of meta, little-endian
//!      4     4  length of payload, little-endian, at most the decoder's limit
//!      8     …  meta, then payload
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Number of bytes before `meta`.
pub const HEADER_LEN: usize = 8;
/// The only version so far.
pub const VERSION: u8 = 1;
/// Maximum length of `meta` in bytes: the maximum of its length field.
pub const MAX_META: usize = u16::MAX as usize;

/// A frame. Its lengths are checked; its kind is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The kind of message; see [`super::HostMessage`] and [`super::AgentMessage`].
    pub kind: u8,
    /// The message's fields as JSON; empty for a message without fields.
    pub meta: Bytes,
    /// Raw bytes: an event, a result, log lines, entropy.
    pub payload: Bytes,
}

/// Why bytes are no frame. The connection can't be used afterwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame has another version of this protocol.
    #[error("frame version {0}, this side speaks {VERSION}")]
    Version(u8),
    /// The payload is longer than this side accepts.
    #[error("frame of kind {kind:#04x} with a payload of {len} bytes, the limit is {limit}")]
    PayloadTooLong {
        /// Kind of the offending frame.
        kind: u8,
        /// The length that it announces.
        len: usize,
        /// This side's limit.
        limit: usize,
    },
    /// The meta part is too long for its length field.
    #[error("frame of kind {kind:#04x} with {len} bytes of meta, the limit is {MAX_META}")]
    MetaTooLong {
        /// Kind of the offending frame.
        kind: u8,
        /// Length of its meta.
        len: usize,
    },
}

impl Frame {
    /// Appends the header and `meta` to `out`. The caller sends the payload after them, by `writev`
    /// and without a copy if it likes.
    pub fn encode_head(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        let meta_len = u16::try_from(self.meta.len()).map_err(|_| FrameError::MetaTooLong {
            kind: self.kind,
            len: self.meta.len(),
        })?;
        let payload_len =
            u32::try_from(self.payload.len()).map_err(|_| FrameError::PayloadTooLong {
                kind: self.kind,
                len: self.payload.len(),
                limit: u32::MAX as usize,
            })?;
        out.reserve(HEADER_LEN + self.meta.len());
        out.put_u8(self.kind);
        out.put_u8(VERSION);
        out.put_u16_le(meta_len);
        out.put_u32_le(payload_len);
        out.put_slice(&self.meta);
        Ok(())
    }

    /// Appends the whole frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        self.encode_head(out)?;
        out.put_slice(&self.payload);
        Ok(())
    }
}

/// Cuts a byte stream into frames. The caller appends received bytes to a buffer and passes it in.
#[derive(Debug, Clone)]
pub struct FrameDecoder {
    max_payload: usize,
}

impl FrameDecoder {
    /// A decoder that refuses payloads of more than `max_payload` bytes.
    pub fn new(max_payload: usize) -> Self {
        Self { max_payload }
    }

    /// Takes one frame off the front of `buf`; `None` if it is not complete yet. The limits are
    /// checked as soon as the header is there, so that a peer can't make this side buffer more than
    /// one frame of maximum size.
    pub fn decode(&self, buf: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(header) = buf.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let [kind, version, m0, m1, p0, p1, p2, p3] = *header;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let meta_len = usize::from(u16::from_le_bytes([m0, m1]));
        let payload_len = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
        if payload_len > self.max_payload {
            return Err(FrameError::PayloadTooLong {
                kind,
                len: payload_len,
                limit: self.max_payload,
            });
        }
        let total = HEADER_LEN + meta_len + payload_len;
        if buf.len() < total {
            buf.reserve(total - buf.len());
            return Ok(None);
        }
        buf.advance(HEADER_LEN);
        let meta = buf.split_to(meta_len).freeze();
        let payload = buf.split_to(payload_len).freeze();
        Ok(Some(Frame {
            kind,
            meta,
            payload,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame {
            kind: 4,
            meta: Bytes::from_static(b"{}"),
            payload: Bytes::from_static(b"\x00raw\xff"),
        }
    }

    #[test]
    fn a_frame_survives_the_wire_byte_by_byte() {
        let mut wire = BytesMut::new();
        frame().encode(&mut wire).unwrap();
        let decoder = FrameDecoder::new(5);
        let mut buf = BytesMut::new();
        let last = wire.len() - 1;
        for (i, byte) in wire.iter().enumerate() {
            buf.put_u8(*byte);
            let decoded = decoder.decode(&mut buf).unwrap();
            assert_eq!(decoded.is_some(), i == last, "after byte {i}");
            if let Some(decoded) = decoded {
                assert_eq!(decoded, frame());
            }
        }
        assert!(buf.is_empty());
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_before_it_arrives() {
        let mut wire = BytesMut::new();
        frame().encode_head(&mut wire).unwrap();
        let err = FrameDecoder::new(4).decode(&mut wire).unwrap_err();
        assert_eq!(
            err,
            FrameError::PayloadTooLong {
                kind: 4,
                len: 5,
                limit: 4
            }
        );
    }

    #[test]
    fn another_version_is_refused() {
        let mut wire = BytesMut::from(&[1u8, 2, 0, 0, 0, 0, 0, 0][..]);
        assert_eq!(
            FrameDecoder::new(4).decode(&mut wire).unwrap_err(),
            FrameError::Version(2)
        );
    }

    #[test]
    fn meta_that_does_not_fit_its_length_field_is_not_sent() {
        let long = Frame {
            meta: Bytes::from(vec![b' '; MAX_META + 1]),
            ..frame()
        };
        assert!(matches!(
            long.encode(&mut BytesMut::new()),
            Err(FrameError::MetaTooLong { kind: 4, .. })
        ));
    }
}
