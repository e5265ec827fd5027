//! The MP table (Intel MultiProcessor Specification 1.4). A kernel without ACPI reads it to find
//! its CPUs, the I/O APIC and the routing of interrupt lines.

use vm_memory::{Bytes, GuestAddress};

use super::layout::{EBDA, IOAPIC, LAPIC};
use crate::memory::GuestMemory;

/// Interrupt lines of the I/O APIC.
const LINES: u8 = 24;
const SPEC_REVISION: u8 = 4;
/// The version that KVM's APICs report.
const APIC_VERSION: u8 = 0x14;

const ENTRY_PROCESSOR: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IOAPIC: u8 = 2;
const ENTRY_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;

const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;
/// Interrupt types: vectored, non-maskable, from the legacy controller (8259).
const TYPE_INT: u8 = 0;
const TYPE_NMI: u8 = 1;
const TYPE_EXTINT: u8 = 3;
const ALL_LAPICS: u8 = 0xff;

/// Makes the table for `cpus` CPUs.
fn build(cpus: u8) -> Vec<u8> {
    let ioapic_id = cpus;
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut push = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..cpus {
        let flags = CPU_ENABLED | if id == 0 { CPU_BOOT } else { 0 };
        let mut entry = [0; 20];
        entry[..4].copy_from_slice(&[ENTRY_PROCESSOR, id, APIC_VERSION, flags]);
        // Signature (family 6) and features (FPU, CX8, APIC). Current kernels read neither.
        entry[4..12].copy_from_slice(&[0x00, 0x06, 0, 0, 0x01, 0x03, 0, 0]);
        push(&entry);
    }
    push(&[ENTRY_BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let mut ioapic = [ENTRY_IOAPIC, ioapic_id, APIC_VERSION, 1, 0, 0, 0, 0];
    ioapic[4..].copy_from_slice(&IOAPIC.to_le_bytes());
    push(&ioapic);
    for line in 0..LINES {
        push(&[ENTRY_INTERRUPT, TYPE_INT, 0, 0, 0, line, ioapic_id, line]);
    }
    push(&[ENTRY_LOCAL_INTERRUPT, TYPE_EXTINT, 0, 0, 0, 0, 0, 0]);
    push(&[ENTRY_LOCAL_INTERRUPT, TYPE_NMI, 0, 0, 0, 0, ALL_LAPICS, 1]);

    let mut table = Vec::with_capacity(44 + entries.len());
    table.extend_from_slice(b"PCMP");
    let length = u16::try_from(44 + entries.len()).expect("32 CPUs make less than 1 KiB");
    table.extend_from_slice(&length.to_le_bytes());
    table.extend_from_slice(&[SPEC_REVISION, 0]);
    table.extend_from_slice(b"HEARTH  ");
    table.extend_from_slice(b"MICROVM     ");
    table.extend_from_slice(&[0; 6]);
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&LAPIC.to_le_bytes());
    table.extend_from_slice(&[0; 4]);
    table.extend_from_slice(&entries);
    table[7] = checksum(&table);
    table
}

/// The byte that makes all bytes sum to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, b| sum.wrapping_add(*b))
        .wrapping_neg()
}

/// Writes the floating pointer to the start of the EBDA, and the table after it.
pub fn write(memory: &GuestMemory, cpus: u8) -> Result<(), vm_memory::GuestMemoryError> {
    let table_address = GuestAddress(EBDA.0 + 16);
    let mut pointer = [0u8; 16];
    pointer[..4].copy_from_slice(b"_MP_");
    let address = u32::try_from(table_address.0).expect("the EBDA is below 1 MiB");
    pointer[4..8].copy_from_slice(&address.to_le_bytes());
    // Length in 16-byte units, revision.
    pointer[8] = 1;
    pointer[9] = SPEC_REVISION;
    pointer[10] = checksum(&pointer);
    memory.write_slice(&pointer, EBDA)?;
    memory.write_slice(&build(cpus), table_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_sums_to_zero_and_fits_below_the_legacy_hole() {
        for cpus in [1, 2, 32] {
            let table = build(cpus);
            assert_eq!(table.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
            assert_eq!(
                usize::from(u16::from_le_bytes([table[4], table[5]])),
                table.len()
            );
            assert!(EBDA.0 + 16 + table.len() as u64 <= 0xa_0000, "{cpus} CPUs");
        }
    }
}
