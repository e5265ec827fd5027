//! The block device: one queue, read-only, requests served in the order they come and to their end
//! before the next. Images are in the host's page cache as a rule, so a read is a memory copy that
//! the host's kernel makes into guest memory; nothing is gained by doing it asynchronously.

#[cfg(test)]
mod tests;

use std::fs::File;

use serde::{Deserialize, Serialize};

use super::image::{Image, ImageError};
use super::request;
use crate::devices::GuestMemory;
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::device::{
    ConfigChange, DeviceError, NotQuiet, Outcome, StateError, VirtioDevice,
};
use crate::devices::virtio::queue::VirtQueue;

/// `VIRTIO_BLK_F_SEG_MAX`: the configuration says how many data segments a request may have.
/// Without it Linux sends one segment per request.
const F_SEG_MAX: u64 = 1 << 2;
/// `VIRTIO_BLK_F_RO`: the disk is read-only.
const F_RO: u64 = 1 << 5;

const QUEUE_SIZE: u16 = 128;
/// Two requests of the greatest size fit the queue at once: header, data, status each.
const SEG_MAX: u32 = QUEUE_SIZE as u32 / 2 - 2;

/// Bytes that are read for a queue before others have their turn, and one request more.
const MOST_BYTES: u64 = 16 << 20;

/// Bytes of the configuration: capacity (u64), size_max (u32, unused), seg_max (u32).
const CONFIG_SIZE: usize = 16;

/// Answer to GET_ID, NUL-padded. The same for each disk: nothing may depend on it.
const ID: &[u8; request::ID] = b"hearth\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A read-only disk, or a drive without a medium (capacity zero).
#[derive(Debug)]
pub struct Block {
    image: Option<Image>,
    config: [u8; CONFIG_SIZE],
    chain: Chain,
}

/// What a snapshot keeps of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockState {
    /// Capacity that the driver knows of, in sectors of 512 bytes.
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
    ) -> Result<Outcome, DeviceError> {
        let ring = DeviceError::ring(index);
        let queue = &mut queues[index];
        let mut served = false;
        let mut bytes = 0;
        for _ in 0..queue.size() {
            // Many requests for the whole of an image would be gigabytes before anybody else's turn.
            if bytes >= MOST_BYTES {
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
        Ok(Outcome {
            interrupt: served && queue.wants_interrupt(memory).map_err(&ring)?,
            more: queue.has_pending(memory).map_err(&ring)?,
        })
    }

    fn reset(&mut self) {}

    fn save(&self, queues: &[VirtQueue], memory: &GuestMemory) -> Result<BlockState, NotQuiet> {
        for (index, queue) in queues.iter().enumerate() {
            // An index that can't be read is not a quiet one.
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

    /// The image may be another than at the time of the snapshot: that is how a function's code
    /// enters a runtime snapshot whose drive was empty. The driver is told when the capacity is
    /// another; an image of the same capacity is taken to be the same.
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
