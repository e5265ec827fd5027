//! A vCPU's state for snapshots. KVM's calls have side effects on each other, so the order in which
//! the parts are read and written matters; each constraint is written where it applies.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd};
use serde::{Deserialize, Serialize};

use super::msr;
use crate::boot::cpuid;

/// If the TSC's frequency differs by no more than this (250 ppm), it is not scaled: the guest's NTP
/// corrects such a drift anyway.
const TSC_TOLERANCE_PPM: u64 = 250;
/// Local APIC registers: the timer's vector-table entry, its mask and mode bits.
const LVT_TIMER: usize = 0x320;
const LVT_MASKED: u32 = 1 << 16;
const LVT_MODE: u32 = 3 << 17;
const LVT_MODE_DEADLINE: u32 = 2 << 17;

/// All of the state that KVM keeps for one vCPU.
#[derive(Serialize, Deserialize)]
pub struct VcpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Box<kvm_xsave>,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    tsc_khz: u32,
    cpuid: Vec<kvm_cpuid_entry2>,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

impl std::fmt::Debug for VcpuState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The other fields are registers, which may contain a function's secrets.
        f.debug_struct("VcpuState")
            .field("rip", &self.regs.rip)
            .finish_non_exhaustive()
    }
}

/// Why a vCPU's state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// KVM refused the call.
    #[error("{0}: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
    /// The host refuses this register's value.
    #[error("this host refuses MSR {index:#x} (value {value:#x})")]
    MsrRefused {
        /// The register's number.
        index: u32,
        /// The refused value.
        value: u64,
    },
    /// Too many entries for KVM.
    #[error("snapshot with {count} CPUID entries, the limit is {KVM_MAX_CPUID_ENTRIES}")]
    Cpuid {
        /// Entries in the snapshot.
        count: usize,
    },
    /// The guest's TSC ran at another speed, and this host can't slow its own down.
    #[error("the guest's TSC ran at {saved} kHz, this host's at {host} kHz and it can't be scaled")]
    TscFrequency {
        /// The guest's.
        saved: u32,
        /// This host's.
        host: u32,
    },
}

macro_rules! kvm {
    ($name:literal, $call:expr) => {
        $call.map_err(|e| StateError::Kvm($name, e))
    };
}

impl VcpuState {
    /// Reads the state of a stopped vCPU.
    pub fn save(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Self, StateError> {
        // First: this call makes KVM process a pending INIT or SIPI, which changes other parts of
        // the state.
        let mp_state = kvm!("KVM_GET_MP_STATE", vcpu.get_mp_state())?;
        let regs = kvm!("KVM_GET_REGS", vcpu.get_regs())?;
        let sregs = kvm!("KVM_GET_SREGS", vcpu.get_sregs())?;
        let xsave = Box::new(kvm!("KVM_GET_XSAVE", vcpu.get_xsave())?);
        let xcrs = kvm!("KVM_GET_XCRS", vcpu.get_xcrs())?;
        let debug_regs = kvm!("KVM_GET_DEBUGREGS", vcpu.get_debug_regs())?;
        let lapic = kvm!("KVM_GET_LAPIC", vcpu.get_lapic())?;
        let tsc_khz = kvm!("KVM_GET_TSC_KHZ", vcpu.get_tsc_khz())?;
        let cpuid = kvm!("KVM_GET_CPUID2", vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES))?;
        let list = kvm!("KVM_GET_MSR_INDEX_LIST", msr::list(kvm))?;
        let mut msrs = msr::save(&list, vcpu)?;
        rearm_expired_deadline(&mut msrs, &lapic);
        // Last: the calls above may queue events.
        let events = kvm!("KVM_GET_VCPU_EVENTS", vcpu.get_vcpu_events())?;
        Ok(Self {
            mp_state,
            regs,
            sregs,
            xsave,
            xcrs,
            debug_regs,
            lapic,
            tsc_khz,
            cpuid: cpuid.as_slice().to_vec(),
            msrs,
            events,
        })
    }

    /// Writes the state to a vCPU that has not run yet. Its VM must have its irqchip and memory.
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        self.restore_tsc_frequency(vcpu)?;
        // First: KVM checks XSAVE and some MSRs against the CPUID.
        let mut cpuid = CpuId::from_entries(&self.cpuid).map_err(|_| StateError::Cpuid {
            count: self.cpuid.len(),
        })?;
        // Again, because a forged state file could list the features that were withheld at boot.
        cpuid::withhold(cpuid.as_mut_slice());
        kvm!("KVM_SET_CPUID2", vcpu.set_cpuid2(&cpuid))?;
        kvm!("KVM_SET_MP_STATE", vcpu.set_mp_state(self.mp_state))?;
        // Before VCPU_EVENTS: this call clears pending exceptions.
        kvm!("KVM_SET_REGS", vcpu.set_regs(&self.regs))?;
        // Before LAPIC: SREGS include the APIC base.
        kvm!("KVM_SET_SREGS", vcpu.set_sregs(&self.sregs))?;
        // SAFETY: the buffer is a whole kvm_xsave, and the sandbox never asks for the dynamic
        // features that would make KVM read more than that.
        kvm!("KVM_SET_XSAVE", unsafe { vcpu.set_xsave(&self.xsave) })?;
        kvm!("KVM_SET_XCRS", vcpu.set_xcrs(&self.xcrs))?;
        kvm!("KVM_SET_DEBUGREGS", vcpu.set_debug_regs(&self.debug_regs))?;
        // Before the MSRs: the deadline arms only if the APIC's timer is in deadline mode.
        kvm!("KVM_SET_LAPIC", vcpu.set_lapic(&self.lapic))?;
        // The deadline is compared with the TSC, so it is written after the TSC, in a call of its
        // own.
        let (deadline, others): (Vec<_>, Vec<_>) = self
            .msrs
            .iter()
            .partition(|entry| entry.index == msr::TSC_DEADLINE);
        msr::restore(vcpu, &others)?;
        msr::restore(vcpu, &deadline)?;
        kvm!("KVM_SET_VCPU_EVENTS", vcpu.set_vcpu_events(&self.events))?;
        self.tell_that_it_was_paused(vcpu)
    }

    /// Tells the guest's soft-lockup watchdog that the vCPU was paused. Without this the guest
    /// would report the time that it was stored on disk as a lock-up.
    fn tell_that_it_was_paused(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        match vcpu.kvmclock_ctrl() {
            // EINVAL: the guest has not enabled its paravirtual clock, so its watchdog does not use
            // it.
            Err(e) if e.errno() == libc::EINVAL => Ok(()),
            result => kvm!("KVM_KVMCLOCK_CTRL", result),
        }
    }

    fn restore_tsc_frequency(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        let host = kvm!("KVM_GET_TSC_KHZ", vcpu.get_tsc_khz())?;
        let drift = u64::from(host.abs_diff(self.tsc_khz));
        if drift * 1_000_000 <= u64::from(self.tsc_khz) * TSC_TOLERANCE_PPM {
            return Ok(());
        }
        vcpu.set_tsc_khz(self.tsc_khz)
            .map_err(|_| StateError::TscFrequency {
                saved: self.tsc_khz,
                host,
            })
    }
}

/// A deadline that expired just before the snapshot reads as zero, although its interrupt may not
/// have been delivered yet. Restored as zero, it would never fire and the guest would wait for
/// ever. Setting it to "now" costs at most one spurious timer interrupt.
fn rearm_expired_deadline(msrs: &mut [kvm_msr_entry], lapic: &kvm_lapic_state) {
    let bytes: Vec<u8> = lapic.regs[LVT_TIMER..LVT_TIMER + 4]
        .iter()
        .map(|b| b.cast_unsigned())
        .collect();
    let lvt = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    if lvt & LVT_MODE != LVT_MODE_DEADLINE || lvt & LVT_MASKED != 0 {
        return;
    }
    let Some(now) = msrs.iter().find(|e| e.index == msr::TSC).map(|e| e.data) else {
        return;
    };
    for entry in msrs
        .iter_mut()
        .filter(|e| e.index == msr::TSC_DEADLINE && e.data == 0)
    {
        entry.data = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msrs(deadline: u64) -> Vec<kvm_msr_entry> {
        [(msr::TSC, 1000), (msr::TSC_DEADLINE, deadline)]
            .map(|(index, data)| kvm_msr_entry {
                index,
                data,
                ..Default::default()
            })
            .to_vec()
    }

    fn lapic(lvt: u32) -> kvm_lapic_state {
        let mut state = kvm_lapic_state::default();
        for (register, byte) in state.regs[LVT_TIMER..].iter_mut().zip(lvt.to_le_bytes()) {
            *register = byte.cast_signed();
        }
        state
    }

    #[test]
    fn an_expired_deadline_fires_after_the_restore() {
        let mut entries = msrs(0);
        rearm_expired_deadline(&mut entries, &lapic(LVT_MODE_DEADLINE | 0xec));
        assert_eq!(entries[1].data, 1000);
    }

    #[test]
    fn a_pending_or_unused_deadline_stays_as_it_is() {
        for (deadline, lvt) in [
            (5000, LVT_MODE_DEADLINE),
            (0, LVT_MODE_DEADLINE | LVT_MASKED),
            (0, 0),
        ] {
            let mut entries = msrs(deadline);
            rearm_expired_deadline(&mut entries, &lapic(lvt));
            assert_eq!(entries[1].data, deadline);
        }
    }
}
