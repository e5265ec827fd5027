//! The local APIC's timer of a guest that is to run for a moment without its kernel.
//!
//! A deadline that passed while a vCPU stood still fires when it runs again, and the interrupt costs
//! more than the whole of a call that needs no kernel. So it is taken out of the APIC when the vCPU
//! stops, and put back when the guest has run for longer than such a call takes: an expired one then
//! fires at once. The guest's kernel believes all the while that it is armed.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::msr::TSC_DEADLINE;
use super::state::StateError;

/// A deadline that KVM does not have at the moment.
#[derive(Debug, Default)]
pub(super) struct HeldTimer(Option<u64>);

impl HeldTimer {
    /// Takes the deadline out. One that has fired already is an interrupt, and stays one.
    pub(super) fn take(&mut self, vcpu: &VcpuFd) -> Result<(), StateError> {
        let Some(armed) = armed(vcpu)? else {
            return Ok(());
        };
        set(vcpu, 0)?;
        self.0 = Some(self.0.map_or(armed, |held| held.min(armed)));
        Ok(())
    }

    /// Puts it back, unless the guest's kernel has armed an earlier one meanwhile: a deadline that
    /// comes too early is an interrupt for nothing, one that is lost is a thread that sleeps on.
    pub(super) fn give_back(&mut self, vcpu: &VcpuFd) -> Result<(), StateError> {
        let Some(held) = self.0.take() else {
            return Ok(());
        };
        match armed(vcpu)? {
            Some(armed) if armed <= held => Ok(()),
            _ => set(vcpu, held),
        }
    }
}

/// The deadline that the guest waits for. None is what a host says that has no such timer, too.
fn armed(vcpu: &VcpuFd) -> Result<Option<u64>, StateError> {
    let mut msrs = entry(0);
    let read = vcpu
        .get_msrs(&mut msrs)
        .map_err(|e| StateError::Kvm("KVM_GET_MSRS", e))?;
    let deadline = msrs.as_slice()[..read].first().map_or(0, |msr| msr.data);
    Ok((deadline != 0).then_some(deadline))
}

fn entry(data: u64) -> Msrs {
    let entry = kvm_msr_entry {
        index: TSC_DEADLINE,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[entry]).expect("one is within the limit")
}

fn set(vcpu: &VcpuFd, deadline: u64) -> Result<(), StateError> {
    match vcpu.set_msrs(&entry(deadline)) {
        Ok(1) => Ok(()),
        Ok(_) => Err(StateError::MsrRefused {
            index: TSC_DEADLINE,
            value: deadline,
        }),
        Err(e) => Err(StateError::Kvm("KVM_SET_MSRS", e)),
    }
}

#[cfg(test)]
mod tests {
    use kvm_ioctls::{Cap, Kvm, VmFd};

    use super::*;

    const SOON: u64 = 1 << 62;
    const LATER: u64 = SOON + 1;

    /// A vCPU whose APIC has its timer in TSC-deadline mode; `None` where there is none.
    fn vcpu() -> Option<(VmFd, VcpuFd)> {
        let kvm = Kvm::new().unwrap();
        if !kvm.check_extension(Cap::TscDeadlineTimer) {
            return None;
        }
        let vm = kvm.create_vm().unwrap();
        vm.create_irq_chip().unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut cpuid = kvm.get_supported_cpuid(256).unwrap();
        for entry in cpuid.as_mut_slice() {
            if entry.function == 1 {
                entry.ecx |= 1 << 24;
            }
        }
        vcpu.set_cpuid2(&cpuid).unwrap();
        let mut apic = vcpu.get_lapic().unwrap();
        for (register, value) in [(0xf0, 0x1ff_u32), (0x320, 0x4_0040)] {
            for (to, byte) in apic.regs[register..].iter_mut().zip(value.to_le_bytes()) {
                *to = byte.cast_signed();
            }
        }
        vcpu.set_lapic(&apic).unwrap();
        Some((vm, vcpu))
    }

    #[test]
    fn a_deadline_comes_back_unless_the_guest_has_armed_an_earlier_one() {
        let Some((_vm, vcpu)) = vcpu() else { return };
        for (meanwhile, expected) in [(0, SOON), (LATER, SOON), (SOON - 1, SOON - 1)] {
            let mut held = HeldTimer::default();
            set(&vcpu, SOON).unwrap();
            held.take(&vcpu).unwrap();
            assert_eq!(armed(&vcpu).unwrap(), None, "it does not fire");
            set(&vcpu, meanwhile).unwrap();
            held.give_back(&vcpu).unwrap();
            assert_eq!(armed(&vcpu).unwrap(), Some(expected));
        }
    }
}
