//! The virtio-mmio transport, version 2 (virtio 1.2, 4.2): registers, feature negotiation, queue
//! set-up and the device's status.
//!
//! One transport owns one device and its queues, and belongs to the event loop's thread. Register
//! accesses of the guest come as [`MmioTransport::read`] and [`MmioTransport::write`]. A queue
//! notification comes as [`MmioTransport::notify`]: KVM signals an ioeventfd that is registered at
//! QueueNotify with the queue's index as datamatch. InterruptStatus and InterruptACK may be served
//! without the transport, by a clone of its [`Interrupt`].
//!
//! An invalid register access is logged and has no effect. A violation after which the rings can't
//! be trusted ends the device's service: it sets DEVICE_NEEDS_RESET, raises a configuration
//! interrupt, writes one line to the log, and does not look at the rings again until the driver
//! resets it.

pub mod register;
mod setup;
mod snapshot;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Instant;

use vmm_sys_util::epoll::EventSet;

use self::setup::QueueSetup;
use super::device::{ConfigChange, DeviceError, NotQuiet, VirtioDevice, WorkResult};
use super::interrupt::{self, Interrupt};
use super::queue::VirtQueue;
use super::ring_error::RingError;
use super::status::{self, Step};
use super::transport_state::{DriverState, RestoreError, TransportState};
use crate::devices::GuestMemory;
use crate::log::Log;

/// "virt", little-endian.
pub const MAGIC: u32 = 0x7472_6976;
/// The only version besides the legacy one.
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
    /// One bit for each queue: it has work left that no notification will announce.
    backlog: u32,
    log: Log,
}

impl<D: VirtioDevice> MmioTransport<D> {
    /// A transport without a driver.
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

    /// The device, for changes.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The interrupt, to clone for the vCPU's thread.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Whether a driver is running, and neither it nor the device has failed.
    pub fn running(&self) -> bool {
        self.status == status::RUNNING
    }

    /// A read of the device's registers. Always fills `data`, with zeros where there is no
    /// register.
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

    /// The driver has made chains available on queue `queue`.
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

    /// The device's host descriptor is ready.
    pub fn on_host_event(&mut self, events: EventSet) {
        if self.running() {
            self.work(None, |device, queues, memory| {
                device.on_host_event(events, queues, memory)
            });
        }
    }

    /// Looks at every queue once, and raises the interrupts again that were pending in a snapshot.
    /// Called after a restore, before the guest runs, because notifications and edges from before
    /// the snapshot may have been lost.
    pub fn kick_all(&mut self) {
        // Pending interrupts first: new work below raises an edge of its own.
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

    /// Whether a device has interrupted its work so that others get their share. The event loop
    /// calls [`run_backlog`](Self::run_backlog) after it has served them.
    pub fn has_backlog(&self) -> bool {
        self.backlog != 0
    }

    /// Continues the interrupted work.
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
            // A shared memory region that doesn't exist has length and base of all ones.
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

    /// Lets the device work on its queues, and acts on the result.
    fn work(
        &mut self,
        queue: Option<usize>,
        job: impl FnOnce(&mut D, &mut [VirtQueue], &GuestMemory) -> Result<WorkResult, DeviceError>,
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
            Err(error) => self.take_out_of_service(&error),
        }
    }

    /// Ends the device's service until the driver resets it.
    fn take_out_of_service(&mut self, error: &DeviceError) {
        self.status |= status::DEVICE_NEEDS_RESET;
        self.backlog = 0;
        // A device without service must not wait for host events either: nothing would handle them.
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
