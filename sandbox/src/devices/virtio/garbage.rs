//! Tests with drivers that write random values to rings and registers. Whatever they write, a
//! device ends in a defined state: it never panics and never works without end. The random values
//! are the same in every run.

use std::os::unix::net::UnixStream;

use hearth_protocol::guest::{AGENT_PORT, GUEST_CID, HOST_CID};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;

use super::block::Block;
use super::device::VirtioDevice;
use super::mmio::{MmioTransport, register};
use super::mock_driver::{BUFFERS, Driver, RAM, write};
use super::vsock::Vsock;
use super::vsock::packet::{HEADER, Header};

/// A xorshift generator: random enough for these tests.
struct Garbage(u64);

impl Garbage {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn below_u32(&mut self, limit: u32) -> u32 {
        self.below(limit.into()).try_into().unwrap()
    }

    /// An index into `size` entries, sometimes one too far.
    fn index(&mut self, size: u16) -> u16 {
        let too_far = u16::from(self.below(50) == 0);
        self.below_u16(size + too_far)
    }

    fn below_u16(&mut self, limit: u16) -> u16 {
        self.below(limit.into()).try_into().unwrap()
    }
}

/// Fills the rings with nearly valid descriptors, so that some of them get past the first check.
fn spoil_rings(driver: &mut Driver, garbage: &mut Garbage) {
    for ring in &mut driver.rings {
        let size = ring.size;
        for index in 0..size {
            let address = match garbage.below(40) {
                0 => garbage.next(),
                1 => RAM - garbage.below(64),
                2 => ring.descriptors() + garbage.below(0x9000),
                _ => BUFFERS + garbage.below(0x1000),
            };
            let len = match garbage.below(40) {
                0 => garbage.below_u32(u32::MAX),
                1 => 0,
                2 => 16,
                3 => 513,
                _ => 1 + garbage.below_u32(700),
            };
            let flags = match garbage.below(60) {
                0 => garbage.below_u16(u16::MAX),
                _ => garbage.below_u16(4),
            };
            let next = garbage.index(size);
            ring.put(index, address, len, flags, next);
        }
        for _ in 0..garbage.below(4) {
            let head = garbage.index(size);
            ring.make_available(head);
        }
        if garbage.below(50) == 0 {
            ring.set_avail_index(garbage.below_u16(u16::MAX));
        }
    }
}

fn run<D: VirtioDevice>(
    seed: u64,
    device: impl Fn() -> D,
    fill: impl Fn(&Driver, &mut Garbage),
) -> u32 {
    let mut garbage = Garbage(seed);
    let mut violations = 0;
    for _ in 0..100 {
        let (mut driver, mut transport) = Driver::up(device());
        for _ in 0..20 {
            fill(&driver, &mut garbage);
            spoil_rings(&mut driver, &mut garbage);
            poke(&mut transport, &mut garbage);
            transport.kick_all();
            transport.on_host_event(EventSet::IN | EventSet::OUT | EventSet::HANG_UP);
            transport.run_backlog();
        }
        violations += u32::from(!transport.running());
    }
    violations
}

/// Sometimes accesses a random register.
fn poke<D: VirtioDevice>(transport: &mut MmioTransport<D>, garbage: &mut Garbage) {
    if garbage.below(8) > 0 {
        return;
    }
    let offset = garbage.below(0x120);
    let width = usize::try_from(garbage.below(9)).unwrap();
    let bytes = garbage.next().to_le_bytes();
    transport.write(offset, &bytes[..width]);
    transport.read(offset, &mut [0; 8][..width]);
    if garbage.below(10) == 0 {
        write(transport, register::STATUS, 0);
    }
}

#[test]
fn no_garbage_breaks_the_block_device() {
    let disk = || {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        Block::from_file(file, "garbage".to_owned()).unwrap()
    };
    let violations = run(0x9e37_79b9_7f4a_7c15, disk, |driver, garbage| {
        for slot in 0..64 {
            let header = garbage.below(16) | garbage.below(2) << 40;
            let at = GuestAddress(BUFFERS + slot * 64);
            driver.memory.write_obj(header, at).unwrap();
            driver
                .memory
                .write_obj(garbage.below(4000), GuestAddress(at.0 + 8))
                .unwrap();
        }
    });
    assert!(violations > 0, "some of it was garbage indeed");
}

#[test]
fn no_garbage_breaks_the_vsock_device() {
    let hosts = std::cell::RefCell::new(Vec::new());
    let vsock = || {
        let (ours, host) = UnixStream::pair().unwrap();
        // The host's end stays open and unread, as with a host process that hangs.
        hosts.borrow_mut().push(host);
        Vsock::new(GUEST_CID, ours).unwrap()
    };
    let violations = run(0x2545_f491_4f6c_dd1d, vsock, |driver, garbage| {
        for slot in 0..64 {
            let header = Header {
                src_cid: GUEST_CID + u64::from(garbage.below(20) == 0),
                dst_cid: HOST_CID,
                src_port: garbage.below_u32(2),
                dst_port: AGENT_PORT,
                len: garbage.below_u32(256),
                kind: 1,
                op: garbage.below_u16(9),
                flags: garbage.below_u32(8),
                buf_alloc: garbage.below_u32(1 << 20),
                fwd_cnt: garbage.below_u32(16),
            };
            let at = GuestAddress(BUFFERS + slot * 64);
            let bytes: [u8; HEADER] = header.to_bytes();
            driver.memory.write_slice(&bytes, at).unwrap();
        }
    });
    assert!(violations > 0, "some of it was garbage indeed");
}
