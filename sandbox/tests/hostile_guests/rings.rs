//! Hostile inputs 12 to 20: the content of the rings.

use crate::assembler::Width;
use crate::attack::{Attack, attack, withstand};
use crate::driver::{
    ANSWER, Attacker, BUFFERS, DATA, DISK, INDIRECT, NEXT, RAM, REQUEST, WRITE, available,
    descriptors, used,
};

const QUEUE: (u64, u64) = (DISK, 0);

/// This chain takes the disk out of service.
fn refused(a: &mut Attacker, buffers: &[(u64, u64, u16)]) {
    a.up(DISK);
    a.ask_disk(0, buffers);
    a.gives_up(DISK);
}

#[test]
fn positions_out_of_the_ring() {
    const ATTACKS: &[Attack] = &[
        attack("available index too far ahead", "ahead of 0", |a| {
            for index in [129, 0x8000, 0xffff] {
                a.up(DISK);
                a.code.store(Width::Word, available(DISK, 0) + 2, index);
                a.kick(QUEUE);
                a.gives_up(DISK);
            }
        }),
        attack("head past the table", "descriptor 128 of 128", |a| {
            for head in [128, 0x8000, 0xffff] {
                a.up(DISK);
                a.offer(QUEUE, head);
                a.kick(QUEUE);
                a.gives_up(DISK);
            }
        }),
        attack("next past the table", "descriptor 128 of 128", |a| {
            for next in [128, 0xffff] {
                a.up(DISK);
                a.put(QUEUE, 0, (REQUEST, 16), NEXT, next);
                a.offer(QUEUE, 0);
                a.kick(QUEUE);
                a.gives_up(DISK);
            }
        }),
    ];
    withstand(ATTACKS);
}

#[test]
fn chains_that_loop() {
    withstand(&[attack("of one link and of two", "loops", |a| {
        for length in [1, 2] {
            a.up(DISK);
            for number in 0..length {
                a.put(QUEUE, number, (REQUEST, 16), NEXT, (number + 1) % length);
            }
            a.offer(QUEUE, 0);
            a.kick(QUEUE);
            a.gives_up(DISK);
        }
    })]);
}

#[test]
fn indirect_descriptors_that_were_not_offered() {
    withstand(&[attack("in every form", "is indirect", |a| {
        // A table whose first entry is indirect again.
        a.code.store(Width::Quad, DATA, DATA);
        a.code
            .store(Width::Quad, DATA + 8, 16 | u64::from(INDIRECT) << 32);
        for (len, flags) in [(16, 0), (17, 0), (16 * 200, 0), (32, NEXT), (32, WRITE)] {
            refused(a, &[(DATA, len, INDIRECT | flags)]);
        }
        refused(a, &[(REQUEST, 16, 0), (DATA, 16, INDIRECT)]);
    })]);
}

#[test]
fn lengths_of_nothing_and_of_too_much() {
    withstand(&[
        attack("zero", "has length zero", |a| {
            refused(a, &[(REQUEST, 0, 0), (ANSWER, 1, WRITE)]);
            refused(a, &[(REQUEST, 16, 0), (DATA, 0, WRITE), (ANSWER, 1, WRITE)]);
        }),
        attack("a sum past 2^32", "longer than 2^32 bytes", |a| {
            let mut buffers = vec![(REQUEST, 16, 0)];
            buffers.extend([(0, RAM, WRITE); 40]);
            buffers.push((ANSWER, 1, WRITE));
            refused(a, &buffers);
        }),
        attack("buffers outside of RAM", "is not in RAM", |a| {
            for (address, len) in [
                (RAM, 1),
                (RAM - 1, 2),
                (0, 0xffff_ffff),
                (!0, 1),
                (!0 - 15, 32),
                (0xd000_0000, 4),
            ] {
                refused(a, &[(REQUEST, 16, 0), (address, len, WRITE)]);
            }
        }),
        attack("readable after writable", "readable after", |a| {
            refused(a, &[(ANSWER, 1, WRITE), (REQUEST, 16, 0)]);
        }),
    ]);
}

#[test]
fn descriptors_that_change_while_they_are_looked_at() {
    withstand(&[attack("length, address, flags, and the header", "", |a| {
        for field in 0..4u64 {
            a.up(DISK);
            a.header(0, 1);
            a.chain(
                QUEUE,
                0,
                &[(REQUEST, 16, 0), (DATA, 512, WRITE), (ANSWER, 1, WRITE)],
            );
            for slot in 0..128 {
                a.code
                    .store(Width::Word, available(DISK, 0) + 4 + 2 * slot, 0);
            }
            let table = descriptors(DISK, 0) + 16;
            // (address, a correct driver's value there, the value that it must not have)
            let (at, good, bad) = [
                (table, DATA, RAM),
                (
                    table + 8,
                    512 | 3 << 32 | 2 << 48,
                    0xffff_ffff | 3 << 32 | 2 << 48,
                ),
                (table + 8, 512 | 3 << 32 | 2 << 48, 512 | 4 << 32),
                (REQUEST + 8, 1, !0),
            ][usize::try_from(field).unwrap()];
            a.code.repeat(100, |code| {
                code.add_word(available(DISK, 0) + 2, 1);
                code.store(Width::Double, crate::driver::register_of(DISK, 0x50), 0);
                for value in [bad, good, bad, good, bad, good] {
                    code.store(Width::Quad, at, value);
                }
            });
        }
    })]);
}

#[test]
fn positions_that_wrap_around() {
    withstand(&[attack("past 2^16 requests", "", |a| {
        a.up(DISK);
        a.header(4, 0);
        a.chain(QUEUE, 0, &[(REQUEST, 16, 0), (ANSWER, 1, WRITE)]);
        for slot in 0..128 {
            a.code
                .store(Width::Word, available(DISK, 0) + 4 + 2 * slot, 0);
        }
        let (offered, back) = (available(DISK, 0) + 2, used(DISK, 0) + 2);
        a.code.repeat(520, |code| {
            code.add_word(offered, 128);
            code.store(Width::Double, crate::driver::register_of(DISK, 0x50), 0);
            code.wait_same(offered, back, "all requests come back");
        });
        a.code
            .expect(Width::Word, back, u64::MAX, 1024, "they went once around");
        a.code
            .expect(Width::Byte, ANSWER, 0xff, 0, "and were served");
    })]);
}

#[test]
fn garbage_beside_the_rings_and_storms_of_notifications() {
    withstand(&[
        attack("flags, used_event, avail_event, the used ring", "", |a| {
            a.up(DISK);
            a.code.store(Width::Word, available(DISK, 0), 0xfffe);
            a.code
                .store(Width::Word, available(DISK, 0) + 4 + 256, 0x5a5a);
            for at in 0..130 {
                a.code
                    .store(Width::Quad, used(DISK, 0) + 8 * at, 0xa5a5_a5a5_a5a5_a5a5);
            }
            a.code.store(Width::Word, used(DISK, 0) + 2, 0);
            a.reads_sector();
        }),
        attack("a storm without work, of every queue", "", |a| {
            a.up(DISK);
            a.up(crate::driver::VSOCK);
            a.code.repeat(1000, |code| {
                for (device, queue) in [(DISK, 0), (3, 0), (3, 1), (3, 2)] {
                    code.store(
                        Width::Double,
                        crate::driver::register_of(device, 0x50),
                        queue,
                    );
                }
            });
            a.reads_sector();
        }),
        attack("the buffer is the ring", "", |a| {
            a.up(DISK);
            a.header(0, 1);
            for ring in [
                descriptors(DISK, 0) + 0x400,
                available(DISK, 0),
                used(DISK, 0),
            ] {
                a.ask_disk(
                    0,
                    &[(REQUEST, 16, 0), (ring, 512, WRITE), (BUFFERS, 1, WRITE)],
                );
            }
        }),
    ]);
}
