//! A descriptor chain after it was taken off a ring: a copy, checked by
//! [`VirtQueue::pop`](super::VirtQueue::pop), the only place that fills one.

use vm_memory::GuestAddress;

/// One buffer of a chain, in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub address: GuestAddress,
    /// Bytes, never zero.
    pub len: u32,
}

/// A checked descriptor chain. Devices keep one and have it filled again and again, so that the
/// hot path allocates nothing.
#[derive(Debug, Default)]
pub struct Chain {
    pub(super) head: u16,
    pub(super) readable: Vec<Segment>,
    pub(super) writable: Vec<Segment>,
    pub(super) readable_len: u64,
    pub(super) writable_len: u64,
}

impl Chain {
    /// What the driver wrote, in order.
    pub fn readable(&self) -> &[Segment] {
        &self.readable
    }

    /// What the device may write, in order.
    pub fn writable(&self) -> &[Segment] {
        &self.writable
    }

    /// Bytes the driver wrote; less than 2³².
    pub fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// Bytes the device may write; less than 2³².
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
