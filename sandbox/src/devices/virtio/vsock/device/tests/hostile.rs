//! Packets and buffers that no correct driver sends.

use super::*;

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

/// A packet that was on one queue without a notification made the device report work left over for
/// another queue, for ever: the event loop ran at full speed, even while the vCPU was paused.
#[test]
fn chains_that_nobody_announced_are_no_work_left_over() {
    for queue in [RX, EVENT] {
        let mut world = World::connected();
        world.driver.rings[TX].add(&[(OUT, 44, 0)]);
        world.transport.notify(queue);
        world.event();
        assert!(!world.transport.has_backlog(), "kick of queue {queue}");
    }
}

#[test]
fn a_device_out_of_service_closes_its_socket_and_waits_for_nothing() {
    let mut world = World::connected();
    world.driver.rings[TX].set_avail_index(1000);
    world.transport.notify(TX);
    assert_eq!(world.status(), 0x4f);
    assert_eq!(world.interest(), None);
    assert_eq!(world.host.read(&mut [0]).unwrap(), 0, "the host knows");

    let mut world = World::connected();
    write(&mut world.transport, register::STATUS, 0x8f);
    assert_eq!(world.interest(), None);
    assert_eq!(world.host.read(&mut [0]).unwrap(), 0);
}
