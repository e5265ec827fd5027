//! virtio-blk (virtio 1.2, 5.2): read-only disks, and drives without a medium.
//!
//! [`disk`] is the device, [`request`] serves one descriptor chain, [`image`] is the file behind a
//! disk.

pub mod disk;
pub mod image;
pub mod request;

pub use disk::{Block, BlockState};
pub use image::{Image, ImageError};
