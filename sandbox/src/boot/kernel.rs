//! Loads an uncompressed ELF kernel and writes the x86 boot protocol's `boot_params`.

use std::fs::File;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::layout;
use crate::memory::{GuestMemory, MemorySize};

/// `boot_params.hdr` values from the boot protocol (Documentation/arch/x86/boot.rst).
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// A boot loader without an assigned number.
const LOADER_TYPE_UNDEFINED: u8 = 0xff;
const KERNEL_ALIGNMENT: u32 = 0x0100_0000;
const E820_RAM: u32 = 1;

/// Why a kernel can't be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file is no ELF kernel that fits into this memory.
    #[error("kernel: {0}")]
    Load(#[from] linux_loader::loader::Error),
    /// The entry point is outside of RAM.
    #[error("kernel entry point {0:#x} is outside of guest memory")]
    Entry(u64),
    /// The boot parameters could not be written to guest memory.
    #[error("writing boot parameters: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// Copies the kernel to the addresses in its ELF header and returns its 64-bit entry point.
pub fn load(memory: &GuestMemory, mut file: File) -> Result<GuestAddress, KernelError> {
    let loaded = Elf::load(memory, None, &mut file, Some(layout::HIGH_MEMORY))?;
    let entry = loaded.kernel_load;
    if entry < layout::HIGH_MEMORY || !memory.address_in_range(entry) {
        return Err(KernelError::Entry(entry.0));
    }
    Ok(entry)
}

/// Writes the command line and `boot_params` with the memory map.
pub fn write_boot_params(
    memory: &GuestMemory,
    size: MemorySize,
    command_line: &str,
) -> Result<(), KernelError> {
    memory.write_slice(command_line.as_bytes(), layout::COMMAND_LINE)?;
    let end = GuestAddress(layout::COMMAND_LINE.0 + command_line.len() as u64);
    memory.write_obj(0u8, end)?;

    let mut params = boot_params::default();
    params.hdr.type_of_loader = LOADER_TYPE_UNDEFINED;
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.cmd_line_ptr =
        u32::try_from(layout::COMMAND_LINE.0).expect("the command line is below 1 MiB");
    params.hdr.cmdline_size =
        u32::try_from(command_line.len() + 1).expect("the command line is at most 2 KiB");
    params.hdr.kernel_alignment = KERNEL_ALIGNMENT;

    let mut map = vec![(0, layout::RESTORE_SEED.0)];
    for (start, len) in size.ranges() {
        let from = start.0.max(layout::HIGH_MEMORY.0);
        map.push((from, start.0 + len - from));
    }
    params.e820_entries = u8::try_from(map.len()).expect("at most three ranges");
    for (entry, (addr, size)) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry {
            addr,
            size,
            r#type: E820_RAM,
        };
    }
    memory.write_obj(params, layout::BOOT_PARAMS)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory;

    #[test]
    fn a_file_that_is_no_kernel_is_refused() {
        let memory = memory::anonymous(MemorySize::from_mib(128).unwrap()).unwrap();
        for content in [&b""[..], b"\x7fELF", &[0u8; 4096]] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(content).unwrap();
            let err = load(&memory, file.reopen().unwrap()).unwrap_err();
            assert!(matches!(err, KernelError::Load(_)), "{err}");
        }
    }

    #[test]
    fn the_memory_map_covers_all_ram_but_the_legacy_hole() {
        let size = MemorySize::from_mib(4096).unwrap();
        let memory = memory::anonymous(size).unwrap();
        write_boot_params(&memory, size, "quiet").unwrap();
        let params: boot_params = memory.read_obj(layout::BOOT_PARAMS).unwrap();
        let table = params.e820_table;
        let entries = &table[..usize::from(params.e820_entries)];
        let ram: u64 = entries.iter().map(|e| e.size).sum();
        assert_eq!(
            ram,
            size.bytes() - (layout::HIGH_MEMORY.0 - layout::RESTORE_SEED.0)
        );
        let mut line = [0; 6];
        memory.read_slice(&mut line, layout::COMMAND_LINE).unwrap();
        assert_eq!(&line, b"quiet\0");
    }
}
