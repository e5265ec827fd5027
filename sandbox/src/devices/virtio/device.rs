//! What the transport asks of a device, and what can go wrong between them.

use std::fmt::Debug;
use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vmm_sys_util::epoll::EventSet;

use super::guest_io::GuestIoError;
use super::queue::VirtQueue;
use super::ring_error::RingError;
use crate::devices::GuestMemory;

/// A device behind [`super::MmioTransport`]. All calls come from one thread. Methods with `queues`
/// are called only while the device is active: its driver is up and all queues are checked.
pub trait VirtioDevice: Debug {
    /// Device id (virtio 1.2, section 5).
    const TYPE: u32;
    /// Name in the log.
    const NAME: &'static str;
    /// The number of queues and the largest size of each (powers of two).
    const QUEUE_SIZES: &'static [u16];
    /// What a snapshot keeps of the device besides its transport.
    type State: Serialize + DeserializeOwned + Clone + Debug;

    /// Feature bits offered, without `VIRTIO_F_VERSION_1`, which every device offers.
    fn features(&self) -> u64;

    /// The configuration space as it is now, little-endian. What lies beyond reads as zero.
    fn config(&self) -> &[u8];

    /// The driver is up, or a snapshot of one was restored.
    fn activate(
        &mut self,
        queues: &mut [VirtQueue],
        memory: &GuestMemory,
    ) -> Result<(), DeviceError>;

    /// The driver notified queue `index`, or it has to be looked at for another reason.
    /// A device takes at most a queue's size of chains per call.
    fn process_queue(
        &mut self,
        index: usize,
        queues: &mut [VirtQueue],
        memory: &GuestMemory,
    ) -> Result<Outcome, DeviceError>;

    /// The file descriptor that the device waits for is ready for `events`.
    fn on_host_event(
        &mut self,
        _events: EventSet,
        _queues: &mut [VirtQueue],
        _memory: &GuestMemory,
    ) -> Result<Outcome, DeviceError> {
        Ok(Outcome::default())
    }

    /// Back to the state before a driver was there.
    fn reset(&mut self);

    /// The state for a snapshot, refused while anything is in flight.
    fn save(&self, queues: &[VirtQueue], memory: &GuestMemory) -> Result<Self::State, NotQuiet>;

    /// Takes over a snapshot's state, checked completely.
    fn restore(&mut self, state: &Self::State) -> Result<ConfigChange, StateError>;
}

/// What a piece of work on the rings came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// Used rings have news that the driver wants to be interrupted for.
    pub interrupt: bool,
    /// The work was cut short to be fair to others: call again without waiting for a kick.
    pub more: bool,
}

impl Outcome {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            interrupt: self.interrupt || other.interrupt,
            more: self.more || other.more,
        }
    }
}

/// Whether a restored device differs from what its driver knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigChange {
    /// The driver's knowledge holds.
    None,
    /// The driver has to read the configuration again.
    Announce,
}

/// A device gives up: the driver broke the rules, or the host failed it.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The rings are not as the specification wants them.
    #[error("queue {queue}: {source}")]
    Ring {
        /// Index of the queue.
        queue: usize,
        /// What was found.
        source: RingError,
    },
    /// A buffer could not be reached.
    #[error("buffer: {0}")]
    Buffer(#[from] GuestIoError),
    /// A request's buffers do not fit the request.
    #[error("request: {0}")]
    Request(&'static str),
    /// A packet's length against what carries it.
    #[error("packet of {len} bytes in a chain that carries {room}")]
    PacketLength {
        /// Length in the header.
        len: u32,
        /// Bytes that there can be.
        room: u64,
    },
    /// A chain that a vsock packet does not fit.
    #[error("receive buffer of {len} bytes, the smallest useful one has {least}")]
    SmallBuffer {
        /// Writable bytes of the chain.
        len: u64,
        /// Header and one byte.
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

/// Why a device can't be snapshotted now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotQuiet {
    /// The device gave up on its driver.
    #[error("{0}: the device waits to be reset")]
    Broken(&'static str),
    /// The driver made chains available that are not yet processed.
    #[error("{device}: queue {queue} has chains to be processed")]
    QueuePending {
        /// Name of the device.
        device: &'static str,
        /// Index of the queue.
        queue: usize,
    },
    /// The driver has written to the rings what no restore would take.
    #[error("{device}: queue {queue}: {why}")]
    Rings {
        /// Name of the device.
        device: &'static str,
        /// Index of the queue.
        queue: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Bytes from the guest that the host has not taken.
    #[error("{0} bytes of the guest's wait for the host")]
    BytesToHost(usize),
    /// Bytes from the host that the guest has not got.
    #[error("bytes of the host's wait for the guest")]
    BytesToGuest,
    /// Packets that wait for a receive buffer.
    #[error("control packets wait for a receive buffer")]
    ControlPending,
    /// A reset that the guest has not acknowledged.
    #[error("the guest has not acknowledged the transport reset")]
    ResetPending,
}

/// Why a device's saved state is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// No device could have had it.
    #[error("{what}: {value:#x}")]
    Impossible {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}
