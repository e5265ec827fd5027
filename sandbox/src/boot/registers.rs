//! The first vCPU's registers as the kernel's 64-bit entry point expects them: 64-bit long mode,
//! flat segments, the first GiB identity-mapped. The other vCPUs wait for the kernel to start them.

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::layout;
use crate::memory::GuestMemory;

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS_RESERVED: u64 = 2;

const PAGE_PRESENT_WRITABLE: u64 = 3;
const PAGE_LARGE: u64 = 1 << 7;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
/// "Fast strings enable": the firmware would set it, and the kernel checks for it.
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled; the default memory type is write-back.
const MTRR_WRITE_BACK: u64 = (1 << 11) | 6;

/// Values after a reset (Intel SDM, volume 3, table 11-1).
const FPU_CONTROL: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

/// Segment descriptors in GDT order: null, code, data, task state.
const GDT_CODE: u64 = 0x00af_9b00_0000_ffff;
const GDT_DATA: u64 = 0x00cf_9300_0000_ffff;
const GDT_TSS: u64 = 0x008f_8b00_0000_ffff;

/// Why the first vCPU could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum RegistersError {
    /// The tables could not be written to guest memory.
    #[error("writing boot tables: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// KVM refused the call.
    #[error("{0}: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
}

/// Writes the GDT and the page tables, and sets the registers.
pub fn set_up(
    vcpu: &VcpuFd,
    memory: &GuestMemory,
    entry: GuestAddress,
) -> Result<(), RegistersError> {
    write_tables(memory)?;
    let mut sregs = vcpu
        .get_sregs()
        .map_err(|e| RegistersError::Kvm("KVM_GET_SREGS", e))?;
    set_long_mode(&mut sregs);
    vcpu.set_sregs(&sregs)
        .map_err(|e| RegistersError::Kvm("KVM_SET_SREGS", e))?;
    let regs = kvm_regs {
        rflags: RFLAGS_RESERVED,
        rip: entry.0,
        rsp: layout::STACK.0,
        rbp: layout::STACK.0,
        rsi: layout::BOOT_PARAMS.0,
        ..Default::default()
    };
    vcpu.set_regs(&regs)
        .map_err(|e| RegistersError::Kvm("KVM_SET_REGS", e))?;
    let fpu = kvm_fpu {
        fcw: FPU_CONTROL,
        mxcsr: MXCSR,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu)
        .map_err(|e| RegistersError::Kvm("KVM_SET_FPU", e))?;
    set_msr(vcpu, MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING)?;
    set_msr(vcpu, MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK)
}

fn set_msr(vcpu: &VcpuFd, index: u32, data: u64) -> Result<(), RegistersError> {
    let entries = [kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }];
    let msrs = Msrs::from_entries(&entries).expect("one entry fits");
    let set = vcpu
        .set_msrs(&msrs)
        .map_err(|e| RegistersError::Kvm("KVM_SET_MSRS", e))?;
    if set == 1 {
        Ok(())
    } else {
        Err(RegistersError::Kvm(
            "KVM_SET_MSRS",
            kvm_ioctls::Error::new(libc::EINVAL),
        ))
    }
}

fn write_tables(memory: &GuestMemory) -> Result<(), RegistersError> {
    for (slot, descriptor) in (0u64..).zip([0, GDT_CODE, GDT_DATA, GDT_TSS]) {
        memory.write_obj(descriptor, GuestAddress(layout::GDT.0 + slot * 8))?;
    }
    memory.write_obj(0u64, layout::IDT)?;
    memory.write_obj(layout::PDPT.0 | PAGE_PRESENT_WRITABLE, layout::PML4)?;
    memory.write_obj(layout::PD.0 | PAGE_PRESENT_WRITABLE, layout::PDPT)?;
    for page in 0u64..512 {
        let entry = (page << 21) | PAGE_PRESENT_WRITABLE | PAGE_LARGE;
        memory.write_obj(entry, GuestAddress(layout::PD.0 + page * 8))?;
    }
    Ok(())
}

fn set_long_mode(sregs: &mut kvm_sregs) {
    let flat = kvm_segment {
        limit: 0xffff_ffff,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: 8,
        type_: 0xb,
        l: 1,
        ..flat
    };
    let data = kvm_segment {
        selector: 16,
        type_: 0x3,
        db: 1,
        ..flat
    };
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = kvm_segment {
        selector: 24,
        type_: 0xb,
        s: 0,
        ..flat
    };
    sregs.gdt.base = layout::GDT.0;
    sregs.gdt.limit = 4 * 8 - 1;
    sregs.idt.base = layout::IDT.0;
    sregs.idt.limit = 7;
    sregs.cr3 = layout::PML4.0;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
}
