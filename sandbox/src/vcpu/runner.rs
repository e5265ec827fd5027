//! A vCPU's thread, from inside: does what it is told, and runs the guest from exit to exit until it is
//! to stop, the guest ends it, or its CPU budget is used up. How an exit is served is in
//! [`super::exits`].

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
use super::notice::{Notice, StopReason, count};
use super::shift::{Shift, ShiftError};
use super::state::{StateError, VcpuState};
use super::thread::Attachment;
use crate::mailbox::MailboxState;
use crate::memory::GuestMemory;

/// A stopped vCPU, and the mailbox that its thread keeps.
pub(super) type Saved = (Box<VcpuState>, Option<MailboxState>);

/// What the thread is told.
pub(super) enum Order {
    /// Here is its microVM.
    Attach(Box<Runner>),
    /// Run the guest, for so much CPU time if that is limited.
    Run(Option<Duration>),
    /// Say its state.
    Save(SyncSender<Result<Saved, StateError>>),
}

/// The thread's life.
pub(super) fn wait_for_microvm(orders: &Receiver<Order>, timers: &Timers) -> Option<VcpuFd> {
    match orders.recv() {
        Ok(Order::Attach(mut runner)) => {
            let worked = catch_unwind(AssertUnwindSafe(|| runner.work(orders, timers)));
            if worked.is_err() {
                // Nobody would tell otherwise, and whoever waits for a stop would wait for ever. The
                // vCPU itself lives on: others still point at what KVM shares of it.
                let detail = "a vCPU's thread panicked".into();
                let reason = StopReason::End(ExitReason::InternalError, detail);
                let stopped = Notice::Stopped(runner.attachment.id, reason);
                runner.attachment.notices.send(stopped);
            }
            Some(runner.fd)
        }
        // A shell that is not used any more.
        Ok(_) | Err(_) => None,
    }
}

/// A vCPU on its thread.
pub(super) struct Runner {
    pub(super) fd: VcpuFd,
    pub(super) attachment: Attachment,
    pub(super) shift: Option<Shift>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) immediate_exit: Arc<ImmediateExit>,
}

impl Runner {
    fn work(&mut self, orders: &Receiver<Order>, timers: &Timers) {
        let id = self.attachment.id;
        while let Ok(order) = orders.recv() {
            match order {
                // It has one.
                Order::Attach(_) => return,
                Order::Run(budget) => {
                    let reason = self.run_with_budget(timers, budget);
                    if !self.attachment.notices.send(Notice::Stopped(id, reason)) {
                        return;
                    }
                }
                Order::Save(reply) => {
                    let mailbox = self.shift.as_ref().and_then(|shift| shift.mailbox.save());
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
        if let Err(end) = self.at_mailbox(|shift, vcpu, memory| shift.begin(vcpu, memory)) {
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
                Err(Interruption::Waits) => {
                    // The budget was that of the call which is over now.
                    if limit.take().is_some()
                        && let Err(e) = timers.budget.arm(Duration::ZERO)
                    {
                        return timer_failed(&e);
                    }
                    self.at_mailbox(|shift, vcpu, memory| shift.answered(vcpu, memory, timer))
                }
                Err(Interruption::Idle) => {
                    self.at_mailbox(|shift, vcpu, memory| shift.idle(vcpu, memory, timer))
                }
                Err(Interruption::Signal) => {
                    count(&self.attachment.counters.interrupted);
                    self.immediate_exit.set(false);
                    // Read after the byte was cleared: a stop that sets it again is seen here.
                    if self.stop.load(Ordering::SeqCst) {
                        let stopped = self.at_mailbox(|shift, vcpu, _| shift.stopped(vcpu, timer));
                        return stopped.err().unwrap_or(StopReason::Requested);
                    }
                    if limit.is_some_and(|limit| cpu_time::own() >= limit) {
                        return StopReason::BudgetExhausted;
                    }
                    self.at_mailbox(|shift, vcpu, memory| shift.kicked(vcpu, memory, timer))
                }
                Err(Interruption::End(reason, detail)) => return StopReason::End(reason, detail),
            };
            if let Err(end) = went_on {
                return end;
            }
        }
    }

    /// Has the mailbox's side act, where there is one. What it fails by ends the microVM.
    fn at_mailbox(
        &mut self,
        act: impl FnOnce(&mut Shift, &VcpuFd, &GuestMemory) -> Result<(), ShiftError>,
    ) -> Result<(), StopReason> {
        let Some(shift) = &mut self.shift else {
            return Ok(());
        };
        act(shift, &self.fd, &self.attachment.memory)
            .map_err(|e| StopReason::End(ExitReason::InternalError, e.to_string()))
    }
}

fn timer_failed(e: &io::Error) -> StopReason {
    StopReason::End(ExitReason::InternalError, format!("CPU timer: {e}"))
}
