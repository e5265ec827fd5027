//! The devices of a guest.
//!
//! - [`virtio`]: the block devices and the vsock device behind virtio-mmio. The event loop's thread
//!   owns them, so they need no locks. Only an [`virtio::Interrupt`] is shared by two threads.
//! - [`pio`]: the I/O ports. The vCPU's thread owns them, because every access to a port stops that
//!   vCPU anyway.
//! - [`serial`]: the early console behind some of those ports.
//!
//! Everything that comes from a guest is hostile. A device answers invalid input with one log line
//! and refuses further service; it never panics, and its work and memory are bounded.

pub mod pio;
pub mod serial;
pub mod virtio;

pub use crate::memory::GuestMemory;
