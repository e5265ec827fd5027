//! From host to guest: fills the receive queue. Packets without payload come first, then data from
//! the socket, as far as the guest's buffers and credit allow.

use hearth_protocol::guest::HOST_CID;

use super::connection::Connection;
use super::device::{RX, Vsock};
use super::host_stream::{HostStream, Read};
use super::packet::{HEADER, Header, MAX_PAYLOAD, Op};
use crate::devices::GuestMemory;
use crate::devices::virtio::device::DeviceError;
use crate::devices::virtio::guest_io::copy_to_guest;
use crate::devices::virtio::queue::VirtQueue;

/// What was put into a receive buffer.
enum Packet {
    /// A packet; its payload is in the buffer already.
    Send(Header),
    /// A packet, and the socket has no more data.
    SendLast(Header),
    /// Nothing.
    None,
}

impl Vsock {
    /// Sends the waiting packets without payload and then, if `data` is set, the host's data.
    /// Returns `true` if the used ring has new entries.
    pub(super) fn receive(
        &mut self,
        mut data: bool,
        queue: &mut VirtQueue,
        memory: &GuestMemory,
    ) -> Result<bool, DeviceError> {
        let mut news = false;
        // At most one round of the ring. The socket stays readable, so the event loop calls again.
        for _ in 0..queue.size() {
            data &= self.can_receive();
            if !(self.has_due() || data) || !self.take_receive_buffer(queue, memory)? {
                break;
            }
            let header = match self.next_packet(memory) {
                Packet::Send(header) => header,
                Packet::SendLast(header) => {
                    data = false;
                    header
                }
                Packet::None => {
                    queue.undo_pop();
                    data = false;
                    continue;
                }
            };
            copy_to_guest(memory, self.chain.writable(), 0, &header.to_bytes())?;
            let len = u32::try_from(HEADER).expect("44") + header.len;
            queue
                .push_used(memory, &self.chain, len)
                .map_err(DeviceError::ring(RX))?;
            news = true;
        }
        Ok(news)
    }

    /// Whether a packet without payload has to be sent.
    pub(super) fn has_due(&self) -> bool {
        !self.outbox.is_empty()
            || self
                .connection
                .as_ref()
                .is_some_and(|connection| connection.due().is_some())
    }

    /// The driver has put buffers on the receive queue.
    pub(super) fn feed(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemory,
    ) -> Result<(), DeviceError> {
        self.starved = false;
        queue.mute(memory).map_err(DeviceError::ring(RX))
    }

    /// Takes a buffer off the receive queue into `self.chain`. If there is none, asks the driver to
    /// notify of new ones.
    fn take_receive_buffer(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemory,
    ) -> Result<bool, DeviceError> {
        let ring = DeviceError::ring(RX);
        if !queue.pop(memory, &mut self.chain).map_err(&ring)? {
            let came_meanwhile = queue.unmute(memory).map_err(&ring)?;
            if !came_meanwhile || !queue.pop(memory, &mut self.chain).map_err(&ring)? {
                self.starved = true;
                return Ok(false);
            }
        }
        if !self.chain.readable().is_empty() {
            return Err(DeviceError::Request("read-only buffer to receive into"));
        }
        let least = HEADER as u64 + 1;
        if self.chain.writable_len() < least {
            return Err(DeviceError::SmallBuffer {
                len: self.chain.writable_len(),
                least,
            });
        }
        Ok(true)
    }

    fn next_packet(&mut self, memory: &GuestMemory) -> Packet {
        if let Some(note) = self.outbox.pop_front() {
            return Packet::Send(Header {
                src_cid: note.from_cid,
                dst_cid: self.guest_cid,
                src_port: note.ports.host,
                dst_port: note.ports.guest,
                kind: note.kind,
                op: note.op.number(),
                flags: note.flags,
                ..Header::default()
            });
        }
        let due = self.connection.as_ref().and_then(Connection::due);
        match due {
            Some(op) => self.stamp(op, 0).map_or(Packet::None, Packet::Send),
            None => self.read_host(memory),
        }
    }

    /// Reads into the buffer in `self.chain`, after the space for the header.
    fn read_host(&mut self, memory: &GuestMemory) -> Packet {
        let (Some(host), Some(connection)) = (&self.host, &self.connection) else {
            return Packet::None;
        };
        let room = self.chain.writable_len() - HEADER as u64;
        let room = u32::try_from(room).unwrap_or(MAX_PAYLOAD);
        let len = room.min(MAX_PAYLOAD).min(connection.credit());
        match HostStream::receive_to_guest(
            host,
            memory,
            self.chain.writable(),
            HEADER,
            len as usize,
        ) {
            Read::Bytes(read) => self.stamp(Op::Data, read).map_or(Packet::None, |header| {
                if read < len {
                    Packet::SendLast(header)
                } else {
                    Packet::Send(header)
                }
            }),
            Read::Empty => Packet::None,
            Read::Closed => {
                self.host_gone();
                Packet::None
            }
        }
    }

    fn stamp(&mut self, op: Op, len: u32) -> Option<Header> {
        let connection = self.connection.as_mut()?;
        Some(Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            ..connection.stamp(op, len)
        })
    }
}
