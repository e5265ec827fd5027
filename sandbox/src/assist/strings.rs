//! String assist: copies and clears memory for a kernel that is interpreted.
//!
//! KVM's interpreter takes every iteration of a `rep movs` or `rep stos` for an instruction of its
//! own: a page takes as long to clear as five hundred others. The guest's kernel
//! (`string-assist.patch`) asks for the same by an `out` to a port, with the instruction's
//! registers: RDI, RSI and RCX. What is done here is what the instruction would do with the
//! direction flag clear, except that it may stop early, at the latest where the page tables forbid
//! an access. The guest goes on from the registers by itself, and takes its faults itself.
//!
//! All of it is the guest's own memory, by the guest's own page tables: the port gives nobody in
//! the guest anything that ring 0 does not have.

use hearth_protocol::guest::{STRING_CLEAR_PORT, STRING_COPY_PORT};
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::page_walk::{Access, AddressSpace, PAGE, to_border};
use super::{AssistError, set_regs};
use crate::memory::GuestMemory;

/// Longest run at once, in bytes: a vCPU that is told to stop does so soon.
const MOST: u64 = 1 << 16;

/// What the guest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StringOperation {
    /// RCX bytes from RSI to RDI.
    Copy,
    /// RCX bytes of zeros to RDI.
    Clear,
}

impl StringOperation {
    /// The operation of a port.
    pub fn of_port(port: u16) -> Option<Self> {
        match port {
            STRING_COPY_PORT => Some(Self::Copy),
            STRING_CLEAR_PORT => Some(Self::Clear),
            _ => None,
        }
    }

    /// Performs it as far as it goes, and moves the registers accordingly.
    pub fn perform(self, vcpu: &VcpuFd, memory: &GuestMemory) -> Result<(), AssistError> {
        let mut regs = vcpu
            .get_regs()
            .map_err(|e| AssistError::Kvm("KVM_GET_REGS", e))?;
        let sregs = vcpu
            .get_sregs()
            .map_err(|e| AssistError::Kvm("KVM_GET_SREGS", e))?;
        if sregs.cs.l == 0 {
            return Err(AssistError::Mode(regs.rip));
        }
        self.run(&AddressSpace::new(memory, &sregs), memory, &mut regs);
        set_regs(vcpu, &regs)
    }

    fn run(self, space: &AddressSpace<'_>, memory: &GuestMemory, regs: &mut kvm_regs) {
        let mut left = regs.rcx.min(MOST);
        while left > 0 {
            let Some(done) = self.piece(space, memory, regs, left) else {
                return;
            };
            regs.rdi = regs.rdi.wrapping_add(done);
            if self == Self::Copy {
                regs.rsi = regs.rsi.wrapping_add(done);
            }
            regs.rcx -= done;
            left -= done;
        }
    }

    /// The next bytes that lie within one page of each side; how many, or nothing if there is no
    /// access to them.
    fn piece(
        self,
        space: &AddressSpace<'_>,
        memory: &GuestMemory,
        regs: &kvm_regs,
        left: u64,
    ) -> Option<u64> {
        let left = usize::try_from(left).expect("at most MOST");
        let mut len = left.min(to_border(regs.rdi));
        let mut bytes = [0; PAGE];
        if self == Self::Copy {
            len = len.min(to_border(regs.rsi));
            let from = space.translate(regs.rsi, Access::Read).ok()?;
            memory
                .read_slice(&mut bytes[..len], GuestAddress(from))
                .ok()?;
        }
        let to = space.translate(regs.rdi, Access::Write).ok()?;
        memory.write_slice(&bytes[..len], GuestAddress(to)).ok()?;
        Some(len as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::page_walk::tests::{space, tables};
    use super::*;

    // Of the tables: virtual page 0 is writable, 1 read-only, 2 absent; 2 MiB to 4 MiB writable.
    const LARGE: u64 = 0x20_0000;

    fn run(
        operation: StringOperation,
        memory: &GuestMemory,
        rdi: u64,
        rsi: u64,
        rcx: u64,
    ) -> [u64; 3] {
        let mut regs = kvm_regs {
            rdi,
            rsi,
            rcx,
            ..Default::default()
        };
        operation.run(&space(memory), memory, &mut regs);
        [regs.rdi, regs.rsi, regs.rcx]
    }

    fn read<const N: usize>(memory: &GuestMemory, address: u64) -> [u8; N] {
        let mut out = [0; N];
        space(memory).read(address, &mut out).unwrap();
        out
    }

    #[test]
    fn a_copy_across_pages_is_whole_and_moves_the_registers() {
        let memory = tables();
        let data: Vec<u8> = (0..=u8::MAX).cycle().take(9000).collect();
        space(&memory).write(LARGE + 0x10_0007, &data).unwrap();
        let regs = run(
            StringOperation::Copy,
            &memory,
            LARGE + 0xffe,
            LARGE + 0x10_0007,
            9000,
        );
        assert_eq!(regs, [LARGE + 0xffe + 9000, LARGE + 0x10_0007 + 9000, 0]);
        assert_eq!(read::<9000>(&memory, LARGE + 0xffe)[..], data[..]);
        assert_eq!(read::<1>(&memory, LARGE + 0xffe + 9000), [0]);
    }

    #[test]
    fn a_clear_clears_what_it_was_told_and_not_a_byte_more() {
        let memory = tables();
        space(&memory).write(LARGE, &[0xff; 0x3000]).unwrap();
        let regs = run(StringOperation::Clear, &memory, LARGE + 1, 77, 0x2000);
        assert_eq!(regs, [LARGE + 0x2001, 77, 0]);
        let seen = read::<0x3000>(&memory, LARGE);
        assert_eq!((seen[0], seen[0x2001]), (0xff, 0xff));
        assert!(seen[1..0x2001].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn what_the_page_tables_forbid_stops_it_there_with_the_rest_in_the_registers() {
        let memory = tables();
        space(&memory).write(0xff0, &[7; 16]).unwrap();
        // From page 0 into the read-only page 1.
        let regs = run(StringOperation::Clear, &memory, 0xff8, 0, 100);
        assert_eq!(regs, [0x1000, 0, 92]);
        assert_eq!(read::<16>(&memory, 0xff0)[..8], [7; 8]);
        assert_eq!(read::<16>(&memory, 0xff0)[8..], [0; 8]);
        // From the end of page 1 into the absent page 2.
        let regs = run(StringOperation::Copy, &memory, LARGE, 0x1ff0, 100);
        assert_eq!(regs, [LARGE + 16, 0x2000, 84]);
        // Nothing at all.
        let regs = run(StringOperation::Copy, &memory, LARGE, 0x2000, 100);
        assert_eq!(regs, [LARGE, 0x2000, 100]);
    }

    #[test]
    fn a_hostile_length_is_served_in_part() {
        let memory = tables();
        let regs = run(StringOperation::Clear, &memory, LARGE, 0, u64::MAX);
        assert_eq!(regs, [LARGE + MOST, 0, u64::MAX - MOST]);
        let regs = run(StringOperation::Clear, &memory, u64::MAX, 0, u64::MAX);
        assert_eq!(regs, [u64::MAX, 0, u64::MAX]);
    }

    #[test]
    fn tables_that_lead_out_of_memory_stop_it() {
        let memory = tables();
        memory
            .write_obj(0xf_ffff_0000_0003u64, GuestAddress(0x4010))
            .unwrap();
        let regs = run(StringOperation::Copy, &memory, LARGE, 0x2000, 8);
        assert_eq!(regs, [LARGE, 0x2000, 8]);
    }
}
