//! What a snapshot keeps of a transport, and why a saved one is refused.

use serde::{Deserialize, Serialize};

use super::device::{DeviceError, StateError};
use super::queue::SavedQueue;
use super::ring_error::RingError;

/// A device and its transport in a snapshot. A device whose driver is half-way through its set-up,
/// or which gave up, is never saved, so those states cannot even be written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState<S> {
    /// The device's id; states are not to be mixed up.
    pub device_type: u32,
    /// The driver's side, if one was up.
    pub driver: Option<DriverState>,
    /// InterruptStatus as the guest had not yet acknowledged it.
    pub interrupt_status: u32,
    /// ConfigGeneration.
    pub config_generation: u32,
    /// The device's own state.
    pub device: S,
}

/// What a running driver agreed with the transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverState {
    /// Features accepted.
    pub features: u64,
    /// Each queue.
    pub queues: Vec<SavedQueue>,
}

/// Why a saved transport is refused.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Another device's state.
    #[error("state of device type {found}, this is {expected}")]
    DeviceType {
        /// In the state.
        found: u32,
        /// This device's.
        expected: u32,
    },
    /// Features that this device does not offer, or without `VIRTIO_F_VERSION_1`.
    #[error("driver features {features:#x}, offered are {offered:#x}")]
    Features {
        /// In the state.
        features: u64,
        /// This device's.
        offered: u64,
    },
    /// Another number of queues.
    #[error("{found} queues, the device has {expected}")]
    QueueCount {
        /// In the state.
        found: usize,
        /// This device's.
        expected: usize,
    },
    /// A queue that can't be.
    #[error("queue {queue}: {source}")]
    Queue {
        /// Index of the queue.
        queue: usize,
        /// What is wrong with it.
        source: RingError,
    },
    /// Queues that can't be together.
    #[error("queues: {0}")]
    Queues(RingError),
    /// Interrupt bits that don't exist.
    #[error("interrupt status {0:#x}")]
    InterruptStatus(u32),
    /// The device refuses its part.
    #[error("device: {0}")]
    Device(#[from] StateError),
    /// The device can't work with its queues.
    #[error("activation: {0}")]
    Activation(DeviceError),
}
