//! A device and its surroundings: memory, rings, an interrupt, the other end of the device, and a
//! guest that executes a script.

use hearth_sandbox::devices::GuestMemory;
use hearth_sandbox::devices::virtio::mmio::{F_VERSION_1, register};
use hearth_sandbox::devices::virtio::{Interrupt, MmioTransport, VirtioDevice};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::script::Script;

/// Bytes of RAM, in two regions.
pub const RAM: u64 = 0x8_0000;
/// Start of the second region.
pub const SEAM: u64 = 0x4_0000;
/// RAM from here on is for buffers; the rings are below.
pub const BUFFERS: u64 = 0x1_0000;

/// Status of a running driver: ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK.
const UP: u32 = 0xf;
/// DEVICE_NEEDS_RESET.
const NEEDS_RESET: u32 = 0x40;
/// Descriptor flags.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// More rounds than any work takes here. A guest that could choose its disk's content could make a
/// ring feed itself; this disk has no such content, and no work is done for a stopped microVM.
const MAX_ROUNDS: usize = 64;

/// Registers that a script selects by number, and one that does not exist.
const REGISTERS: [u64; 25] = [
    register::MAGIC_VALUE,
    register::VERSION,
    register::DEVICE_ID,
    register::DEVICE_FEATURES,
    register::DEVICE_FEATURES_SEL,
    register::DRIVER_FEATURES,
    register::DRIVER_FEATURES_SEL,
    register::QUEUE_SEL,
    register::QUEUE_NUM_MAX,
    register::QUEUE_NUM,
    register::QUEUE_READY,
    register::QUEUE_NOTIFY,
    register::INTERRUPT_STATUS,
    register::INTERRUPT_ACK,
    register::STATUS,
    register::QUEUE_DESC_LOW,
    register::QUEUE_DESC_HIGH,
    register::QUEUE_DRIVER_LOW,
    register::QUEUE_DRIVER_HIGH,
    register::QUEUE_DEVICE_LOW,
    register::QUEUE_DEVICE_HIGH,
    register::SHM_LEN_LOW,
    register::CONFIG_GENERATION,
    register::CONFIG,
    0x0d0,
];

/// A device under test.
pub trait Subject: VirtioDevice {
    /// The device's other end.
    type OtherEnd;

    /// A new device, as before its driver comes or before a restore.
    fn fresh() -> (Self, Self::OtherEnd)
    where
        Self: Sized;

    /// The device was restored with another other end; the expectations for the old one go on.
    fn carried(world: &mut World<Self>, new: Self::OtherEnd)
    where
        Self: Sized;

    /// A step of the device's own kind.
    fn step(world: &mut World<Self>, script: &mut Script<'_>) -> Option<()>
    where
        Self: Sized;
}

/// One queue as its driver sees it.
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    base: u64,
    /// Number of entries.
    pub size: u16,
    available: u16,
    used_seen: u16,
    next: u16,
}

/// A chain that the device has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Index of its first descriptor.
    pub head: u32,
    /// Number of bytes that the device says it has written.
    pub len: u32,
}

/// The device and its guest.
#[derive(Debug)]
pub struct World<D: Subject> {
    /// The guest's RAM.
    pub memory: GuestMemory,
    /// The driver's rings.
    pub rings: Vec<Ring>,
    /// The device.
    pub transport: MmioTransport<D>,
    /// The device's other end.
    pub outside: D::OtherEnd,
    /// Whether the script has written to memory, rings or registers directly. Until then the driver
    /// is a correct one, and the device must work.
    pub tampered: bool,
}

impl Ring {
    fn new(index: u64, size: u16) -> Self {
        Self {
            base: 0x1000 + 0x3000 * index,
            size,
            available: 0,
            used_seen: 0,
            next: 0,
        }
    }

    fn addresses(&self) -> [u64; 3] {
        [self.base, self.base + 0x1000, self.base + 0x2000]
    }
}

impl<D: Subject> World<D> {
    /// A device without a driver.
    pub fn new() -> Self {
        let half = usize::try_from(SEAM).expect("64 bits");
        let memory =
            GuestMemory::from_ranges(&[(GuestAddress(0), half), (GuestAddress(SEAM), half)])
                .expect("half a megabyte");
        let (device, outside) = D::fresh();
        let transport = MmioTransport::new(device, memory.clone(), line());
        Self {
            rings: rings::<D>(),
            memory,
            transport,
            outside,
            tampered: false,
        }
    }

    /// A device with a running driver.
    pub fn up() -> Self {
        let mut world = Self::new();
        world.set_up();
        assert!(
            world.transport.running(),
            "a correct driver can start the device"
        );
        world
    }

    /// Executes a script to its end.
    pub fn play(&mut self, script: &mut Script<'_>) {
        while self.step(script).is_some() {
            self.work_ends();
        }
        self.work_ends();
    }

    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        // Half of all steps are the device's own.
        let step = script.below(32)?;
        match step {
            0 => {
                let offset = u64::from(script.u16()? % 0x140);
                let mut data = [0xaa; 8];
                let width = usize::from(script.below(9)?);
                self.transport.read(offset, &mut data[..width]);
                assert_eq!(data[width..], [0xaa; 8][width..], "only what was asked for");
            }
            1 => {
                let offset = u64::from(script.u16()? % 0x140);
                let width = usize::from(script.below(9)?);
                let data = script.u64()?.to_le_bytes();
                self.tampered = true;
                self.transport.write(offset, &data[..width]);
            }
            2 | 3 => {
                let register = REGISTERS[usize::from(script.below(25)?)];
                let value = script.magnitude()?;
                // These are read-only, or a correct driver may write them at any time.
                self.tampered |= register != register::INTERRUPT_ACK;
                self.write(register, value);
                self.read(register);
            }
            4 => {
                self.tampered = true;
                self.write(register::STATUS, script.u8()?.into());
            }
            5 => self.restart(),
            6 => {
                let queue = script.u8()?;
                let size = script.magnitude()?;
                let addresses = [script.address()?, script.address()?, script.address()?];
                self.tampered = true;
                self.set_up_queue(queue.into(), size, addresses);
            }
            7 => {
                let address = script.address()?;
                let count = script.u8()?.into();
                self.tampered = true;
                self.fill(address, script.bytes(count)?);
            }
            8 => {
                let queue = script.u8()?;
                let index = script.u8()?.into();
                let (address, len) = (script.address()?, script.length()?);
                let (flags, next) = (script.u8()?.into(), script.u8()?.into());
                self.tampered = true;
                let ring = self.ring(queue);
                self.put(ring, index, address, len, flags, next);
            }
            9 => {
                let (queue, head) = (script.u8()?, script.u8()?.into());
                self.tampered = true;
                let ring = self.ring(queue);
                self.make_available(ring, head);
            }
            10 => {
                let (queue, index) = (script.u8()?, script.u16()?);
                self.tampered = true;
                let ring = self.ring(queue);
                self.set_available(ring, index);
            }
            11 => {
                let queue = script.u8()?;
                let count = 1 + script.below(8)?;
                let mut chain = Vec::new();
                for _ in 0..count {
                    chain.push((script.address()?, script.length()?, script.below(2)? == 1));
                }
                self.tampered = true;
                let ring = self.ring(queue);
                self.add(ring, &chain);
            }
            12 => {
                let queue = usize::from(script.u8()?);
                self.notify(queue);
            }
            13 => self.transport.kick_all(),
            14 => {
                let events = EventSet::from_bits_truncate(script.u8()?.into());
                self.tampered = true;
                self.transport.on_host_event(events);
            }
            15 => self.snapshot(),
            _ => D::step(self, script)?,
        }
        Some(())
    }

    /// Whatever the guest has done, the device comes to rest after a bounded number of rounds, and
    /// out of service it does not look at a ring any more.
    fn work_ends(&mut self) {
        for _ in 0..MAX_ROUNDS {
            if !self.transport.has_backlog() {
                return self.out_of_service_is_final();
            }
            self.transport.run_backlog();
        }
        panic!("work without end");
    }

    fn out_of_service_is_final(&mut self) {
        let status = self.read(register::STATUS);
        assert_eq!(status & !0xff, 0, "no such status: {status:#x}");
        if status & NEEDS_RESET == 0 {
            return;
        }
        assert!(!self.transport.running());
        let before = self.used_indices();
        for queue in 0..self.rings.len() {
            self.transport.notify(queue);
        }
        self.transport.kick_all();
        self.transport.on_host_event(EventSet::IN | EventSet::OUT);
        assert_eq!(self.used_indices(), before, "a ring was touched");
        assert!(self.transport.save().is_err(), "it is not to be saved");
    }

    fn used_indices(&self) -> Vec<u16> {
        let index = |ring: &Ring| self.memory.read_obj(GuestAddress(ring.addresses()[2] + 2));
        self.rings
            .iter()
            .map(|ring| index(ring).expect("rings are in RAM"))
            .collect()
    }

    /// Saves the device if it is quiet, and goes on with a restored one.
    fn snapshot(&mut self) {
        self.transport.kick_all();
        let Ok(state) = self.transport.save() else {
            return;
        };
        let bytes = postcard::to_stdvec(&state).expect("a state can be written");
        let read = postcard::from_bytes(&bytes).expect("and read");
        let (device, outside) = D::fresh();
        let restored = MmioTransport::restore(device, &read, self.memory.clone(), line())
            .expect("what was saved can be restored");
        assert_eq!(restored.running(), self.transport.running());
        let again = restored.save().expect("a restored device is as quiet");
        let again = postcard::to_stdvec(&again).expect("a state can be written");
        assert_eq!(again, bytes, "a restore changes nothing");
        self.transport = restored;
        D::carried(self, outside);
        self.transport.kick_all();
    }

    /// Resets the device and sets it up again, as a correct driver does.
    fn restart(&mut self) {
        self.write(register::STATUS, 0);
        for ring in &mut self.rings {
            let empty = [0; 0x3000];
            self.memory
                .write_slice(&empty, GuestAddress(ring.base))
                .expect("rings are in RAM");
            (ring.available, ring.used_seen, ring.next) = (0, 0, 0);
        }
        let (device, outside) = D::fresh();
        self.transport = MmioTransport::new(device, self.memory.clone(), line());
        self.outside = outside;
        self.tampered = false;
        self.set_up();
        assert!(
            self.transport.running(),
            "a correct driver can start the device"
        );
    }

    fn set_up(&mut self) {
        for status in [0, 1, 3] {
            self.write(register::STATUS, status);
        }
        let features = self.transport.device().features() | F_VERSION_1;
        let (low, high) = (features & u64::from(u32::MAX), features >> 32);
        for (select, half) in [(0, low), (1, high)] {
            self.write(register::DRIVER_FEATURES_SEL, select);
            let half = u32::try_from(half).expect("half a word");
            self.write(register::DRIVER_FEATURES, half);
        }
        self.write(register::STATUS, 0xb);
        for (index, ring) in (0..).zip(self.rings.clone()) {
            self.set_up_queue(index, ring.size.into(), ring.addresses());
        }
        self.write(register::STATUS, UP);
    }

    fn set_up_queue(&mut self, queue: u32, size: u32, addresses: [u64; 3]) {
        self.write(register::QUEUE_SEL, queue);
        self.write(register::QUEUE_NUM, size);
        for (low, address) in [
            register::QUEUE_DESC_LOW,
            register::QUEUE_DRIVER_LOW,
            register::QUEUE_DEVICE_LOW,
        ]
        .into_iter()
        .zip(addresses)
        {
            let bytes = address.to_le_bytes();
            self.transport.write(low, &bytes[..4]);
            self.transport.write(low + 4, &bytes[4..]);
        }
        self.write(register::QUEUE_READY, 1);
    }

    /// Writes a register.
    pub fn write(&mut self, at: u64, value: u32) {
        self.transport.write(at, &value.to_le_bytes());
    }

    /// Reads a register.
    pub fn read(&mut self, at: u64) -> u32 {
        let mut bytes = [0xaa; 4];
        self.transport.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Notifies a queue, which need not exist, as the event loop does.
    pub fn notify(&mut self, queue: usize) {
        self.transport.notify(queue);
    }

    /// Writes to RAM; bytes outside of RAM are left out.
    pub fn fill(&self, address: u64, bytes: &[u8]) {
        // A guest can't write where there is no RAM.
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }

    fn ring(&self, queue: u8) -> usize {
        usize::from(queue) % self.rings.len()
    }

    fn put(&self, ring: usize, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let ring = &self.rings[ring];
        let at = ring.base + 16 * u64::from(index % ring.size);
        self.memory
            .write_obj(Descriptor::new(address, len, flags, next), GuestAddress(at))
            .expect("rings are in RAM");
    }

    /// Makes a chain of buffers (address, length, whether the device writes) available.
    pub fn add(&mut self, ring: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        let Ring { size, next, .. } = self.rings[ring];
        let count = u16::try_from(buffers.len()).expect("a short chain");
        for (offset, (address, len, writable)) in (0..count).zip(buffers) {
            let flags = if *writable { WRITE } else { 0 };
            let more = if offset + 1 < count { NEXT } else { 0 };
            let index = (next + offset) % size;
            self.put(
                ring,
                index,
                *address,
                *len,
                flags | more,
                (index + 1) % size,
            );
        }
        self.rings[ring].next = (next + count) % size;
        self.make_available(ring, next);
        next
    }

    fn make_available(&mut self, ring: usize, head: u16) {
        let Ring {
            size, available, ..
        } = self.rings[ring];
        let at = self.rings[ring].addresses()[1] + 4 + 2 * u64::from(available % size);
        self.memory
            .write_obj(head, GuestAddress(at))
            .expect("rings are in RAM");
        self.set_available(ring, available.wrapping_add(1));
    }

    fn set_available(&mut self, ring: usize, index: u16) {
        let ring = &mut self.rings[ring];
        ring.available = index;
        self.memory
            .write_obj(index, GuestAddress(ring.addresses()[1] + 2))
            .expect("rings are in RAM");
    }

    /// Chains that the device has returned since the last call.
    pub fn take_used(&mut self, ring: usize) -> Vec<Used> {
        let ring = &mut self.rings[ring];
        let used = ring.addresses()[2];
        let word = |at: u64| self.memory.read_obj::<u32>(GuestAddress(used + at));
        let index: u16 = self
            .memory
            .read_obj(GuestAddress(used + 2))
            .expect("rings are in RAM");
        let mut chains = Vec::new();
        while ring.used_seen != index {
            let at = 4 + 8 * u64::from(ring.used_seen % ring.size);
            chains.push(Used {
                head: word(at).expect("rings are in RAM"),
                len: word(at + 4).expect("rings are in RAM"),
            });
            ring.used_seen = ring.used_seen.wrapping_add(1);
        }
        chains
    }

    /// Number of chains that a correct driver may still make available.
    pub fn room(&self, ring: usize) -> u16 {
        let ring = &self.rings[ring];
        let pending = ring.available.wrapping_sub(ring.used_seen);
        ring.size.saturating_sub(pending)
    }

    /// Bytes of RAM.
    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("in RAM");
        bytes
    }
}

impl<D: Subject> Default for World<D> {
    fn default() -> Self {
        Self::new()
    }
}

fn rings<D: Subject>() -> Vec<Ring> {
    (0..)
        .zip(D::QUEUE_SIZES)
        .map(|(index, &size)| Ring::new(index, size))
        .collect()
}

fn line() -> Interrupt {
    Interrupt::new(EventFd::new(EFD_NONBLOCK).expect("a descriptor is left"))
}
