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

/// Registers of one call. KVM refuses 256, which is what its interface calls the most.
const CHUNK: usize = KVM_MAX_MSR_ENTRIES - 1;

/// Reads every register that KVM lists. A register that can't be read on this host has no state.
pub(super) fn save(kvm_list: &[u32], vcpu: &VcpuFd) -> Result<Vec<kvm_msr_entry>, StateError> {
    let mut saved = Vec::with_capacity(kvm_list.len());
    let mut rest = kvm_list;
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(CHUNK)];
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
        let chunk = &rest[..rest.len().min(CHUNK)];
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

#[cfg(test)]
mod tests {
    use super::*;

    const EFER: u32 = 0xc000_0080;

    fn entry(index: u32, data: u64) -> kvm_msr_entry {
        kvm_msr_entry {
            index,
            data,
            ..Default::default()
        }
    }

    /// KVM stops at the first register that it refuses and says how many it wrote: no error by
    /// itself, and what comes behind it would be lost without a word.
    #[test]
    fn a_register_that_the_host_refuses_is_an_error_by_name() {
        let vm = Kvm::new().unwrap().create_vm().unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        // EFER has no such bit on any CPU.
        let impossible = entry(EFER, 1 << 63);
        let error = restore(&vcpu, &[entry(TSC, 7), impossible, entry(TSC, 9)]).unwrap_err();
        assert!(matches!(
            error,
            StateError::MsrRefused { index: EFER, value } if value == 1 << 63
        ));
        restore(&vcpu, &[entry(TSC, 7), entry(EFER, 0)]).unwrap();
    }

    /// Chunks of 256 were refused whole (E2BIG), and with them every snapshot of a host that lists
    /// that many.
    #[test]
    fn more_registers_than_one_call_takes_are_all_written() {
        let vm = Kvm::new().unwrap().create_vm().unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut many = vec![entry(EFER, 0); KVM_MAX_MSR_ENTRIES + 3];
        restore(&vcpu, &many).unwrap();
        many.push(entry(EFER, 1 << 63));
        assert!(restore(&vcpu, &many).is_err());
    }
}
