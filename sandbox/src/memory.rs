//! Guest memory: where RAM is in the guest-physical address space, and how it is mapped into this
//! process. A boot maps anonymous memory, a restore maps a private view of a file.

use std::fs::File;
use std::io;
use std::sync::Arc;

use hearth_protocol::sandbox::{MAX_MEMORY_MIB, MIN_MEMORY_MIB};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

/// A microVM's RAM.
pub type GuestMemory = GuestMemoryMmap<()>;

/// Start of the 32-bit device window. RAM that does not fit below it starts at 4 GiB.
pub const MMIO_GAP_START: u64 = 0xd000_0000;
/// First address after the device window.
pub const MMIO_GAP_END: u64 = 0x1_0000_0000;

/// Bytes of a page of guest memory, and of the host's.
pub const PAGE: usize = 4096;
const MIB: u64 = 1 << 20;

/// A valid size of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize {
    mib: u32,
}

/// Why guest memory could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is out of range.
    #[error("guest memory of {0} MiB; it must be {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB")]
    Size(u32),
    /// The memory file's size differs from what the state file says.
    #[error("memory file of {actual} bytes, the snapshot's memory has {expected}")]
    FileSize {
        /// Bytes in the file.
        actual: u64,
        /// Bytes of guest memory.
        expected: u64,
    },
    /// The memory file could not be read.
    #[error("memory file: {0}")]
    File(#[from] io::Error),
    /// The host refused the mapping.
    #[error("mapping guest memory: {0}")]
    Map(#[from] MmapRegionError),
    /// The regions overlap or wrap around.
    #[error("arranging guest memory: {0}")]
    Arrange(String),
}

impl MemorySize {
    /// Checks the range.
    pub fn from_mib(mib: u32) -> Result<Self, MemoryError> {
        if (MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&mib) {
            Ok(Self { mib })
        } else {
            Err(MemoryError::Size(mib))
        }
    }

    /// The size in MiB.
    pub fn mib(self) -> u32 {
        self.mib
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.mib) * MIB
    }

    /// RAM's address ranges, in order: one below the device window, and one above it if there is
    /// more.
    pub fn ranges(self) -> Vec<(GuestAddress, u64)> {
        let low = self.bytes().min(MMIO_GAP_START);
        let mut ranges = vec![(GuestAddress(0), low)];
        if self.bytes() > low {
            ranges.push((GuestAddress(MMIO_GAP_END), self.bytes() - low));
        }
        ranges
    }
}

/// Zeroed memory for a boot. `MAP_NORESERVE`, because most guests never touch most of it.
pub fn anonymous(size: MemorySize) -> Result<GuestMemory, MemoryError> {
    map(size, None)
}

/// A private view of a snapshot's memory file. All clones share its pages through the page cache; a
/// page is copied when a clone writes to it.
pub fn private_view(size: MemorySize, file: File) -> Result<GuestMemory, MemoryError> {
    let actual = file.metadata()?.len();
    // Accessing a page past the end of the file would raise SIGBUS while the guest runs.
    if actual != size.bytes() {
        return Err(MemoryError::FileSize {
            actual,
            expected: size.bytes(),
        });
    }
    map(size, Some(Arc::new(file)))
}

fn map(size: MemorySize, file: Option<Arc<File>>) -> Result<GuestMemory, MemoryError> {
    let mut offset = 0;
    let mut regions = Vec::new();
    for (start, len) in size.ranges() {
        let length = usize::try_from(len).expect("x86_64 has 64-bit addresses");
        let mut flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let backing = match &file {
            Some(file) => Some(FileOffset::from_arc(Arc::clone(file), offset)),
            None => {
                flags |= libc::MAP_ANONYMOUS;
                None
            }
        };
        let region = MmapRegion::build(backing, length, libc::PROT_READ | libc::PROT_WRITE, flags)?;
        regions.push(GuestRegionMmap::new(region, start).ok_or_else(|| {
            MemoryError::Arrange(format!("{len} bytes at {:#x} wrap around", start.0))
        })?);
        offset += len;
    }
    GuestMemory::from_regions(regions).map_err(|e| MemoryError::Arrange(e.to_string()))
}

/// One KVM memory slot: guest-physical start, length, host address.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// Slot number, from 0.
    pub index: u32,
    /// Guest-physical address of its first byte.
    pub guest: u64,
    /// Length in bytes.
    pub len: u64,
    /// Address of its first byte in this process.
    pub host: u64,
}

/// The memory slots that KVM needs for this memory.
pub fn slots(memory: &GuestMemory) -> Vec<Slot> {
    (0..)
        .zip(memory.iter())
        .map(|(index, region)| Slot {
            index,
            guest: region.start_addr().0,
            len: region.len(),
            host: region.as_ptr() as u64,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn sizes_out_of_range_are_refused() {
        for mib in [0, 127, 10_241, u32::MAX] {
            assert!(matches!(MemorySize::from_mib(mib), Err(MemoryError::Size(m)) if m == mib));
        }
    }

    #[test]
    fn memory_never_covers_the_device_window() {
        for mib in [128, 3327, 3328, 3329, 10_240] {
            let size = MemorySize::from_mib(mib).unwrap();
            let ranges = size.ranges();
            assert_eq!(ranges.iter().map(|(_, len)| len).sum::<u64>(), size.bytes());
            for (start, len) in ranges {
                assert!(start.0 >= MMIO_GAP_END || start.0 + len <= MMIO_GAP_START);
            }
        }
    }

    #[test]
    fn writes_to_a_private_view_stay_out_of_the_file() {
        let size = MemorySize::from_mib(128).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(size.bytes()).unwrap();
        let one = private_view(size, file.try_clone().unwrap()).unwrap();
        let two = private_view(size, file).unwrap();
        one.write_obj(7u64, GuestAddress(4096)).unwrap();
        assert_eq!(two.read_obj::<u64>(GuestAddress(4096)).unwrap(), 0);
    }

    #[test]
    fn a_short_or_long_memory_file_is_refused() {
        let size = MemorySize::from_mib(128).unwrap();
        for len in [size.bytes() - 1, size.bytes() + 4096, 0] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(len).unwrap();
            assert!(matches!(
                private_view(size, file),
                Err(MemoryError::FileSize { actual, .. }) if actual == len
            ));
        }
    }
}
