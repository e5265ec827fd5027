//! Flow control: neither side ever sends or buffers more than the credit allows.

use super::*;

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

/// Sends until the device buffers bytes because the host's socket is full.
pub(super) fn fill_host_socket(world: &mut World) -> Vec<u8> {
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
