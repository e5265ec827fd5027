//! An attacker's driver: the steps of a correct driver, and every wrong step from there.

use hearth_protocol::guest::{AGENT_PORT, DISK_COUNT, GUEST_CID, HOST_CID};
use hearth_sandbox::boot::layout::{PDPT, VIRTIO_MMIO, VIRTIO_MMIO_SIZE};
use hearth_sandbox::devices::virtio::mmio::register;
use hearth_sandbox::devices::virtio::vsock::device::{RX, TX};
use hearth_sandbox::devices::virtio::vsock::packet::{HEADER, Header, Op, STREAM};

use crate::assembler::{Assembler, Width};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// The first disk, which has a medium.
pub(crate) const DISK: u64 = 0;
/// The vsock device.
pub(crate) const VSOCK: u64 = DISK_COUNT as u64;
/// `DEVICE_NEEDS_RESET` in the status register.
pub(crate) const NEEDS_RESET: u64 = 0x40;
/// The status of a device whose driver is running.
pub(crate) const RUNNING: u64 = 0xf;
/// End of the guest's memory.
pub(crate) const RAM: u64 = 128 << 20;
/// Memory for buffers.
pub(crate) const BUFFERS: u64 = 0x40_0000;
/// Where block requests have header, data and status.
pub(crate) const REQUEST: u64 = BUFFERS;
pub(crate) const DATA: u64 = BUFFERS + 0x1000;
pub(crate) const ANSWER: u64 = BUFFERS + 0x800;
/// Receive buffers of the vsock device, a page each.
pub(crate) const IN: u64 = BUFFERS + 0x10_0000;
/// The packet to send.
pub(crate) const OUT: u64 = BUFFERS + 0x20_0000;
/// The guest's port of its connection.
pub(crate) const PORT: u32 = 700;

/// Sector 1 of the test's image begins with this value, eight times.
pub(crate) const SECTOR_BYTE: u64 = 0x4141_4141_4141_4141;

/// A page for the table that maps the devices' addresses, next to the boot's tables.
const DEVICE_TABLE: u64 = 0xc000;

/// A guest that attacks.
#[derive(Debug)]
pub(crate) struct Attacker {
    pub(crate) code: Assembler,
    /// Chains that were made available so far, by device and queue.
    offered: [[u16; 3]; DISK_COUNT + 1],
}

/// Address of a register.
pub(crate) fn register_of(device: u64, offset: u64) -> u64 {
    VIRTIO_MMIO + device * VIRTIO_MMIO_SIZE + offset
}

fn ring(device: u64, queue: u64) -> u64 {
    0x20_0000 + device * 0x4_0000 + queue * 0x1_0000
}

pub(crate) fn descriptors(device: u64, queue: u64) -> u64 {
    ring(device, queue)
}

pub(crate) fn available(device: u64, queue: u64) -> u64 {
    ring(device, queue) + 0x4000
}

pub(crate) fn used(device: u64, queue: u64) -> u64 {
    ring(device, queue) + 0x8000
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

impl Attacker {
    /// Maps the devices first: the boot's page tables only cover the first GiB.
    pub(crate) fn new() -> Self {
        const PRESENT_WRITABLE: u64 = 3;
        const LARGE_UNCACHED: u64 = 0x90;
        const TWO_MIB: u64 = 0x20_0000;
        let mut code = Assembler::new();
        let gib = VIRTIO_MMIO >> 30;
        code.store(
            Width::Quad,
            PDPT.0 + 8 * gib,
            DEVICE_TABLE | PRESENT_WRITABLE,
        );
        let entry = (VIRTIO_MMIO - (gib << 30)) / TWO_MIB;
        code.store(
            Width::Quad,
            DEVICE_TABLE + 8 * entry,
            VIRTIO_MMIO | PRESENT_WRITABLE | LARGE_UNCACHED,
        );
        Self {
            code,
            offered: Default::default(),
        }
    }

    pub(crate) fn set(&mut self, device: u64, offset: u64, value: u64) {
        self.code
            .store(Width::Double, register_of(device, offset), value);
    }

    pub(crate) fn reads(&mut self, device: u64, offset: u64, value: u64, what: &str) {
        let address = register_of(device, offset);
        self.code
            .expect(Width::Double, address, u64::MAX, value, what);
    }

    pub(crate) fn status(&mut self, device: u64, value: u64) {
        self.set(device, register::STATUS, value);
    }

    pub(crate) fn status_is(&mut self, device: u64, value: u64, what: &str) {
        self.reads(device, register::STATUS, value, what);
    }

    /// The device goes out of service, sooner or later.
    pub(crate) fn gives_up(&mut self, device: u64) {
        let address = register_of(device, register::STATUS);
        self.code.wait(
            Width::Double,
            address,
            NEEDS_RESET,
            NEEDS_RESET,
            "the device gives up",
        );
    }

    /// The set-up up to FEATURES_OK.
    pub(crate) fn negotiate(&mut self, device: u64) {
        self.offered[index(device)] = [0; 3];
        for status in [0, 1, 3] {
            self.status(device, status);
        }
        for (select, word) in [(0, 0), (1, 1)] {
            self.set(device, register::DRIVER_FEATURES_SEL, select);
            self.set(device, register::DRIVER_FEATURES, word);
        }
        self.status(device, 0xb);
        self.status_is(device, 0xb, "features are agreed on");
    }

    pub(crate) fn size(&mut self, device: u64, queue: u64, size: u64) {
        self.set(device, register::QUEUE_SEL, queue);
        self.set(device, register::QUEUE_NUM, size);
    }

    pub(crate) fn addresses(&mut self, device: u64, rings: [u64; 3]) {
        let low = [
            register::QUEUE_DESC_LOW,
            register::QUEUE_DRIVER_LOW,
            register::QUEUE_DEVICE_LOW,
        ];
        for (low, address) in low.into_iter().zip(rings) {
            self.set(device, low, address & u64::from(u32::MAX));
            self.set(device, low + 4, address >> 32);
        }
    }

    pub(crate) fn own_rings(device: u64, queue: u64) -> [u64; 3] {
        [
            descriptors(device, queue),
            available(device, queue),
            used(device, queue),
        ]
    }

    /// An empty queue with its rings in their usual place.
    pub(crate) fn queue(&mut self, device: u64, queue: u64) {
        let size = if device < VSOCK {
            128
        } else {
            [64, 64, 8][index(queue)]
        };
        self.code.store(Width::Double, available(device, queue), 0);
        self.code.store(Width::Double, used(device, queue), 0);
        self.size(device, queue, size);
        self.addresses(device, Self::own_rings(device, queue));
        self.set(device, register::QUEUE_READY, 1);
        self.reads(device, register::QUEUE_READY, 1, "the queue is taken");
    }

    /// The set-up without `DRIVER_OK`.
    pub(crate) fn configure(&mut self, device: u64) {
        self.negotiate(device);
        for queue in 0..if device < VSOCK { 1 } else { 3 } {
            self.queue(device, queue);
        }
    }

    /// A device whose driver is running.
    pub(crate) fn up(&mut self, device: u64) {
        self.configure(device);
        self.status(device, RUNNING);
        self.status_is(device, RUNNING, "the device runs");
    }

    pub(crate) fn put(
        &mut self,
        (device, queue): (u64, u64),
        number: u64,
        (address, len): (u64, u64),
        flags: u16,
        next: u64,
    ) {
        let at = descriptors(device, queue) + 16 * number;
        self.code.store(Width::Quad, at, address);
        let rest = len | u64::from(flags) << 32 | next << 48;
        self.code.store(Width::Quad, at + 8, rest);
    }

    /// A chain of buffers from descriptor `first` on: address, length, flags.
    pub(crate) fn chain(&mut self, queue: (u64, u64), first: u64, buffers: &[(u64, u64, u16)]) {
        for (number, &(address, len, flags)) in (first..).zip(buffers) {
            let last = number + 1 == first + buffers.len() as u64;
            let flags = flags | if last { 0 } else { NEXT };
            self.put(queue, number, (address, len), flags, number + 1);
        }
    }

    /// Makes the chain at `head` available without a notification.
    pub(crate) fn offer(&mut self, (device, queue): (u64, u64), head: u64) {
        let offered = &mut self.offered[index(device)][index(queue)];
        let size = if device < VSOCK {
            128
        } else {
            [64, 64, 8][index(queue)]
        };
        let slot = available(device, queue) + 4 + 2 * u64::from(*offered % size);
        *offered = offered.wrapping_add(1);
        let count = u64::from(*offered);
        self.code.store(Width::Word, slot, head);
        self.code
            .store(Width::Word, available(device, queue) + 2, count);
    }

    pub(crate) fn kick(&mut self, (device, queue): (u64, u64)) {
        self.set(device, register::QUEUE_NOTIFY, queue);
    }

    /// Waits until this many chains in all have been returned.
    pub(crate) fn came_back(&mut self, (device, queue): (u64, u64), count: u64) {
        self.code.wait(
            Width::Word,
            used(device, queue) + 2,
            u64::MAX,
            count,
            "chains come back",
        );
    }

    /// A chain on the disk's queue, with a notification.
    pub(crate) fn ask_disk(&mut self, first: u64, buffers: &[(u64, u64, u16)]) {
        let queue = (DISK, 0);
        self.chain(queue, first, buffers);
        self.offer(queue, first);
        self.kick(queue);
    }

    /// A block request's header.
    pub(crate) fn header(&mut self, kind: u64, sector: u64) {
        self.code.store(Width::Quad, REQUEST, kind);
        self.code.store(Width::Quad, REQUEST + 8, sector);
        self.code.store(Width::Byte, ANSWER, 0xee);
    }

    /// A well-formed request, from descriptor 0 on, whose status byte must become `answer`.
    pub(crate) fn request(
        &mut self,
        kind: u64,
        sector: u64,
        data: &[(u64, u64, u16)],
        answer: u64,
    ) {
        let count = u64::from(self.offered[index(DISK)][0]) + 1;
        self.header(kind, sector);
        let mut buffers = vec![(REQUEST, 16, 0)];
        buffers.extend_from_slice(data);
        buffers.push((ANSWER, 1, WRITE));
        self.ask_disk(0, &buffers);
        self.came_back((DISK, 0), count);
        self.code
            .expect(Width::Byte, ANSWER, 0xff, answer, "the request's status");
    }

    /// The disk works: whatever happened before, a driver that resets it can read from it.
    pub(crate) fn disk_serves(&mut self) {
        self.up(DISK);
        self.reads_sector();
    }

    pub(crate) fn reads_sector(&mut self) {
        self.code.store(Width::Quad, DATA, 0);
        self.request(0, 1, &[(DATA, 512, WRITE)], 0);
        self.code.expect(
            Width::Quad,
            DATA,
            u64::MAX,
            SECTOR_BYTE,
            "a sector's content",
        );
    }

    /// Empty receive buffers for the vsock device, of a page each.
    pub(crate) fn receive_buffers(&mut self, count: u64) {
        let queue = (VSOCK, RX as u64);
        for number in 0..count {
            self.put(queue, number, (IN + 0x1000 * number, 0x1000), WRITE, 0);
            self.offer(queue, number);
        }
        self.kick(queue);
    }

    /// A packet's header as a correct guest on its one connection would write it.
    pub(crate) fn packet(op: Op, len: u32) -> Header {
        Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: PORT,
            dst_port: AGENT_PORT,
            len,
            kind: STREAM,
            op: op.number(),
            buf_alloc: 0x4_0000,
            ..Header::default()
        }
    }

    /// Writes bytes to memory; their number must be a multiple of four.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) {
        for (at, word) in (address..).step_by(4).zip(bytes.chunks_exact(4)) {
            let word = u32::from_le_bytes(word.try_into().unwrap());
            self.code.store(Width::Double, at, word.into());
        }
    }

    /// Sends a packet whose `len` bytes follow its header, and waits until the device has taken it.
    pub(crate) fn send(&mut self, header: Header) {
        self.post(header, HEADER as u64 + u64::from(header.len));
        let count = u64::from(self.offered[index(VSOCK)][TX]);
        self.came_back((VSOCK, TX as u64), count);
    }

    /// Sends a packet in a chain of `len` bytes and does not wait.
    pub(crate) fn post(&mut self, header: Header, len: u64) {
        let queue = (VSOCK, TX as u64);
        self.write(OUT, &header.to_bytes());
        self.chain(queue, 0, &[(OUT, len, 0)]);
        self.offer(queue, 0);
        self.kick(queue);
    }

    /// The packet with this number, from 0, that the device sends must have this operation.
    pub(crate) fn receives(&mut self, number: u64, op: Op) {
        let what = format!("packet {number} comes, {op:?}");
        let operation = IN + 0x1000 * number + 30;
        self.code
            .wait(Width::Word, operation, u64::MAX, op.number().into(), &what);
    }

    /// A guest with the agent's connection open and `buffers` receive buffers available.
    pub(crate) fn connect(&mut self, buffers: u64) {
        self.up(VSOCK);
        self.receive_buffers(buffers);
        self.send(Self::packet(Op::Request, 0));
        self.receives(0, Op::Response);
    }
}
