//! A vCPU's model-specific registers: which ones a snapshot keeps, and how they are written back.

use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use super::state::StateError;

/// Deadline of the local APIC's timer. It has to be written after the TSC and after the APIC.
pub(super) const TSC_DEADLINE: u32 = 0x6e0;
/// The time-stamp counter.
pub(super) const TSC: u32 = 0x10;
/// IA32_FEATURE_CONTROL. Some software-KVM hosts list it and let it be read, but refuse to write
/// it.
const FEATURE_CONTROL: u32 = 0x3a;

/// Registers that a host may refuse on restore. Any other refusal is an error: the guest must not
/// run on with a register whose value has changed.
const DROPPABLE: [u32; 1] = [FEATURE_CONTROL];

/// Maximum number of registers in one call. KVM refuses 256, although its header gives that number
/// as the maximum.
const CHUNK: usize = KVM_MAX_MSR_ENTRIES - 1;

/// Reads all registers that KVM lists, leaving out those that this host can't read.
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

/// Writes the registers in their order: all of them, or an error.
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

    /// KVM stops at the first register that it refuses and returns how many it wrote. The call
    /// itself succeeds, so without this check the registers after it would be lost silently.
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

    /// A call with 256 registers is refused as a whole (E2BIG); every snapshot failed on hosts that
    /// list that many.
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
