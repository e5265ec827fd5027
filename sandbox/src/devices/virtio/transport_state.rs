//! The part of a transport that goes into a snapshot, and the reasons to refuse a saved one.

use serde::{Deserialize, Serialize};

use super::device::{DeviceError, StateError};
use super::queue::SavedQueue;
use super::ring_error::RingError;

/// A device and its transport in a snapshot. A device whose driver is in the middle of its set-up,
/// or that is out of service, is never saved; so this type can't express those states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState<S> {
    /// The device's id, so that one device's state is not restored into another.
    pub device_type: u32,
    /// The driver's side, if a driver was running.
    pub driver: Option<DriverState>,
    /// InterruptStatus: the bits that the guest had not acknowledged.
    pub interrupt_status: u32,
    /// ConfigGeneration.
    pub config_generation: u32,
    /// The device's own state.
    pub device: S,
}

/// What a running driver has negotiated with the transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverState {
    /// The features that the driver accepted.
    pub features: u64,
    /// Its queues, by index.
    pub queues: Vec<SavedQueue>,
}

/// Why a saved transport is refused.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state is another device's.
    #[error("state of device type {found}, this is {expected}")]
    DeviceType {
        /// In the state.
        found: u32,
        /// This device's.
        expected: u32,
    },
    /// The driver accepted features that this device does not offer, or not `VIRTIO_F_VERSION_1`.
    #[error("driver features {features:#x}, offered are {offered:#x}")]
    Features {
        /// In the state.
        features: u64,
        /// This device's.
        offered: u64,
    },
    /// The state has another number of queues.
    #[error("{found} queues, the device has {expected}")]
    QueueCount {
        /// In the state.
        found: usize,
        /// This device's.
        expected: usize,
    },
    /// No driver could have set up this queue.
    #[error("queue {queue}: {source}")]
    Queue {
        /// Index of the queue.
        queue: usize,
        /// What is wrong with it.
        source: RingError,
    },
    /// No driver could have set up these queues together.
    #[error("queues: {0}")]
    Queues(RingError),
    /// Interrupt bits that don't exist.
    #[error("interrupt status {0:#x}")]
    InterruptStatus(u32),
    /// The device refuses its own state.
    #[error("device: {0}")]
    Device(#[from] StateError),
    /// The device can't be activated with its queues.
    #[error("activation: {0}")]
    Activation(DeviceError),
}
