//! How connections end, from either side and in every order.

use super::credit::fill_host_socket;
use super::*;

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
    world.says_goodbye();
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
fn a_driver_that_resets_before_it_begins_keeps_its_socket() {
    let mut world = World::bare();
    write(&mut world.transport, register::STATUS, 0);
    assert!(world.transport.device().host_fd().is_some());
}
