//! Ring-0 assist: completes the instructions that a software-KVM host's interpreter can't.
//!
//! On such a host KVM interprets guest kernel code and gives up with an emulation failure at some
//! instructions, `rip` still at the instruction and all state intact. This module decodes that one
//! instruction, performs it through KVM's own register interfaces, and moves `rip` on. It is a
//! list, not an emulator: whatever is not on it ends the microVM with the bytes and registers in
//! the message.
//!
//! On the list:
//!
//! * `int3`: the kernel tests it at boot and patches code with it.
//! * `fwait`, `fnclex`: checks and clears x87 exceptions around context switches.
//! * `xsave`/`xrstor` in standard format: user code runs natively, sees the host's CPUID and uses
//!   AVX; a kernel that saved only SSE state would mix up the registers of two processes.
//!
//! Besides, it takes over what the interpreter does too slowly: see [`strings`].
//!
//! On a hardware host nothing here is ever entered.

mod effective_address;
mod page_walk;
mod strings;
mod xsave_area;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;

use crate::memory::GuestMemory;
use page_walk::{Access, AccessError, AddressSpace};
pub use strings::StringOperation;

/// What the kernel is told not to use on a software-KVM host.
///
/// CPUID can't be masked there: an interpreted `cpuid` returns the host's. `clearcpuid` keeps
/// instructions out of the kernel that neither the interpreter nor this module executes. The
/// `xsaveopt`, `xsavec`, `xsaves` and `xgetbv1` forms go so that plain `xsave` remains. `avx` must
/// stay: clearing it would drop the upper register halves from what a context switch saves.
/// `string-assist` is from this project's patches to the kernel.
pub const KERNEL_ARGUMENTS: &str = "nofsgsbase nopcid \
    clearcpuid=smap,smep,umip,cx16,popcnt,invpcid,la57,pku,ospke,bmi1,bmi2,erms,fsrm,rdseed,\
    xsaveopt,xsavec,xsaves,xgetbv1,x2apic,rdtscp \
    tsc=reliable no_timer_check lpj=1000000 string-assist";

/// Longest x86 instruction.
const MAX_INSTRUCTION: usize = 15;
const VECTOR_BREAKPOINT: u8 = 3;
const VECTOR_GENERAL_PROTECTION: u8 = 13;
const VECTOR_PAGE_FAULT: u8 = 14;

/// Why an instruction could not be completed. All of these end the microVM.
#[derive(Debug, thiserror::Error)]
pub enum AssistError {
    /// Not on the list.
    #[error("no assist for `{text}` ({bytes:02x?}) at {rip:#x}")]
    Unknown {
        /// Where.
        rip: u64,
        /// What, in Intel's syntax.
        text: String,
        /// The bytes there.
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
    /// KVM said no.
    #[error("{0}: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
}

/// What happened to an instruction.
enum Outcome {
    /// It is done; go on behind it.
    Done,
    /// It is done and raises this exception, a trap: `rip` is behind it.
    Trap(u8),
    /// It can't be done and raises this exception, a fault: `rip` stays.
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
        Outcome::Done => regs.rip = instruction.next_ip(),
        Outcome::Trap(vector) => {
            regs.rip = instruction.next_ip();
            set_regs(vcpu, &regs)?;
            return inject(vcpu, vector, None);
        }
        Outcome::Fault {
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
) -> Result<Outcome, AssistError> {
    match instruction.code() {
        Code::Int3 => Ok(Outcome::Trap(VECTOR_BREAKPOINT)),
        // The kernel has no x87 exception of its own pending: there is nothing to wait for.
        Code::Wait => Ok(Outcome::Done),
        Code::Fnclex => xsave_area::clear_x87_exceptions(vcpu).map(|()| Outcome::Done),
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

/// Makes the guest take an exception when it runs on.
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

/// Turns an access that the guest's page tables forbid into the fault that the guest expects.
fn page_fault(error: AccessError, access: Access) -> Result<Outcome, AssistError> {
    match error {
        AccessError::Page { address, present } => {
            let error_code = u32::from(present) | (u32::from(access == Access::Write) << 1);
            Ok(Outcome::Fault {
                vector: VECTOR_PAGE_FAULT,
                error_code,
                address: Some(address),
            })
        }
        AccessError::OutsideMemory(address) => Err(AssistError::PageTable(address)),
    }
}

fn general_protection() -> Outcome {
    Outcome::Fault {
        vector: VECTOR_GENERAL_PROTECTION,
        error_code: 0,
        address: None,
    }
}
