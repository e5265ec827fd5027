//! What a vCPU's thread does for a runtime that waits at the mailbox: it stands still with it, hands
//! it an event, and lets it run, at first without its kernel.
//!
//! A kernel that never ran would be noticed: threads that sleep would sleep for ever, and so would
//! whatever the kernel itself puts off. So a call that takes longer than [`ALONE`], or waits
//! for longer than [`HALTED`], goes on with the kernel's timer; and a guest whose kernel has not run
//! for [`WITHOUT_KERNEL`] gets a turn of it, when its caller has the answer and no other comes at
//! once. The turn ends when the runtime finds nothing to do, after [`TURN`] at the latest, or with the
//! next event.

use std::time::{Duration, Instant};

use kvm_bindings::KVM_MP_STATE_HALTED;
use kvm_ioctls::VcpuFd;

use super::cpu_time::KickTimer;
use super::held_timer::HeldTimer;
use super::interpreted::Interpreted;
use super::state::StateError;
use crate::mailbox::{Mailbox, MailboxError, Rang, Woken};
use crate::memory::GuestMemory;

/// How long a call may take before the guest's kernel gets its timer, if the guest waits for it...
const HALTED: Duration = Duration::from_millis(2);
/// ...and if it works. What the kernel has put off while it stood still is done as soon as it has its
/// timer, and a call that writes a line or two is over before that.
const ALONE: Duration = Duration::from_millis(10);
/// How long a guest that is called goes without its kernel.
const WITHOUT_KERNEL: Duration = Duration::from_secs(1);
/// No event for so long: a good time for that.
const PAUSE: Duration = Duration::from_millis(5);
/// A guest that is called for so long without such a pause gets its kernel without one.
const WITHOUT_PAUSE: Duration = Duration::from_secs(4);
/// What its kernel and its threads get then, at most.
const TURN: Duration = Duration::from_millis(20);
/// How often an event is looked for in that time.
const LOOK: Duration = Duration::from_millis(1);

/// A guest's kernel takes more instructions than this to have anything written: about 500 are the
/// shortest system call. Ringing takes a few.
const WRITING: u64 = 50;

/// Why it can't go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShiftError {
    #[error(transparent)]
    Mailbox(#[from] MailboxError),
    #[error(transparent)]
    Timer(#[from] StateError),
    #[error("the mailbox's timer: {0}")]
    Kick(#[from] std::io::Error),
}

/// What the guest is let run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stretch {
    /// Whatever it likes, its kernel included.
    Free,
    /// A call, without its kernel until then.
    Call { until: Instant },
    /// Its kernel and its threads, until then.
    Turn { until: Instant },
}

/// A guest's mailbox and what the vCPU does for it at the moment.
#[derive(Debug)]
pub(super) struct Shift {
    pub(super) mailbox: Mailbox,
    held: HeldTimer,
    stretch: Stretch,
    /// When the kernel ran last.
    kernel_ran: Instant,
    /// When there was a pause last.
    paused: Instant,
    /// What KVM has interpreted, where that is the guest's kernel.
    interpreted: Option<Interpreted>,
    /// As much of it as there was at the last answer at the mailbox, if all before it were there.
    at_answer: Option<u64>,
    /// Whether the kernel provably did not run in the call that is over.
    quiet: bool,
}

impl Shift {
    pub(super) fn new(mailbox: Mailbox, interpreted: Option<Interpreted>) -> Self {
        Self {
            mailbox,
            held: HeldTimer::default(),
            stretch: Stretch::Free,
            kernel_ran: Instant::now(),
            paused: Instant::now(),
            interpreted,
            at_answer: None,
            quiet: false,
        }
    }

    /// The owner lets the vCPU run, by other means than an event.
    pub(super) fn begin(&mut self, vcpu: &VcpuFd, memory: &GuestMemory) -> Result<(), ShiftError> {
        self.mailbox.resume(memory)?;
        self.held.give_back(vcpu)?;
        self.stretch = Stretch::Free;
        self.at_answer = None;
        Ok(())
    }

    /// The guest rang.
    pub(super) fn ring(&mut self, memory: &GuestMemory, value: u32) -> Result<Rang, MailboxError> {
        let count = self.interpreted.as_ref().and_then(Interpreted::count);
        let quiet = match (self.at_answer, count) {
            (Some(before), Some(now)) => now.saturating_sub(before) < WRITING,
            _ => false,
        };
        let rang = self.mailbox.ring(memory, value, quiet)?;
        if rang == Rang::Waits {
            self.at_answer = count;
            self.quiet = quiet;
        }
        Ok(rang)
    }

    /// The guest has answered and waits. Returns when it is to run again.
    pub(super) fn answered(
        &mut self,
        vcpu: &VcpuFd,
        memory: &GuestMemory,
        timer: &KickTimer,
    ) -> Result<(), ShiftError> {
        self.stand_still(vcpu, memory, timer)
    }

    /// The guest has had its turn.
    pub(super) fn idle(
        &mut self,
        vcpu: &VcpuFd,
        memory: &GuestMemory,
        timer: &KickTimer,
    ) -> Result<(), ShiftError> {
        if let Stretch::Turn { .. } = self.stretch {
            self.stand_still(vcpu, memory, timer)?;
        }
        Ok(())
    }

    /// The thread was kicked while the guest ran.
    pub(super) fn kicked(
        &mut self,
        vcpu: &VcpuFd,
        memory: &GuestMemory,
        timer: &KickTimer,
    ) -> Result<(), ShiftError> {
        let now = Instant::now();
        match self.stretch {
            Stretch::Free => {}
            Stretch::Call { until } => {
                if now >= until || is_halted(vcpu)? {
                    self.held.give_back(vcpu)?;
                    timer.arm(Duration::ZERO)?;
                    self.stretch = Stretch::Free;
                }
            }
            Stretch::Turn { until } => {
                if self.mailbox.look(memory)?.is_some() {
                    timer.arm(Duration::ZERO)?;
                    self.kernel_ran = now;
                    self.stretch = Stretch::Free;
                } else if now >= until {
                    self.stand_still(vcpu, memory, timer)?;
                }
            }
        }
        Ok(())
    }

    /// The vCPU stops: whoever looks at its state finds the timer where it belongs.
    pub(super) fn stopped(&mut self, vcpu: &VcpuFd, timer: &KickTimer) -> Result<(), ShiftError> {
        if self.stretch != Stretch::Free {
            timer.arm(Duration::ZERO)?;
            self.held.give_back(vcpu)?;
            self.stretch = Stretch::Free;
        }
        Ok(())
    }

    /// The guest waits, with its timer taken out. Returns when it is to run again.
    fn stand_still(
        &mut self,
        vcpu: &VcpuFd,
        memory: &GuestMemory,
        timer: &KickTimer,
    ) -> Result<(), ShiftError> {
        self.take_timer(vcpu, timer)?;
        let began = Instant::now();
        let alone = began - self.kernel_ran;
        if alone >= WITHOUT_PAUSE && began - self.paused >= WITHOUT_PAUSE {
            return self.begin_turn(vcpu, timer);
        }
        let limit = (alone >= WITHOUT_KERNEL).then_some(PAUSE);
        match self.mailbox.wait(memory, limit)? {
            Woken::Event => {
                timer.arm(HALTED)?;
                let now = Instant::now();
                if now - began >= PAUSE {
                    self.paused = now;
                }
                self.stretch = Stretch::Call { until: now + ALONE };
            }
            Woken::Nothing => self.begin_turn(vcpu, timer)?,
            // The kick that comes with a stop takes the vCPU out of its run before its first step.
            Woken::Agent | Woken::Stop => {
                self.held.give_back(vcpu)?;
                self.stretch = Stretch::Free;
            }
        }
        Ok(())
    }

    /// Ends what the guest was let run for: no more kicks, and its timer held back.
    fn take_timer(&mut self, vcpu: &VcpuFd, timer: &KickTimer) -> Result<(), ShiftError> {
        if self.stretch != Stretch::Free {
            timer.arm(Duration::ZERO)?;
        }
        match self.stretch {
            // It was taken out before the call, and nobody has armed it since.
            Stretch::Call { .. } if self.quiet => return Ok(()),
            Stretch::Call { .. } => {}
            Stretch::Free | Stretch::Turn { .. } => self.kernel_ran = Instant::now(),
        }
        Ok(self.held.take(vcpu)?)
    }

    fn begin_turn(&mut self, vcpu: &VcpuFd, timer: &KickTimer) -> Result<(), ShiftError> {
        self.held.give_back(vcpu)?;
        timer.arm(LOOK)?;
        let until = Instant::now() + TURN;
        self.stretch = Stretch::Turn { until };
        Ok(())
    }
}

/// Whether the guest waits for an interrupt: then for its timer, mostly.
fn is_halted(vcpu: &VcpuFd) -> Result<bool, ShiftError> {
    let state = vcpu
        .get_mp_state()
        .map_err(|e| StateError::Kvm("KVM_GET_MP_STATE", e))?;
    Ok(state.mp_state == KVM_MP_STATE_HALTED)
}
