//! Hostile inputs 29 to 40: packets, credit and connections.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use hearth_sandbox::devices::virtio::vsock::device::{EVENT, RX, TX};
use hearth_sandbox::devices::virtio::vsock::packet::{HEADER, Header, Op};

use crate::assembler::Width;
use crate::attack::{attack, withstand};
use crate::driver::{Attacker, IN, OUT, PORT, VSOCK, WRITE, available, register_of, used};
use crate::support::Sandbox;

const RECEIVE: (u64, u64) = (VSOCK, RX as u64);
const TRANSMIT: (u64, u64) = (VSOCK, TX as u64);
const EVENTS: (u64, u64) = (VSOCK, EVENT as u64);

/// A packet that no correct guest sends, otherwise like a correct one.
fn spoilt(op: Op, len: u32, spoil: fn(&mut Header)) -> Header {
    let mut header = Attacker::packet(op, len);
    spoil(&mut header);
    header
}

/// Sends a packet a hundred times, `at_a_time` of them together.
fn flood(a: &mut Attacker, packet: Header, at_a_time: u16) {
    a.write(OUT, &packet.to_bytes());
    a.chain(TRANSMIT, 0, &[(OUT, HEADER as u64, 0)]);
    for slot in 0..64 {
        a.code
            .store(Width::Word, available(VSOCK, 1) + 4 + 2 * slot, 0);
    }
    let (offered, back) = (available(VSOCK, 1) + 2, used(VSOCK, 1) + 2);
    a.code.repeat(100, |code| {
        code.add_word(offered, at_a_time);
        code.store(Width::Double, register_of(VSOCK, 0x50), 1);
        code.wait_same(offered, back, "the packets are taken");
    });
}

/// Reads exactly these bytes from the guest.
fn hears(sandbox: &mut Sandbox, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    sandbox.vsock.read_exact(&mut heard).unwrap();
    assert_eq!(heard, expected);
}

#[test]
fn packets_that_are_shorter_or_longer_than_they_say() {
    withstand(&[
        attack("shorter than a header", "shorter than its header", |a| {
            for len in [1, 43] {
                a.up(VSOCK);
                a.post(Attacker::packet(Op::Request, 0), len);
                a.gives_up(VSOCK);
            }
        }),
        attack("over 64 KiB, in a chain that has them", "packet of", |a| {
            a.up(VSOCK);
            a.post(Attacker::packet(Op::Data, 0x1_0001), 0x2_0000);
            a.gives_up(VSOCK);
        }),
        attack("over the chain", "packet of 4294967295 bytes", |a| {
            for len in [1, 0x1_0000, u32::MAX] {
                a.up(VSOCK);
                a.post(Attacker::packet(Op::Data, len), HEADER as u64);
                a.gives_up(VSOCK);
            }
        }),
        attack("to be written to", "writable buffer to transmit", |a| {
            a.up(VSOCK);
            a.chain(TRANSMIT, 0, &[(OUT, 44, 0), (OUT + 64, 8, WRITE)]);
            a.offer(TRANSMIT, 0);
            a.kick(TRANSMIT);
            a.gives_up(VSOCK);
        }),
    ]);
}

#[test]
fn headers_split_and_data_scattered_over_descriptors() {
    withstand(&[attack("which is allowed", "", |a| {
        a.connect(4);
        a.write(OUT, &Attacker::packet(Op::Data, 8).to_bytes());
        a.write(OUT + HEADER as u64, b"scatters");
        let mut pieces = vec![(OUT, 1, 0), (OUT + 1, 30, 0), (OUT + 31, 15, 0)];
        pieces.extend((46..52).map(|at| (OUT + at, 1, 0)));
        a.chain(TRANSMIT, 0, &pieces);
        a.offer(TRANSMIT, 0);
        a.kick(TRANSMIT);
        a.came_back(TRANSMIT, 2);
    })
    .with_host(|sandbox| hears(sandbox, b"scatters"))]);
}

#[test]
fn addresses_types_and_operations_that_are_not_ours() {
    withstand(&[
        attack("from another context", "packet from context 4", |a| {
            a.up(VSOCK);
            a.receive_buffers(4);
            a.send(spoilt(Op::Request, 0, |h| h.src_cid = 4));
            a.send(Attacker::packet(Op::Request, 0));
            a.receives(0, Op::Response);
        }),
        attack("to others, and of other kinds", "", |a| {
            a.up(VSOCK);
            a.receive_buffers(8);
            let spoils: [fn(&mut Header); 7] = [
                |h| h.dst_cid = 0,
                |h| h.dst_cid = 3,
                |h| h.dst_cid = u64::MAX,
                |h| h.kind = 2,
                |h| h.op = 0,
                |h| h.op = 8,
                |h| h.op = u16::MAX,
            ];
            for (number, spoil) in (0..).zip(spoils) {
                a.send(spoilt(Op::Request, 0, spoil));
                a.receives(number, Op::Reset);
            }
        }),
        attack("of a connection that is not there", "", |a| {
            a.connect(8);
            let all = [Op::Data, Op::CreditUpdate, Op::CreditRequest, Op::Shutdown];
            for (number, op) in (1..).zip(all) {
                a.send(spoilt(op, 0, |h| h.src_port = PORT + 1));
                a.receives(number, Op::Reset);
            }
            // The existing connection goes on.
            a.write(OUT + HEADER as u64, b"alive...");
            a.send(Attacker::packet(Op::Data, 8));
        })
        .with_host(|sandbox| hears(sandbox, b"alive...")),
        attack(
            "ports without a listener, or that look like names",
            "",
            |a| {
                a.up(VSOCK);
                a.receive_buffers(8);
                let ports: [fn(&mut Header); 6] = [
                    |h| h.dst_port = 0,
                    |h| h.dst_port = 22,
                    |h| h.dst_port = 1023,
                    |h| h.dst_port = 1025,
                    |h| h.dst_port = u32::from_le_bytes(*b"../x"),
                    |h| h.dst_port = u32::MAX,
                ];
                for (number, port) in (0..).zip(ports) {
                    a.send(spoilt(Op::Request, 0, port));
                    a.receives(number, Op::Reset);
                }
            },
        ),
    ]);
}

#[test]
fn requests_for_ports_that_are_in_use() {
    withstand(&[attack("a second REQUEST", "", |a| {
        a.connect(4);
        a.send(Attacker::packet(Op::Request, 0));
        a.receives(1, Op::Reset);
        a.send(Attacker::packet(Op::Request, 0));
        a.receives(2, Op::Reset);
    })
    .with_host(|sandbox| assert_eq!(sandbox.vsock.read(&mut [0]).unwrap(), 0))]);
}

#[test]
fn lies_about_credit() {
    withstand(&[
        attack(
            "more confirmed than was sent",
            "guest confirmed 1 bytes",
            |a| {
                a.connect(4);
                a.send(spoilt(Op::CreditUpdate, 0, |h| h.fwd_cnt = 1));
                a.receives(1, Op::Reset);
            },
        ),
        attack("a buffer of nothing, and one that shrinks", "", |a| {
            a.up(VSOCK);
            a.receive_buffers(4);
            a.send(spoilt(Op::Request, 0, |h| h.buf_alloc = 0));
            a.receives(0, Op::Response);
            a.send(spoilt(Op::CreditUpdate, 0, |h| h.buf_alloc = 8));
            a.receives(1, Op::Data);
            a.code
                .expect(Width::Double, IN + 0x1000 + 24, u64::MAX, 8, "its length");
            // The host has written more than that; the rest has to wait.
            a.send(spoilt(Op::CreditRequest, 0, |h| h.buf_alloc = 4));
            a.receives(2, Op::CreditUpdate);
            a.code.expect(
                Width::Word,
                used(VSOCK, RX as u64) + 2,
                u64::MAX,
                3,
                "no data without credit",
            );
        })
        .with_host(|sandbox| sandbox.vsock.write_all(&[7; 1000]).unwrap()),
        attack("ours ignored", "bytes with credit for", |a| {
            a.connect(4);
            let packet = Attacker::packet(Op::Data, 0x1_0000);
            a.write(OUT, &packet.to_bytes());
            a.chain(TRANSMIT, 0, &[(OUT, HEADER as u64 + 0x1_0000, 0)]);
            for _ in 0..40 {
                a.offer(TRANSMIT, 0);
            }
            a.kick(TRANSMIT);
            a.receives(1, Op::Reset);
        }),
        attack("data after a shutdown", "data after its shutdown", |a| {
            a.connect(4);
            a.send(spoilt(Op::Shutdown, 0, |h| h.flags = 2));
            a.send(Attacker::packet(Op::Data, 8));
            a.receives(1, Op::Reset);
        }),
    ]);
}

#[test]
fn floods_of_connections_and_resets() {
    withstand(&[
        attack(
            "requests whose answers are not received",
            "one more left out",
            |a| {
                a.up(VSOCK);
                flood(a, spoilt(Op::Request, 0, |h| h.dst_port = 9), 64);
            },
        ),
        attack("half-open ones from every port", "", |a| {
            a.up(VSOCK);
            for port in 0..100 {
                let mut request = Attacker::packet(Op::Request, 0);
                request.src_port = port;
                a.send(request);
            }
        }),
        attack("resets", "", |a| {
            a.connect(4);
            flood(a, spoilt(Op::Reset, 0, |h| h.src_port = 9), 32);
        }),
    ]);
}

#[test]
fn event_and_receive_queues_without_or_with_the_wrong_buffers() {
    withstand(&[
        attack("no event buffer while the connection ends", "", |a| {
            a.connect(4);
            a.kick(EVENTS);
            a.write(OUT + HEADER as u64, b"goodbye.");
            a.send(Attacker::packet(Op::Data, 8));
            a.receives(1, Op::Shutdown);
            a.receives(2, Op::Reset);
        })
        .with_host(|sandbox| {
            hears(sandbox, b"goodbye.");
            sandbox.vsock.shutdown(Shutdown::Both).unwrap();
        }),
        attack("event buffers that can't be written to", "", |a| {
            a.up(VSOCK);
            a.put(EVENTS, 0, (OUT, 1), 0, 0);
            a.offer(EVENTS, 0);
            a.kick(EVENTS);
        }),
        attack("too small", "receive buffer of 44 bytes", |a| {
            for len in [1, 43, 44] {
                a.up(VSOCK);
                a.put(RECEIVE, 0, (IN, len), WRITE, 0);
                a.offer(RECEIVE, 0);
                a.kick(RECEIVE);
                a.post(spoilt(Op::Request, 0, |h| h.dst_port = 9), HEADER as u64);
                a.gives_up(VSOCK);
            }
        }),
        attack("read-only", "read-only buffer to receive into", |a| {
            a.up(VSOCK);
            a.put(RECEIVE, 0, (IN, 0x1000), 0, 0);
            a.offer(RECEIVE, 0);
            a.kick(RECEIVE);
            a.post(spoilt(Op::Request, 0, |h| h.dst_port = 9), HEADER as u64);
            a.gives_up(VSOCK);
        }),
    ]);
}

#[test]
fn hosts_that_close_or_are_not_listened_to() {
    withstand(&[
        attack("the host closes in mid-write", "", |a| {
            a.connect(8);
            let packet = Attacker::packet(Op::Data, 0x1_0000);
            a.write(OUT, &packet.to_bytes());
            a.chain(TRANSMIT, 0, &[(OUT, HEADER as u64 + 0x1_0000, 0)]);
            for _ in 0..10 {
                a.offer(TRANSMIT, 0);
            }
            a.kick(TRANSMIT);
            a.receives(1, Op::Shutdown);
            a.receives(2, Op::Reset);
        })
        .with_host(|sandbox| {
            sandbox.vsock.read_exact(&mut [0]).unwrap();
            sandbox.vsock.shutdown(Shutdown::Both).unwrap();
        }),
        attack("a host that does not read is not spun for", "", |a| {
            a.connect(4);
            let packet = Attacker::packet(Op::Data, 0x1_0000);
            a.write(OUT, &packet.to_bytes());
            a.chain(TRANSMIT, 0, &[(OUT, HEADER as u64 + 0x1_0000, 0)]);
            for _ in 0..12 {
                a.offer(TRANSMIT, 0);
            }
            a.kick(TRANSMIT);
            a.came_back(TRANSMIT, 13);
        }),
        attack("a stream that the guest never drains", "", |a| {
            a.connect(1);
            a.write(OUT + HEADER as u64, b"go ahead");
            a.send(Attacker::packet(Op::Data, 8));
        })
        .with_host(|sandbox| {
            hears(sandbox, b"go ahead");
            sandbox.vsock.set_nonblocking(true).unwrap();
            while match sandbox.vsock.write(&[1; 4096]) {
                Ok(_) => true,
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::WouldBlock);
                    false
                }
            } {}
        }),
        attack(
            "a host that closes while the guest takes nothing",
            "",
            |a| {
                a.connect(1);
                a.write(OUT + HEADER as u64, b"go ahead");
                a.send(Attacker::packet(Op::Data, 8));
            },
        )
        .with_host(|sandbox| {
            hears(sandbox, b"go ahead");
            sandbox.vsock.write_all(&[1; 4096]).unwrap();
            sandbox.vsock.shutdown(Shutdown::Both).unwrap();
        }),
    ]);
}
