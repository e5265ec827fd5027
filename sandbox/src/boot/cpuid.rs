//! CPUID as the guest shall see it: what KVM supports, with each CPU's own APIC id and topology.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;

const LEAF_FEATURES: u32 = 1;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
/// Leaf 1 ECX: the local APIC's timer can count down to a TSC value.
const ECX_TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: a hypervisor is there.
const ECX_HYPERVISOR: u32 = 1 << 31;
/// Topology subleaf types.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// The table for one CPU out of `count`.
pub fn for_cpu(
    kvm: &Kvm,
    id: u8,
    count: u8,
    tsc_deadline: bool,
) -> Result<CpuId, kvm_ioctls::Error> {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            LEAF_FEATURES => {
                entry.ecx |= ECX_HYPERVISOR;
                if tsc_deadline {
                    entry.ecx |= ECX_TSC_DEADLINE;
                }
                // EBX: initial APIC id in the top byte, number of CPUs in the one below.
                entry.ebx = (entry.ebx & 0xffff) | (u32::from(count) << 16) | (u32::from(id) << 24);
            }
            LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 => {
                // One thread to a core, all cores in one package.
                let core_bits = u8::BITS - count.saturating_sub(1).leading_zeros();
                (entry.eax, entry.ebx, entry.ecx) = match entry.index {
                    0 => (0, 1, LEVEL_THREAD << 8),
                    1 => (core_bits, u32::from(count), (LEVEL_CORE << 8) | 1),
                    index => (0, 0, index),
                };
                entry.edx = u32::from(id);
            }
            _ => {}
        }
    }
    Ok(cpuid)
}
