//! Everything that goes over the wire once, right and wrong, with a driver made of packets.

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
/// Where receive buffers lie, and how large and many they are.
const IN: u64 = 0x20_0000;
const IN_SIZE: u32 = 4096;
const IN_COUNT: u64 = 64;
const EVENTS: u64 = 0x3f_0000;

/// A guest with its driver, its device and the host at the other end.
struct World {
    driver: Driver,
    transport: MmioTransport<Vsock>,
    host: UnixStream,
    /// Receive buffers given to the device so far.
    given: u64,
    /// Payload the guest has received, and what it told the device of it.
    received: u32,
}

impl World {
    /// The driver is up and has given no buffers.
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

    /// All buffers are given.
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

    /// What the guest gets: the packets on the receive queue, whose buffers it gives back.
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

    /// Through a snapshot's text to a new device with another socket.
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

#[test]
fn the_configuration_is_the_guests_context_id() {
    let mut world = World::bare();
    assert_eq!(read(&mut world.transport, register::CONFIG), 3);
    assert_eq!(read(&mut world.transport, register::CONFIG + 4), 0);
}

#[test]
fn a_guest_connects_and_bytes_go_both_ways() {
    let mut world = World::connected();
    world.round_trip(b"hello");
    world.round_trip(b"again");
}

#[test]
fn a_round_trip_costs_one_interrupt_and_no_credit_update() {
    let mut world = World::connected();
    for _ in 0..1000 {
        world.round_trip(&[7; 200]);
        assert_eq!(world.driver.interrupts(), 1);
        assert!(world.receive().is_empty());
    }
}

#[test]
fn transmitted_buffers_are_announced_before_the_driver_runs_out() {
    let mut world = World::connected();
    let mut sent = 0;
    while world.driver.interrupts() == 0 {
        world.send(Op::Data, b"x");
        sent += 1;
        assert!(sent <= 8, "two descriptors each, a quarter of 64");
    }
}

#[test]
fn a_batch_of_receive_buffers_is_filled_with_one_interrupt() {
    let mut world = World::connected();
    let data: Vec<u8> = (0..40_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    world.host.write_all(&data).unwrap();
    world.event();
    assert_eq!(world.driver.interrupts(), 1);
    let packets = world.receive();
    assert_eq!(packets.len(), 40_000_usize.div_ceil(4096 - HEADER));
    let got: Vec<u8> = packets.into_iter().flat_map(|(_, data)| data).collect();
    assert_eq!(got, data);
}

#[test]
fn a_header_split_over_descriptors_and_data_over_many_arrive_whole() {
    let mut world = World::connected();
    let data: Vec<u8> = (0..200).collect();
    world
        .driver
        .fill(OUT, &world.header(Op::Data, 200).to_bytes());
    world.driver.fill(OUT + 44, &data);
    let mut chain = vec![(OUT, 1, 0), (OUT + 1, 42, 0), (OUT + 43, 21, 0)];
    chain.extend((0..18).map(|i| (OUT + 64 + i * 10, 10, 0)));
    world.driver.rings[TX].add(&chain);
    world.transport.notify(TX);
    assert_eq!(world.host_reads(), data);
}

#[test]
fn a_receive_buffer_split_over_descriptors_is_filled() {
    let mut world = World::bare();
    world.driver.rings[RX].add(&[(IN, 44, WRITE)]);
    world.transport.notify(RX);
    world.send(Op::Request, &[]);
    assert_eq!(world.status(), 0x4f, "a buffer for a header alone");

    let mut world = World::bare();
    world.driver.rings[RX].add(&[(IN, 44, WRITE), (IN + 64, 1, WRITE)]);
    let scattered = [
        (IN + 0x100, 10, WRITE),
        (IN + 0x200, 40, WRITE),
        (IN + 0x300, 3, WRITE),
        (IN + 0x400, 100, WRITE),
    ];
    world.driver.rings[RX].add(&scattered);
    world.transport.notify(RX);
    world.send(Op::Request, &[]);
    world.host.write_all(b"0123456789abcdef").unwrap();
    world.event();
    let used = world.driver.rings[RX].take_used();
    assert_eq!(used, [(0, 44), (2, 60)]);
    assert_eq!(world.driver.bytes(IN + 0x222, 6), b"012345");
    assert_eq!(world.driver.bytes(IN + 0x300, 3), b"678");
    assert_eq!(world.driver.bytes(IN + 0x400, 7), b"9abcdef");
}

#[test]
fn packets_shorter_than_their_header_take_the_device_out_of_service() {
    let mut world = World::connected();
    world.driver.rings[TX].add(&[(OUT, 43, 0)]);
    world.transport.notify(TX);
    assert_eq!(world.status(), 0x4f);
}

#[test]
fn lengths_over_the_chain_or_the_limit_take_the_device_out_of_service() {
    for (len, data) in [(6, 5), (u32::MAX, 5), (MAX_PAYLOAD + 1, 70_000)] {
        let mut world = World::connected();
        let header = world.header(Op::Data, len);
        world.send_as(header, &vec![0; data]);
        assert_eq!(world.status(), 0x4f, "length {len}");
        assert!(world.host_reads().is_empty());
    }
}

#[test]
fn writable_buffers_to_transmit_take_the_device_out_of_service() {
    let mut world = World::connected();
    world.driver.rings[TX].add(&[(OUT, 44, 0), (OUT + 64, 8, WRITE)]);
    world.transport.notify(TX);
    assert_eq!(world.status(), 0x4f);
}

#[test]
fn receive_buffers_that_are_too_small_or_read_only_take_the_device_out_of_service() {
    for (len, flags) in [(1, WRITE), (43, WRITE), (44, WRITE), (4096, 0)] {
        let mut world = World::bare();
        world.driver.rings[RX].add(&[(IN, len, flags)]);
        world.send(Op::Request, &[]);
        assert_eq!(world.status(), 0x4f, "{len} bytes");
    }
}

#[test]
fn a_packet_from_another_context_is_dropped() {
    let mut world = World::up();
    let mut header = world.header(Op::Request, 0);
    header.src_cid = 4;
    world.send_as(header, &[]);
    assert!(world.receive().is_empty());
    assert!(!world.transport.device().connected());
}

#[test]
fn whatever_is_not_the_one_connection_is_reset() {
    let spoils: [fn(&mut Header); 6] = [
        |h| h.dst_cid = 4,
        |h| h.dst_port = 1025,
        |h| h.kind = 2,
        |h| h.op = 0,
        |h| h.op = 8,
        |h| h.op = u16::MAX,
    ];
    for spoil in spoils {
        let mut world = World::up();
        let mut header = world.header(Op::Request, 0);
        spoil(&mut header);
        world.send_as(header, &[]);
        let packets = world.receive();
        assert_eq!(packets.len(), 1);
        let answer = packets[0].0;
        assert_eq!(Op::parse(answer.op), Some(Op::Reset));
        assert_eq!((answer.src_cid, answer.kind), (header.dst_cid, header.kind));
        assert_eq!((answer.src_port, answer.dst_port), (header.dst_port, PORT));
        assert!(!world.transport.device().connected());
    }
}

#[test]
fn packets_of_unknown_connections_are_reset_but_resets_are_not() {
    let mut world = World::connected();
    let all = [
        (Op::Request, vec![Op::Reset]),
        (Op::Response, vec![Op::Reset]),
        (Op::Data, vec![Op::Reset]),
        (Op::Shutdown, vec![Op::Reset]),
        (Op::CreditUpdate, vec![Op::Reset]),
        (Op::CreditRequest, vec![Op::Reset]),
        (Op::Reset, vec![]),
    ];
    for (op, answer) in all {
        let mut header = world.header(op, 0);
        header.src_port = PORT + 1;
        world.send_as(header, &[]);
        assert_eq!(world.ops(), answer, "{op:?}");
    }
    world.round_trip(b"the connection is unharmed");
}

#[test]
fn a_request_that_reuses_the_live_ports_ends_the_connection() {
    let mut world = World::connected();
    world.send(Op::Request, &[]);
    assert_eq!(world.ops(), [Op::Reset]);
    assert!(!world.transport.device().connected());
    assert_eq!(world.host.read(&mut [0]).unwrap(), 0, "the host knows");
    world.send(Op::Request, &[]);
    assert_eq!(world.ops(), [Op::Reset], "a socket serves one connection");
}

#[test]
fn a_flood_of_requests_and_resets_does_not_grow_anything() {
    let mut world = World::bare();
    for port in 0..10_000 {
        let mut header = world.header(Op::Request, 0);
        header.src_port = port;
        world.send_as(header, &[]);
        world.driver.rings[TX].take_used();
    }
    assert!(world.transport.device().outbox.len() <= OUTBOX);
    assert!(world.transport.device().outbox.capacity() <= 2 * OUTBOX);
    world.give(IN_COUNT);
    world.transport.notify(RX);
    let packets = world.receive();
    assert_eq!(packets.len(), OUTBOX + 1);
    assert_eq!(world.status(), 0xf);
}

#[test]
fn credit_lies_end_the_connection() {
    let mut world = World::connected();
    world.round_trip(b"12345");
    let mut header = world.header(Op::CreditUpdate, 0);
    header.fwd_cnt = 6;
    world.send_as(header, &[]);
    assert_eq!(world.ops(), [Op::Reset]);
    assert_eq!(world.status(), 0xf);
}

#[test]
fn no_byte_is_sent_beyond_the_guests_credit() {
    let mut world = World::up();
    let mut header = world.header(Op::Request, 0);
    header.buf_alloc = 10;
    world.send_as(header, &[]);
    world.ops();
    world.host.write_all(b"0123456789abc").unwrap();
    world.event();
    world.event();
    let packets = world.receive();
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].1, b"0123456789");
    assert_eq!(world.interest(), None, "nothing to wait for without credit");
    let mut header = world.header(Op::CreditUpdate, 0);
    header.buf_alloc = 10;
    world.send_as(header, &[]);
    assert_eq!(world.interest(), Some(EventSet::IN));
    world.event();
    assert_eq!(world.receive()[0].1, b"abc");
}

#[test]
fn a_credit_request_is_answered() {
    let mut world = World::connected();
    world.send(Op::Data, b"abc");
    world.send(Op::CreditRequest, &[]);
    let packets = world.receive();
    assert_eq!(packets.len(), 1);
    assert_eq!(Op::parse(packets[0].0.op), Some(Op::CreditUpdate));
    assert_eq!(
        (packets[0].0.buf_alloc, packets[0].0.fwd_cnt),
        (BUF_ALLOC, 3)
    );
}

/// Sends until the device holds bytes back because the host's socket is full.
fn fill_host_socket(world: &mut World) -> Vec<u8> {
    let mut sent = Vec::new();
    while world.interest() != Some(EventSet::IN | EventSet::OUT) {
        let data = vec![u8::try_from(sent.len() >> 14 & 0xff).unwrap(); 16 * 1024];
        world.send(Op::Data, &data);
        sent.extend(data);
        assert!(sent.len() < 1 << 22);
    }
    sent
}

#[test]
fn a_host_that_does_not_read_costs_no_more_memory_than_the_credit() {
    let mut world = World::connected();
    let mut sent = fill_host_socket(&mut world);
    let data = vec![9; 64 * 1024];
    loop {
        let waiting = world.transport.device().host.as_ref().unwrap().waiting();
        if waiting + data.len() > BUF_ALLOC as usize {
            break;
        }
        world.send(Op::Data, &data);
        sent.extend(&data);
    }
    assert!(matches!(
        world.transport.save(),
        Err(NotQuiet::BytesToHost(_))
    ));
    let mut got = Vec::new();
    while got.len() < sent.len() {
        got.extend(world.host_reads());
        world.event();
    }
    assert_eq!(got, sent, "nothing lost, nothing out of order");
    assert_eq!(world.interest(), Some(EventSet::IN));
    assert!(world.ops().contains(&Op::CreditUpdate));
    world.transport.save().unwrap();
}

#[test]
fn a_guest_that_ignores_its_credit_loses_the_connection() {
    let mut world = World::connected();
    fill_host_socket(&mut world);
    let data = vec![0; 64 * 1024];
    for _ in 0..=BUF_ALLOC / (64 * 1024) {
        world.send(Op::Data, &data);
    }
    assert!(world.ops().contains(&Op::Reset));
    assert!(world.transport.device().host_fd().is_none());
    assert_eq!(world.status(), 0xf);
}

#[test]
fn a_host_that_closes_ends_the_connection_after_its_last_bytes() {
    let mut world = World::connected();
    world.host.write_all(b"last words").unwrap();
    world.host = UnixStream::pair().unwrap().0;
    world
        .transport
        .on_host_event(EventSet::IN | EventSet::HANG_UP);
    world
        .transport
        .on_host_event(EventSet::IN | EventSet::HANG_UP);
    let packets = world.receive();
    let ops: Vec<_> = packets
        .iter()
        .map(|(h, _)| Op::parse(h.op).unwrap())
        .collect();
    assert_eq!(ops, [Op::Data, Op::Shutdown, Op::Reset]);
    assert_eq!(packets[0].1, b"last words");
    assert_eq!(packets[1].0.flags, 3);
    assert_eq!(world.transport.device().host_fd().map(|_| ()), None);
    assert_eq!(world.interest(), None);
    world.send(Op::Data, b"too late");
    assert_eq!(world.ops(), [Op::Reset]);
}

#[test]
fn a_host_that_closes_in_mid_write_ends_the_connection() {
    let mut world = World::connected();
    fill_host_socket(&mut world);
    world.host = UnixStream::pair().unwrap().0;
    world
        .transport
        .on_host_event(EventSet::OUT | EventSet::HANG_UP);
    assert_eq!(world.interest(), None, "nothing left to spin on");
    assert!(world.ops().ends_with(&[Op::Shutdown, Op::Reset]));
}

#[test]
fn a_host_that_is_gone_before_the_guest_connects_is_noticed_then() {
    let mut world = World::up();
    world.host = UnixStream::pair().unwrap().0;
    assert_eq!(
        world.interest(),
        None,
        "a closed peer must not be waited for"
    );
    world.send(Op::Request, &[]);
    assert_eq!(world.ops(), [Op::Response]);
    world.event();
    assert_eq!(world.ops(), [Op::Shutdown, Op::Reset]);
}

#[test]
fn the_guests_shutdown_reaches_the_host_and_is_answered() {
    let mut world = World::connected();
    world.send(Op::Data, b"bye");
    let mut header = world.header(Op::Shutdown, 0);
    header.flags = SHUTDOWN_SEND;
    world.send_as(header, &[]);
    assert_eq!(world.host_reads(), b"bye");
    assert_eq!(world.host.read(&mut [0]).unwrap(), 0);
    assert!(world.ops().is_empty(), "the other direction is still open");
    world.host.write_all(b"you too").unwrap();
    world.event();
    assert_eq!(world.receive()[0].1, b"you too");
    let mut header = world.header(Op::Shutdown, 0);
    header.flags = SHUTDOWN_SEND | SHUTDOWN_RECEIVE;
    world.send_as(header, &[]);
    assert_eq!(world.ops(), [Op::Reset]);
    assert!(!world.transport.device().connected());
}

#[test]
fn a_reset_by_the_guest_is_the_end_and_not_answered() {
    let mut world = World::connected();
    world.send(Op::Reset, &[]);
    assert!(world.receive().is_empty());
    assert_eq!(world.host.read(&mut [0]).unwrap(), 0);
}

#[test]
fn without_receive_buffers_nothing_is_waited_for_until_there_are_some() {
    let mut world = World::bare();
    world.driver.rings[RX].add(&[(IN, IN_SIZE, WRITE)]);
    world.transport.notify(RX);
    assert!(!world.driver.rings[RX].notifications_wanted());
    world.send(Op::Request, &[]);
    world.host.write_all(b"data").unwrap();
    assert_eq!(world.interest(), Some(EventSet::IN));
    world.event();
    assert_eq!(world.interest(), None);
    assert!(world.driver.rings[RX].notifications_wanted());
    world.driver.rings[RX].add(&[(IN + 0x1000, IN_SIZE, WRITE)]);
    world.transport.notify(RX);
    assert_eq!(world.driver.rings[RX].take_used().len(), 2);
    assert_eq!(world.driver.bytes(IN + 0x1000 + 44, 4), b"data");
    assert!(!world.driver.rings[RX].notifications_wanted());
}

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let mut world = World::connected();
    world.driver.rings[RX].set_no_interrupt(true);
    world.host.write_all(b"data").unwrap();
    world.event();
    assert_eq!(world.receive().len(), 1);
    assert_eq!(world.driver.interrupts(), 0);
}

#[test]
fn a_storm_of_kicks_without_packets_does_nothing() {
    let mut world = World::connected();
    for _ in 0..1000 {
        for queue in [RX, TX, EVENT] {
            world.transport.notify(queue);
        }
    }
    assert_eq!(world.driver.interrupts(), 0);
    assert!(!world.transport.has_backlog());
}

#[test]
fn a_driver_that_resets_before_it_begins_keeps_its_socket() {
    let mut world = World::bare();
    write(&mut world.transport, register::STATUS, 0);
    assert!(world.transport.device().host_fd().is_some());
}

#[test]
fn a_connection_lives_through_a_hundred_generations_of_snapshots() {
    let mut world = World::connected();
    for generation in 0..100_u32 {
        let text = format!("generation {generation}");
        world.round_trip(text.as_bytes());
        assert!(world.receive().is_empty());
        world.driver.interrupts();
        world = world.restored(|device| device);
        assert!(world.receive().is_empty(), "the guest notices nothing");
        assert_eq!(
            world.driver.interrupts(),
            u64::from(read(&mut world.transport, register::INTERRUPT_STATUS) != 0)
        );
        write(&mut world.transport, register::INTERRUPT_ACK, 1);
    }
    world.round_trip(b"end");
}

#[test]
fn clones_of_one_snapshot_each_have_their_own_socket() {
    let world = World::connected();
    let state = world.transport.save().unwrap();
    let clone = || {
        let (ours, host) = UnixStream::pair().unwrap();
        let line = world.transport.interrupt().clone();
        let memory = world.driver.memory.clone();
        let device = Vsock::new(GUEST_CID, ours).unwrap();
        (
            MmioTransport::restore(device, &state, memory, line).unwrap(),
            host,
        )
    };
    let ((one, _a), (other, _b)) = (clone(), clone());
    assert!(one.device().connected() && other.device().connected());
    assert_eq!(one.save().unwrap(), other.save().unwrap());
}

#[test]
fn a_busy_connection_is_not_snapshotted() {
    let mut world = World::connected();
    world.host.write_all(b"unread").unwrap();
    assert_eq!(world.transport.save().unwrap_err(), NotQuiet::BytesToGuest);
    world.event();
    world.transport.save().unwrap();

    world.driver.rings[TX].add(&[(OUT, 44, 0)]);
    assert!(matches!(
        world.transport.save(),
        Err(NotQuiet::QueuePending { queue: TX, .. })
    ));

    let mut world = World::bare();
    world.send(Op::Request, &[]);
    assert_eq!(
        world.transport.save().unwrap_err(),
        NotQuiet::ControlPending
    );
}

#[test]
fn saved_connections_that_can_not_be_are_refused() {
    let world = World::connected();
    let good = serde_json::to_value(world.transport.save().unwrap()).unwrap();
    for (field, value) in [
        ("/device/guest_cid", 4),
        ("/device/unannounced", 65),
        ("/device/connection/received", 1),
        ("/device/connection/ports/host", 1025),
        ("/device/connection/advertised", 1),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(field).unwrap() = value.into();
        let state = serde_json::from_value(bad).unwrap();
        let (ours, _host) = UnixStream::pair().unwrap();
        let device = Vsock::new(GUEST_CID, ours).unwrap();
        let line = world.transport.interrupt().clone();
        let memory = world.driver.memory.clone();
        let result = MmioTransport::<Vsock>::restore(device, &state, memory, line);
        assert!(result.is_err(), "{field} = {value}");
    }
}

#[test]
fn a_reset_connection_is_told_and_no_data_flows_until_the_guest_has_handled_it() {
    let mut world = World::connected();
    write(&mut world.transport, register::INTERRUPT_ACK, 1);
    let mut world = world.restored(Vsock::resetting_connections);
    assert!(!world.transport.device().connected());
    let used = world.driver.rings[EVENT].take_used();
    assert_eq!(used, [(0, 4)]);
    assert_eq!(world.driver.bytes(EVENTS, 4), [0; 4]);
    assert_eq!(world.driver.interrupts(), 1);
    assert_eq!(world.transport.save().unwrap_err(), NotQuiet::ResetPending);

    // The host is quick, the guest has not looked yet and still uses the old connection.
    world.host.write_all(b"early").unwrap();
    assert_eq!(world.interest(), None);
    world.event();
    world.send(Op::Data, b"stale");
    assert!(world.receive().is_empty());
    assert!(world.host_reads().is_empty());
    world.send(Op::Request, &[]);
    assert_eq!(world.ops(), [Op::Reset]);

    // It handles the event, gives the buffer back and connects again.
    assert!(world.driver.rings[EVENT].notifications_wanted());
    world.driver.rings[EVENT].add(&[(EVENTS, 8, WRITE)]);
    world.transport.notify(EVENT);
    assert!(!world.driver.rings[EVENT].notifications_wanted());
    let mut header = world.header(Op::Request, 0);
    header.src_port = PORT + 1;
    world.send_as(header, &[]);
    assert_eq!(world.ops(), [Op::Response]);
    world.event();
    assert_eq!(world.receive()[0].1, b"early");
    world.transport.save().unwrap();
}

#[test]
fn a_reset_waits_for_an_event_buffer_and_then_is_told() {
    let mut world = World::bare();
    world.give(IN_COUNT);
    world.send(Op::Request, &[]);
    world.ops();
    let mut world = world.restored(Vsock::resetting_connections);
    assert!(world.driver.rings[EVENT].notifications_wanted());
    world.send(Op::Request, &[]);
    assert_eq!(world.ops(), [Op::Reset]);
    world.driver.rings[EVENT].add(&[(EVENTS, 8, WRITE)]);
    world.transport.notify(EVENT);
    assert_eq!(world.driver.rings[EVENT].take_used(), [(0, 4)]);
    world.driver.rings[EVENT].add(&[(EVENTS, 8, WRITE)]);
    world.send(Op::Request, &[]);
    assert_eq!(world.ops(), [Op::Response], "noticed even before the kick");
}

#[test]
fn an_ordinary_restore_arms_no_gate() {
    let mut world = World::connected();
    for _ in 0..3 {
        world = world.restored(|device| device);
        assert_eq!(world.transport.device().reset, Reset::None);
        assert!(world.driver.rings[EVENT].take_used().is_empty());
        world.round_trip(b"open");
        world.receive();
    }
}

#[test]
fn six_megabytes_go_each_way() {
    let mut world = World::connected();
    let data: Vec<u8> = (0..6_291_556_u32)
        .map(|i| i.to_le_bytes()[1] ^ 0x5a)
        .collect();
    let (mut written, mut got) = (0, Vec::new());
    while got.len() < data.len() {
        if let Ok(len) = world.host.write(&data[written..]) {
            written += len;
        }
        if world.interest().is_some() {
            world.event();
        }
        for (_, bytes) in world.receive() {
            got.extend(bytes);
        }
        world.transport.notify(RX);
        world.send(Op::CreditUpdate, &[]);
    }
    assert!(got == data, "host to guest");

    let (mut sent, mut got, mut credit) = (0, Vec::new(), BUF_ALLOC as usize);
    let mut updates = 0;
    while got.len() < data.len() {
        let len = (data.len() - sent).min(credit).min(MAX_PAYLOAD as usize);
        if len > 0 {
            world.send(Op::Data, &data[sent..sent + len]);
            sent += len;
        }
        world.event();
        got.extend(world.host_reads());
        world.event();
        updates += world.receive().len();
        world.transport.notify(RX);
        let known = world.transport.device().connection.as_ref().unwrap();
        credit = (BUF_ALLOC - known.buffered()) as usize;
    }
    assert!(got == data, "guest to host");
    assert!(updates <= 14, "{updates} credit updates");
}
