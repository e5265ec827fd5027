//! A driver for tests: it uses a transport's registers, and puts any chain on the rings that a test
//! wants, valid or not.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::VirtioDevice;
use super::interrupt::Interrupt;
use super::mmio::{F_VERSION_1, MmioTransport, register};
use super::queue::{SavedQueue, VirtQueue};
use crate::devices::GuestMemory;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Bytes of RAM, in two adjacent regions so that a range can cross from one to the other.
pub(crate) const RAM: u64 = 0x40_0000;
/// Start of the second region.
pub(crate) const SEAM: u64 = 0x20_0000;
/// RAM from here on is free for buffers.
pub(crate) const BUFFERS: u64 = 0x8_0000;

pub(crate) fn memory() -> GuestMemory {
    let regions = [
        (GuestAddress(0), 0x20_0000),
        (GuestAddress(SEAM), 0x20_0000),
    ];
    GuestMemory::from_ranges(&regions).unwrap()
}

/// The driver's side of one queue.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    pub(crate) memory: GuestMemory,
    pub(crate) base: u64,
    pub(crate) size: u16,
    pub(crate) avail_index: u16,
    used_seen: u16,
    next_descriptor: u16,
}

impl Ring {
    pub(crate) fn new(memory: &GuestMemory, index: u64, size: u16) -> Self {
        Self {
            memory: memory.clone(),
            base: 0x1_0000 * (index + 1),
            size,
            avail_index: 0,
            used_seen: 0,
            next_descriptor: 0,
        }
    }

    pub(crate) fn descriptors(&self) -> u64 {
        self.base
    }

    pub(crate) fn available(&self) -> u64 {
        self.base + 0x4000
    }

    pub(crate) fn used(&self) -> u64 {
        self.base + 0x8000
    }

    /// The queue as a device has it after the set-up.
    pub(crate) fn queue(&self) -> VirtQueue {
        let saved = SavedQueue {
            size: self.size,
            ready: true,
            descriptors: self.descriptors(),
            available: self.available(),
            used: self.used(),
            next_avail: 0,
            next_used: 0,
        };
        VirtQueue::restore(self.size, &saved, &self.memory).unwrap()
    }

    pub(crate) fn put(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = self.descriptors() + 16 * u64::from(index);
        self.memory
            .write_obj(Descriptor::new(address, len, flags, next), GuestAddress(at))
            .unwrap();
    }

    /// Makes a chain of buffers available (address, length, flags; `NEXT` is added).
    pub(crate) fn add(&mut self, buffers: &[(u64, u32, u16)]) -> u16 {
        let count = u16::try_from(buffers.len()).unwrap();
        let head = self.next_descriptor;
        for (offset, (address, len, flags)) in (0..count).zip(buffers) {
            let index = (head + offset) % self.size;
            let next = (index + 1) % self.size;
            let more = if offset + 1 < count { NEXT } else { 0 };
            self.put(index, *address, *len, flags | more, next);
        }
        self.next_descriptor = (head + count) % self.size;
        self.make_available(head);
        head
    }

    pub(crate) fn make_available(&mut self, head: u16) {
        let slot = self.available() + 4 + 2 * u64::from(self.avail_index % self.size);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.set_avail_index(self.avail_index.wrapping_add(1));
    }

    pub(crate) fn set_avail_index(&mut self, index: u16) {
        self.avail_index = index;
        self.memory
            .write_obj(index, GuestAddress(self.available() + 2))
            .unwrap();
    }

    /// Asks the device not to interrupt, or to do so again.
    pub(crate) fn set_no_interrupt(&self, no: bool) {
        self.memory
            .write_obj(u16::from(no), GuestAddress(self.available()))
            .unwrap();
    }

    /// Whether the device asks for notifications.
    pub(crate) fn notifications_wanted(&self) -> bool {
        let flags: u16 = self.memory.read_obj(GuestAddress(self.used())).unwrap();
        flags == 0
    }

    /// Chains that the device has returned since the last call: head and length.
    pub(crate) fn take_used(&mut self) -> Vec<(u32, u32)> {
        let index: u16 = self.memory.read_obj(GuestAddress(self.used() + 2)).unwrap();
        let mut chains = Vec::new();
        while self.used_seen != index {
            let at = self.used() + 4 + 8 * u64::from(self.used_seen % self.size);
            let id = self.memory.read_obj(GuestAddress(at)).unwrap();
            let len = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
            chains.push((id, len));
            self.used_seen = self.used_seen.wrapping_add(1);
        }
        chains
    }
}

/// A driver of one device.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) memory: GuestMemory,
    pub(crate) rings: Vec<Ring>,
    line: EventFd,
}

impl Driver {
    pub(crate) fn new<D: VirtioDevice>(device: D) -> (Self, MmioTransport<D>) {
        let memory = memory();
        let rings = (0..)
            .zip(D::QUEUE_SIZES)
            .map(|(index, &size)| Ring::new(&memory, index, size))
            .collect();
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let interrupt = Interrupt::new(line.try_clone().unwrap());
        let transport = MmioTransport::new(device, memory.clone(), interrupt);
        (
            Self {
                memory,
                rings,
                line,
            },
            transport,
        )
    }

    /// A device whose driver is up.
    pub(crate) fn up<D: VirtioDevice>(device: D) -> (Self, MmioTransport<D>) {
        let (driver, mut transport) = Self::new(device);
        driver.configure(&mut transport);
        write(&mut transport, register::STATUS, 0xf);
        assert_eq!(read(&mut transport, register::STATUS), 0xf);
        (driver, transport)
    }

    /// All steps but DRIVER_OK.
    pub(crate) fn configure<D: VirtioDevice>(&self, transport: &mut MmioTransport<D>) {
        negotiate(transport);
        for queue in 0..self.rings.len() {
            self.set_up_queue(transport, queue);
        }
    }

    pub(crate) fn set_up_queue<D: VirtioDevice>(
        &self,
        transport: &mut MmioTransport<D>,
        queue: usize,
    ) {
        let ring = &self.rings[queue];
        write(transport, register::QUEUE_SEL, queue.try_into().unwrap());
        write(transport, register::QUEUE_NUM, ring.size.into());
        write_addresses(transport, ring.descriptors(), ring.available(), ring.used());
        write(transport, register::QUEUE_READY, 1);
    }

    /// An interrupt for a restored device, and the eventfd that it writes to.
    pub(crate) fn new_line(&mut self) -> Interrupt {
        self.line = EventFd::new(EFD_NONBLOCK).unwrap();
        Interrupt::new(self.line.try_clone().unwrap())
    }

    /// Edges since the last call.
    pub(crate) fn interrupts(&self) -> u64 {
        self.line.read().unwrap_or(0)
    }

    pub(crate) fn fill(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    pub(crate) fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }
}

pub(crate) fn negotiate<D: VirtioDevice>(transport: &mut MmioTransport<D>) {
    for status in [0, 1, 3] {
        write(transport, register::STATUS, status);
    }
    let features = transport.device().features() | F_VERSION_1;
    for (sel, half) in [(0, features & u64::from(u32::MAX)), (1, features >> 32)] {
        write(transport, register::DRIVER_FEATURES_SEL, sel);
        write(
            transport,
            register::DRIVER_FEATURES,
            half.try_into().unwrap(),
        );
    }
    write(transport, register::STATUS, 0xb);
    assert_eq!(read(transport, register::STATUS), 0xb);
}

pub(crate) fn write_addresses<D: VirtioDevice>(
    transport: &mut MmioTransport<D>,
    descriptors: u64,
    available: u64,
    used: u64,
) {
    for (low, address) in [
        (register::QUEUE_DESC_LOW, descriptors),
        (register::QUEUE_DRIVER_LOW, available),
        (register::QUEUE_DEVICE_LOW, used),
    ] {
        let bytes = address.to_le_bytes();
        transport.write(low, &bytes[..4]);
        transport.write(low + 4, &bytes[4..]);
    }
}

pub(crate) fn write<D: VirtioDevice>(transport: &mut MmioTransport<D>, at: u64, value: u32) {
    transport.write(at, &value.to_le_bytes());
}

pub(crate) fn read<D: VirtioDevice>(transport: &mut MmioTransport<D>, at: u64) -> u32 {
    let mut bytes = [0xaa; 4];
    transport.read(at, &mut bytes);
    u32::from_le_bytes(bytes)
}
