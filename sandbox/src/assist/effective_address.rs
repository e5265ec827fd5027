//! The linear address of an instruction's memory operand.

use iced_x86::{Instruction, OpKind, Register};
use kvm_bindings::{kvm_regs, kvm_sregs};

/// The address; `None` if the instruction has no memory operand.
pub(super) fn of(instruction: &Instruction, regs: &kvm_regs, sregs: &kvm_sregs) -> Option<u64> {
    let operand =
        (0..instruction.op_count()).find(|i| instruction.op_kind(*i) == OpKind::Memory)?;
    instruction.virtual_address(operand, 0, |register, _, _| value(register, regs, sregs))
}

fn value(register: Register, regs: &kvm_regs, sregs: &kvm_sregs) -> Option<u64> {
    let full = match register.full_register() {
        // 64-bit mode ignores the other segments' bases.
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        Register::FS => sregs.fs.base,
        Register::GS => sregs.gs.base,
        Register::RAX => regs.rax,
        Register::RBX => regs.rbx,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::RSP => regs.rsp,
        Register::RBP => regs.rbp,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        _ => return None,
    };
    Some(if register.is_gpr32() {
        full & 0xffff_ffff
    } else {
        full
    })
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    fn address(bytes: &[u8]) -> Option<u64> {
        let instruction = Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE).decode();
        let regs = kvm_regs {
            rdi: 0x5000,
            r12: 0x100,
            ..Default::default()
        };
        let mut sregs = kvm_sregs::default();
        sregs.gs.base = 0x10_0000;
        of(&instruction, &regs, &sregs)
    }

    #[test]
    fn base_index_displacement_segment_and_rip_count() {
        // xsave64 [rdi]
        assert_eq!(address(&[0x48, 0x0f, 0xae, 0x27]), Some(0x5000));
        // xsave64 [rdi + r12*2 + 0x40]
        assert_eq!(address(&[0x4a, 0x0f, 0xae, 0x64, 0x67, 0x40]), Some(0x5240));
        // xrstor64 gs:[rdi]
        assert_eq!(address(&[0x65, 0x48, 0x0f, 0xae, 0x2f]), Some(0x10_5000));
        // xrstor64 [rip + 0x10]
        assert_eq!(
            address(&[0x48, 0x0f, 0xae, 0x2d, 0x10, 0, 0, 0]),
            Some(0x1018)
        );
    }

    #[test]
    fn an_instruction_without_memory_has_no_address() {
        assert_eq!(address(&[0xcc]), None);
    }
}
