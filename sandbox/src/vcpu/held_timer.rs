//! Disarms the local APIC's timer while the guest is to run without its kernel, and arms it again
//! later.
//!
//! A TSC deadline that passes while the vCPU does not run fires as soon as it runs again, and that
//! interrupt costs more than a whole call that needs no guest kernel. So the deadline is taken out
//! of the APIC when the vCPU stops, and put back once the guest has run for longer than such a call
//! takes. A deadline that has expired by then fires at once. The guest's kernel believes all
//! the while that its timer is armed.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::msr::TSC_DEADLINE;
use super::state::StateError;

/// The deadline that was taken out of the APIC, if any.
#[derive(Debug, Default)]
pub(super) struct HeldTimer(Option<u64>);

impl HeldTimer {
    /// Disarms the timer and keeps its deadline. A timer that has fired already is a pending
    /// interrupt, which this leaves alone.
    pub(super) fn disarm(&mut self, vcpu: &VcpuFd) -> Result<(), StateError> {
        let Some(armed) = armed(vcpu)? else {
            return Ok(());
        };
        set(vcpu, 0)?;
        self.0 = Some(self.0.map_or(armed, |held| held.min(armed)));
        Ok(())
    }

    /// Arms the timer with the kept deadline, unless the guest's kernel has armed an earlier one
    /// meanwhile. The earlier of the two is always safe: a deadline that fires too early is a
    /// spurious interrupt, but a lost one would leave a guest thread asleep.
    pub(super) fn rearm(&mut self, vcpu: &VcpuFd) -> Result<(), StateError> {
        let Some(held) = self.0.take() else {
            return Ok(());
        };
        match armed(vcpu)? {
            Some(armed) if armed <= held => Ok(()),
            _ => set(vcpu, held),
        }
    }
}

/// The armed deadline; `None` if none is armed, or if the host does not support the TSC deadline
/// timer.
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
    Msrs::from_entries(&[entry]).expect("one entry is within the limit")
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

    /// Vector 0x40 and a mode of the local APIC's timer, as its register has them.
    const ONE_SHOT: u32 = 0x40;
    const DEADLINE: u32 = 0x4_0040;

    /// A vCPU with the local APIC's timer in this mode. Fails if KVM does not emulate the TSC
    /// deadline timer: a test that passed there would have checked nothing.
    fn vcpu(mode: u32) -> (VmFd, VcpuFd) {
        let kvm = Kvm::new().unwrap();
        assert!(
            kvm.check_extension(Cap::TscDeadlineTimer),
            "this host's KVM has no TSC deadline timer, so this can't be checked here"
        );
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
        for (register, value) in [(0xf0, 0x1ff_u32), (0x320, mode)] {
            for (to, byte) in apic.regs[register..].iter_mut().zip(value.to_le_bytes()) {
                *to = byte.cast_signed();
            }
        }
        vcpu.set_lapic(&apic).unwrap();
        (vm, vcpu)
    }

    #[test]
    fn a_deadline_comes_back_unless_the_guest_has_armed_an_earlier_one() {
        let (_vm, vcpu) = vcpu(DEADLINE);
        for (meanwhile, expected) in [(0, SOON), (LATER, SOON), (SOON - 1, SOON - 1)] {
            let mut held = HeldTimer::default();
            set(&vcpu, SOON).unwrap();
            held.disarm(&vcpu).unwrap();
            assert_eq!(armed(&vcpu).unwrap(), None, "it does not fire");
            set(&vcpu, meanwhile).unwrap();
            held.rearm(&vcpu).unwrap();
            assert_eq!(armed(&vcpu).unwrap(), Some(expected));
        }
    }

    #[test]
    fn a_timer_without_a_tsc_deadline_is_left_alone() {
        let (_vm, vcpu) = vcpu(ONE_SHOT);
        let mut held = HeldTimer::default();
        held.disarm(&vcpu).unwrap();
        assert_eq!(held.0, None);
        held.rearm(&vcpu).unwrap();
        assert_eq!(armed(&vcpu).unwrap(), None);
    }
}
