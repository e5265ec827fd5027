//! Virtio 1.2 devices over MMIO.
//!
//! [`mmio::MmioTransport`] owns one device with its queues and registers; the event loop only talks
//! to the transport. [`VirtioDevice`] is the trait of the devices, of which there are two:
//! [`block`] and [`vsock`]. [`queue`] takes descriptor chains off the rings and checks each once,
//! completely. [`guest_io`] moves bytes between files and guest memory without an intermediate
//! copy.

pub mod block;
pub mod chain;
pub mod device;
pub mod guest_io;
pub mod interrupt;
pub mod mmio;
pub mod queue;
pub mod ring_error;
pub mod status;
pub mod transport_state;
pub mod vsock;

#[cfg(test)]
mod garbage;
#[cfg(test)]
pub(crate) mod mock_driver;
#[cfg(test)]
mod numbers;

pub use chain::{Chain, Segment};
pub use device::{ConfigChange, DeviceError, NotQuiet, StateError, VirtioDevice};
pub use interrupt::Interrupt;
pub use mmio::MmioTransport;
pub use queue::VirtQueue;
pub use ring_error::RingError;
pub use transport_state::{RestoreError, TransportState};
