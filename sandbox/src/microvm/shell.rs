//! A shell: the parts of a microVM that don't depend on what will run in it. KVM takes milliseconds
//! to set some of them up, so the controller starts shells ahead of need.

use std::fs::File;
use std::io;
use std::sync::Arc;

use hearth_protocol::guest::DISK_COUNT;
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::error::MicroVmError;
use crate::boot::layout::{KVM_TSS, VIRTIO_IRQ, VIRTIO_MMIO, VIRTIO_MMIO_SIZE};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::block::Block;
use crate::devices::virtio::mmio::register;
use crate::devices::virtio::vsock::Vsock;
use crate::host::{HostIdentity, HostKind};
use crate::jail::{HostResources, ThreadFilter};
use crate::vcpu::{EmulationCounter, IdleVcpu};

/// Maximum number of vCPUs of a microVM: what the MP table has room for.
pub const MAX_VCPUS: u8 = 32;

/// Maximum size of a vCPU's XSAVE state; KVM_CAP_XSAVE2 returns the size.
const XSAVE_SIZE: i32 = 4096;

/// The eventfds between one device's driver and the sandbox. KVM serves both directions, without an
/// exit to the vCPU's thread.
#[derive(Debug)]
pub struct DeviceEventfds {
    /// Raises the device's interrupt (irqfd).
    pub interrupt: EventFd,
    /// Signalled when the driver notifies a queue (ioeventfd); one for each queue.
    pub queues: Vec<EventFd>,
}

/// A VM without memory, devices or a guest.
#[derive(Debug)]
pub struct Shell {
    /// `/dev/kvm`.
    pub kvm: Arc<Kvm>,
    /// The VM with its interrupt controllers and timer.
    pub vm: VmFd,
    /// The vCPUs by number, each with its thread.
    pub vcpus: Vec<(VcpuFd, IdleVcpu)>,
    /// Counts KVM's emulated instructions on the first vCPU; `None` unless KVM interprets the
    /// guest's kernel.
    pub emulation_counter: Option<EmulationCounter>,
    /// Eventfds of the devices in address order: the disks, then the vsock device.
    pub eventfds: Vec<DeviceEventfds>,
    /// What identifies this host in snapshots.
    pub host: HostIdentity,
    /// `/proc/self/pagemap`, for snapshots.
    pub pagemap: File,
}

impl Shell {
    /// Prepares a VM with `vcpus` vCPUs, whose threads install `filter`.
    pub fn new(
        resources: HostResources,
        vcpus: u8,
        filter: &ThreadFilter,
    ) -> Result<Self, MicroVmError> {
        let HostResources { kvm, host, pagemap } = resources;
        for (cap, name) in [
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
            (Cap::Irqfd, "KVM_CAP_IRQFD"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(MicroVmError::Capability(name));
            }
        }
        // The sandbox never enables dynamic XSAVE features (AMX), so 4096 bytes are enough.
        if kvm.check_extension_int(Cap::Xsave2) > XSAVE_SIZE {
            return Err(MicroVmError::Capability(
                "an XSAVE state of at most 4096 bytes",
            ));
        }
        let vm = kvm
            .create_vm()
            .map_err(|e| MicroVmError::Kvm("KVM_CREATE_VM", e))?;
        vm.set_tss_address(KVM_TSS)
            .map_err(|e| MicroVmError::Kvm("KVM_SET_TSS_ADDR", e))?;
        // The irqchip comes before the vCPUs, or they get no local APIC.
        vm.create_irq_chip()
            .map_err(|e| MicroVmError::Kvm("KVM_CREATE_IRQCHIP", e))?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        vm.create_pit2(pit)
            .map_err(|e| MicroVmError::Kvm("KVM_CREATE_PIT2", e))?;
        let vcpus = (0..vcpus)
            .map(|id| {
                let fd = vm
                    .create_vcpu(id.into())
                    .map_err(|e| MicroVmError::Kvm("KVM_CREATE_VCPU", e))?;
                Ok((fd, IdleVcpu::start(id, filter.clone())?))
            })
            .collect::<Result<Vec<_>, MicroVmError>>()?;
        let emulation_counter = match (&vcpus[..], host.kind) {
            ([(fd, _), ..], HostKind::Software) => EmulationCounter::of(fd),
            _ => None,
        };
        let eventfds = device_eventfds(&vm)?;
        Ok(Self {
            kvm: Arc::new(kvm),
            vm,
            vcpus,
            emulation_counter,
            eventfds,
            host,
            pagemap,
        })
    }
}

fn device_eventfds(vm: &VmFd) -> Result<Vec<DeviceEventfds>, MicroVmError> {
    let queues = [Block::QUEUE_SIZES.len(); DISK_COUNT]
        .into_iter()
        .chain([Vsock::QUEUE_SIZES.len()]);
    let bases = (0..).map(|i| VIRTIO_MMIO + i * VIRTIO_MMIO_SIZE);
    queues
        .zip(bases)
        .zip(VIRTIO_IRQ..)
        .map(|((queues, base), irq)| {
            let interrupt = eventfd()?;
            vm.register_irqfd(&interrupt, irq)
                .map_err(|e| MicroVmError::Kvm("KVM_IRQFD", e))?;
            let queues = (0u32..)
                .take(queues)
                .map(|queue| {
                    let notify = eventfd()?;
                    let at = IoEventAddress::Mmio(base + register::QUEUE_NOTIFY);
                    vm.register_ioevent(&notify, &at, queue)
                        .map_err(|e| MicroVmError::Kvm("KVM_IOEVENTFD", e))?;
                    Ok(notify)
                })
                .collect::<Result<_, MicroVmError>>()?;
            Ok(DeviceEventfds { interrupt, queues })
        })
        .collect()
}

fn eventfd() -> Result<EventFd, MicroVmError> {
    EventFd::new(EFD_NONBLOCK).map_err(|e: io::Error| MicroVmError::Host("making an eventfd", e))
}
