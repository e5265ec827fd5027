//! The block device: read-only, with one queue. It serves requests in their order, and each to its
//! end before the next. An image is usually in the host's page cache, so a read is a copy that the
//! host's kernel makes into guest memory; asynchronous I/O would gain nothing.

#[cfg(test)]
mod tests;

use std::fs::File;

use serde::{Deserialize, Serialize};

use super::image::{Image, ImageError};
use super::request;
use crate::devices::GuestMemory;
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::device::{
    ConfigChange, DeviceError, NotQuiet, StateError, VirtioDevice, WorkResult,
};
use crate::devices::virtio::queue::VirtQueue;

/// `VIRTIO_BLK_F_SEG_MAX`: the configuration says how many data segments a request may have.
/// Without it Linux sends one segment per request.
const F_SEG_MAX: u64 = 1 << 2;
/// `VIRTIO_BLK_F_RO`: the disk is read-only.
const F_RO: u64 = 1 << 5;

const QUEUE_SIZE: u16 = 128;
/// So that two requests of the maximum size fit into the queue; each needs a header and a status
/// too.
const SEG_MAX: u32 = QUEUE_SIZE as u32 / 2 - 2;

/// A call stops after the request with which it has read this many bytes, so that other work gets
/// its share.
const MAX_BYTES_PER_CALL: u64 = 16 << 20;

/// Bytes of the configuration: capacity (u64), size_max (u32, unused), seg_max (u32).
const CONFIG_SIZE: usize = 16;

/// The answer to GET_ID, padded with NULs. It is the same for all disks, so that nothing can depend
/// on it.
const ID: &[u8; request::ID] = b"hearth\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A read-only disk; without an image, a drive without a medium (capacity zero).
#[derive(Debug)]
pub struct Block {
    image: Option<Image>,
    config: [u8; CONFIG_SIZE],
    chain: Chain,
}

/// The part of a disk that goes into a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockState {
    /// The capacity that the driver has read, in sectors of 512 bytes.
    pub sectors: u64,
}

impl Block {
    /// A drive without a medium.
    pub fn empty() -> Self {
        Self::new(None)
    }

    /// A disk with an image; `name` is for errors.
    pub fn from_file(file: File, name: String) -> Result<Self, ImageError> {
        Ok(Self::new(Some(Image::new(file, name)?)))
    }

    fn new(image: Option<Image>) -> Self {
        let mut config = [0; CONFIG_SIZE];
        let sectors = image.as_ref().map_or(0, Image::sectors);
        config[..8].copy_from_slice(&sectors.to_le_bytes());
        config[12..].copy_from_slice(&SEG_MAX.to_le_bytes());
        Self {
            image,
            config,
            chain: Chain::default(),
        }
    }

    /// Capacity in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.image.as_ref().map_or(0, Image::sectors)
    }
}

impl VirtioDevice for Block {
    const TYPE: u32 = 2;
    const NAME: &'static str = "block";
    const QUEUE_SIZES: &'static [u16] = &[QUEUE_SIZE];
    type State = BlockState;

    fn features(&self) -> u64 {
        F_RO | F_SEG_MAX
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, _: &mut [VirtQueue], _: &GuestMemory) -> Result<(), DeviceError> {
        Ok(())
    }

    fn process_queue(
        &mut self,
        index: usize,
        queues: &mut [VirtQueue],
        memory: &GuestMemory,
    ) -> Result<WorkResult, DeviceError> {
        let ring = DeviceError::ring(index);
        let queue = &mut queues[index];
        let mut served = false;
        let mut bytes = 0;
        for _ in 0..queue.size() {
            // Without this limit, a queue of requests for a whole image would be gigabytes of
            // reading.
            if bytes >= MAX_BYTES_PER_CALL {
                break;
            }
            if !queue.pop(memory, &mut self.chain).map_err(&ring)? {
                break;
            }
            let written = request::serve(&self.chain, memory, self.image.as_ref(), ID)?;
            queue
                .push_used(memory, &self.chain, written)
                .map_err(&ring)?;
            served = true;
            bytes += u64::from(written);
        }
        Ok(WorkResult {
            interrupt: served && queue.wants_interrupt(memory).map_err(&ring)?,
            more: queue.has_pending(memory).map_err(&ring)?,
        })
    }

    fn reset(&mut self) {}

    fn save(&self, queues: &[VirtQueue], memory: &GuestMemory) -> Result<BlockState, NotQuiet> {
        for (index, queue) in queues.iter().enumerate() {
            // An index that can't be read counts as pending.
            if queue.ready() && queue.has_pending(memory).unwrap_or(true) {
                return Err(NotQuiet::QueuePending {
                    device: Self::NAME,
                    queue: index,
                });
            }
        }
        Ok(BlockState {
            sectors: self.sectors(),
        })
    }

    /// The image may be another one than in the snapshot: a function's code enters a runtime
    /// snapshot with an empty drive this way. The driver is notified if the capacity differs; an
    /// image of the same capacity is assumed to be the same.
    fn restore(&mut self, state: &BlockState) -> Result<ConfigChange, StateError> {
        if state.sectors > u64::MAX / super::image::SECTOR {
            return Err(StateError::Impossible {
                what: "capacity in sectors",
                value: state.sectors,
            });
        }
        Ok(if state.sectors == self.sectors() {
            ConfigChange::None
        } else {
            ConfigChange::Announce
        })
    }
}
