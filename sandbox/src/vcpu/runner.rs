//! The loop of a vCPU's thread: executes the event loop's commands, and runs the guest from exit to
//! exit until it is stopped, the guest ends the microVM, or its CPU budget is used up.
//! [`super::exits`] serves the exits.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use hearth_protocol::sandbox::ExitReason;
use kvm_ioctls::VcpuFd;

use super::cpu_time::{self, Timers};
use super::exits::Interruption;
use super::kick::ImmediateExit;
use super::mailbox_scheduler::{MailboxScheduler, SchedulerError};
use super::notice::{Notice, StopReason, count};
use super::state::{StateError, VcpuState};
use super::thread::Attachment;
use crate::mailbox::MailboxState;
use crate::memory::GuestMemory;

/// A stopped vCPU's state, and that of the mailbox, which this thread owns.
pub(super) type SavedVcpu = (Box<VcpuState>, Option<MailboxState>);

/// What the event loop asks of the thread.
pub(super) enum VcpuCommand {
    /// Take this microVM's vCPU.
    Attach(Box<Runner>),
    /// Run the guest; if there is a budget, for at most that much CPU time.
    Run(Option<Duration>),
    /// Read the vCPU's state.
    Save(SyncSender<Result<SavedVcpu, StateError>>),
}

/// The thread's main function. Returns the vCPU when the microVM ends.
pub(super) fn wait_for_microvm(
    commands: &Receiver<VcpuCommand>,
    timers: &Timers,
) -> Option<VcpuFd> {
    match commands.recv() {
        Ok(VcpuCommand::Attach(mut runner)) => {
            let worked = catch_unwind(AssertUnwindSafe(|| runner.work(commands, timers)));
            if worked.is_err() {
                // Without this notice the event loop would wait for ever for the vCPU to stop. `fd`
                // must outlive the panic, because `Vcpu` still has a pointer into its `kvm_run`
                // page.
                let detail = "a vCPU's thread panicked".into();
                let reason = StopReason::End(ExitReason::InternalError, detail);
                let stopped = Notice::Stopped(runner.attachment.id, reason);
                runner.attachment.notices.send(stopped);
            }
            Some(runner.fd)
        }
        // The shell has ended without becoming a microVM.
        Ok(_) | Err(_) => None,
    }
}

/// A vCPU on its thread.
pub(super) struct Runner {
    pub(super) fd: VcpuFd,
    pub(super) attachment: Attachment,
    pub(super) scheduler: Option<MailboxScheduler>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) immediate_exit: Arc<ImmediateExit>,
}

impl Runner {
    fn work(&mut self, commands: &Receiver<VcpuCommand>, timers: &Timers) {
        let id = self.attachment.id;
        while let Ok(command) = commands.recv() {
            match command {
                // This thread has a vCPU already.
                VcpuCommand::Attach(_) => return,
                VcpuCommand::Run(budget) => {
                    let reason = self.run_with_budget(timers, budget);
                    if !self.attachment.notices.send(Notice::Stopped(id, reason)) {
                        return;
                    }
                }
                VcpuCommand::Save(reply) => {
                    let mailbox = self
                        .scheduler
                        .as_ref()
                        .and_then(|scheduler| scheduler.mailbox.save());
                    let state = VcpuState::save(&self.attachment.kvm, &self.fd)
                        .map(|state| (Box::new(state), mailbox));
                    if reply.send(state).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn run_with_budget(&mut self, timers: &Timers, budget: Option<Duration>) -> StopReason {
        if let Err(end) = self.at_mailbox(|scheduler, vcpu, memory| scheduler.resume(vcpu, memory))
        {
            return end;
        }
        let Some(budget) = budget else {
            return self.run_until_stopped(timers, None);
        };
        let limit = cpu_time::own() + budget;
        // A zero setting would disarm the timer; the smallest one fires at once.
        if let Err(e) = timers.budget.arm(budget.max(Duration::from_nanos(1))) {
            return timer_failed(&e);
        }
        let reason = self.run_until_stopped(timers, Some(limit));
        if let Err(e) = timers.budget.arm(Duration::ZERO) {
            return timer_failed(&e);
        }
        reason
    }

    fn run_until_stopped(&mut self, timers: &Timers, mut limit: Option<Duration>) -> StopReason {
        let timer = &timers.mailbox;
        loop {
            let went_on = match self.run_once() {
                Ok(()) => Ok(()),
                Err(Interruption::WaitsForEvent) => {
                    // The budget was for the call that has just been answered.
                    if limit.take().is_some()
                        && let Err(e) = timers.budget.arm(Duration::ZERO)
                    {
                        return timer_failed(&e);
                    }
                    self.at_mailbox(|scheduler, vcpu, memory| {
                        scheduler.answered(vcpu, memory, timer)
                    })
                }
                Err(Interruption::Idle) => self.at_mailbox(|scheduler, vcpu, memory| {
                    scheduler.guest_is_idle(vcpu, memory, timer)
                }),
                Err(Interruption::Signal) => {
                    count(&self.attachment.counters.interrupted);
                    self.immediate_exit.set(false);
                    // Read `stop` after clearing `immediate_exit`. A stop that comes in between has
                    // set `stop` already; a stop that comes later sets `immediate_exit` again.
                    if self.stop.load(Ordering::SeqCst) {
                        let stopped =
                            self.at_mailbox(|scheduler, vcpu, _| scheduler.stopped(vcpu, timer));
                        return stopped.err().unwrap_or(StopReason::Requested);
                    }
                    if limit.is_some_and(|limit| cpu_time::own() >= limit) {
                        return StopReason::BudgetExhausted;
                    }
                    self.at_mailbox(|scheduler, vcpu, memory| scheduler.kicked(vcpu, memory, timer))
                }
                Err(Interruption::End(reason, detail)) => return StopReason::End(reason, detail),
            };
            if let Err(end) = went_on {
                return end;
            }
        }
    }

    /// Runs `act` if this microVM has a mailbox. An error ends the microVM.
    fn at_mailbox(
        &mut self,
        act: impl FnOnce(&mut MailboxScheduler, &VcpuFd, &GuestMemory) -> Result<(), SchedulerError>,
    ) -> Result<(), StopReason> {
        let Some(scheduler) = &mut self.scheduler else {
            return Ok(());
        };
        act(scheduler, &self.fd, &self.attachment.memory)
            .map_err(|e| StopReason::End(ExitReason::InternalError, e.to_string()))
    }
}

fn timer_failed(e: &io::Error) -> StopReason {
    StopReason::End(ExitReason::InternalError, format!("CPU timer: {e}"))
}
