//! What a guest sees besides CPU and memory.
//!
//! - [`virtio`]: block devices and the vsock device behind virtio-mmio, all owned by the event
//!   loop's thread, none of them shared or locked. Only an [`virtio::Interrupt`] is known to two
//!   threads.
//! - [`pio`]: the few I/O ports there are, owned by the vCPU's thread because every access to
//!   them stops that vCPU anyway.
//! - [`serial`]: the early console behind one of those ports.
//!
//! Everything a guest says here is hostile. A device answers nonsense with one log line and by
//! refusing further service, never with a panic and never with unbounded work or memory.

pub mod pio;
pub mod serial;
pub mod virtio;

pub use crate::memory::GuestMemory;
