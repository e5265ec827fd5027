//! Connecting and the bytes that follow, and what they cost in interrupts.

use super::*;

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
