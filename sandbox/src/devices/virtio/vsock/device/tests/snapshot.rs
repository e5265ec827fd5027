//! A connection through snapshots, carried over or reset.

use super::*;

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

/// The restored device knew of the guest's shutdown but left its new socket open, so the host
/// waited for an end of the stream that only the former socket had got.
#[test]
fn a_host_behind_a_restored_device_hears_that_the_guest_has_ended_its_sending() {
    let mut world = World::connected();
    world.says_goodbye();

    for _ in 0..2 {
        world = world.restored(|device| device);
        let end = world.host.read(&mut [0]);
        assert_eq!(end.expect("an end, not a wait for more"), 0);
    }
    world.host.write_all(b"you too").unwrap();
    world.event();
    assert_eq!(
        world.receive()[0].1,
        b"you too",
        "the other direction is open"
    );
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

/// The guest changed a ring index that the device had not looked at. It was saved, but no restore
/// accepted the snapshot.
#[test]
fn rings_that_no_restore_would_take_are_not_saved() {
    for queue in [RX, TX, EVENT] {
        for (ring, offset) in [("available", 0x4002), ("used", 0x8002)] {
            let world = World::connected();
            let base = world.driver.rings[queue].descriptors();
            world.driver.fill(base + offset, &u16::MAX.to_le_bytes());
            let refused = world.transport.save();
            assert!(refused.is_err(), "{ring} index of queue {queue}");
        }
    }
}

/// The count of unannounced descriptors grew beyond the ring, and no restore accepted the snapshot.
#[test]
fn a_guest_that_wants_no_interrupts_is_saved_and_restored() {
    let mut world = World::connected();
    world.driver.rings[TX].set_no_interrupt(true);
    for _ in 0..100 {
        world.send(Op::Data, b"quiet");
        world.driver.rings[TX].take_used();
    }
    let mut world = world.restored(|device| device);
    world.driver.rings[TX].set_no_interrupt(false);
    world.driver.interrupts();
    world.send(Op::Data, b"told now");
    assert_eq!(world.driver.interrupts(), 1);
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

    // The host writes at once; the guest has not handled the event and still uses the old
    // connection.
    world.host.write_all(b"early").unwrap();
    assert_eq!(world.interest(), None);
    world.event();
    world.send(Op::Data, b"stale");
    assert!(world.receive().is_empty());
    assert!(world.host_reads().is_empty());
    world.send(Op::Request, &[]);
    assert_eq!(world.ops(), [Op::Reset]);

    // The guest handles the event, returns the buffer and connects again.
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
