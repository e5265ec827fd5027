//! The interface between the transport and a device, and its errors.

use std::fmt::Debug;
use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vmm_sys_util::epoll::EventSet;

use super::guest_io::GuestIoError;
use super::queue::VirtQueue;
use super::ring_error::RingError;
use crate::devices::GuestMemory;

/// A device behind [`super::MmioTransport`]. One thread makes all calls. Methods with `queues` are
/// only called while the device is active: its driver is running and all queues are checked.
pub trait VirtioDevice: Debug {
    /// Device id (virtio 1.2, section 5).
    const TYPE: u32;
    /// Name in the log.
    const NAME: &'static str;
    /// The number of queues and the maximum size of each (powers of two).
    const QUEUE_SIZES: &'static [u16];
    /// The part of the device, without its transport, that goes into a snapshot.
    type State: Serialize + DeserializeOwned + Clone + Debug;

    /// Feature bits offered, without `VIRTIO_F_VERSION_1`, which every device offers.
    fn features(&self) -> u64;

    /// The present configuration space, little-endian. Reads past its end return zero.
    fn config(&self) -> &[u8];

    /// The driver has started the device, or a snapshot of a running one was restored.
    fn activate(
        &mut self,
        queues: &mut [VirtQueue],
        memory: &GuestMemory,
    ) -> Result<(), DeviceError>;

    /// The driver has notified queue `index`, or the transport wants it checked for another reason.
    /// A device takes at most as many chains per call as the queue has entries.
    fn process_queue(
        &mut self,
        index: usize,
        queues: &mut [VirtQueue],
        memory: &GuestMemory,
    ) -> Result<WorkResult, DeviceError>;

    /// The file descriptor that the device waits for is ready for `events`.
    fn on_host_event(
        &mut self,
        _events: EventSet,
        _queues: &mut [VirtQueue],
        _memory: &GuestMemory,
    ) -> Result<WorkResult, DeviceError> {
        Ok(WorkResult::default())
    }

    /// Returns to the state before a driver was there.
    fn reset(&mut self);

    /// The state for a snapshot; refused while any data is in flight.
    fn save(&self, queues: &[VirtQueue], memory: &GuestMemory) -> Result<Self::State, NotQuiet>;

    /// Restores the state of a snapshot, which is checked completely.
    fn restore(&mut self, state: &Self::State) -> Result<ConfigChange, StateError>;
}

/// The result of a device's work on its queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct WorkResult {
    /// The driver has to be interrupted because of entries in a used ring.
    pub interrupt: bool,
    /// The device interrupted its work so that others get their share. Call again without waiting
    /// for a notification.
    pub more: bool,
}

impl WorkResult {
    /// Combines the results of two calls.
    pub fn and(self, other: Self) -> Self {
        Self {
            interrupt: self.interrupt || other.interrupt,
            more: self.more || other.more,
        }
    }
}

/// Whether a restored device's configuration differs from what its driver has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigChange {
    /// It does not differ.
    None,
    /// The driver has to read the configuration again.
    Announce,
}

/// Why a device goes out of service: the driver violated the specification, or the host failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A ring or a chain is invalid.
    #[error("queue {queue}: {source}")]
    Ring {
        /// Index of the queue.
        queue: usize,
        /// What was found.
        source: RingError,
    },
    /// A buffer could not be accessed.
    #[error("buffer: {0}")]
    Buffer(#[from] GuestIoError),
    /// A request's buffers don't fit the request.
    #[error("request: {0}")]
    Request(&'static str),
    /// A packet's length exceeds its chain or the limit.
    #[error("packet of {len} bytes in a chain that carries {room}")]
    PacketLength {
        /// Length in the header.
        len: u32,
        /// Bytes that fit.
        room: u64,
    },
    /// A receive buffer is too small for a vsock packet.
    #[error("receive buffer of {len} bytes, the smallest useful one has {least}")]
    SmallBuffer {
        /// Writable bytes of the chain.
        len: u64,
        /// Bytes of a header and one byte of payload.
        least: u64,
    },
    /// The host's side failed.
    #[error("host: {0}")]
    Host(#[from] io::Error),
}

impl DeviceError {
    /// For `map_err` on work with queue `queue`.
    pub fn ring(queue: usize) -> impl Fn(RingError) -> Self {
        move |source| Self::Ring { queue, source }
    }
}

/// Why a device can't be saved now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotQuiet {
    /// The device is out of service.
    #[error("{0}: the device waits to be reset")]
    Broken(&'static str),
    /// The driver has made chains available that the device has not processed.
    #[error("{device}: queue {queue} has chains to be processed")]
    QueuePending {
        /// Name of the device.
        device: &'static str,
        /// Index of the queue.
        queue: usize,
    },
    /// The driver has written values to the rings that a restore would refuse.
    #[error("{device}: queue {queue}: {why}")]
    Rings {
        /// Name of the device.
        device: &'static str,
        /// Index of the queue.
        queue: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The host's socket has not taken all of the guest's bytes.
    #[error("{0} bytes from the guest wait for the host")]
    BytesToHost(usize),
    /// The guest has not received all of the host's bytes.
    #[error("bytes from the host wait for the guest")]
    BytesToGuest,
    /// Packets wait for a receive buffer.
    #[error("control packets wait for a receive buffer")]
    ControlPending,
    /// The guest has not acknowledged a transport reset.
    #[error("the guest has not acknowledged the transport reset")]
    ResetPending,
}

/// Why a device refuses a saved state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// No device can have been in this state.
    #[error("{what}: {value:#x}")]
    Impossible {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}
