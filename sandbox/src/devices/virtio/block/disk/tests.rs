use std::io::Write;

use super::*;
use crate::devices::virtio::mmio::{MmioTransport, register};
use crate::devices::virtio::mock_driver::{BUFFERS, Driver, RAM, SEAM, WRITE, read, write};

/// Where the tests put a request's header, data and status.
const HEADER: u64 = BUFFERS;
const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x800;
const SECTORS: u64 = 16;
const UNTOUCHED: u8 = 0xee;

/// A disk on which every byte has its sector's number.
fn disk_of(sectors: u64) -> Block {
    let mut file = tempfile::tempfile().unwrap();
    for sector in 0..sectors {
        file.write_all(&[sector.to_le_bytes()[0]; 512]).unwrap();
    }
    Block::from_file(file, "test".to_owned()).unwrap()
}

fn up() -> (Driver, MmioTransport<Block>) {
    let (driver, transport) = Driver::up(disk_of(SECTORS));
    driver.fill(STATUS, &[UNTOUCHED]);
    (driver, transport)
}

fn header(driver: &Driver, kind: u32, sector: u64) {
    driver.fill(HEADER, &kind.to_le_bytes());
    driver.fill(HEADER + 4, &[0; 4]);
    driver.fill(HEADER + 8, &sector.to_le_bytes());
}

/// Sends a request with these data buffers; returns its status and the length in the used ring.
fn request(
    driver: &mut Driver,
    transport: &mut MmioTransport<Block>,
    kind: u32,
    sector: u64,
    data: &[(u64, u32, u16)],
) -> (u8, u32) {
    header(driver, kind, sector);
    let mut chain = vec![(HEADER, 16, 0)];
    chain.extend(data);
    chain.push((STATUS, 1, WRITE));
    driver.rings[0].add(&chain);
    transport.notify(0);
    let used = driver.rings[0].take_used();
    assert_eq!(used.len(), 1, "status {:#x}", read(transport, 0x70));
    (driver.bytes(STATUS, 1)[0], used[0].1)
}

/// A request's buffers may overlap, so a guest can request many bytes with little memory.
#[test]
fn megabytes_of_reads_are_a_few_at_a_time_and_the_rest_is_not_forgotten() {
    const MIB: u32 = 1 << 20;
    let (mut driver, mut t) = Driver::up(disk_of(u64::from(8 * MIB) / 512));
    header(&driver, 0, 0);
    for _ in 0..3 {
        let mut chain = vec![(HEADER, 16, 0)];
        chain.extend([(u64::from(MIB), MIB, WRITE); 8]);
        chain.push((STATUS, 1, WRITE));
        driver.rings[0].add(&chain);
    }
    t.notify(0);
    assert_eq!(driver.rings[0].take_used().len(), 2);
    assert!(t.has_backlog());
    t.run_backlog();
    assert_eq!(driver.rings[0].take_used().len(), 1);
    assert!(!t.has_backlog());
}

fn broken(driver: &mut Driver, transport: &mut MmioTransport<Block>, chain: &[(u64, u32, u16)]) {
    driver.rings[0].add(chain);
    transport.notify(0);
    assert_eq!(read(transport, register::STATUS), 0x4f);
    assert!(driver.rings[0].take_used().is_empty());
}

#[test]
fn sectors_are_read_into_scattered_buffers() {
    let (mut driver, mut t) = up();
    let data = [(DATA, 512, WRITE), (SEAM - 256, 512, WRITE)];
    let answer = request(&mut driver, &mut t, request::IN, 3, &data);
    assert_eq!(answer, (request::OK, 1025));
    assert_eq!(driver.bytes(DATA, 512), [3; 512]);
    assert_eq!(driver.bytes(SEAM - 256, 512), [4; 512]);
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn more_buffers_than_the_kernel_takes_at_once_are_filled() {
    let (mut driver, mut t) = up();
    let data: Vec<_> = (0..100).map(|i| (DATA + i * 256, 80, WRITE)).collect();
    let odd = (0x10_0000, 192, WRITE);
    let data: Vec<_> = data.into_iter().chain([odd]).collect();
    let answer = request(&mut driver, &mut t, request::IN, 0, &data);
    assert_eq!(answer, (request::OK, 8193));
    assert_eq!(driver.bytes(0x10_0000, 192), [15; 192]);
}

#[test]
fn the_last_sector_can_be_read_and_the_one_after_it_not() {
    let (mut driver, mut t) = up();
    let one = [(DATA, 512, WRITE)];
    let last = request(&mut driver, &mut t, request::IN, SECTORS - 1, &one);
    assert_eq!(last.0, request::OK);
    let two = [(DATA, 1024, WRITE)];
    for (sector, data) in [
        (SECTORS, one),
        (SECTORS - 1, two),
        (u64::MAX, one),
        (u64::MAX / 512, one),
        (u64::MAX - 1, two),
    ] {
        let answer = request(&mut driver, &mut t, request::IN, sector, &data);
        assert_eq!(answer, (request::IOERR, 1), "sector {sector}");
    }
}

#[test]
fn lengths_that_are_no_sectors_are_an_error() {
    let (mut driver, mut t) = up();
    for len in [1, 511, 513] {
        let answer = request(&mut driver, &mut t, request::IN, 0, &[(DATA, len, WRITE)]);
        assert_eq!(answer, (request::IOERR, 1));
    }
}

#[test]
fn a_header_may_be_split_over_descriptors() {
    let (mut driver, mut t) = up();
    header(&driver, request::IN, 5);
    driver.rings[0].add(&[
        (HEADER, 3, 0),
        (HEADER + 3, 10, 0),
        (HEADER + 13, 3, 0),
        (DATA, 512, WRITE),
        (STATUS, 1, WRITE),
    ]);
    t.notify(0);
    assert_eq!(driver.rings[0].take_used(), [(0, 513)]);
    assert_eq!(driver.bytes(DATA, 512), [5; 512]);
}

#[test]
fn the_status_byte_may_share_the_datas_descriptor() {
    let (mut driver, mut t) = up();
    header(&driver, request::IN, 1);
    driver.rings[0].add(&[(HEADER, 16, 0), (DATA, 513, WRITE)]);
    t.notify(0);
    assert_eq!(driver.rings[0].take_used(), [(0, 513)]);
    assert_eq!(driver.bytes(DATA + 511, 2), [1, request::OK]);
}

#[test]
fn chains_that_are_no_requests_take_the_device_out_of_service() {
    let cases: [&[(u64, u32, u16)]; 5] = [
        // A header that is only writable, one that is too short, and none.
        &[(HEADER, 16, WRITE), (STATUS, 1, WRITE)],
        &[(HEADER, 15, 0), (STATUS, 1, WRITE)],
        &[(STATUS, 1, WRITE)],
        // No status, and one that is not writable.
        &[(HEADER, 16, 0)],
        &[(HEADER, 16, 0), (STATUS, 1, 0)],
    ];
    for chain in cases {
        let (mut driver, mut t) = up();
        header(&driver, request::IN, 0);
        broken(&mut driver, &mut t, chain);
    }
    let (mut driver, mut t) = up();
    header(&driver, request::IN, 0);
    broken(&mut driver, &mut t, &[(HEADER, 16, 0), (RAM, 1, WRITE)]);
}

#[test]
fn data_in_the_wrong_direction_is_an_error() {
    let (mut driver, mut t) = up();
    let answer = request(&mut driver, &mut t, request::IN, 0, &[(DATA, 512, 0)]);
    assert_eq!(answer, (request::IOERR, 1));
    let answer = request(&mut driver, &mut t, request::OUT, 0, &[(DATA, 512, WRITE)]);
    assert_eq!(answer, (request::IOERR, 1));
}

#[test]
fn writes_are_an_error_and_change_nothing() {
    let (mut driver, mut t) = up();
    driver.fill(DATA, &[0x55; 512]);
    let answer = request(&mut driver, &mut t, request::OUT, 2, &[(DATA, 512, 0)]);
    assert_eq!(answer, (request::IOERR, 1));
    request(&mut driver, &mut t, request::IN, 2, &[(DATA, 512, WRITE)]);
    assert_eq!(driver.bytes(DATA, 512), [2; 512]);
}

#[test]
fn unknown_requests_are_unsupported() {
    let (mut driver, mut t) = up();
    for kind in [2, 3, 5, 7, 9, 11, 13, 14, 100, u32::MAX] {
        let answer = request(&mut driver, &mut t, kind, 0, &[(DATA, 512, WRITE)]);
        assert_eq!(answer, (request::UNSUPP, 1), "type {kind}");
    }
}

#[test]
fn the_id_needs_its_twenty_bytes() {
    let (mut driver, mut t) = up();
    let answer = request(
        &mut driver,
        &mut t,
        request::GET_ID,
        0,
        &[(DATA, 20, WRITE)],
    );
    assert_eq!(answer, (request::OK, 21));
    assert_eq!(driver.bytes(DATA, 6), b"hearth");
    let answer = request(
        &mut driver,
        &mut t,
        request::GET_ID,
        0,
        &[(DATA, 19, WRITE)],
    );
    assert_eq!(answer, (request::IOERR, 1));
    let answer = request(&mut driver, &mut t, request::GET_ID, 0, &[]);
    assert_eq!(answer, (request::IOERR, 1));
}

#[test]
fn a_storm_of_flushes_is_served_a_ring_at_a_time_with_one_interrupt() {
    let (mut driver, mut t) = up();
    header(&driver, request::FLUSH, 0);
    for _ in 0..1000 {
        for _ in 0..64 {
            driver.rings[0].add(&[(HEADER, 16, 0), (STATUS, 1, WRITE)]);
        }
        t.notify(0);
        assert_eq!(driver.rings[0].take_used().len(), 64);
        assert_eq!(driver.interrupts(), 1);
    }
    assert_eq!(driver.bytes(STATUS, 1), [request::OK]);
}

#[test]
fn a_storm_of_kicks_without_work_interrupts_nobody() {
    let (driver, mut t) = up();
    for _ in 0..10_000 {
        t.notify(0);
    }
    assert_eq!(driver.interrupts(), 0);
}

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let (mut driver, mut t) = up();
    driver.rings[0].set_no_interrupt(true);
    request(&mut driver, &mut t, request::FLUSH, 0, &[]);
    assert_eq!(driver.interrupts(), 0);
}

#[test]
fn data_that_points_at_the_rings_harms_only_the_guest() {
    let (mut driver, mut t) = up();
    let ring = driver.rings[0].descriptors();
    let used = driver.rings[0].used();
    request(&mut driver, &mut t, request::IN, 15, &[(ring, 512, WRITE)]);
    // The data overwrites the used ring, and the device writes to it again, in either order.
    header(&driver, request::IN, 15);
    driver.rings[0].add(&[(HEADER, 16, 0), (used, 512, WRITE), (STATUS, 1, WRITE)]);
    t.notify(0);
    let now = read(&mut t, register::STATUS);
    assert!(now == 0xf || now == 0x4f);
}

#[test]
fn a_drive_without_a_medium_reads_nothing() {
    let (mut driver, mut t) = Driver::up(Block::empty());
    assert_eq!(read(&mut t, register::CONFIG), 0);
    let answer = request(&mut driver, &mut t, request::IN, 0, &[(DATA, 512, WRITE)]);
    assert_eq!(answer, (request::IOERR, 1));
}

#[test]
fn an_image_that_shrank_is_an_error_not_a_crash() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SECTORS * 512).unwrap();
    let image = file.reopen().unwrap();
    let (mut driver, mut t) = Driver::up(Block::from_file(image, "0".into()).unwrap());
    file.as_file().set_len(512).unwrap();
    let answer = request(&mut driver, &mut t, request::IN, 8, &[(DATA, 512, WRITE)]);
    assert_eq!(answer, (request::IOERR, 1));
}

#[test]
fn requests_that_wait_forbid_a_snapshot() {
    let (mut driver, t) = up();
    driver.rings[0].add(&[(HEADER, 16, 0), (STATUS, 1, WRITE)]);
    assert_eq!(
        t.save().unwrap_err(),
        NotQuiet::QueuePending {
            device: "block",
            queue: 0
        }
    );
}

#[test]
fn a_medium_that_enters_at_a_restore_is_announced_and_can_be_read() {
    let (mut driver, t) = Driver::up(Block::empty());
    let state = t.save().unwrap();
    let line = driver.new_line();
    let mut t =
        MmioTransport::restore(disk_of(SECTORS), &state, driver.memory.clone(), line).unwrap();
    assert_eq!(driver.interrupts(), 0);
    t.kick_all();
    assert!(driver.interrupts() > 0);
    assert_eq!(read(&mut t, register::INTERRUPT_STATUS), 2);
    assert_eq!(read(&mut t, register::CONFIG_GENERATION), 1);
    assert_eq!(read(&mut t, register::CONFIG), 16);
    let answer = request(&mut driver, &mut t, request::IN, 7, &[(DATA, 512, WRITE)]);
    assert_eq!(answer.0, request::OK);
    assert_eq!(driver.bytes(DATA, 512), [7; 512]);
}

#[test]
fn a_restore_with_the_same_capacity_is_silent() {
    let (mut driver, t) = up();
    let state = t.save().unwrap();
    let line = driver.new_line();
    let mut t =
        MmioTransport::restore(disk_of(SECTORS), &state, driver.memory.clone(), line).unwrap();
    t.kick_all();
    assert_eq!(driver.interrupts(), 0);
    assert_eq!(read(&mut t, register::CONFIG_GENERATION), 0);
    write(&mut t, register::STATUS, 0);
}
