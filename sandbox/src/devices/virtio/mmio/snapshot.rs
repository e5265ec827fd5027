//! Saves a transport to a snapshot and restores it.

use super::setup::acceptable;
use super::*;

impl<D: VirtioDevice> MmioTransport<D> {
    /// The state for a snapshot. The vCPUs are stopped.
    pub fn save(&self) -> Result<TransportState<D::State>, NotQuiet> {
        let driver = match self.status {
            status::RUNNING => {
                self.check_positions()?;
                Some(DriverState {
                    features: self.driver_features,
                    queues: self.queues.iter().map(VirtQueue::save).collect(),
                })
            }
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

    fn check_positions(&self) -> Result<(), NotQuiet> {
        for (index, queue) in self.queues.iter().enumerate() {
            queue
                .check_positions(&self.memory)
                .map_err(|error| NotQuiet::Rings {
                    device: D::NAME,
                    queue: index,
                    why: error.to_string(),
                })?;
        }
        Ok(())
    }

    /// Restores a transport over the restored `memory`. The guest gets no interrupt before
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
}
