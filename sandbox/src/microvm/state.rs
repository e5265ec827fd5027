//! The content of a state file, and the checks whether it may be used on this host.

use hearth_protocol::sandbox::RandomRange;
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
    kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::devices::DevicesState;
use super::error::MicroVmError;
use crate::host::HostIdentity;
use crate::mailbox::MailboxState;
use crate::vcpu::VcpuState;

/// The state of a paused microVM, without its memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct MicroVmState {
    /// Version of the sandbox that wrote it.
    pub version: String,
    /// What the microVM was made of; see [`hearth_protocol::sandbox::Boot::fingerprint`].
    pub fingerprint: String,
    /// The host that it ran on.
    pub host: HostIdentity,
    /// Size of its memory.
    pub memory_mib: u32,
    /// Its vCPUs, by number.
    pub vcpus: Vec<VcpuState>,
    /// Its devices.
    pub devices: DevicesState,
    /// The pages and the state of its mailbox.
    pub mailbox: Option<MailboxState>,
    /// What each restore fills with random bytes.
    pub random_ranges: Vec<RandomRange>,
    /// Interrupt controllers, timer and clock.
    pub vm: VmState,
}

/// State that KVM keeps for a whole VM.
#[derive(Serialize, Deserialize)]
pub struct VmState {
    pit: kvm_pit_state2,
    clock: kvm_clock_data,
    pic_master: kvm_irqchip,
    pic_slave: kvm_irqchip,
    ioapic: kvm_irqchip,
}

impl std::fmt::Debug for VmState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmState")
            .field("clock", &self.clock.clock)
            .finish_non_exhaustive()
    }
}

impl VmState {
    /// Reads the state of a VM whose vCPUs are stopped and saved.
    pub fn save(vm: &VmFd) -> Result<Self, MicroVmError> {
        let pit = vm
            .get_pit2()
            .map_err(|e| MicroVmError::Kvm("KVM_GET_PIT2", e))?;
        let mut clock = vm
            .get_clock()
            .map_err(|e| MicroVmError::Kvm("KVM_GET_CLOCK", e))?;
        // KVM_GET_CLOCK's flags say how exact the reading was. KVM_SET_CLOCK gives the same bits
        // another meaning; with none of them set, it continues the guest's clock from this reading,
        // however old the snapshot is.
        clock.flags = 0;
        let chip = |chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip)
                .map(|()| chip)
                .map_err(|e| MicroVmError::Kvm("KVM_GET_IRQCHIP", e))
        };
        Ok(Self {
            pit,
            clock,
            pic_master: chip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: chip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: chip(KVM_IRQCHIP_IOAPIC)?,
        })
    }

    /// Writes the state to a VM whose vCPUs have theirs.
    pub fn restore(&self, vm: &VmFd) -> Result<(), MicroVmError> {
        vm.set_pit2(&self.pit)
            .map_err(|e| MicroVmError::Kvm("KVM_SET_PIT2", e))?;
        vm.set_clock(&self.clock)
            .map_err(|e| MicroVmError::Kvm("KVM_SET_CLOCK", e))?;
        for chip in [&self.pic_master, &self.pic_slave, &self.ioapic] {
            vm.set_irqchip(chip)
                .map_err(|e| MicroVmError::Kvm("KVM_SET_IRQCHIP", e))?;
        }
        Ok(())
    }
}

impl MicroVmState {
    /// Refuses a state that another kind of host has made, or that was made of something else.
    pub fn check(
        &self,
        host: &HostIdentity,
        fingerprint: &str,
        vcpus: usize,
    ) -> Result<(), MicroVmError> {
        let same = |what, snapshot: &str, here: &str| {
            if snapshot == here {
                return Ok(());
            }
            let (snapshot, here) = (snapshot.to_owned(), here.to_owned());
            Err(MicroVmError::Mismatch {
                what,
                snapshot,
                here,
            })
        };
        same("sandbox version", &self.version, VERSION)?;
        same("kind of KVM host", self.host.kind.name(), host.kind.name())?;
        same("CPU", &self.host.cpu, &host.cpu)?;
        same("CPU flags", &self.host.flags, &host.flags)?;
        same("fingerprint", &self.fingerprint, fingerprint)?;
        check_vcpus(self.vcpus.len(), vcpus)
    }
}

/// The shell has started one thread for each vCPU; none can be added later.
pub(super) fn check_vcpus(asked: usize, prepared: usize) -> Result<(), MicroVmError> {
    if asked == prepared {
        Ok(())
    } else {
        Err(MicroVmError::VcpuCount { asked, prepared })
    }
}

/// This sandbox's version, which every state records.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use hearth_protocol::guest::DISK_COUNT;
    use hearth_protocol::sandbox::RefusalKind;
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;
    use crate::host::HostKind;
    use crate::memory::{self, MemorySize};
    use crate::microvm::devices::{Devices, Images};
    use crate::microvm::shell::DeviceEventfds;

    fn here() -> HostIdentity {
        HostIdentity {
            kind: HostKind::Hardware,
            cpu: "this CPU".into(),
            flags: "its flags".into(),
        }
    }

    fn state() -> MicroVmState {
        let memory = memory::anonymous(MemorySize::from_mib(128).unwrap()).unwrap();
        let images = Images::new((0..DISK_COUNT).map(|_| None).collect()).unwrap();
        let eventfds: Vec<_> = (0..=DISK_COUNT)
            .map(|_| DeviceEventfds {
                interrupt: EventFd::new(EFD_NONBLOCK).unwrap(),
                queues: Vec::new(),
            })
            .collect();
        let (vsock, _host) = UnixStream::pair().unwrap();
        let mut devices = Devices::new(images, vsock, &memory, &eventfds).unwrap();
        MicroVmState {
            version: VERSION.into(),
            fingerprint: "kernel and image".into(),
            host: here(),
            memory_mib: 128,
            vcpus: Vec::new(),
            devices: devices.save().unwrap(),
            mailbox: None,
            random_ranges: Vec::new(),
            vm: VmState {
                pit: kvm_pit_state2::default(),
                clock: kvm_clock_data::default(),
                pic_master: kvm_irqchip::default(),
                pic_slave: kvm_irqchip::default(),
                ioapic: kvm_irqchip::default(),
            },
        }
    }

    #[test]
    fn a_snapshot_of_this_make_is_taken() {
        state().check(&here(), "kernel and image", 0).unwrap();
    }

    #[test]
    fn a_snapshot_of_another_make_is_refused_as_one_to_be_made_anew() {
        type Spoil = fn(&mut MicroVmState);
        let spoils: [(&str, Spoil); 5] = [
            ("sandbox version", |s| s.version.push_str("-next")),
            ("kind of KVM host", |s| s.host.kind = HostKind::Software),
            ("CPU", |s| s.host.cpu = "that CPU".into()),
            ("CPU flags", |s| s.host.flags.push_str(" more")),
            ("fingerprint", |s| s.fingerprint = "another kernel".into()),
        ];
        for (what, spoil) in spoils {
            let mut state = state();
            spoil(&mut state);
            let error = state.check(&here(), "kernel and image", 0).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert_eq!(error.refusal().kind, RefusalKind::SnapshotUnusable);
        }
    }
}
