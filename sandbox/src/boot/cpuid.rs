//! CPUID as the guest sees it: what KVM supports, with each CPU's own APIC id and topology, and
//! without the features that functions don't use. Each KVM feature is attack surface of the host,
//! so these are withheld.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

const LEAF_FEATURES: u32 = 1;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
/// Leaf 1 ECX: the local APIC's timer can count down to a TSC value.
const ECX_TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: the guest runs under a hypervisor.
const ECX_HYPERVISOR: u32 = 1 << 31;
/// Topology subleaf types.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// Leaf 1 ECX: VMX, SMX, and the capabilities of performance counters (PDCM).
const ECX_WITHHELD: u32 = 1 << 5 | 1 << 6 | 1 << 15;
const LEAF_EXTENDED_FEATURES: u32 = 0x8000_0001;
/// Leaf 0x8000_0001 ECX: SVM, instruction-based sampling, performance counters of core and northbridge.
const ECX_EXTENDED_WITHHELD: u32 = 1 << 2 | 1 << 10 | 1 << 23 | 1 << 24;
const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
/// Leaf 0x4000_0001 EAX: asynchronous page faults, steal time, poll control, migration control.
/// Steal time would tell a guest how busy its neighbours are.
const EAX_KVM_WITHHELD: u32 = 1 << 4 | 1 << 5 | 1 << 10 | 1 << 12 | 1 << 14 | 1 << 17;
/// Leaves of performance counters, SGX, processor trace, last branch records, SVM, and AMD's counters.
const LEAVES_WITHHELD: [u32; 6] = [0xa, 0x12, 0x14, 0x1c, 0x8000_000a, 0x8000_0022];

/// Removes the features that guests don't get: nested virtualization, performance counters,
/// enclaves, tracing. KVM lets a guest use a feature only if the guest's CPUID has it.
pub fn withhold(entries: &mut [kvm_cpuid_entry2]) {
    for entry in entries {
        match entry.function {
            LEAF_FEATURES => entry.ecx &= !ECX_WITHHELD,
            LEAF_EXTENDED_FEATURES => entry.ecx &= !ECX_EXTENDED_WITHHELD,
            LEAF_KVM_FEATURES => entry.eax &= !EAX_KVM_WITHHELD,
            leaf if LEAVES_WITHHELD.contains(&leaf) => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
            _ => {}
        }
    }
}

/// The CPUID table for vCPU `id` out of `count`.
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
    withhold(cpuid.as_mut_slice());
    Ok(cpuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_are_not_given_is_in_no_table_and_the_rest_is() {
        let leaves = [
            1,
            7,
            0xa,
            0x12,
            0x14,
            0x1c,
            LEAF_KVM_FEATURES,
            LEAF_EXTENDED_FEATURES,
            0x8000_000a,
            0x8000_0022,
        ];
        let mut entries = leaves.map(|function| kvm_cpuid_entry2 {
            function,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..kvm_cpuid_entry2::default()
        });
        withhold(&mut entries);
        let of = |function| entries.iter().find(|e| e.function == function).unwrap();
        for (vmx_or_svm, leaf) in [(5, 1), (2, LEAF_EXTENDED_FEATURES)] {
            assert_eq!(of(leaf).ecx & 1 << vmx_or_svm, 0);
        }
        for leaf in LEAVES_WITHHELD {
            let e = of(leaf);
            assert_eq!((e.eax, e.ebx, e.ecx, e.edx), (0, 0, 0, 0), "{leaf:#x}");
        }
        // The clock that restores rely on (bits 0, 3 and 24), and AVX.
        assert_eq!(of(LEAF_KVM_FEATURES).eax & 0x0100_0009, 0x0100_0009);
        assert_ne!(of(1).ecx & 1 << 28, 0);
        assert_eq!(of(7).ebx, u32::MAX);
    }
}
