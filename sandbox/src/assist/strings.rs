//! String assist: copies and clears memory for a guest kernel that KVM interprets.
//!
//! KVM's interpreter executes each iteration of a `rep movs` or `rep stos` as an instruction of its
//! own, so clearing a page takes as long as five hundred other instructions. The guest's kernel
//! (`string-assist.patch`) instead writes to an I/O port, with RDI, RSI and RCX as for the
//! instruction. The port does what the instruction would do with the direction flag clear, except
//! that it may stop early: after [`MAX_BYTES`], or where the page tables forbid an access. The
//! kernel then goes on from the registers with the instruction itself, which raises any fault.
//!
//! The port only accesses the guest's own memory through the guest's own page tables, so it gives
//! no right that ring 0 does not have.

use hearth_protocol::guest::{STRING_CLEAR_PORT, STRING_COPY_PORT};
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::page_walk::{Access, AddressSpace, to_border};
use super::{AssistError, set_regs};
use crate::memory::{GuestMemory, PAGE};

/// Maximum number of bytes in one call, so that a vCPU that is asked to stop does so soon.
const MAX_BYTES: u64 = 1 << 16;

/// The operation that the guest requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StringOperation {
    /// Copies RCX bytes from RSI to RDI.
    Copy,
    /// Writes RCX zero bytes to RDI.
    Clear,
}

impl StringOperation {
    /// The operation of an I/O port.
    pub fn of_port(port: u16) -> Option<Self> {
        match port {
            STRING_COPY_PORT => Some(Self::Copy),
            STRING_CLEAR_PORT => Some(Self::Clear),
            _ => None,
        }
    }

    /// Performs as much of the operation as possible, and moves the registers accordingly.
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
        let mut left = regs.rcx.min(MAX_BYTES);
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

    /// Handles the next bytes, up to the end of a page on either side. Returns their number, or
    /// `None` if they can't be accessed.
    fn piece(
        self,
        space: &AddressSpace<'_>,
        memory: &GuestMemory,
        regs: &kvm_regs,
        left: u64,
    ) -> Option<u64> {
        let left = usize::try_from(left).expect("at most MAX_BYTES");
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

    // In these tables, virtual page 0 is writable, 1 read-only, 2 absent; 2 MiB to 4 MiB is
    // writable.
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
        assert_eq!(regs, [LARGE + MAX_BYTES, 0, u64::MAX - MAX_BYTES]);
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
