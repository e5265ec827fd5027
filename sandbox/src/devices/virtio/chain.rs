//! A descriptor chain that was taken off a ring: a checked copy. Only
//! [`VirtQueue::pop`](super::VirtQueue::pop) fills one.

use vm_memory::GuestAddress;

/// One buffer of a chain. It is inside of RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub address: GuestAddress,
    /// Length in bytes, never zero.
    pub len: u32,
}

/// A checked descriptor chain. Each device reuses one for all its requests, so that the hot path
/// allocates nothing.
#[derive(Debug, Default)]
pub struct Chain {
    pub(super) head: u16,
    pub(super) readable: Vec<Segment>,
    pub(super) writable: Vec<Segment>,
    pub(super) readable_len: u64,
    pub(super) writable_len: u64,
}

impl Chain {
    /// The driver's buffers for the device to read, in order.
    pub fn readable(&self) -> &[Segment] {
        &self.readable
    }

    /// The driver's buffers for the device to write, in order.
    pub fn writable(&self) -> &[Segment] {
        &self.writable
    }

    /// Bytes in the readable buffers; less than 2³².
    pub fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// Bytes in the writable buffers; less than 2³².
    pub fn writable_len(&self) -> u64 {
        self.writable_len
    }

    /// Number of descriptors.
    pub fn descriptors(&self) -> usize {
        self.readable.len() + self.writable.len()
    }

    pub(super) fn clear(&mut self, head: u16) {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        self.readable_len = 0;
        self.writable_len = 0;
    }
}
