//! A guest made of packets, its device, and the host's end of the socket. The modules here are the
//! tests.

mod closing;
mod credit;
mod hostile;
mod snapshot;
mod traffic;

use std::io::{Read, Write};

use hearth_protocol::guest::GUEST_CID;

use super::super::connection::BUF_ALLOC;
use super::super::packet::{HEADER, MAX_PAYLOAD};
use super::*;
use crate::devices::virtio::mmio::{MmioTransport, register};
use crate::devices::virtio::mock_driver::{BUFFERS, Driver, WRITE, read, write};
use crate::devices::virtio::transport_state::TransportState;

const PORT: u32 = 4711;
const PEER_BUF: u32 = 256 * 1024;
/// Where packets to transmit are put.
const OUT: u64 = BUFFERS;
/// Address, size and number of the receive buffers.
const IN: u64 = 0x20_0000;
const IN_SIZE: u32 = 4096;
const IN_COUNT: u64 = 64;
const EVENTS: u64 = 0x3f_0000;

/// A guest with its driver, its device and the host at the other end.
struct World {
    driver: Driver,
    transport: MmioTransport<Vsock>,
    host: UnixStream,
    /// Receive buffers that the device has got so far.
    given: u64,
    /// Payload that the guest has received, and how much of it the guest has confirmed to the
    /// device.
    received: u32,
}

impl World {
    /// The driver is running and has given the device no buffers.
    fn bare() -> Self {
        let (ours, host) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        let (driver, transport) = Driver::up(Vsock::new(GUEST_CID, ours).unwrap());
        Self {
            driver,
            transport,
            host,
            given: 0,
            received: 0,
        }
    }

    /// The device has all buffers.
    fn up() -> Self {
        let mut world = Self::bare();
        world.give(IN_COUNT);
        for slot in 0..8 {
            world.driver.rings[EVENT].add(&[(EVENTS + slot * 8, 8, WRITE)]);
        }
        world.transport.notify(RX);
        world
    }

    fn connected() -> Self {
        let mut world = Self::up();
        world.send(Op::Request, &[]);
        assert_eq!(world.ops(), [Op::Response]);
        world.driver.interrupts();
        world
    }

    fn give(&mut self, count: u64) {
        for _ in 0..count {
            let at = IN + (self.given % IN_COUNT) * u64::from(IN_SIZE);
            self.driver.rings[RX].add(&[(at, IN_SIZE, WRITE)]);
            self.given += 1;
        }
    }

    fn header(&self, op: Op, len: u32) -> Header {
        Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: PORT,
            dst_port: AGENT_PORT,
            len,
            kind: STREAM,
            op: op.number(),
            flags: 0,
            buf_alloc: PEER_BUF,
            fwd_cnt: self.received,
        }
    }

    fn send(&mut self, op: Op, data: &[u8]) {
        let header = self.header(op, data.len().try_into().unwrap());
        self.send_as(header, data);
    }

    /// A packet in two descriptors, as Linux sends it.
    fn send_as(&mut self, header: Header, data: &[u8]) {
        self.driver.fill(OUT, &header.to_bytes());
        self.driver.fill(OUT + 0x100, data);
        let mut chain = vec![(OUT, 44, 0)];
        if !data.is_empty() {
            chain.push((OUT + 0x100, data.len().try_into().unwrap(), 0));
        }
        self.driver.rings[TX].add(&chain);
        self.transport.notify(TX);
    }

    /// The packets on the receive queue. The guest returns their buffers.
    fn receive(&mut self) -> Vec<(Header, Vec<u8>)> {
        let used = self.driver.rings[RX].take_used();
        let first = self.given - IN_COUNT;
        let mut packets = Vec::new();
        for (position, (_, len)) in (0..).zip(&used) {
            let at = IN + ((first + position) % IN_COUNT) * u64::from(IN_SIZE);
            let bytes = self.driver.bytes(at, *len as usize);
            let (header, data) = bytes.split_first_chunk::<HEADER>().unwrap();
            let header = Header::parse(header);
            assert_eq!(
                (header.len as usize, header.dst_cid),
                (data.len(), GUEST_CID)
            );
            self.received = self.received.wrapping_add(header.len);
            packets.push((header, data.to_vec()));
        }
        self.give(used.len().try_into().unwrap());
        packets
    }

    fn ops(&mut self) -> Vec<Op> {
        let packets = self.receive();
        packets
            .iter()
            .map(|(header, _)| Op::parse(header.op).unwrap())
            .collect()
    }

    fn event(&mut self) {
        let events = EventSet::IN | EventSet::OUT;
        self.transport.on_host_event(events);
    }

    fn interest(&self) -> Option<EventSet> {
        self.transport.device().interest()
    }

    /// The guest's last bytes, and the end of its direction.
    fn says_goodbye(&mut self) {
        self.send(Op::Data, b"bye");
        let mut header = self.header(Op::Shutdown, 0);
        header.flags = SHUTDOWN_SEND;
        self.send_as(header, &[]);
        assert_eq!(self.host_reads(), b"bye");
    }

    fn host_reads(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 22];
        let len = match self.host.read(&mut bytes) {
            Ok(len) => len,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                0
            }
        };
        bytes.truncate(len);
        bytes
    }

    fn status(&mut self) -> u32 {
        read(&mut self.transport, register::STATUS)
    }

    /// Through a snapshot to a new device with another socket.
    fn restored(mut self, device: impl FnOnce(Vsock) -> Vsock) -> Self {
        let json = serde_json::to_string(&self.transport.save().unwrap()).unwrap();
        let state: TransportState<VsockState> = serde_json::from_str(&json).unwrap();
        let (ours, host) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        let device = device(Vsock::new(GUEST_CID, ours).unwrap());
        let line = self.driver.new_line();
        let memory = self.driver.memory.clone();
        self.transport = MmioTransport::restore(device, &state, memory, line).unwrap();
        self.host = host;
        self.transport.kick_all();
        self
    }

    /// One small frame each way.
    fn round_trip(&mut self, text: &[u8]) {
        self.host.write_all(text).unwrap();
        self.event();
        let packets = self.receive();
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0].1, text);
        self.send(Op::Data, text);
        assert_eq!(self.host_reads(), text);
    }
}
