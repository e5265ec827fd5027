//! Guest-physical addresses that the boot uses. Everything but the kernel is below 1 MiB.

use vm_memory::GuestAddress;

/// Global descriptor table.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// Empty interrupt descriptor table.
pub const IDT: GuestAddress = GuestAddress(0x520);
/// `boot_params`, the "zero page" of the x86 boot protocol.
pub const BOOT_PARAMS: GuestAddress = GuestAddress(0x7000);
/// Top of the stack that the kernel's first instructions use.
pub const STACK: GuestAddress = GuestAddress(0x8ff0);
/// Level-4 page table.
pub const PML4: GuestAddress = GuestAddress(0x9000);
/// Level-3 page table.
pub const PDPT: GuestAddress = GuestAddress(0xa000);
/// Level-2 page table: 2 MiB pages for the first GiB.
pub const PD: GuestAddress = GuestAddress(0xb000);
/// The kernel's command line.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// Maximum length of the command line, with its terminating NUL (x86 `COMMAND_LINE_SIZE`).
pub const COMMAND_LINE_MAX: usize = 2048;
/// Page with the seed that each boot and each restore gives the guest kernel. The memory map leaves it
/// out, so that the kernel uses it for nothing else; see [`crate::snapshot::unique`].
pub const RESTORE_SEED: GuestAddress = GuestAddress(0x9_e000);
/// Extended BIOS data area: where a kernel without ACPI looks for the MP table.
pub const EBDA: GuestAddress = GuestAddress(0x9_fc00);
/// First byte of RAM above the legacy hole; the kernel is loaded here.
pub const HIGH_MEMORY: GuestAddress = GuestAddress(0x10_0000);

/// Address of the I/O APIC.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Address of the local APICs.
pub const LAPIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel hosts, inside the device window.
pub const KVM_TSS: usize = 0xfffb_d000;

/// First virtio-mmio device.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Distance between and size of virtio-mmio devices.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Interrupt line of the first virtio-mmio device. The lines below it have a legacy meaning.
pub const VIRTIO_IRQ: u32 = 5;
