//! The controller's commands: what each does to the shell or the microVM, and when it is answered.
//! If a command has to wait for the vCPUs, the event loop answers it when they have stopped.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hearth_protocol::sandbox::{
    Boot, Command, ExitReason, Exited, Message, Outcome, Refusal, RefusalKind, Reply, Request,
    Restore, Resume, Snapshot, State, Status,
};

use super::{End, EventLoop, ProcessState, channel_end, internal};
use crate::control::Received;
use crate::files::{self, BootFiles, RestoreFiles, SnapshotFiles};
use crate::freeze::Freeze;
use crate::microvm::error::MicroVmError;
use crate::microvm::machine::{BootPlan, MicroVm, RestorePlan, Sockets};
use crate::microvm::shell::Shell;
use crate::vcpu::{Counters, NoticeSender};

/// Maximum time that a freeze waits for its guest.
const MAX_FREEZE: Duration = Duration::from_secs(60);
const NOT_A_SHELL: &str = "this process has a microVM already";
const NO_MACHINE: &str = "there is no microVM yet: boot or restore one first";

impl EventLoop {
    pub(super) fn serve_controller(&mut self) -> Result<(), End> {
        let all = self.control.receive().map_err(channel_end)?;
        for Received {
            request: Request { id, command },
            descriptors,
        } in all
        {
            if let Err(e) = files::check_count(&command, &descriptors) {
                self.refuse(id, &e.to_string())?;
                continue;
            }
            match command {
                Command::Boot(boot) => self.boot(id, &boot, descriptors)?,
                Command::Restore(restore) => self.restore(id, &restore, descriptors)?,
                Command::Resume(resume) => self.resume(id, resume)?,
                Command::Pause => self.pause(id)?,
                Command::Freeze(freeze) => self.freeze(id, freeze.within_us)?,
                Command::Snapshot(unique) => self.snapshot(id, &unique, descriptors)?,
                Command::Status => {
                    let status = self.status();
                    self.reply(id, Outcome::Status(status))?;
                }
                Command::Kill => {
                    let detail = "killed by its controller".to_owned();
                    return Err(Exited {
                        reason: ExitReason::Killed,
                        detail,
                    });
                }
            }
        }
        Ok(())
    }

    fn boot(&mut self, id: u64, boot: &Boot, descriptors: Vec<OwnedFd>) -> Result<(), End> {
        let ProcessState::Shell { shell, .. } = &self.process else {
            return self.refuse(id, NOT_A_SHELL);
        };
        let plan = BootFiles::take(boot, descriptors)
            .map_err(MicroVmError::from)
            .and_then(|files| BootPlan::new(boot, files, shell));
        match plan {
            Ok(plan) => self.become_machine(
                id,
                |shell, sockets, notices| MicroVm::boot(shell, plan, sockets, notices),
                None,
            ),
            Err(e) => self.reply(id, Outcome::Refused(e.refusal())),
        }
    }

    fn restore(
        &mut self,
        id: u64,
        restore: &Restore,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), End> {
        let ProcessState::Shell { shell, .. } = &self.process else {
            return self.refuse(id, NOT_A_SHELL);
        };
        let plan = RestoreFiles::take(restore, descriptors)
            .map_err(MicroVmError::from)
            .and_then(|files| RestorePlan::new(restore, files, shell));
        match plan {
            Ok(plan) => self.become_machine(
                id,
                |shell, sockets, notices| MicroVm::restore(shell, plan, sockets, notices),
                restore.resume,
            ),
            Err(e) => self.reply(id, Outcome::Refused(e.refusal())),
        }
    }

    /// Makes the shell a microVM. A shell that has failed half-way can't be used again: the
    /// controller gets the refusal and the process ends.
    fn become_machine(
        &mut self,
        id: u64,
        make: impl FnOnce(Shell, Sockets, &NoticeSender) -> Result<MicroVm, MicroVmError>,
        resume: Option<Resume>,
    ) -> Result<(), End> {
        let (shell, sockets) = match std::mem::replace(&mut self.process, ProcessState::Neither) {
            ProcessState::Shell { shell, sockets } => (shell, sockets),
            other => {
                self.process = other;
                return self.refuse(id, NOT_A_SHELL);
            }
        };
        let started = make(*shell, sockets, &self.notices).and_then(|mut machine| {
            if let Some(resume) = resume {
                machine.resume(resume)?;
            }
            Ok(machine)
        });
        match started {
            Ok(machine) => {
                self.budgeted = resume.is_some_and(|resume| resume.cpu_budget_us.is_some());
                self.watch_devices(&machine)?;
                self.process = ProcessState::MicroVm(Box::new(machine));
                self.reply(id, Outcome::Done)
            }
            Err(e) => {
                self.reply(id, Outcome::Refused(e.refusal()))?;
                Err(internal(e))
            }
        }
    }

    pub(super) fn resume(&mut self, id: u64, resume: Resume) -> Result<(), End> {
        let ProcessState::MicroVm(machine) = &mut self.process else {
            return self.refuse(id, NO_MACHINE);
        };
        if machine.is_running() {
            return self.resume_running(id, resume);
        }
        self.budgeted = resume.cpu_budget_us.is_some();
        match machine.resume(resume) {
            Ok(()) => self.reply(id, Outcome::Done),
            Err(e) => Err(internal(e)),
        }
    }

    /// Handles a `Resume` while vCPUs that are about to stop still run. They go on at once if their
    /// CPU budget does not change by it; otherwise they first stop.
    fn resume_running(&mut self, id: u64, resume: Resume) -> Result<(), End> {
        let about_to_stop = !self.stopping.pauses.is_empty() || self.stopping.budget;
        if self.stopping.resume.is_some() || (self.freeze.is_none() && !about_to_stop) {
            return self.refuse(id, "the microVM is running already");
        }
        match self.freeze.take() {
            Some(freeze) if !self.budgeted && resume.cpu_budget_us.is_none() => {
                self.reply(freeze.id, Outcome::Done)?;
                return self.reply(id, Outcome::Done);
            }
            Some(freeze) => self.stop_for(freeze.id),
            None => {}
        }
        self.stopping.resume = Some((id, resume));
        Ok(())
    }

    fn pause(&mut self, id: u64) -> Result<(), End> {
        match &self.process {
            ProcessState::MicroVm(machine) if machine.is_running() => {
                if let Some(freeze) = self.freeze.take() {
                    self.stop_for(freeze.id);
                }
                self.stop_for(id);
                Ok(())
            }
            ProcessState::MicroVm(_) => self.reply(id, Outcome::Done),
            _ => self.refuse(id, NO_MACHINE),
        }
    }

    fn freeze(&mut self, id: u64, within_us: u64) -> Result<(), End> {
        let ProcessState::MicroVm(machine) = &self.process else {
            return self.refuse(id, NO_MACHINE);
        };
        if !machine.is_running() {
            return self.reply(id, Outcome::Done);
        }
        if self.freeze.is_some() {
            return self.refuse(id, "the microVM is being frozen already");
        }
        let within = Duration::from_micros(within_us).min(MAX_FREEZE);
        let (cpu, now) = (machine.cpu_time(), Instant::now());
        self.freeze = Some(Freeze::new(id, within, cpu, now));
        Ok(())
    }

    /// Stops the vCPUs. The loop answers the request when they have stopped.
    fn stop_for(&mut self, id: u64) {
        if let ProcessState::MicroVm(machine) = &self.process {
            machine.stop();
        }
        self.stopping.pauses.push(id);
    }

    fn snapshot(
        &mut self,
        id: u64,
        unique: &Snapshot,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), End> {
        let ProcessState::MicroVm(machine) = &mut self.process else {
            return self.refuse(id, NO_MACHINE);
        };
        if machine.is_running() {
            return self.refuse(id, "only a paused microVM can be saved");
        }
        let saved = SnapshotFiles::take(descriptors)
            .map_err(MicroVmError::from)
            .and_then(|files| machine.snapshot(unique, &files));
        let outcome = match saved {
            Ok(()) => Outcome::Done,
            Err(e) => Outcome::Refused(e.refusal()),
        };
        self.reply(id, outcome)
    }

    fn status(&self) -> Status {
        match &self.process {
            ProcessState::MicroVm(machine) => machine.status(&self.jail),
            ProcessState::Shell { .. } | ProcessState::Neither => Status {
                state: State::Shell,
                host_kind: match &self.process {
                    ProcessState::Shell { shell, .. } => shell.host.kind.name().to_owned(),
                    _ => String::new(),
                },
                vcpu_cpu_us: 0,
                exits: Counters::default().exits(),
                assists: 0,
                jail: self.jail.clone(),
            },
        }
    }

    pub(super) fn reply(&mut self, id: u64, outcome: Outcome) -> Result<(), End> {
        self.control
            .send(&Message::Reply(Reply { id, outcome }))
            .map_err(channel_end)
    }

    fn refuse(&mut self, id: u64, message: &str) -> Result<(), End> {
        let refusal = Refusal {
            kind: RefusalKind::InvalidRequest,
            message: message.to_owned(),
        };
        self.reply(id, Outcome::Refused(refusal))
    }
}
