//! Hostile inputs 21 to 28: block requests.

use hearth_sandbox::devices::virtio::block::request::{FLUSH, GET_ID, IN, IOERR, OUT, UNSUPP};

use crate::assembler::Width;
use crate::attack::{attack, withstand};
use crate::driver::{
    ANSWER, Attacker, DATA, DISK, RAM, REQUEST, WRITE, available, descriptors, register_of, used,
};

/// This chain is no request: the disk goes out of service.
fn refused(a: &mut Attacker, buffers: &[(u64, u64, u16)]) {
    a.up(DISK);
    a.header(IN.into(), 1);
    a.ask_disk(0, buffers);
    a.gives_up(DISK);
}

/// A request that fails and leaves the disk in service.
fn fails(a: &mut Attacker, kind: u32, sector: u64, data: &[(u64, u64, u16)], answer: u8) {
    a.up(DISK);
    a.request(kind.into(), sector, data, answer.into());
    a.reads_sector();
}

#[test]
fn headers_that_are_none() {
    withstand(&[
        attack("write-only, short, missing", "header shorter", |a| {
            refused(a, &[(REQUEST, 16, WRITE), (ANSWER, 1, WRITE)]);
            refused(a, &[(REQUEST, 15, 0), (ANSWER, 1, WRITE)]);
            refused(a, &[(REQUEST, 1, 0), (ANSWER, 1, WRITE)]);
        }),
        attack("split over descriptors, which is allowed", "", |a| {
            a.up(DISK);
            a.header(IN.into(), 1);
            a.ask_disk(
                0,
                &[
                    (REQUEST, 1, 0),
                    (REQUEST + 1, 8, 0),
                    (REQUEST + 9, 7, 0),
                    (DATA, 512, WRITE),
                    (ANSWER, 1, WRITE),
                ],
            );
            a.came_back((DISK, 0), 1);
            a.code.expect(Width::Byte, ANSWER, 0xff, 0, "it was served");
        }),
    ]);
}

#[test]
fn nowhere_to_put_the_status() {
    withstand(&[
        attack("none, or read-only", "nowhere to write the status", |a| {
            refused(a, &[(REQUEST, 16, 0)]);
            refused(a, &[(REQUEST, 16, 0), (ANSWER, 1, 0)]);
        }),
        attack("outside of RAM", "is not in RAM", |a| {
            refused(a, &[(REQUEST, 16, 0), (RAM, 1, WRITE)]);
            refused(a, &[(REQUEST, 16, 0), (DATA, 512, WRITE), (!0, 1, WRITE)]);
        }),
    ]);
}

#[test]
fn lengths_and_sectors_that_do_not_fit() {
    withstand(&[attack("ragged, past the end, overflowing", "", |a| {
        for len in [1, 511, 513] {
            fails(a, IN, 0, &[(DATA, len, WRITE)], IOERR);
        }
        for sector in [8, 1 << 55, u64::MAX / 512, u64::MAX - 1, u64::MAX] {
            fails(a, IN, sector, &[(DATA, 512, WRITE)], IOERR);
        }
        fails(a, IN, 7, &[(DATA, 1024, WRITE)], IOERR);
        fails(a, IN, 0, &[(0x100_0000, 64 << 20, WRITE)], IOERR);
    })]);
}

#[test]
fn data_in_the_wrong_direction_and_writes() {
    withstand(&[
        attack("a read with data of the driver's", "", |a| {
            fails(a, IN, 0, &[(DATA, 512, 0)], IOERR);
        }),
        attack("a write with room to write to", "", |a| {
            fails(a, OUT, 0, &[(DATA, 512, WRITE)], IOERR);
        }),
        attack("a write to a read-only disk", "", |a| {
            a.code.store(Width::Quad, DATA, 0xbad);
            fails(a, OUT, 1, &[(DATA, 512, 0)], IOERR);
        }),
    ]);
}

#[test]
fn requests_that_there_are_not() {
    withstand(&[
        attack("unknown types", "", |a| {
            for kind in [2, 3, 5, 11, 13, 0x8000_0000, u32::MAX] {
                fails(a, kind, 0, &[(DATA, 512, WRITE)], UNSUPP);
            }
        }),
        attack("an id into too short a buffer", "", |a| {
            fails(a, GET_ID, 0, &[(DATA, 19, WRITE)], IOERR);
            fails(a, GET_ID, 0, &[], IOERR);
        }),
    ]);
}

#[test]
fn data_that_points_at_the_rings() {
    withstand(&[attack("each of them, and the status too", "", |a| {
        for ring in [
            descriptors(DISK, 0),
            available(DISK, 0),
            used(DISK, 0),
            REQUEST,
        ] {
            a.up(DISK);
            a.header(IN.into(), 1);
            a.ask_disk(
                0,
                &[(REQUEST, 16, 0), (ring, 512, WRITE), (ANSWER, 1, WRITE)],
            );
            a.kick((DISK, 0));
            a.up(DISK);
            a.header(IN.into(), 1);
            a.ask_disk(0, &[(REQUEST, 16, 0), (DATA, 512, WRITE), (ring, 1, WRITE)]);
            a.kick((DISK, 0));
        }
    })]);
}

#[test]
fn storms_of_flushes() {
    withstand(&[attack("ring after ring of them", "", |a| {
        a.up(DISK);
        a.header(FLUSH.into(), 0);
        a.chain((DISK, 0), 0, &[(REQUEST, 16, 0), (ANSWER, 1, WRITE)]);
        for slot in 0..128 {
            a.code
                .store(Width::Word, available(DISK, 0) + 4 + 2 * slot, 0);
        }
        let (offered, back) = (available(DISK, 0) + 2, used(DISK, 0) + 2);
        a.code.repeat(100, |code| {
            code.add_word(offered, 128);
            for _ in 0..8 {
                code.store(Width::Double, register_of(DISK, 0x50), 0);
            }
            code.wait_same(offered, back, "the flushes come back");
        });
    })]);
}
