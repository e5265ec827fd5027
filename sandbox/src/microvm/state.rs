//! What a state file holds, and whether it may be used here.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
    kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::devices::DevicesState;
use super::error::MicroVmError;
use crate::host::HostIdentity;
use crate::vcpu::VcpuState;

/// A paused microVM, memory aside.
#[derive(Debug, Serialize, Deserialize)]
pub struct MicroVmState {
    /// Version of the sandbox that wrote it.
    pub version: String,
    /// Of what it was made; see [`hearth_protocol::sandbox::Boot::fingerprint`].
    pub fingerprint: String,
    /// On what it ran.
    pub host: HostIdentity,
    /// Its memory.
    pub memory_mib: u32,
    /// Its vCPUs, by number.
    pub vcpus: Vec<VcpuState>,
    /// Its devices.
    pub devices: DevicesState,
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
    /// Reads a VM whose vCPUs are stopped and saved.
    pub fn save(vm: &VmFd) -> Result<Self, MicroVmError> {
        let pit = vm
            .get_pit2()
            .map_err(|e| MicroVmError::Kvm("KVM_GET_PIT2", e))?;
        let mut clock = vm
            .get_clock()
            .map_err(|e| MicroVmError::Kvm("KVM_GET_CLOCK", e))?;
        // Flags say how exact the reading was. KVM_SET_CLOCK takes others under the same name, and
        // with none it continues the guest's clock from here, however old the snapshot.
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

    /// Writes a VM whose vCPUs have their state.
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
    /// Refuses a state that was made elsewhere or of something else.
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

/// Threads were started with the shell, one for each vCPU, and none can be added.
pub(super) fn check_vcpus(asked: usize, prepared: usize) -> Result<(), MicroVmError> {
    if asked == prepared {
        Ok(())
    } else {
        Err(MicroVmError::VcpuCount { asked, prepared })
    }
}

/// This sandbox's version, part of every state.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
