//! A hundred generations: each microVM is restored from a snapshot of the one before it. The
//! guest's one connection to the host lives through all of them, each time over another socket.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

#[path = "hostile_guests/assembler.rs"]
#[allow(dead_code, reason = "written for more than is needed here")]
mod assembler;
#[path = "hostile_guests/driver.rs"]
#[allow(dead_code, reason = "written for more than is needed here")]
mod driver;
mod support;

use std::io::{Read, Write};
use std::time::Instant;

use assembler::Width;
use driver::{Attacker, IN, OUT, VSOCK};
use hearth_protocol::sandbox::{Command, Outcome, RefusalKind, Resume};
use hearth_sandbox::devices::virtio::vsock::device::RX;
use hearth_sandbox::devices::virtio::vsock::packet::{HEADER, Op};
use support::{DEADLINE, Guest, Sandbox};

const GENERATIONS: u64 = 100;
/// Receive buffers that are available to the device at any time.
const BUFFERS: u64 = 16;

/// A guest that does the following in each generation: it waits for eight bytes from the host,
/// checks them, prints a character, and answers with the number of its round.
fn guest() -> Guest {
    let mut guest = Attacker::new();
    guest.connect(BUFFERS);
    for round in 0..GENERATIONS {
        // The first buffer has the reply to the request, and is not made available again.
        let buffer = 1 + round % (BUFFERS - 1);
        let packet = IN + 0x1000 * buffer;
        let due = u64::from(Op::Data.number());
        let code = &mut guest.code;
        code.wait(Width::Word, packet + 30, u64::MAX, due, "the host's bytes");
        code.expect(
            Width::Quad,
            packet + HEADER as u64,
            u64::MAX,
            !round,
            "what they are",
        );
        // A transmitter that a snapshot caught in the middle of a transmission would never be ready
        // again.
        // mov dx, 0x3fd; in al, dx; test al, 0x20; jz back to the in
        code.put(&[0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb]);
        code.out(Width::Byte, 0x3f8, u32::from(b'.'));
        code.store(Width::Word, packet + 30, 0);
        let queue = (VSOCK, RX as u64);
        guest.offer(queue, buffer);
        guest.kick(queue);
        guest.write(OUT + HEADER as u64, &round.to_le_bytes());
        guest.send(Attacker::packet(Op::Data, 8));
    }
    let (code, _) = guest.code.finish();
    Guest::new(&code)
}

/// Saves the guest as soon as it is quiet.
fn save(sandbox: &mut Sandbox, guest: &Guest, name: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        sandbox.done(Command::Pause);
        let outcome = sandbox.call(guest.snapshot(name));
        match outcome {
            Outcome::Done => break,
            Outcome::Refused(refusal) => {
                assert_eq!(refusal.kind, RefusalKind::NotQuiet, "{}", refusal.message);
                assert!(
                    Instant::now() < deadline,
                    "never quiet: {}",
                    refusal.message
                );
                for kind in ["state", "memory"] {
                    std::fs::remove_file(guest.path(&format!("{name}.{kind}.part"))).unwrap();
                }
                sandbox.done(Command::Resume(Resume::default()));
            }
            Outcome::Status(status) => panic!("a status was not asked for: {status:?}"),
        }
    }
    for kind in ["state", "memory"] {
        let path = guest.path(&format!("{name}.{kind}"));
        std::fs::rename(path.with_extension(format!("{kind}.part")), path).unwrap();
    }
}

#[test]
fn a_connection_goes_on_through_a_hundred_generations_of_snapshots() {
    let guest = guest();
    let mut sandbox = guest.run();
    for generation in 0..GENERATIONS {
        if generation > 0 {
            let name = format!("generation{generation}");
            save(&mut sandbox, &guest, &name);
            sandbox = Sandbox::start();
            sandbox.done(guest.restore(&name, Some(Resume::default())));
            // The snapshot that the previous microVM was restored from still exists; the one before
            // it is not needed any more.
            for kind in ["state", "memory"] {
                let old = guest.path(&format!("generation{}.{kind}", generation - 1));
                assert!(std::fs::remove_file(old).is_ok() || generation == 1);
            }
        }
        sandbox
            .vsock
            .write_all(&(!generation).to_le_bytes())
            .unwrap();
        let mut answer = [0; 8];
        sandbox.vsock.read_exact(&mut answer).unwrap();
        assert_eq!(u64::from_le_bytes(answer), generation);
    }
}
