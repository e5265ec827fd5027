//! A virtqueue as a device sees it: descriptor chains are taken off the available ring and checked
//! completely before the device gets them.
//!
//! `virtio_queue::Queue` keeps the ring positions. Its own chain iterator ends silently at the
//! first bad descriptor, so a device could not tell a short chain from a broken one. Here a chain
//! is copied out of guest memory once, so that later changes by the guest have no effect, and is
//! either complete or a [`RingError`].
//!
//! Neither `VIRTIO_F_INDIRECT_DESC` nor `VIRTIO_F_EVENT_IDX` is offered: with so few requests they
//! save nothing, and each of them has broken snapshots or bounds checks in other VMMs.

#[cfg(test)]
mod tests;

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::chain::{Chain, Segment};
use super::ring_error::RingError;
use crate::devices::GuestMemory;

/// `VIRTQ_DESC_F_INDIRECT` (virtio 1.2, 2.7.5).
const DESC_F_INDIRECT: u16 = 4;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (2.7.6).
const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// Bytes of a descriptor.
const DESCRIPTOR_SIZE: u64 = 16;

/// The part of a queue that goes into a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedQueue {
    /// Number of entries.
    pub size: u16,
    /// Whether the driver has set it up.
    pub ready: bool,
    /// Address of the descriptor table.
    pub descriptors: u64,
    /// Address of the available ring.
    pub available: u64,
    /// Address of the used ring.
    pub used: u64,
    /// Next available entry to take.
    pub next_avail: u16,
    /// Next used entry to write.
    pub next_used: u16,
}

/// One queue of one device.
#[derive(Debug)]
pub struct VirtQueue {
    queue: Queue,
    /// Whether the device has asked the driver not to notify it.
    muted: bool,
}

impl VirtQueue {
    /// A queue that is not set up. `max_size` must be a power of two up to 32768.
    pub fn new(max_size: u16) -> Self {
        Self {
            queue: Queue::new(max_size).expect("device queue sizes are powers of two"),
            muted: false,
        }
    }

    /// Maximum number of entries.
    pub fn max_size(&self) -> u16 {
        self.queue.max_size()
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Whether the driver has set it up.
    pub fn ready(&self) -> bool {
        self.queue.ready()
    }

    /// Returns to the state before a driver has set it up.
    pub fn reset(&mut self) {
        self.queue.reset();
        self.muted = false;
    }

    /// Sets the number of entries.
    pub fn set_size(&mut self, size: u32) -> Result<(), RingError> {
        let max = self.max_size();
        u16::try_from(size)
            .ok()
            .and_then(|size| self.queue.try_set_size(size).ok())
            .ok_or(RingError::Size { size, max })
    }

    /// Sets the addresses of the descriptor table, the available ring and the used ring.
    pub fn set_addresses(
        &mut self,
        descriptors: u64,
        available: u64,
        used: u64,
    ) -> Result<(), RingError> {
        let misaligned = |ring, address, align| RingError::Misaligned {
            ring,
            address,
            align,
        };
        self.queue
            .try_set_desc_table_address(GuestAddress(descriptors))
            .map_err(|_| misaligned("descriptor table", descriptors, 16))?;
        self.queue
            .try_set_avail_ring_address(GuestAddress(available))
            .map_err(|_| misaligned("available ring", available, 2))?;
        self.queue
            .try_set_used_ring_address(GuestAddress(used))
            .map_err(|_| misaligned("used ring", used, 4))
    }

    /// Marks the queue as set up, or as not set up.
    pub fn set_ready(&mut self, ready: bool) {
        self.queue.set_ready(ready);
    }

    /// The three rings: name, address and length. They may be outside of RAM.
    fn rings(&self) -> [(&'static str, u64, u64); 3] {
        let size = u64::from(self.size());
        [
            (
                "descriptor table",
                self.queue.desc_table(),
                DESCRIPTOR_SIZE * size,
            ),
            ("available ring", self.queue.avail_ring(), 6 + 2 * size),
            ("used ring", self.queue.used_ring(), 6 + 8 * size),
        ]
    }

    /// Checks that the rings are in RAM and do not overlap.
    pub fn check(&self, memory: &GuestMemory) -> Result<(), RingError> {
        for (ring, address, len) in self.rings() {
            let in_ram = usize::try_from(len)
                .is_ok_and(|len| memory.check_range(GuestAddress(address), len));
            // A ring that was never set has address zero; `virtio_queue` treats such a queue as not
            // ready.
            if !in_ram || address == 0 {
                return Err(RingError::OutsideRam { ring, address, len });
            }
        }
        Self::check_apart(std::slice::from_ref(self))
    }

    /// Checks that no two rings of `queues` overlap. All of them are known to be in RAM.
    pub fn check_apart(queues: &[Self]) -> Result<(), RingError> {
        let mut rings: Vec<(u64, u64)> = queues
            .iter()
            .flat_map(|queue| queue.rings())
            .map(|(_, address, len)| (address, len))
            .collect();
        rings.sort_unstable();
        for pair in rings.windows(2) {
            let ((first, len), (second, _)) = (pair[0], pair[1]);
            if first.saturating_add(len) > second {
                return Err(RingError::Overlap(first, second));
            }
        }
        Ok(())
    }

    /// Takes the next chain; returns `false` if there is none.
    pub fn pop(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, RingError> {
        let index = self.avail_index(memory)?;
        let next = self.queue.next_avail();
        let size = self.size();
        if index.wrapping_sub(next) > size {
            return Err(RingError::AvailIndex { index, next, size });
        }
        if index == next {
            return Ok(false);
        }
        let head = self
            .queue
            .iter(memory)
            .map_err(|error| RingError::Access(error.to_string()))?
            .next()
            .ok_or_else(|| RingError::Access("available ring".to_owned()))?
            .head_index();
        self.walk(memory, head, chain)?;
        Ok(true)
    }

    /// Puts back the chain that was taken last, so that the next [`pop`](Self::pop) returns it
    /// again.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a chain to the driver; the device has written `len` bytes to it.
    pub fn push_used(
        &mut self,
        memory: &GuestMemory,
        chain: &Chain,
        len: u32,
    ) -> Result<(), RingError> {
        self.queue
            .add_used(memory, chain.head, len)
            .map_err(|error| RingError::Access(error.to_string()))
    }

    /// Whether the driver wants an interrupt for the chains that were returned.
    pub fn wants_interrupt(&self, memory: &GuestMemory) -> Result<bool, RingError> {
        // The used index must be visible before the flag is read. The driver clears the flag and
        // then reads the index; one of the two has to see the other's write (2.7.7).
        fence(Ordering::SeqCst);
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
            .map_err(|error| RingError::Access(error.to_string()))?;
        Ok(u16::from_le(flags) & AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Whether there are chains to take.
    pub fn has_pending(&self, memory: &GuestMemory) -> Result<bool, RingError> {
        Ok(self.avail_index(memory)? != self.queue.next_avail())
    }

    /// Asks the driver not to notify about new chains: each notification is an exit.
    pub fn mute(&mut self, memory: &GuestMemory) -> Result<(), RingError> {
        if !self.muted {
            self.queue
                .disable_notification(memory)
                .map_err(|error| RingError::Access(error.to_string()))?;
            self.muted = true;
        }
        Ok(())
    }

    /// Asks the driver to notify again. Returns `true` if chains have come in the meantime, about
    /// which the driver will not notify.
    pub fn unmute(&mut self, memory: &GuestMemory) -> Result<bool, RingError> {
        self.muted = false;
        self.queue
            .enable_notification(memory)
            .map_err(|error| RingError::Access(error.to_string()))
    }

    /// The driver's available index.
    pub fn avail_index(&self, memory: &GuestMemory) -> Result<u16, RingError> {
        if !self.ready() {
            return Err(RingError::NotReady);
        }
        self.queue
            .avail_idx(memory, Ordering::Acquire)
            .map(|index| index.0)
            .map_err(|error| RingError::Access(error.to_string()))
    }

    /// The state for a snapshot.
    pub fn save(&self) -> SavedQueue {
        let state = self.queue.state();
        SavedQueue {
            size: state.size,
            ready: state.ready,
            descriptors: state.desc_table,
            available: state.avail_ring,
            used: state.used_ring,
            next_avail: state.next_avail,
            next_used: state.next_used,
        }
    }

    /// Restores a queue from a snapshot. A queue that is ready is checked against the restored
    /// memory: its rings must be in RAM, and driver and device must be able to have reached its
    /// positions.
    pub fn restore(
        max_size: u16,
        saved: &SavedQueue,
        memory: &GuestMemory,
    ) -> Result<Self, RingError> {
        let mut queue = Self::new(max_size);
        queue.set_size(saved.size.into())?;
        queue.set_addresses(saved.descriptors, saved.available, saved.used)?;
        let mut state: QueueState = queue.queue.state();
        state.next_avail = saved.next_avail;
        state.next_used = saved.next_used;
        state.ready = saved.ready;
        queue.queue = Queue::try_from(state).map_err(|_| RingError::Size {
            size: saved.size.into(),
            max: max_size,
        })?;
        if saved.ready {
            queue.check(memory)?;
            queue.check_positions(memory)?;
        } else if (saved.next_avail, saved.next_used) != (0, 0) {
            return Err(RingError::State {
                what: "position of a queue that is not ready",
                value: saved.next_avail.into(),
            });
        }
        Ok(queue)
    }

    /// Checks that driver and device can have reached their positions, and that every chain that
    /// was taken has been returned: snapshots are only taken of quiet devices. The check is made
    /// before a queue is saved too, because a restore would refuse the snapshot.
    pub fn check_positions(&self, memory: &GuestMemory) -> Result<(), RingError> {
        let (next, size) = (self.queue.next_avail(), self.size());
        if next != self.queue.next_used() {
            return Err(RingError::State {
                what: "used position differs from the available one",
                value: self.queue.next_used().into(),
            });
        }
        let index = self.avail_index(memory)?;
        if index.wrapping_sub(next) > size {
            return Err(RingError::AvailIndex { index, next, size });
        }
        let used = self
            .queue
            .used_idx(memory, Ordering::Acquire)
            .map_err(|error| RingError::Access(error.to_string()))?;
        if used.0 != next {
            return Err(RingError::State {
                what: "used index in memory",
                value: used.0.into(),
            });
        }
        Ok(())
    }

    /// Copies the chain that begins at `head` out of guest memory and checks each descriptor.
    fn walk(&self, memory: &GuestMemory, head: u16, chain: &mut Chain) -> Result<(), RingError> {
        let size = self.size();
        let mut index = head;
        chain.clear(head);
        // A chain without a loop has at most as many descriptors as the table.
        for _ in 0..size {
            if index >= size {
                return Err(RingError::DescriptorIndex { index, size });
            }
            let address = self.queue.desc_table() + DESCRIPTOR_SIZE * u64::from(index);
            let descriptor: Descriptor = memory
                .read_obj(GuestAddress(address))
                .map_err(|error| RingError::Access(error.to_string()))?;
            if descriptor.flags() & DESC_F_INDIRECT != 0 {
                return Err(RingError::Indirect(index));
            }
            self.append(memory, head, index, descriptor, chain)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
        Err(RingError::Loop(head))
    }

    fn append(
        &self,
        memory: &GuestMemory,
        head: u16,
        index: u16,
        descriptor: Descriptor,
        chain: &mut Chain,
    ) -> Result<(), RingError> {
        let segment = Segment {
            address: descriptor.addr(),
            len: descriptor.len(),
        };
        if segment.len == 0 {
            return Err(RingError::Empty(index));
        }
        if !memory.check_range(segment.address, segment.len as usize) {
            return Err(RingError::Buffer {
                address: segment.address.0,
                len: segment.len,
            });
        }
        if descriptor.is_write_only() {
            chain.writable.push(segment);
            chain.writable_len += u64::from(segment.len);
        } else if chain.writable.is_empty() {
            chain.readable.push(segment);
            chain.readable_len += u64::from(segment.len);
        } else {
            return Err(RingError::Order(index));
        }
        if chain.readable_len + chain.writable_len > u64::from(u32::MAX) {
            return Err(RingError::TooLong(head));
        }
        Ok(())
    }
}
