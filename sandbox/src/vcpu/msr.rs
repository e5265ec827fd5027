//! Model-specific registers of a vCPU: which ones belong to a snapshot, and how they go back.

use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use super::state::StateError;

/// Deadline of the local APIC's timer. It has to be set after the TSC, and after the APIC.
pub(super) const TSC_DEADLINE: u32 = 0x6e0;
/// The time-stamp counter.
pub(super) const TSC: u32 = 0x10;
/// Some software-KVM hosts list it, read it, and refuse to have it written.
const FEATURE_CONTROL: u32 = 0x3a;

/// What a host may refuse on restore. Anything else that it refuses is an error: a guest must not
/// run on with a register that it didn't have.
const DROPPABLE: [u32; 1] = [FEATURE_CONTROL];

/// Reads every register that KVM lists. A register that can't be read on this host has no state.
pub(super) fn save(kvm_list: &[u32], vcpu: &VcpuFd) -> Result<Vec<kvm_msr_entry>, StateError> {
    let mut saved = Vec::with_capacity(kvm_list.len());
    let mut rest = kvm_list;
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(KVM_MAX_MSR_ENTRIES)];
        let entries: Vec<kvm_msr_entry> = chunk
            .iter()
            .map(|index| kvm_msr_entry {
                index: *index,
                ..Default::default()
            })
            .collect();
        let mut msrs = Msrs::from_entries(&entries).expect("a chunk is no longer than the limit");
        let read = vcpu
            .get_msrs(&mut msrs)
            .map_err(|e| StateError::Kvm("KVM_GET_MSRS", e))?;
        saved.extend_from_slice(&msrs.as_slice()[..read]);
        // The call stops at the first register that can't be read.
        let unreadable = usize::from(read < chunk.len());
        rest = &rest[read + unreadable..];
    }
    Ok(saved)
}

/// Writes registers in their order; all of them, or an error.
pub(super) fn restore(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), StateError> {
    let mut rest = entries;
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(KVM_MAX_MSR_ENTRIES)];
        let msrs = Msrs::from_entries(chunk).expect("a chunk is no longer than the limit");
        let written = vcpu
            .set_msrs(&msrs)
            .map_err(|e| StateError::Kvm("KVM_SET_MSRS", e))?;
        if written == chunk.len() {
            rest = &rest[written..];
            continue;
        }
        // The call stops at the first register that the host refuses.
        let refused = chunk[written];
        if !DROPPABLE.contains(&refused.index) {
            return Err(StateError::MsrRefused {
                index: refused.index,
                value: refused.data,
            });
        }
        rest = &rest[written + 1..];
    }
    Ok(())
}

/// The registers that KVM keeps for a guest on this host.
pub(super) fn list(kvm: &Kvm) -> Result<Vec<u32>, kvm_ioctls::Error> {
    Ok(kvm.get_msr_index_list()?.as_slice().to_vec())
}
