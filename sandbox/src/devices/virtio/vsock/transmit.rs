//! From guest to host: handles the packets on the transmit queue. Data goes to the socket directly
//! from guest memory. Every other packet changes the connection, or causes a reply that
//! [`super::receive`] sends.

use hearth_protocol::guest::{AGENT_PORT, HOST_CID};

use super::connection::{Connection, Ports};
use super::device::{EVENT, TX, Vsock};
use super::packet::{HEADER, Header, MAX_PAYLOAD, Op, STREAM};
use crate::devices::GuestMemory;
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::device::DeviceError;
use crate::devices::virtio::guest_io::copy_from_guest;
use crate::devices::virtio::queue::VirtQueue;

impl Vsock {
    /// Handles all packets on the transmit queue.
    pub(super) fn transmit(
        &mut self,
        queues: &mut [VirtQueue],
        memory: &GuestMemory,
    ) -> Result<(), DeviceError> {
        let ring = DeviceError::ring(TX);
        for _ in 0..queues[TX].size() {
            // Taken out of `self` so that a packet can be handled with `self` borrowed; put back
            // afterwards.
            let mut chain = std::mem::take(&mut self.chain);
            let result = self.transmit_one(&mut chain, queues, memory);
            self.chain = chain;
            if !result? {
                break;
            }
            queues[TX]
                .push_used(memory, &self.chain, 0)
                .map_err(&ring)?;
            self.unannounced += self.chain.descriptors();
        }
        Ok(())
    }

    fn transmit_one(
        &mut self,
        chain: &mut Chain,
        queues: &mut [VirtQueue],
        memory: &GuestMemory,
    ) -> Result<bool, DeviceError> {
        if !queues[TX]
            .pop(memory, chain)
            .map_err(DeviceError::ring(TX))?
        {
            return Ok(false);
        }
        if !chain.writable().is_empty() {
            return Err(DeviceError::Request("writable buffer to transmit"));
        }
        let mut header = [0; HEADER];
        let room = chain
            .readable_len()
            .checked_sub(HEADER as u64)
            .ok_or(DeviceError::Request("packet shorter than its header"))?;
        copy_from_guest(memory, chain.readable(), 0, &mut header)?;
        let header = Header::parse(&header);
        if header.len > MAX_PAYLOAD || u64::from(header.len) > room {
            return Err(DeviceError::PacketLength {
                len: header.len,
                room: room.min(MAX_PAYLOAD.into()),
            });
        }
        self.handle(&header, chain, &queues[EVENT], memory)?;
        Ok(true)
    }

    /// Handles one packet from the guest.
    fn handle(
        &mut self,
        header: &Header,
        chain: &Chain,
        events: &VirtQueue,
        memory: &GuestMemory,
    ) -> Result<(), DeviceError> {
        if header.src_cid != self.guest_cid {
            // A reply would have no recipient.
            self.complain(format_args!("packet from context {}", header.src_cid));
            return Ok(());
        }
        let op = Op::parse(header.op).filter(|_| header.kind == STREAM);
        if self.reset_unacknowledged(events, memory)? {
            // The guest does not know yet that its connections are gone, and will learn it from the
            // event. Only a request for a new connection needs a reply.
            if op == Some(Op::Request) {
                self.refuse(header);
            }
            return Ok(());
        }
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        let ours = header.dst_cid == HOST_CID
            && self
                .connection
                .as_ref()
                .is_some_and(|connection| connection.ports() == ports);
        match (op, ours) {
            (Some(Op::Reset), true) => self.close(),
            (Some(Op::Reset), false) => {}
            // The guest requests a connection that is open. The two ends disagree about it, so it
            // ends.
            (Some(Op::Request | Op::Response) | None, true) => self.reset_connection(None),
            (Some(op), true) => self.handle_ours(op, header, chain, memory)?,
            (Some(Op::Request), false) if self.may_connect(header) => {
                self.connection = Some(Connection::accept(header));
            }
            (_, false) => self.refuse(header),
        }
        Ok(())
    }

    fn handle_ours(
        &mut self,
        op: Op,
        header: &Header,
        chain: &Chain,
        memory: &GuestMemory,
    ) -> Result<(), DeviceError> {
        let Some(connection) = self.connection.as_mut() else {
            return Ok(());
        };
        let mut result = connection.on_credit(header);
        match op {
            Op::Data if result.is_ok() => result = connection.on_data(header.len),
            Op::Shutdown => connection.on_shutdown(header.flags),
            Op::CreditRequest => connection.on_credit_request(),
            _ => {}
        }
        if let Err(violation) = result {
            self.reset_connection(Some(violation));
            return Ok(());
        }
        match op {
            Op::Data => self.forward(header.len, chain, memory)?,
            Op::Shutdown => self.after_flush(),
            _ => {}
        }
        Ok(())
    }

    fn may_connect(&self, request: &Header) -> bool {
        request.dst_cid == HOST_CID
            && request.dst_port == AGENT_PORT
            && self.connection.is_none()
            && self.host.is_some()
    }

    /// Passes a packet's payload, which is accounted for already, to the host.
    fn forward(
        &mut self,
        len: u32,
        chain: &Chain,
        memory: &GuestMemory,
    ) -> Result<(), DeviceError> {
        let (Some(host), Some(connection)) = (self.host.as_mut(), self.connection.as_mut()) else {
            return Ok(());
        };
        match host.send_from_guest(memory, chain.readable(), HEADER, len as usize)? {
            Some(taken) => connection.forwarded(taken),
            None => self.host_gone(),
        }
        Ok(())
    }
}
