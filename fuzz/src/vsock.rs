//! vsock packets and credit: a guest that sends anything on a connection or outside of it, and a
//! host that writes, reads and closes at any time.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use hearth_protocol::guest::{AGENT_PORT, GUEST_CID, HOST_CID};
use hearth_sandbox::devices::virtio::vsock::Vsock;
use hearth_sandbox::devices::virtio::vsock::device::{EVENT, RX, TX};
use hearth_sandbox::devices::virtio::vsock::packet::{HEADER, Header, Op, STREAM};
use hearth_sandbox::devices::virtio::{Interrupt, MmioTransport};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::script::Script;
use crate::world::{BUFFERS, Subject, Used, World};

/// The guest's port.
const PORT: u32 = 700;
/// Address of the packets to the host, one at a time.
const OUT: u64 = BUFFERS;
/// Maximum payload that is sent.
const MAX_PAYLOAD: usize = 0x4000;
/// Addresses of the receive buffers: distance and number; as many as the ring holds.
const IN: u64 = BUFFERS + 0x8000;
const IN_STRIDE: u64 = 0x200;
const IN_COUNT: u64 = 64;
/// Address of the event buffers.
const EVENTS: u64 = BUFFERS + 0x1_0000;

/// Runs the script on a device with a running driver. At the end both sides read everything.
pub fn run(data: &[u8]) {
    let mut world = World::<Vsock>::up();
    world.play(&mut Script::new(data));
    drain(&mut world);
    settle(&mut world);
}

/// The host's end, and what must happen to each byte.
#[derive(Debug)]
pub struct Side {
    /// `None` if the host has closed it.
    socket: Option<UnixStream>,
    /// Bytes that the guest has sent on the open connection, and that the host has read.
    sent: u64,
    read: u64,
    /// Bytes that the host has written, and that the guest has received.
    written: u64,
    delivered: u64,
    /// The most that the guest has ever granted, counted from the connection's beginning.
    granted: u64,
    /// Receive buffers made available so far.
    given: u64,
    /// The guest's port of the open connection.
    port: u32,
}

/// The byte at an offset of the stream, in either direction.
fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 13).to_le_bytes()[0]
}

fn stream(from: u64, len: usize) -> Vec<u8> {
    (from..).take(len).map(pattern).collect()
}

impl Side {
    /// Reads what has arrived, and checks that it continues the stream.
    fn read(&mut self, trusted: bool) {
        let mut buffer = [0; 4096];
        while let Some(socket) = &mut self.socket {
            match socket.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    if trusted {
                        assert!(buffer[..count] == stream(self.read, count), "other bytes");
                    }
                    self.read += count as u64;
                    assert!(!trusted || self.read <= self.sent, "more than was sent");
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nothing more for now, or the device has closed its end with unread bytes in it.
                Err(_) => return,
            }
        }
    }
}

impl Subject for Vsock {
    type OtherEnd = Side;

    fn fresh() -> (Self, Side) {
        let (ours, host) = UnixStream::pair().expect("a descriptor is left");
        host.set_nonblocking(true).expect("a socket can be that");
        let side = Side {
            socket: Some(host),
            sent: 0,
            read: 0,
            written: 0,
            delivered: 0,
            granted: 0,
            given: 0,
            port: PORT,
        };
        (
            Self::new(GUEST_CID, ours).expect("a connected socket"),
            side,
        )
    }

    fn carried(world: &mut World<Self>, new: Side) {
        // The bytes in the old socket belong to the host. An open connection goes on over the new
        // socket. Otherwise the new socket is good for a connection, whatever happened to the old
        // one.
        drain(world);
        let trusted = !world.tampered;
        world.outside.read(trusted);
        if world.transport.device().connected() {
            if world.outside.socket.is_none() {
                // The host closed it with unread bytes in it. Without credit or receive buffers of
                // the guest the device can't notice. Those bytes are lost; the new socket's stream
                // begins after them.
                world.outside.read = world.outside.sent;
            }
            world.outside.socket = new.socket;
        } else {
            let given = world.outside.given;
            world.outside = Side { given, ..new };
        }
    }

    fn step(world: &mut World<Self>, script: &mut Script<'_>) -> Option<()> {
        match script.below(16)? {
            0..=6 => {
                let packet = Packet::read(script, &world.outside)?;
                packet.send(world);
            }
            7 | 8 => {
                let (count, size) = (1 + script.below(8)?, script.u8()?);
                give(world, count, 44 + u32::from(size));
            }
            9 => {
                let count = usize::try_from(script.length()?).ok()?.min(MAX_PAYLOAD);
                let side = &mut world.outside;
                let bytes = stream(side.written, count);
                if let Some(socket) = &mut side.socket {
                    // A full or closed socket takes fewer bytes, or none.
                    side.written += socket.write(&bytes).unwrap_or(0) as u64;
                }
            }
            10 => {
                let trusted = !world.tampered;
                world.outside.read(trusted);
            }
            11 => ready(world),
            12 => drain(world),
            13 => settle(world),
            14 => match script.below(8)? {
                0 => world.outside.socket = None,
                1 => shut(&world.outside, Shutdown::Write),
                2 => shut(&world.outside, Shutdown::Both),
                _ => {
                    if world.room(EVENT) > 0 {
                        world.add(EVENT, &[(EVENTS, 8, true)]);
                        world.notify(EVENT);
                    }
                }
            },
            _ => reset_by_restore(world),
        }
        Some(())
    }
}

fn shut(side: &Side, how: Shutdown) {
    if let Some(socket) = &side.socket {
        // It may be closed at the other end already.
        let _ = socket.shutdown(how);
    }
}

/// A packet of the script.
#[derive(Debug)]
struct Packet {
    header: Header,
    payload: usize,
    /// How it is split into buffers.
    shape: u8,
}

impl Packet {
    fn read(script: &mut Script<'_>, side: &Side) -> Option<Self> {
        let op = match script.u8()? {
            byte @ 0..96 => Op::Data.number() + u16::from(byte % 3 == 1),
            byte @ 96..128 => Op::Request.number() + u16::from(byte % 2),
            byte @ 128..248 => u16::from(byte % 9),
            _ => script.u16()?,
        };
        let oddity = script.u8()?;
        let payload = match Op::parse(op) {
            Some(Op::Data) => usize::try_from(script.length()?).ok()?.min(MAX_PAYLOAD),
            _ => 0,
        };
        let honest = u32::try_from(side.delivered).unwrap_or(u32::MAX);
        let mut header = Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: side.port,
            dst_port: AGENT_PORT,
            len: u32::try_from(payload).ok()?,
            kind: STREAM,
            op,
            flags: u32::from(oddity >> 6),
            buf_alloc: script.magnitude()?,
            fwd_cnt: honest,
        };
        match oddity & 63 {
            0 => header.src_cid = script.u64()?,
            1 => header.dst_cid = script.u64()?,
            2 => header.src_port = script.magnitude()?,
            3 => header.dst_port = script.magnitude()?,
            4 => header.kind = script.u16()?,
            5 => header.len = script.magnitude()?,
            6..=9 => header.fwd_cnt = script.magnitude()?,
            10 | 11 => header.fwd_cnt = honest.wrapping_add(script.u8()?.into()),
            12 => header.flags = script.u32()?,
            _ => {}
        }
        let shape = oddity % 5;
        Some(Self {
            header,
            payload,
            shape,
        })
    }

    /// Whether it is addressed to the connection, if there is one.
    fn addressed(&self, port: u32) -> bool {
        let header = &self.header;
        (header.src_cid, header.dst_cid) == (GUEST_CID, HOST_CID)
            && (header.src_port, header.dst_port) == (port, AGENT_PORT)
    }

    /// Whether it also has the connection's type, so that it counts.
    fn ours(&self, port: u32) -> bool {
        self.addressed(port) && self.header.kind == STREAM
    }

    fn send(&self, world: &mut World<Vsock>) {
        if world.room(TX) < 4 {
            world.tampered = true;
        }
        let trusted = !world.tampered && world.transport.running();
        let connected = world.transport.device().connected();
        let Side {
            sent,
            written,
            port,
            ..
        } = world.outside;
        world.fill(OUT, &self.header.to_bytes());
        world.fill(OUT + HEADER as u64, &stream(sent, self.payload));
        let (head, data) = (HEADER as u32, u32::try_from(self.payload).expect("short"));
        let behind = OUT + u64::from(head);
        let chain = match self.shape {
            0 if data > 0 => vec![(OUT, head, false), (behind, data, false)],
            1 => vec![(OUT, 20, false), (OUT + 20, head - 20 + data, false)],
            2 if data > 9 => {
                let rest = behind + 9;
                vec![(OUT, head + 9, false), (rest, data - 9, false)]
            }
            3 if self.header.op == 0 => vec![(OUT, 43, false)],
            _ => vec![(OUT, head + data, false)],
        };
        let opens = !connected
            && world.transport.device().host_fd().is_some()
            && self.header.op == Op::Request.number();
        if opens && self.ours(self.header.src_port) {
            // Its confirmation has no effect, because nothing has been sent yet.
            world.outside.port = self.header.src_port;
            world.outside.granted = self.header.buf_alloc.into();
        }
        if self.ours(world.outside.port) {
            let side = &mut world.outside;
            let confirmed = u64::from(self.header.fwd_cnt);
            if confirmed <= written {
                let granted = confirmed + u64::from(self.header.buf_alloc);
                side.granted = side.granted.max(granted);
            }
            if connected && self.header.op == Op::Data.number() && self.header.len <= data {
                side.sent += u64::from(self.header.len);
            }
        }
        world.add(TX, &chain);
        world.notify(TX);
        let used = world.take_used(TX);
        if trusted && world.transport.running() {
            assert_eq!(used.len(), 1, "a packet's buffer comes back at once");
        }
        let peer = world.transport.device();
        if trusted && connected && !self.addressed(port) {
            assert!(
                peer.connected() || !world.transport.running(),
                "another connection's packet ended the connection: {self:?}"
            );
        }
    }
}

fn give(world: &mut World<Vsock>, count: u8, size: u32) {
    for _ in 0..u16::from(count).min(world.room(RX)) {
        let slot = world.outside.given % IN_COUNT;
        world.outside.given += 1;
        world.add(RX, &[(IN + slot * IN_STRIDE, size, true)]);
    }
    world.notify(RX);
}

/// What the event loop does when the socket is ready for what the device wants to wait for.
fn ready(world: &mut World<Vsock>) {
    if let Some(interest) = world.transport.device().interest() {
        assert!(world.transport.device().host_fd().is_some());
        world.transport.on_host_event(interest);
    }
}

/// The guest takes the received packets.
fn drain(world: &mut World<Vsock>) {
    for used in world.take_used(RX) {
        if !world.tampered {
            check(world, used);
        }
    }
}

fn check(world: &mut World<Vsock>, used: Used) {
    let descriptor = world.bytes(0x1000 + 16 * u64::from(used.head), 16);
    let number = |at: usize| u32::from_le_bytes(descriptor[at..at + 4].try_into().expect("four"));
    let (address, room) = (u64::from(number(0)), number(8));
    assert!(used.len <= room, "{used:?} in a buffer of {room} bytes");
    let header = world.bytes(address, HEADER);
    let header = Header::parse(header.as_slice().try_into().expect("as long"));
    assert_eq!(used.len, HEADER as u32 + header.len, "{header:?}");
    assert_eq!(header.dst_cid, GUEST_CID);
    if header.op != Op::Data.number() {
        assert_eq!(header.len, 0, "{header:?}");
        return;
    }
    assert_eq!((header.src_cid, header.kind), (HOST_CID, STREAM));
    assert_eq!(
        (header.src_port, header.dst_port),
        (AGENT_PORT, world.outside.port)
    );
    assert!(header.len > 0, "data without data");
    let len = header.len as usize;
    let data = world.bytes(address + HEADER as u64, len);
    let side = &mut world.outside;
    assert!(data == stream(side.delivered, len), "other bytes");
    side.delivered += u64::from(header.len);
    assert!(side.delivered <= side.written, "more than the host wrote");
    assert!(
        side.delivered <= side.granted,
        "more than the guest granted"
    );
}

/// The host reads until no more bytes come. On an open connection none may be missing.
fn settle(world: &mut World<Vsock>) {
    if world.tampered || world.outside.socket.is_none() {
        return;
    }
    loop {
        // First the bytes that wait for space in the socket, which the host may have made by
        // reading.
        if world.transport.device().connected() {
            world.transport.on_host_event(EventSet::OUT);
        }
        let before = world.outside.read;
        world.outside.read(true);
        if world.outside.read == before {
            break;
        }
    }
    if world.transport.running() && world.transport.device().connected() {
        let side = &world.outside;
        assert_eq!(side.read, side.sent, "bytes of the guest's are missing");
    }
}

/// The other kind of restore: the connection is dropped, and the guest is told so.
fn reset_by_restore(world: &mut World<Vsock>) {
    drain(world);
    world.transport.kick_all();
    drain(world);
    let Ok(state) = world.transport.save() else {
        return;
    };
    let (device, mut side) = Vsock::fresh();
    side.given = world.outside.given;
    let line = Interrupt::new(EventFd::new(EFD_NONBLOCK).expect("a descriptor is left"));
    let device = device.resetting_connections();
    world.transport = MmioTransport::restore(device, &state, world.memory.clone(), line)
        .expect("what was saved can be restored");
    world.outside = side;
    world.transport.kick_all();
    world.take_used(EVENT);
}
