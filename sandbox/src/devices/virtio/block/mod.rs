//! virtio-blk (virtio 1.2, 5.2): read-only disks, or drives without a medium.
//!
//! [`image`] is what is behind a disk, [`request`] understands one descriptor chain, [`disk`] is
//! the device.

pub mod disk;
pub mod image;
pub mod request;

pub use disk::{Block, BlockState};
pub use image::{Image, ImageError};
