//! The virtio-mmio transport, version 2 (virtio 1.2, 4.2): registers, negotiation, queue set-up and
//! the device's life.
//!
//! One transport owns one device and its queues and lives on the event loop's thread. The guest
//! reaches it in two ways: register accesses come as [`MmioTransport::read`] and
//! [`MmioTransport::write`]; a queue notification comes through an ioeventfd that the owner has
//! registered at QueueNotify with the queue's index as datamatch, as [`MmioTransport::notify`].
//! InterruptStatus and InterruptACK may be served without the transport, from a clone of its
//! [`Interrupt`].
//!
//! A wrong register access is logged and has no effect. A violation that leaves rings in doubt
//! ends the device's service: DEVICE_NEEDS_RESET, a configuration interrupt, one line in the log,
//! and not one more look at the rings until the driver resets the device.

pub mod register;
mod setup;
mod snapshot;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Instant;

use vmm_sys_util::epoll::EventSet;

use self::setup::QueueSetup;
use super::device::{ConfigChange, DeviceError, NotQuiet, Outcome, VirtioDevice};
use super::interrupt::{self, Interrupt};
use super::queue::VirtQueue;
use super::ring_error::RingError;
use super::status::{self, Step};
use super::transport_state::{DriverState, RestoreError, TransportState};
use crate::devices::GuestMemory;
use crate::log::Log;

/// "virt", little-endian.
pub const MAGIC: u32 = 0x7472_6976;
/// The only version there is besides the legacy one.
pub const VERSION: u32 = 2;
/// Vendor id: "hrth", little-endian.
pub const VENDOR: u32 = 0x6874_7268;
/// `VIRTIO_F_VERSION_1` (virtio 1.2, section 6).
pub const F_VERSION_1: u64 = 1 << 32;

/// One device behind virtio-mmio registers.
#[derive(Debug)]
pub struct MmioTransport<D> {
    device: D,
    memory: GuestMemory,
    interrupt: Interrupt,
    queues: Vec<VirtQueue>,
    setups: Vec<QueueSetup>,
    status: u8,
    driver_features: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    config_generation: u32,
    announce_config: bool,
    /// Bit per queue: work left over that no kick will announce.
    backlog: u32,
    log: Log,
}

impl<D: VirtioDevice> MmioTransport<D> {
    /// A transport whose driver has not come yet.
    pub fn new(device: D, memory: GuestMemory, interrupt: Interrupt) -> Self {
        Self {
            device,
            memory,
            interrupt,
            queues: D::QUEUE_SIZES.iter().copied().map(VirtQueue::new).collect(),
            setups: vec![QueueSetup::default(); D::QUEUE_SIZES.len()],
            status: status::INITIAL,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            config_generation: 0,
            announce_config: false,
            backlog: 0,
            log: Log::new(D::NAME),
        }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, to change.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The interrupt, to clone for the vCPU's thread.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Whether a driver is up and nobody has given up.
    pub fn running(&self) -> bool {
        self.status == status::RUNNING
    }

    /// A read of the device's registers. `data` is always filled; with zeros where nothing is.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(at) = offset.checked_sub(register::CONFIG) {
            self.read_config(at, data);
        } else if let (4, 0) = (data.len(), offset % 4) {
            let value = self.read_register(offset);
            data.copy_from_slice(&value.to_le_bytes());
        } else {
            let width = data.len();
            refuse(
                &mut self.log,
                format_args!("read of {width} bytes at {offset:#x}"),
            );
        }
    }

    /// A write to the device's registers.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= register::CONFIG {
            refuse(
                &mut self.log,
                format_args!("write to read-only configuration at {offset:#x}"),
            );
            return;
        }
        match <[u8; 4]>::try_from(data) {
            Ok(bytes) if offset.is_multiple_of(4) => {
                self.write_register(offset, u32::from_le_bytes(bytes))
            }
            _ => {
                let width = data.len();
                refuse(
                    &mut self.log,
                    format_args!("write of {width} bytes at {offset:#x}"),
                );
            }
        }
    }

    /// The driver put chains on queue `queue`.
    pub fn notify(&mut self, queue: usize) {
        if queue >= self.queues.len() {
            refuse(&mut self.log, format_args!("notification of queue {queue}"));
        } else if !self.running() {
            refuse(
                &mut self.log,
                format_args!(
                    "notification of queue {queue} with status {:#x}",
                    self.status
                ),
            );
        } else {
            self.backlog &= !(1 << queue);
            self.work(Some(queue), |device, queues, memory| {
                device.process_queue(queue, queues, memory)
            });
        }
    }

    /// The descriptor that the device waits for is ready.
    pub fn on_host_event(&mut self, events: EventSet) {
        if self.running() {
            self.work(None, |device, queues, memory| {
                device.on_host_event(events, queues, memory)
            });
        }
    }

    /// Looks at every queue once, and raises again what a snapshot had pending. For the moment
    /// after a restore, when the guest is about to run: a notification of the time before the
    /// snapshot reached nobody, and neither did an edge.
    pub fn kick_all(&mut self) {
        // What was pending first: what comes new below raises an edge of its own.
        let result = self.interrupt.resample();
        self.log_interrupt(result);
        if self.announce_config {
            self.announce_config = false;
            let result = self.interrupt.trigger_config();
            self.log_interrupt(result);
        }
        if self.running() {
            self.process_all();
        }
    }

    /// Whether work was cut short to be fair to other devices. The owner calls
    /// [`run_backlog`](Self::run_backlog) after it has served them.
    pub fn has_backlog(&self) -> bool {
        self.backlog != 0
    }

    /// Goes on with what was cut short.
    pub fn run_backlog(&mut self) {
        for queue in 0..self.queues.len() {
            if self.backlog & (1 << queue) != 0 && self.running() {
                self.notify(queue);
            }
        }
    }

    fn offered_features(&self) -> u64 {
        self.device.features() | F_VERSION_1
    }

    fn read_config(&mut self, at: u64, data: &mut [u8]) {
        let width = data.len() as u64;
        if !matches!(width, 1 | 2 | 4) || !at.is_multiple_of(width) {
            refuse(
                &mut self.log,
                format_args!("configuration read of {width} bytes at {at:#x}"),
            );
            return;
        }
        let config = self.device.config();
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(config.len());
        let rest = &config[start..];
        let len = rest.len().min(data.len());
        data[..len].copy_from_slice(&rest[..len]);
    }

    fn read_register(&mut self, offset: u64) -> u32 {
        match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => D::TYPE,
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.offered_features(), self.device_features_sel),
            register::QUEUE_NUM_MAX => self
                .selected()
                .map_or(0, |queue| self.queues[queue].max_size().into()),
            register::QUEUE_READY => self
                .selected()
                .map_or(0, |queue| self.queues[queue].ready().into()),
            register::INTERRUPT_STATUS => self.interrupt.status(),
            register::STATUS => self.status.into(),
            // Regions of shared memory that don't exist have length and base of all ones.
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH => u32::MAX,
            register::CONFIG_GENERATION => self.config_generation,
            _ => {
                refuse(&mut self.log, format_args!("read of register {offset:#x}"));
                0
            }
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            register::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            register::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            register::DRIVER_FEATURES => self.write_features(value),
            register::QUEUE_SEL => self.queue_sel = value,
            register::QUEUE_NOTIFY => {
                self.notify(usize::try_from(value).unwrap_or(usize::MAX));
            }
            register::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            register::STATUS => self.write_status(value),
            register::SHM_SEL => {}
            register::QUEUE_NUM
            | register::QUEUE_READY
            | register::QUEUE_DESC_LOW
            | register::QUEUE_DESC_HIGH
            | register::QUEUE_DRIVER_LOW
            | register::QUEUE_DRIVER_HIGH
            | register::QUEUE_DEVICE_LOW
            | register::QUEUE_DEVICE_HIGH => self.write_queue_register(offset, value),
            _ => refuse(
                &mut self.log,
                format_args!("write of {value:#x} to register {offset:#x}"),
            ),
        }
    }

    fn process_all(&mut self) {
        for queue in 0..self.queues.len() {
            if self.running() {
                self.notify(queue);
            }
        }
    }

    /// Lets the device work on its queues and sees to what comes of it.
    fn work(
        &mut self,
        queue: Option<usize>,
        job: impl FnOnce(&mut D, &mut [VirtQueue], &GuestMemory) -> Result<Outcome, DeviceError>,
    ) {
        match job(&mut self.device, &mut self.queues, &self.memory) {
            Ok(outcome) => {
                if outcome.interrupt {
                    let result = self.interrupt.trigger_queue();
                    self.log_interrupt(result);
                }
                if let (true, Some(queue)) = (outcome.more, queue) {
                    self.backlog |= 1 << queue;
                }
            }
            Err(error) => self.give_up(&error),
        }
    }

    /// No more service until the driver resets the device.
    fn give_up(&mut self, error: &DeviceError) {
        self.status |= status::DEVICE_NEEDS_RESET;
        self.backlog = 0;
        // It must not wait for host events either: nobody would serve them.
        self.device.reset();
        self.log.line(
            Instant::now(),
            format_args!("out of service until reset: {error}"),
        );
        if self.status & status::DRIVER_OK != 0 {
            let result = self.interrupt.trigger_config();
            self.log_interrupt(result);
        }
    }

    fn selected(&self) -> Option<usize> {
        usize::try_from(self.queue_sel)
            .ok()
            .filter(|&queue| queue < self.queues.len())
    }

    fn log_interrupt(&mut self, result: std::io::Result<()>) {
        if let Err(error) = result {
            self.log
                .line(Instant::now(), format_args!("interrupt: {error}"));
        }
    }
}

fn refuse(log: &mut Log, what: fmt::Arguments<'_>) {
    log.line(Instant::now(), format_args!("ignored: {what}"));
}

fn half(word: u64, select: u32) -> u32 {
    let bytes = word.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        1 => u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        _ => 0,
    }
}
