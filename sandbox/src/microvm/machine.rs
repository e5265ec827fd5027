//! A microVM with memory, devices and vCPUs: boot or restore it, run it, stop it, save it. Nothing
//! here waits for the guest; the event loop gets a [`Notice`](crate::vcpu::Notice) when a vCPU has
//! stopped.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::jail::Jail;
use hearth_protocol::sandbox::{Boot, Restore, Resume, Snapshot, State, Status};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use super::devices::{Devices, Images};
use super::error::MicroVmError;
use super::shell::{DeviceEventfds, Shell};
use super::state::{MicroVmState, VERSION, VmState, check_vcpus};
use crate::boot::{command_line, cpuid, kernel, mptable, registers};
use crate::devices::pio::PioBus;
use crate::files::{BootFiles, RestoreFiles, SnapshotFiles};
use crate::host::HostIdentity;
use crate::log;
use crate::mailbox::{Mailbox, MailboxSocket};
use crate::memory::{self, GuestMemory, MemorySize};
use crate::snapshot::memory_file::Sources;
use crate::snapshot::{memory_file, state_file, unique};
use crate::vcpu::{Attachment, Counters, EmulationCounter, IdleVcpu, NoticeSender, Vcpu};

const SEEDING: &str = "seeding the guest's random generators";

/// The inputs of a boot, checked before the shell is changed.
#[derive(Debug)]
pub struct BootPlan {
    kernel: File,
    images: Images,
    size: MemorySize,
    boot: Boot,
}

/// The inputs of a restore, checked and mapped before the shell is changed.
#[derive(Debug)]
pub struct RestorePlan {
    images: Images,
    size: MemorySize,
    state: MicroVmState,
    memory: GuestMemory,
    memory_file: File,
}

/// The sockets between a microVM and its controller.
#[derive(Debug)]
pub struct Sockets {
    /// The other end of the vsock connection: the agent's byte stream.
    pub vsock: UnixStream,
    /// The mailbox's byte stream, if the microVM has a mailbox.
    pub mailbox: Option<MailboxSocket>,
}

/// A microVM that has been started or restored.
#[derive(Debug)]
pub struct MicroVm {
    // Rust drops fields in this order: the vCPU threads end before what they use.
    vcpus: Vec<Vcpu>,
    devices: Devices,
    eventfds: Vec<DeviceEventfds>,
    memory: GuestMemory,
    memory_base: Option<File>,
    pagemap: File,
    size: MemorySize,
    fingerprint: String,
    counters: Arc<Counters>,
    running: usize,
    vm: VmFd,
    kvm: Arc<Kvm>,
    host: HostIdentity,
}

impl BootPlan {
    /// Checks the inputs.
    pub fn new(boot: &Boot, files: BootFiles, shell: &Shell) -> Result<Self, MicroVmError> {
        check_vcpus(boot.vcpus.into(), shell.vcpus.len())?;
        let size = MemorySize::from_mib(boot.memory_mib)?;
        Ok(Self {
            kernel: files.kernel,
            images: Images::new(files.disks)?,
            size,
            boot: boot.clone(),
        })
    }
}

impl RestorePlan {
    /// Checks the inputs and maps the memory file.
    pub fn new(
        restore: &Restore,
        files: RestoreFiles,
        shell: &Shell,
    ) -> Result<Self, MicroVmError> {
        let state: MicroVmState = state_file::read(&files.state)?;
        state.check(&shell.host, &restore.fingerprint, shell.vcpus.len())?;
        let size = MemorySize::from_mib(state.memory_mib)?;
        let memory_file = files.memory;
        let mapped = memory_file
            .try_clone()
            .map_err(|e| MicroVmError::Host("copying the memory file's descriptor", e))?;
        let memory = memory::private_view(size, mapped)?;
        unique::check_ranges(&memory, &state.random_ranges).map_err(MicroVmError::SavedUnique)?;
        Ok(Self {
            images: Images::new(files.disks)?,
            size,
            memory,
            memory_file,
            state,
        })
    }
}

impl MicroVm {
    /// Loads a kernel into a shell. The microVM is paused before its first instruction.
    pub fn boot(
        shell: Shell,
        plan: BootPlan,
        sockets: Sockets,
        notices: &NoticeSender,
    ) -> Result<Self, MicroVmError> {
        let BootPlan {
            kernel,
            images,
            size,
            boot,
        } = plan;
        let memory = memory::anonymous(size)?;
        let entry = kernel::load(&memory, kernel)?;
        let line = command_line::build(shell.host.kind, shell.eventfds.len(), &boot.kernel_args)?;
        kernel::write_boot_params(&memory, size, &line)?;
        mptable::write(&memory, boot.vcpus)?;
        unique::make_unique(&memory, &[]).map_err(|e| MicroVmError::Host(SEEDING, e))?;
        add_memory(&shell.vm, &memory)?;
        let devices = Devices::new(images, sockets.vsock, &memory, &shell.eventfds)?;
        let mailbox = sockets.mailbox.map(Mailbox::new);
        let tsc_deadline = shell.kvm.check_extension(Cap::TscDeadlineTimer);
        for (id, (fd, _)) in (0..).zip(&shell.vcpus) {
            let cpuid = cpuid::for_cpu(&shell.kvm, id, boot.vcpus, tsc_deadline)
                .map_err(|e| MicroVmError::Kvm("KVM_GET_SUPPORTED_CPUID", e))?;
            fd.set_cpuid2(&cpuid)
                .map_err(|e| MicroVmError::Kvm("KVM_SET_CPUID2", e))?;
        }
        // The other vCPUs wait until the guest's kernel starts them.
        registers::set_up(&shell.vcpus[0].0, &memory, entry)?;
        let machine = Self {
            vcpus: Vec::new(),
            devices,
            eventfds: shell.eventfds,
            memory,
            memory_base: None,
            pagemap: shell.pagemap,
            size,
            fingerprint: boot.fingerprint,
            counters: Arc::default(),
            running: 0,
            vm: shell.vm,
            kvm: shell.kvm,
            host: shell.host,
        };
        machine.with_vcpus(shell.vcpus, mailbox, shell.emulation_counter, notices)
    }

    /// Restores a snapshot into a shell. The microVM is paused where it was saved.
    pub fn restore(
        shell: Shell,
        plan: RestorePlan,
        sockets: Sockets,
        notices: &NoticeSender,
    ) -> Result<Self, MicroVmError> {
        let RestorePlan {
            images,
            size,
            state,
            memory,
            memory_file,
        } = plan;
        unique::make_unique(&memory, &state.random_ranges)
            .map_err(|e| MicroVmError::Host(SEEDING, e))?;
        // Memory before vCPU state: KVM reads some of that state through guest memory.
        add_memory(&shell.vm, &memory)?;
        for ((fd, _), vcpu) in shell.vcpus.iter().zip(&state.vcpus) {
            vcpu.restore(fd)?;
        }
        state.vm.restore(&shell.vm)?;
        // Devices last: a pending interrupt is raised again, which needs the restored interrupt
        // controllers.
        let mut devices = Devices::restore(
            images,
            sockets.vsock,
            &state.devices,
            &memory,
            &shell.eventfds,
        )?;
        devices.kick_all();
        let mailbox = sockets
            .mailbox
            .map(|socket| Mailbox::restore(socket, state.mailbox.as_ref(), &memory))
            .transpose()?;
        let machine = Self {
            vcpus: Vec::new(),
            devices,
            eventfds: shell.eventfds,
            memory,
            memory_base: Some(memory_file),
            pagemap: shell.pagemap,
            size,
            fingerprint: state.fingerprint,
            counters: Arc::default(),
            running: 0,
            vm: shell.vm,
            kvm: shell.kvm,
            host: shell.host,
        };
        machine.with_vcpus(shell.vcpus, mailbox, shell.emulation_counter, notices)
    }

    fn with_vcpus(
        mut self,
        vcpus: Vec<(VcpuFd, IdleVcpu)>,
        mailbox: Option<Mailbox>,
        mut emulation_counter: Option<EmulationCounter>,
        notices: &NoticeSender,
    ) -> Result<Self, MicroVmError> {
        // The mailbox's pages belong to the guest while its vCPU runs, and to the host otherwise.
        // With two vCPUs there would be no such moment, so such a guest has no mailbox.
        let mut mailbox = mailbox.filter(|_| vcpus.len() == 1);
        for (id, (fd, thread)) in (0..).zip(vcpus) {
            let attachment = Attachment {
                id,
                kvm: Arc::clone(&self.kvm),
                memory: self.memory.clone(),
                interrupts: self.devices.interrupts().to_vec(),
                ports: PioBus::new(console as fn(&str)),
                host: self.host.kind,
                notices: notices
                    .try_clone()
                    .map_err(|e| MicroVmError::Host("copying an eventfd", e))?,
                counters: Arc::clone(&self.counters),
                mailbox: mailbox.take(),
                emulation_counter: emulation_counter.take(),
            };
            self.vcpus.push(Vcpu::attach(thread, fd, attachment)?);
        }
        Ok(self)
    }

    /// Lets all vCPUs run; each has this budget.
    pub fn resume(&mut self, resume: Resume) -> Result<(), MicroVmError> {
        let budget = resume.cpu_budget_us.map(Duration::from_micros);
        for vcpu in &self.vcpus {
            vcpu.run(budget)?;
            self.running += 1;
        }
        Ok(())
    }

    /// Asks all vCPUs to stop.
    pub fn stop(&self) {
        self.vcpus.iter().for_each(Vcpu::stop);
    }

    /// Notes that one vCPU has stopped. Returns `true` if it was the last one.
    pub fn stopped_one(&mut self) -> bool {
        self.running = self.running.saturating_sub(1);
        self.running == 0
    }

    /// Whether any vCPU runs.
    pub fn is_running(&self) -> bool {
        self.running > 0
    }

    /// Writes a snapshot of a paused microVM. The memory file is written first: a valid state file
    /// means that the snapshot is complete.
    pub fn snapshot(
        &mut self,
        unique: &Snapshot,
        files: &SnapshotFiles,
    ) -> Result<(), MicroVmError> {
        unique::check(&self.memory, unique).map_err(MicroVmError::Unique)?;
        // Devices before KVM: finishing the work in a queue may raise an interrupt, which the state
        // of the interrupt controllers must include.
        let devices = self.devices.save()?;
        let mut vcpus = Vec::new();
        let mut mailbox = None;
        for vcpu in &self.vcpus {
            let (state, its_mailbox) = vcpu.save()?;
            vcpus.push(*state);
            mailbox = mailbox.or(its_mailbox);
        }
        let state = MicroVmState {
            version: VERSION.to_owned(),
            fingerprint: self.fingerprint.clone(),
            host: self.host.clone(),
            memory_mib: self.size.mib(),
            vcpus,
            devices,
            mailbox,
            random_ranges: unique.random_ranges.clone(),
            vm: VmState::save(&self.vm)?,
        };
        let from = Sources {
            pagemap: &self.pagemap,
            base: self.memory_base.as_ref(),
        };
        let mut zero_pages = unique.zero_pages.clone();
        zero_pages.sort_unstable();
        memory_file::write(&files.memory, &self.memory, from, &zero_pages)
            .map_err(MicroVmError::MemoryFile)?;
        Ok(state_file::write(&files.state, &state)?)
    }

    /// The devices.
    pub fn devices(&mut self) -> &mut Devices {
        &mut self.devices
    }

    /// The devices, for reading.
    pub fn devices_ref(&self) -> &Devices {
        &self.devices
    }

    /// Eventfds of the devices.
    pub fn eventfds(&self) -> &[DeviceEventfds] {
        &self.eventfds
    }

    /// CPU time that the vCPUs have used.
    pub fn cpu_time(&self) -> Duration {
        self.vcpus.iter().map(Vcpu::cpu_time).sum()
    }

    /// State and counters.
    pub fn status(&self, jail: &Jail) -> Status {
        let cpu = self.cpu_time();
        Status {
            state: if self.is_running() {
                State::Running
            } else {
                State::Paused
            },
            host_kind: self.host.kind.name().to_owned(),
            vcpu_cpu_us: u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX),
            exits: self.counters.exits(),
            assists: self.counters.assists(),
            jail: jail.clone(),
        }
    }
}

/// Writes a line of the guest's console to the log. The line is rate-limited and escaped already.
fn console(line: &str) {
    log::write_line(format_args!("guest: {line}"));
}

fn add_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), MicroVmError> {
    for slot in memory::slots(memory) {
        let region = kvm_userspace_memory_region {
            slot: slot.index,
            guest_phys_addr: slot.guest,
            memory_size: slot.len,
            userspace_addr: slot.host,
            flags: 0,
        };
        // SAFETY: the range is a mapping of `memory`, of which the microVM, and each vCPU's thread,
        // keep a share until the vCPUs are gone; a VM that runs none touches no memory.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(|e| MicroVmError::Kvm("KVM_SET_USER_MEMORY_REGION", e))?;
    }
    Ok(())
}
