//! The errors of a queue. Each has the value that was found and, if there is one, the limit.

/// Why a queue or a chain on it can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The size is zero, not a power of two, or over the limit.
    #[error("queue size {size}, it must be a power of two up to {max}")]
    Size {
        /// The size that the driver wrote.
        size: u32,
        /// The maximum size.
        max: u16,
    },
    /// A ring's address is not aligned.
    #[error("{ring} at {address:#x} is not aligned to {align}")]
    Misaligned {
        /// Which ring.
        ring: &'static str,
        /// Its address.
        address: u64,
        /// The required alignment.
        align: u64,
    },
    /// A ring is not completely in RAM.
    #[error("{ring} at {address:#x}, {len} bytes, is not in RAM")]
    OutsideRam {
        /// Which ring.
        ring: &'static str,
        /// Its address.
        address: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// Two rings share memory.
    #[error("rings at {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
    /// The queue is not set up.
    #[error("not ready")]
    NotReady,
    /// The available index is more than the queue's size ahead of the next entry.
    #[error("available index {index} is more than {size} ahead of {next}")]
    AvailIndex {
        /// The driver's index.
        index: u16,
        /// The next entry to take.
        next: u16,
        /// The queue's size.
        size: u16,
    },
    /// A chain's head or link points outside of the table.
    #[error("descriptor {index} of {size}")]
    DescriptorIndex {
        /// The index found.
        index: u16,
        /// The queue's size.
        size: u16,
    },
    /// The chain has more links than there are descriptors.
    #[error("chain from descriptor {0} loops")]
    Loop(u16),
    /// The driver used an indirect table, which is not offered.
    #[error("descriptor {0} is indirect, which was not negotiated")]
    Indirect(u16),
    /// A buffer has length zero.
    #[error("descriptor {0} has length zero")]
    Empty(u16),
    /// A buffer is not completely in RAM.
    #[error("buffer at {address:#x}, {len} bytes, is not in RAM")]
    Buffer {
        /// Its address.
        address: u64,
        /// Its length.
        len: u32,
    },
    /// The lengths add up to 2³² or more (2.7.4.2).
    #[error("chain from descriptor {0} is longer than 2^32 bytes")]
    TooLong(u16),
    /// A readable descriptor follows a writable one (2.7.4.2).
    #[error("descriptor {0} is readable after a writable one")]
    Order(u16),
    /// A ring could not be accessed although it was checked to be in RAM.
    #[error("ring memory: {0}")]
    Access(String),
    /// A saved queue has a state that no driver could have caused.
    #[error("{what} {value:#x}")]
    State {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}
