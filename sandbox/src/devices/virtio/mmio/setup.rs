//! A driver's set-up of a device: features, queues, and the steps of the status register.
//! Everything that the driver writes is checked here, so that a running device only has to check
//! the chains themselves.

use super::*;

/// What the driver has written about one queue before it sets QueueReady.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct QueueSetup {
    pub(super) size: Option<u32>,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

impl<D: VirtioDevice> MmioTransport<D> {
    pub(super) fn write_features(&mut self, value: u32) {
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
            // No feature bit of these words is offered. Linux writes zeros to them.
            _ if value == 0 => {}
            sel => refuse(
                &mut self.log,
                format_args!("features {value:#x} in word {sel}"),
            ),
        }
    }

    /// Queue registers may only be written between FEATURES_OK and DRIVER_OK. A later write would
    /// move rings that are in use.
    pub(super) fn write_queue_register(&mut self, offset: u64, value: u32) {
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
                    self.take_out_of_service(&DeviceError::ring(index)(source));
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

    /// Checks the queue completely, before any of its rings is accessed.
    fn set_queue_up(&mut self, index: usize) -> Result<(), RingError> {
        let setup = self.setups[index];
        let queue = &mut self.queues[index];
        queue.set_size(setup.size.unwrap_or(queue.max_size().into()))?;
        queue.set_addresses(setup.descriptors, setup.available, setup.used)?;
        queue.check(&self.memory)?;
        queue.set_ready(true);
        Ok(())
    }

    pub(super) fn write_status(&mut self, value: u32) {
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
            Step::Record => {
                let was_running = self.running();
                // DEVICE_NEEDS_RESET belongs to the device: the driver can neither set nor clear
                // it.
                self.status = requested & !status::DEVICE_NEEDS_RESET
                    | self.status & status::DEVICE_NEEDS_RESET;
                if was_running && !self.running() {
                    // The driver has failed: stop serving it and waiting for host events.
                    self.backlog = 0;
                    self.device.reset();
                }
            }
            Step::ProposeFeatures => {
                let offered = self.offered_features();
                if acceptable(self.driver_features, offered) {
                    self.status = status::CONFIGURING;
                } else {
                    // The driver reads the status back and finds that FEATURES_OK is not set
                    // (3.1.1).
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
                // A driver may have filled queues and notified before it set DRIVER_OK. The device
                // was not running then, so look at all queues now.
                self.process_all();
            }
            Err(error) => {
                // The driver believes that the device is running, so only an interrupt can tell it
                // otherwise.
                self.status = status::RUNNING;
                self.take_out_of_service(&error);
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
}

/// Whether a driver may accept `features` of what is `offered`.
pub(super) fn acceptable(features: u64, offered: u64) -> bool {
    features & !offered == 0 && features & F_VERSION_1 != 0
}

fn set_low(word: &mut u64, value: u32) {
    *word = *word & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(word: &mut u64, value: u32) {
    *word = *word & u64::from(u32::MAX) | u64::from(value) << 32;
}
