//! Checks that the agent's binary can be a guest's first process.

use std::fs;
use std::path::Path;

use super::RuntimeError;

/// Type of the ELF program header that names a dynamic linker.
const PT_INTERP: u32 = 3;
const ELF_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const MACHINE_X86_64: u16 = 62;

/// Reads the agent and checks that it is a static program for x86-64. Any other would fail only in
/// the guest, as a kernel panic.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, RuntimeError> {
    let bytes = fs::read(path).map_err(RuntimeError::io("read", path))?;
    match fault(&bytes) {
        None => Ok(bytes),
        Some(why) => Err(RuntimeError::Agent {
            path: path.to_owned(),
            why,
        }),
    }
}

fn fault(elf: &[u8]) -> Option<&'static str> {
    // Class 2: 64 bits. Data 1: little-endian.
    if elf.len() < ELF_HEADER_BYTES || !elf.starts_with(b"\x7fELF\x02\x01") {
        return Some("is not a 64-bit ELF program");
    }
    let u16_at = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().expect("two bytes"));
    if u16_at(18) != MACHINE_X86_64 {
        return Some("is not a program for x86-64");
    }
    let table = u64::from_le_bytes(elf[32..40].try_into().expect("eight bytes"));
    let table = usize::try_from(table).unwrap_or(usize::MAX);
    for index in 0..usize::from(u16_at(56)) {
        let header = index
            .checked_mul(PROGRAM_HEADER_BYTES)
            .and_then(|offset| table.checked_add(offset))
            .and_then(|at| elf.get(at..at.checked_add(4)?));
        match header {
            None => return Some("is cut off"),
            Some(kind) if kind == PT_INTERP.to_le_bytes() => {
                return Some(
                    "is dynamically linked; build it with \
                     RUSTFLAGS='-C target-feature=+crt-static'",
                );
            }
            Some(_) => {}
        }
    }
    None
}

/// The smallest file that passes the check, for tests.
#[cfg(test)]
pub(super) fn pretended() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(ELF_HEADER_BYTES, 0);
    elf[18..20].copy_from_slice(&MACHINE_X86_64.to_le_bytes());
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_program_is_taken() {
        assert_eq!(fault(&pretended()), None);
    }

    #[test]
    fn a_dynamic_program_is_refused() {
        let mut elf = pretended();
        elf[32] = 64;
        elf[56] = 1;
        assert_eq!(fault(&elf), Some("is cut off"));
        elf.extend(PT_INTERP.to_le_bytes());
        assert!(fault(&elf).unwrap().contains("dynamically"));
    }

    #[test]
    fn other_files_are_refused() {
        assert!(fault(b"#!/bin/sh\n").is_some());
        let mut arm = pretended();
        arm[18] = 183;
        assert!(fault(&arm).is_some());
    }
}
