//! Guest-virtual memory as the guest's ring 0 sees it: a walk of its four-level page tables.
//! Permissions are checked too, because a forbidden access has to become the guest's own page
//! fault.

use kvm_bindings::kvm_sregs;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::{GuestMemory, PAGE};

const CR0_WP: u64 = 1 << 16;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The kind of access to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Why memory can't be accessed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AccessError {
    /// The page tables forbid it: the guest takes a page fault at this address.
    Page { address: u64, present: bool },
    /// The page tables point outside of guest memory.
    OutsideMemory(u64),
}

/// Bytes from an address to the end of its page.
pub(super) fn to_border(address: u64) -> usize {
    PAGE - usize::try_from(address % PAGE as u64).expect("less than a page")
}

/// One set of page tables.
pub(super) struct AddressSpace<'a> {
    memory: &'a GuestMemory,
    root: u64,
    write_protect: bool,
}

impl<'a> AddressSpace<'a> {
    pub(super) fn new(memory: &'a GuestMemory, sregs: &kvm_sregs) -> Self {
        Self {
            memory,
            root: sregs.cr3 & ADDRESS,
            write_protect: sregs.cr0 & CR0_WP != 0,
        }
    }

    /// Reads as many of the instruction's bytes as are mapped, and returns how many.
    pub(super) fn fetch(&self, address: u64, out: &mut [u8]) -> usize {
        (1..=out.len())
            .rev()
            .find(|len| self.read(address, &mut out[..*len]).is_ok())
            .unwrap_or(0)
    }

    pub(super) fn read(&self, address: u64, out: &mut [u8]) -> Result<(), AccessError> {
        let mut done = 0;
        for (physical, len) in self.pieces(address, out.len(), Access::Read)? {
            self.memory
                .read_slice(&mut out[done..done + len], physical)
                .map_err(|_| AccessError::OutsideMemory(address))?;
            done += len;
        }
        Ok(())
    }

    /// Writes all of `data`; if one of its pages can't be written, writes nothing.
    pub(super) fn write(&self, address: u64, data: &[u8]) -> Result<(), AccessError> {
        let mut done = 0;
        for (physical, len) in self.pieces(address, data.len(), Access::Write)? {
            self.memory
                .write_slice(&data[done..done + len], physical)
                .map_err(|_| AccessError::OutsideMemory(address))?;
            done += len;
        }
        Ok(())
    }

    /// Splits a range at page boundaries and translates each piece.
    fn pieces(
        &self,
        address: u64,
        len: usize,
        access: Access,
    ) -> Result<Vec<(GuestAddress, usize)>, AccessError> {
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < len {
            let at = address.wrapping_add(done as u64);
            let piece = to_border(at).min(len - done);
            pieces.push((GuestAddress(self.translate(at, access)?), piece));
            done += piece;
        }
        Ok(pieces)
    }

    /// Walks the tables, and sets the accessed and dirty bits as a CPU would.
    pub(super) fn translate(&self, address: u64, access: Access) -> Result<u64, AccessError> {
        let mut table = self.root;
        for level in (0..4u32).rev() {
            let shift = 12 + 9 * level;
            let slot = GuestAddress(table + ((address >> shift) & 0x1ff) * 8);
            let entry: u64 = self
                .memory
                .read_obj(slot)
                .map_err(|_| AccessError::OutsideMemory(address))?;
            if entry & PRESENT == 0 {
                return Err(AccessError::Page {
                    address,
                    present: false,
                });
            }
            if access == Access::Write && self.write_protect && entry & WRITABLE == 0 {
                return Err(AccessError::Page {
                    address,
                    present: true,
                });
            }
            let leaf = level == 0 || (level < 3 && entry & LARGE != 0);
            let dirty = if leaf && access == Access::Write {
                DIRTY
            } else {
                0
            };
            let marked = entry | ACCESSED | dirty;
            if marked != entry {
                self.memory
                    .write_obj(marked, slot)
                    .map_err(|_| AccessError::OutsideMemory(address))?;
            }
            if leaf {
                let within = (1 << shift) - 1;
                return Ok((entry & ADDRESS & !within) | (address & within));
            }
            table = entry & ADDRESS;
        }
        unreachable!("level 0 is always a leaf")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::memory::{self, MemorySize};

    /// PML4 at 0x1000, PDPT 0x2000, PD 0x3000, PT 0x4000. Virtual pages 0 (writable, at 0x10000),
    /// 1 (read-only, at 0x12000), 2 (absent); a large page at 2 MiB to 4 MiB.
    pub(crate) fn tables() -> GuestMemory {
        let memory = memory::anonymous(MemorySize::from_mib(128).unwrap()).unwrap();
        for (slot, entry) in [
            (0x1000, 0x2000 | 3),
            (0x2000, 0x3000 | 3),
            (0x3000, 0x4000 | 3),
            (0x3008, 0x40_0000 | 3 | LARGE),
            (0x4000, 0x1_0000 | 3u64),
            (0x4008, 0x1_2000 | 1),
        ] {
            memory.write_obj(entry, GuestAddress(slot)).unwrap();
        }
        memory
    }

    pub(crate) fn space(memory: &GuestMemory) -> AddressSpace<'_> {
        AddressSpace {
            memory,
            root: 0x1000,
            write_protect: true,
        }
    }

    #[test]
    fn a_read_across_pages_that_are_apart_in_memory_is_whole() {
        let memory = tables();
        memory.write_slice(b"ab", GuestAddress(0x1_0ffe)).unwrap();
        memory.write_slice(b"cd", GuestAddress(0x1_2000)).unwrap();
        let mut out = [0; 4];
        space(&memory).read(0xffe, &mut out).unwrap();
        assert_eq!(&out, b"abcd");
    }

    #[test]
    fn large_pages_translate() {
        let memory = tables();
        memory.write_slice(b"x", GuestAddress(0x40_1234)).unwrap();
        let mut out = [0];
        space(&memory).read(0x20_1234, &mut out).unwrap();
        assert_eq!(&out, b"x");
    }

    #[test]
    fn a_write_that_meets_a_forbidden_page_changes_nothing() {
        let memory = tables();
        let err = space(&memory).write(0xffe, b"abcd").unwrap_err();
        assert_eq!(
            err,
            AccessError::Page {
                address: 0x1000,
                present: true
            }
        );
        let err = space(&memory).write(0x2000, b"a").unwrap_err();
        assert_eq!(
            err,
            AccessError::Page {
                address: 0x2000,
                present: false
            }
        );
        assert_eq!(memory.read_obj::<u16>(GuestAddress(0x1_0ffe)).unwrap(), 0);
    }

    #[test]
    fn accessed_and_dirty_bits_are_set_as_by_a_cpu() {
        let memory = tables();
        space(&memory).read(0, &mut [0]).unwrap();
        assert_eq!(
            memory.read_obj::<u64>(GuestAddress(0x4000)).unwrap(),
            0x1_0023
        );
        space(&memory).write(0, &[0]).unwrap();
        assert_eq!(
            memory.read_obj::<u64>(GuestAddress(0x4000)).unwrap(),
            0x1_0063
        );
    }

    #[test]
    fn tables_that_lead_out_of_memory_are_an_error_not_a_fault() {
        let memory = tables();
        memory
            .write_obj(0xf_ffff_0000_0003u64, GuestAddress(0x4010))
            .unwrap();
        let err = space(&memory).read(0x2000, &mut [0]).unwrap_err();
        assert_eq!(err, AccessError::OutsideMemory(0x2000));
    }

    #[test]
    fn a_fetch_stops_at_the_last_mapped_byte() {
        let memory = tables();
        assert_eq!(space(&memory).fetch(0x1ffd, &mut [0; 15]), 3);
        assert_eq!(space(&memory).fetch(0x2000, &mut [0; 15]), 0);
    }
}
