//! The virtio-mmio transport, version 2 (virtio 1.2, 4.2): registers, negotiation, queue set-up and
//! the device's life.
//!
//! One transport owns one device and its queues and lives on the event loop's thread. The guest
//! reaches it in two ways: register accesses come as [`MmioTransport::read`] and
//! [`MmioTransport::write`]; a queue notification comes through an ioeventfd that the owner has
//! registered at register 0x50 with the queue's index as datamatch, as [`MmioTransport::notify`].
//! InterruptStatus and InterruptACK may be served without the transport, from a clone of its
//! [`Interrupt`].
//!
//! A wrong register access is logged and has no effect. A violation that leaves rings in doubt
//! ends the device's service: DEVICE_NEEDS_RESET, a configuration interrupt, one line in the log,
//! and not one more look at the rings until the driver resets the device.

pub mod register;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Instant;

use vmm_sys_util::epoll::EventSet;

use super::device::{ConfigChange, DeviceError, NotQuiet, Outcome, VirtioDevice};
use super::interrupt::{self, Interrupt};
use super::queue::{RingError, VirtQueue};
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

/// What the driver has written about one queue before declaring it ready.
#[derive(Debug, Clone, Copy, Default)]
struct QueueSetup {
    size: Option<u32>,
    descriptors: u64,
    available: u64,
    used: u64,
}

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

    /// The state for a snapshot; the vCPUs are stopped.
    pub fn save(&self) -> Result<TransportState<D::State>, NotQuiet> {
        let driver = match self.status {
            status::RUNNING => Some(DriverState {
                features: self.driver_features,
                queues: self.queues.iter().map(VirtQueue::save).collect(),
            }),
            status::INITIAL => None,
            _ => return Err(NotQuiet::Broken(D::NAME)),
        };
        Ok(TransportState {
            device_type: D::TYPE,
            driver,
            interrupt_status: self.interrupt.status(),
            config_generation: self.config_generation,
            device: self.device.save(&self.queues, &self.memory)?,
        })
    }

    /// A transport from a snapshot, over the restored `memory`. Nothing is sent to the guest until
    /// [`kick_all`](Self::kick_all).
    pub fn restore(
        device: D,
        state: &TransportState<D::State>,
        memory: GuestMemory,
        interrupt: Interrupt,
    ) -> Result<Self, RestoreError> {
        if state.device_type != D::TYPE {
            return Err(RestoreError::DeviceType {
                found: state.device_type,
                expected: D::TYPE,
            });
        }
        if state.interrupt_status & !(interrupt::QUEUE | interrupt::CONFIG) != 0 {
            return Err(RestoreError::InterruptStatus(state.interrupt_status));
        }
        let mut transport = Self::new(device, memory, interrupt);
        transport.interrupt.restore_status(state.interrupt_status);
        transport.config_generation = state.config_generation;
        let change = transport.device.restore(&state.device)?;
        if let Some(driver) = &state.driver {
            transport.restore_driver(driver)?;
        }
        if change == ConfigChange::Announce {
            transport.config_generation = transport.config_generation.wrapping_add(1);
            transport.announce_config = transport.running();
        }
        Ok(transport)
    }

    fn restore_driver(&mut self, driver: &DriverState) -> Result<(), RestoreError> {
        let offered = self.offered_features();
        if !acceptable(driver.features, offered) {
            return Err(RestoreError::Features {
                features: driver.features,
                offered,
            });
        }
        if driver.queues.len() != D::QUEUE_SIZES.len() {
            return Err(RestoreError::QueueCount {
                found: driver.queues.len(),
                expected: D::QUEUE_SIZES.len(),
            });
        }
        for (index, (saved, &max_size)) in driver.queues.iter().zip(D::QUEUE_SIZES).enumerate() {
            let of_queue = |source| RestoreError::Queue {
                queue: index,
                source,
            };
            if !saved.ready {
                return Err(of_queue(RingError::NotReady));
            }
            self.queues[index] =
                VirtQueue::restore(max_size, saved, &self.memory).map_err(of_queue)?;
        }
        VirtQueue::check_apart(&self.queues).map_err(RestoreError::Queues)?;
        self.driver_features = driver.features;
        self.device
            .activate(&mut self.queues, &self.memory)
            .map_err(RestoreError::Activation)?;
        self.status = status::RUNNING;
        Ok(())
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

    fn write_features(&mut self, value: u32) {
        if self.status != status::NEGOTIATING {
            refuse(
                &mut self.log,
                format_args!("features written with status {:#x}", self.status),
            );
            return;
        }
        match self.driver_features_sel {
            0 => {
                self.driver_features =
                    self.driver_features & !u64::from(u32::MAX) | u64::from(value);
            }
            1 => {
                self.driver_features =
                    self.driver_features & u64::from(u32::MAX) | u64::from(value) << 32;
            }
            // No feature there is offered, and Linux writes zeros there.
            _ if value == 0 => {}
            sel => refuse(
                &mut self.log,
                format_args!("features {value:#x} in word {sel}"),
            ),
        }
    }

    /// Queue registers may be written only while queues are being set up: after the features are
    /// agreed on and before the driver drives. Anything else would move rings that are in use.
    fn write_queue_register(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.selected() else {
            refuse(
                &mut self.log,
                format_args!("register {offset:#x} of queue {}", self.queue_sel),
            );
            return;
        };
        if self.status != status::CONFIGURING {
            refuse(
                &mut self.log,
                format_args!(
                    "queue register {offset:#x} written with status {:#x}",
                    self.status
                ),
            );
            return;
        }
        if offset == register::QUEUE_READY {
            self.write_queue_ready(queue, value);
            return;
        }
        if self.queues[queue].ready() {
            refuse(
                &mut self.log,
                format_args!("register {offset:#x} of ready queue {queue}"),
            );
            return;
        }
        let setup = &mut self.setups[queue];
        match offset {
            register::QUEUE_NUM => setup.size = Some(value),
            register::QUEUE_DESC_LOW => set_low(&mut setup.descriptors, value),
            register::QUEUE_DESC_HIGH => set_high(&mut setup.descriptors, value),
            register::QUEUE_DRIVER_LOW => set_low(&mut setup.available, value),
            register::QUEUE_DRIVER_HIGH => set_high(&mut setup.available, value),
            register::QUEUE_DEVICE_LOW => set_low(&mut setup.used, value),
            _ => set_high(&mut setup.used, value),
        }
    }

    fn write_queue_ready(&mut self, index: usize, value: u32) {
        let ready = self.queues[index].ready();
        match (ready, value) {
            (false, 1) => {
                if let Err(source) = self.set_queue_up(index) {
                    self.queues[index].reset();
                    self.give_up(&DeviceError::ring(index)(source));
                }
            }
            (true, 0) => {
                self.queues[index].reset();
                self.setups[index] = QueueSetup::default();
            }
            (false, 0) => {}
            (ready, value) => refuse(
                &mut self.log,
                format_args!(
                    "{value:#x} to QueueReady of queue {index}, which is {}ready",
                    if ready { "" } else { "not " }
                ),
            ),
        }
    }

    /// Everything that a queue must be is checked here, before a ring is ever touched.
    fn set_queue_up(&mut self, index: usize) -> Result<(), RingError> {
        let setup = self.setups[index];
        let queue = &mut self.queues[index];
        queue.set_size(setup.size.unwrap_or(queue.max_size().into()))?;
        queue.set_addresses(setup.descriptors, setup.available, setup.used)?;
        queue.check(&self.memory)?;
        queue.set_ready(true);
        Ok(())
    }

    fn write_status(&mut self, value: u32) {
        let step = u8::try_from(value)
            .ok()
            .and_then(|requested| Some((requested, status::step(self.status, requested)?)));
        let Some((requested, step)) = step else {
            refuse(
                &mut self.log,
                format_args!("status {value:#x} written over {:#x}", self.status),
            );
            return;
        };
        match step {
            Step::Reset => self.reset(),
            // The device's own bit is not the driver's to set or clear.
            Step::Note => {
                self.status = requested & !status::DEVICE_NEEDS_RESET
                    | self.status & status::DEVICE_NEEDS_RESET;
            }
            Step::ProposeFeatures => {
                let offered = self.offered_features();
                if acceptable(self.driver_features, offered) {
                    self.status = status::CONFIGURING;
                } else {
                    // The driver reads the status back and finds FEATURES_OK missing (3.1.1).
                    refuse(
                        &mut self.log,
                        format_args!(
                            "features {:#x}, offered are {offered:#x}",
                            self.driver_features
                        ),
                    );
                }
            }
            Step::Activate => self.activate(),
        }
    }

    fn activate(&mut self) {
        let result = self
            .check_queues()
            .and_then(|()| self.device.activate(&mut self.queues, &self.memory));
        match result {
            Ok(()) => {
                self.status = status::RUNNING;
                // A driver may have filled queues and notified before it set DRIVER_OK; those
                // notifications were not for a running device.
                self.process_all();
            }
            Err(error) => {
                // The driver believes that it drives, so it has to be told by interrupt.
                self.status = status::RUNNING;
                self.give_up(&error);
            }
        }
    }

    fn check_queues(&self) -> Result<(), DeviceError> {
        if let Some(index) = self.queues.iter().position(|queue| !queue.ready()) {
            return Err(DeviceError::ring(index)(RingError::NotReady));
        }
        VirtQueue::check_apart(&self.queues).map_err(DeviceError::ring(0))
    }

    fn reset(&mut self) {
        self.device.reset();
        for queue in &mut self.queues {
            queue.reset();
        }
        self.setups.fill(QueueSetup::default());
        self.status = status::INITIAL;
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        self.backlog = 0;
        self.announce_config = false;
        self.interrupt.acknowledge(u32::MAX);
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

/// Whether a driver may accept `features` of what is `offered`.
fn acceptable(features: u64, offered: u64) -> bool {
    features & !offered == 0 && features & F_VERSION_1 != 0
}

fn half(word: u64, select: u32) -> u32 {
    let bytes = word.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        1 => u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        _ => 0,
    }
}

fn set_low(word: &mut u64, value: u32) {
    *word = *word & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(word: &mut u64, value: u32) {
    *word = *word & u64::from(u32::MAX) | u64::from(value) << 32;
}
