//! Bytes to be sent by a non-blocking descriptor: gathered, sent in one call, and kept while the peer
//! takes no more.
//!
//! Small pieces are copied together, so that the usual batch is one plain `send` of one buffer:
//! copying in user space costs almost nothing, while every slice of a `writev` costs instructions in
//! the kernel. Large payloads are never copied.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::{Buf, Bytes, BytesMut};

/// Maximum slices of one `writev`. The kernel takes 1,024; a batch here has a handful.
const MAX_SLICES: usize = 32;
/// Maximum length of a piece that is copied, in bytes.
const MAX_COPY: usize = 16 * 1024;

/// A queue of bytes, sent in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Bytes>,
    /// Small pieces, behind everything in `queue`.
    tail: BytesMut,
    len: usize,
}

impl Outbox {
    /// Adds bytes; nothing is sent.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        if bytes.len() <= MAX_COPY {
            self.tail.extend_from_slice(&bytes);
        } else {
            self.close_tail();
            self.queue.push_back(bytes);
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.queue.push_back(self.tail.split().freeze());
        }
    }

    /// Bytes that are still to be sent.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether everything has been sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sends what `peer` takes without blocking. The common case is one call that takes it all.
    pub(crate) fn send(&mut self, mut peer: impl Write) -> io::Result<()> {
        self.close_tail();
        while !self.queue.is_empty() {
            let result = match self.queue.len() {
                1 => peer.write(&self.queue[0]),
                _ => {
                    let slices: Vec<IoSlice<'_>> = self
                        .queue
                        .iter()
                        .take(MAX_SLICES)
                        .map(|bytes| IoSlice::new(bytes))
                        .collect();
                    peer.write_vectored(&slices)
                }
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.sent(sent),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn sent(&mut self, mut count: usize) {
        self.len -= count;
        while count > 0 {
            let first = self
                .queue
                .front_mut()
                .expect("no more was sent than queued");
            let step = count.min(first.len());
            first.advance(step);
            count -= step;
            if first.is_empty() {
                self.queue.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then blocks.
    struct Peer {
        taken: Vec<u8>,
        room: usize,
        calls: usize,
    }

    impl Write for &mut Peer {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            let n = buf.len().min(self.room);
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= n;
            self.taken.extend_from_slice(&buf[..n]);
            Ok(n)
        }
        fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            let all: Vec<u8> = bufs.iter().flat_map(|b| b.to_vec()).collect();
            self.write(&all)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_batch_is_one_write() {
        let mut peer = Peer {
            taken: vec![],
            room: 99,
            calls: 0,
        };
        let mut out = Outbox::default();
        out.push(Bytes::from_static(b"head"));
        out.push(Bytes::new());
        out.push(Bytes::from_static(b"body"));
        out.send(&mut peer).unwrap();
        assert!(out.is_empty());
        assert_eq!((peer.taken.as_slice(), peer.calls), (&b"headbody"[..], 1));
    }

    #[test]
    fn a_large_payload_is_sent_in_its_place_without_a_copy() {
        let mut peer = Peer {
            taken: vec![],
            room: 1 << 20,
            calls: 0,
        };
        let payload = Bytes::from(vec![b'x'; MAX_COPY + 1]);
        let mut out = Outbox::default();
        out.push(Bytes::from_static(b"a"));
        out.push(payload.clone());
        out.push(Bytes::from_static(b"b"));
        assert_eq!(out.queue[1].as_ptr(), payload.as_ptr());
        out.send(&mut peer).unwrap();
        assert_eq!(peer.taken, [b"a", &payload[..], b"b"].concat());
        assert_eq!(peer.calls, 1);
    }

    #[test]
    fn what_a_slow_peer_did_not_take_is_kept_in_order() {
        let mut peer = Peer {
            taken: vec![],
            room: 5,
            calls: 0,
        };
        let mut out = Outbox::default();
        out.push(Bytes::from_static(b"head"));
        out.push(Bytes::from_static(b"body"));
        out.send(&mut peer).unwrap();
        assert_eq!(out.len(), 3);
        peer.room = 99;
        out.send(&mut peer).unwrap();
        assert_eq!((peer.taken.as_slice(), out.len()), (&b"headbody"[..], 0));
    }
}
