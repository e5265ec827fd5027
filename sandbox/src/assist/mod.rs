//! Ring-0 assist: completes the instructions that KVM's interpreter can't execute.
//!
//! On a software-KVM host KVM interprets the guest's kernel. At some instructions it gives up with an
//! emulation failure, with `rip` still at the instruction and all state intact. This module decodes
//! that one instruction, performs it through KVM's register interfaces, and moves `rip` on. It is no
//! general emulator: any instruction that is not on the following list ends the microVM with an error
//! that has the instruction's bytes and the registers.
//!
//! * `int3`: the kernel tests it at boot and uses it to patch code.
//! * `fwait`, `fnclex`: the kernel checks and clears x87 exceptions around context switches.
//! * `xsave`/`xrstor` in standard format: user code runs natively, sees the host's CPUID and uses
//!   AVX. A kernel that saved only SSE state would mix up the registers of two processes.
//!
//! In addition, `strings` does quickly what the interpreter does too slowly.
//!
//! On a hardware host nothing here is ever called.

mod effective_address;
mod page_walk;
mod strings;
mod xsave_area;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;
use page_walk::{Access, AccessError, AddressSpace};
pub use strings::StringOperation;

use crate::memory::GuestMemory;

/// Kernel arguments that keep the guest's kernel from using what a software-KVM host can't execute.
///
/// CPUID can't be masked there: an interpreted `cpuid` returns the host's values. So `clearcpuid`
/// names the instructions that neither the interpreter nor this module executes. `xsaveopt`, `xsavec`,
/// `xsaves` and `xgetbv1` are cleared so that the kernel uses plain `xsave`. `avx` must stay: without
/// it, a context switch would not save the upper halves of the vector registers. `string-assist` is
/// defined by this project's patches to the kernel.
pub const KERNEL_ARGUMENTS: &str = "nofsgsbase nopcid \
    clearcpuid=smap,smep,umip,cx16,popcnt,invpcid,la57,pku,ospke,bmi1,bmi2,erms,fsrm,rdseed,\
    xsaveopt,xsavec,xsaves,xgetbv1,x2apic,rdtscp \
    tsc=reliable no_timer_check lpj=1000000 string-assist";

/// Maximum length of an x86 instruction in bytes.
const MAX_INSTRUCTION: usize = 15;
const VECTOR_BREAKPOINT: u8 = 3;
const VECTOR_GENERAL_PROTECTION: u8 = 13;
const VECTOR_PAGE_FAULT: u8 = 14;

/// Why an instruction could not be completed. All of these end the microVM.
#[derive(Debug, thiserror::Error)]
pub enum AssistError {
    /// The instruction is not on the list.
    #[error("no assist for `{text}` ({bytes:02x?}) at {rip:#x}")]
    Unknown {
        /// Its address.
        rip: u64,
        /// The instruction in Intel's syntax.
        text: String,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// The bytes at `rip` can't be read.
    #[error("no instruction can be fetched at {0:#x}")]
    Fetch(u64),
    /// The guest is not in 64-bit mode.
    #[error("emulation failed at {0:#x} outside of 64-bit mode")]
    Mode(u64),
    /// A page table points outside of guest memory.
    #[error("page tables for {0:#x} lie outside of guest memory")]
    PageTable(u64),
    /// KVM refused the call.
    #[error("{0}: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
}

/// The result of an instruction.
enum Executed {
    /// It has been executed; the guest goes on after it.
    Done,
    /// It has been executed and raises this exception as a trap: `rip` is after it.
    Trap(u8),
    /// It can't be executed and raises this exception as a fault: `rip` stays at it.
    Fault {
        vector: u8,
        error_code: u32,
        address: Option<u64>,
    },
}

/// Completes the instruction at which KVM's interpreter gave up.
pub fn complete(vcpu: &VcpuFd, memory: &GuestMemory) -> Result<(), AssistError> {
    let mut regs = vcpu
        .get_regs()
        .map_err(|e| AssistError::Kvm("KVM_GET_REGS", e))?;
    let mut sregs = vcpu
        .get_sregs()
        .map_err(|e| AssistError::Kvm("KVM_GET_SREGS", e))?;
    if sregs.cs.l == 0 {
        return Err(AssistError::Mode(regs.rip));
    }
    let space = AddressSpace::new(memory, &sregs);
    let mut bytes = [0; MAX_INSTRUCTION];
    let fetched = space.fetch(regs.rip, &mut bytes);
    if fetched == 0 {
        return Err(AssistError::Fetch(regs.rip));
    }
    let instruction =
        Decoder::with_ip(64, &bytes[..fetched], regs.rip, DecoderOptions::NONE).decode();

    match execute(vcpu, &space, &instruction, &regs, &sregs, &bytes[..fetched])? {
        Executed::Done => regs.rip = instruction.next_ip(),
        Executed::Trap(vector) => {
            regs.rip = instruction.next_ip();
            set_regs(vcpu, &regs)?;
            return inject(vcpu, vector, None);
        }
        Executed::Fault {
            vector,
            error_code,
            address,
        } => {
            if let Some(address) = address {
                sregs.cr2 = address;
                vcpu.set_sregs(&sregs)
                    .map_err(|e| AssistError::Kvm("KVM_SET_SREGS", e))?;
            }
            return inject(vcpu, vector, Some(error_code));
        }
    }
    set_regs(vcpu, &regs)
}

fn set_regs(vcpu: &VcpuFd, regs: &kvm_regs) -> Result<(), AssistError> {
    vcpu.set_regs(regs)
        .map_err(|e| AssistError::Kvm("KVM_SET_REGS", e))
}

fn execute(
    vcpu: &VcpuFd,
    space: &AddressSpace<'_>,
    instruction: &Instruction,
    regs: &kvm_regs,
    sregs: &kvm_sregs,
    bytes: &[u8],
) -> Result<Executed, AssistError> {
    match instruction.code() {
        Code::Int3 => Ok(Executed::Trap(VECTOR_BREAKPOINT)),
        // The kernel has no pending x87 exception of its own, so there is nothing to wait for.
        Code::Wait => Ok(Executed::Done),
        Code::Fnclex => xsave_area::clear_x87_exceptions(vcpu).map(|()| Executed::Done),
        Code::Xsave_mem | Code::Xsave64_mem => {
            let address = operand_address(instruction, regs, sregs, bytes)?;
            let area = xsave_area::save(vcpu, space, address, requested_components(regs))?;
            Ok(area)
        }
        Code::Xrstor_mem | Code::Xrstor64_mem => {
            let address = operand_address(instruction, regs, sregs, bytes)?;
            xsave_area::restore(vcpu, space, address, requested_components(regs))
        }
        _ => Err(unknown(instruction, bytes)),
    }
}

/// EDX:EAX, the requested-feature bitmap.
fn requested_components(regs: &kvm_regs) -> u64 {
    (regs.rdx << 32) | (regs.rax & 0xffff_ffff)
}

fn operand_address(
    instruction: &Instruction,
    regs: &kvm_regs,
    sregs: &kvm_sregs,
    bytes: &[u8],
) -> Result<u64, AssistError> {
    effective_address::of(instruction, regs, sregs).ok_or_else(|| unknown(instruction, bytes))
}

fn unknown(instruction: &Instruction, bytes: &[u8]) -> AssistError {
    use iced_x86::Formatter;
    let mut text = String::new();
    iced_x86::IntelFormatter::new().format(instruction, &mut text);
    AssistError::Unknown {
        rip: instruction.ip(),
        text,
        bytes: bytes.to_vec(),
    }
}

/// Makes the guest take an exception when it runs again.
fn inject(vcpu: &VcpuFd, vector: u8, error_code: Option<u32>) -> Result<(), AssistError> {
    let mut events = vcpu
        .get_vcpu_events()
        .map_err(|e| AssistError::Kvm("KVM_GET_VCPU_EVENTS", e))?;
    events.exception.injected = 1;
    events.exception.nr = vector;
    events.exception.has_error_code = u8::from(error_code.is_some());
    events.exception.error_code = error_code.unwrap_or(0);
    vcpu.set_vcpu_events(&events)
        .map_err(|e| AssistError::Kvm("KVM_SET_VCPU_EVENTS", e))
}

/// The page fault that the guest expects for an access that its page tables forbid.
fn page_fault(error: AccessError, access: Access) -> Result<Executed, AssistError> {
    match error {
        AccessError::Page { address, present } => {
            let error_code = u32::from(present) | (u32::from(access == Access::Write) << 1);
            Ok(Executed::Fault {
                vector: VECTOR_PAGE_FAULT,
                error_code,
                address: Some(address),
            })
        }
        AccessError::OutsideMemory(address) => Err(AssistError::PageTable(address)),
    }
}

fn general_protection() -> Executed {
    Executed::Fault {
        vector: VECTOR_GENERAL_PROTECTION,
        error_code: 0,
        address: None,
    }
}
