//! How a vCPU's thread runs a guest whose runtime waits at the mailbox.
//!
//! While the runtime waits, the vCPU's thread is blocked outside of `KVM_RUN`. When an event comes,
//! the thread writes it into guest memory and runs the vCPU with the guest's timer disarmed, so
//! that the guest's kernel is not scheduled and costs nothing.
//!
//! A kernel that never ran would break the guest: sleeping threads would not wake up, and the
//! kernel's deferred work would never be done. So there are two ways back to it:
//!
//! - A call gets the guest's timer back after [`MAX_CALL_WITHOUT_TIMER`], or after
//!   [`MAX_HALTED_WITHOUT_TIMER`] if the guest has halted.
//! - A guest that is called all the time gets a *kernel turn* once its kernel has not run for
//!   [`KERNEL_TURN_INTERVAL`]: after an answer has been sent and no event has come for
//!   [`PAUSE_BEFORE_TURN`], the guest runs with its timer. The turn ends with the next event, when
//!   the runtime reports that it has nothing to do, or after [`MAX_KERNEL_TURN`].

use std::time::{Duration, Instant};

use kvm_bindings::KVM_MP_STATE_HALTED;
use kvm_ioctls::VcpuFd;

use super::cpu_time::KickTimer;
use super::emulation_counter::EmulationCounter;
use super::held_timer::HeldTimer;
use super::state::StateError;
use crate::mailbox::{AfterRing, Mailbox, MailboxError, WaitEnd};
use crate::memory::GuestMemory;

/// If the guest has halted, a call gets the guest's timer back after this time: the guest waits for
/// something that only its kernel can deliver.
const MAX_HALTED_WITHOUT_TIMER: Duration = Duration::from_millis(2);
/// Any other call gets the timer back after this time. A kernel with its timer first does its
/// deferred work; a call that only writes a line or two ends before this.
const MAX_CALL_WITHOUT_TIMER: Duration = Duration::from_millis(10);
/// A guest that is called all the time is due for a kernel turn this long after its kernel ran
/// last.
const KERNEL_TURN_INTERVAL: Duration = Duration::from_secs(1);
/// A turn that is due begins when no event has come for this long.
const PAUSE_BEFORE_TURN: Duration = Duration::from_millis(5);
/// If there is no such pause for this long, the turn begins without one.
const MAX_TIME_WITHOUT_PAUSE: Duration = Duration::from_secs(4);
/// Maximum length of a kernel turn.
const MAX_KERNEL_TURN: Duration = Duration::from_millis(20);
/// How often the thread looks for an event during a kernel turn.
const EVENT_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// If KVM has emulated fewer instructions than this, the guest's kernel has not written anything:
/// its shortest system call takes about 500. Ringing the doorbell takes a few.
const MIN_WRITE_INSTRUCTIONS: u64 = 50;

/// Why the vCPU can't run on. It ends the microVM.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchedulerError {
    #[error(transparent)]
    Mailbox(#[from] MailboxError),
    #[error(transparent)]
    Timer(#[from] StateError),
    #[error("the mailbox's timer: {0}")]
    Kick(#[from] std::io::Error),
}

/// What the guest may do while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunMode {
    /// Everything, its kernel included. The timer is armed.
    Unrestricted,
    /// A call with the timer disarmed, until then.
    CallWithoutKernel { until: Instant },
    /// A kernel turn, which ends then at the latest.
    KernelTurn { until: Instant },
}

/// The guest's mailbox and the vCPU's current mode.
#[derive(Debug)]
pub(super) struct MailboxScheduler {
    pub(super) mailbox: Mailbox,
    guest_timer: HeldTimer,
    mode: RunMode,
    /// When the guest's kernel ran last.
    last_kernel_run: Instant,
    /// When the guest last waited for an event for at least [`PAUSE_BEFORE_TURN`].
    last_pause: Instant,
    /// KVM's count of emulated instructions; `None` on hosts where it does not show what the
    /// guest's kernel does.
    emulation_counter: Option<EmulationCounter>,
    /// The count at the last answer; `None` if the guest has run for any other reason since then.
    count_at_answer: Option<u64>,
    /// Whether the count proves that the guest's kernel did not run in the call that has just
    /// ended.
    kernel_was_silent: bool,
}

impl MailboxScheduler {
    pub(super) fn new(mailbox: Mailbox, emulation_counter: Option<EmulationCounter>) -> Self {
        Self {
            mailbox,
            guest_timer: HeldTimer::default(),
            mode: RunMode::Unrestricted,
            last_kernel_run: Instant::now(),
            last_pause: Instant::now(),
            emulation_counter,
            count_at_answer: None,
            kernel_was_silent: false,
        }
    }

    /// The controller has resumed the vCPU by a command, without an event at the mailbox.
    pub(super) fn resume(
        &mut self,
        vcpu: &VcpuFd,
        memory: &GuestMemory,
    ) -> Result<(), SchedulerError> {
        self.mailbox.resume(memory)?;
        self.guest_timer.rearm(vcpu)?;
        self.mode = RunMode::Unrestricted;
        self.count_at_answer = None;
        Ok(())
    }

    /// The guest has rung the doorbell.
    pub(super) fn ring(
        &mut self,
        memory: &GuestMemory,
        value: u32,
    ) -> Result<AfterRing, MailboxError> {
        let count = self
            .emulation_counter
            .as_ref()
            .and_then(EmulationCounter::count);
        let quiet = match (self.count_at_answer, count) {
            (Some(before), Some(now)) => now.saturating_sub(before) < MIN_WRITE_INSTRUCTIONS,
            _ => false,
        };
        let rang = self.mailbox.ring(memory, value, quiet)?;
        if rang == AfterRing::WaitForEvent {
            self.count_at_answer = count;
            self.kernel_was_silent = quiet;
        }
        Ok(rang)
    }

    /// The guest has sent its answer and waits for an event. Returns when the vCPU should run
    /// again.
    pub(super) fn answered(
        &mut self,
        vcpu: &VcpuFd,
        memory: &GuestMemory,
        kick_timer: &KickTimer,
    ) -> Result<(), SchedulerError> {
        self.wait_for_event(vcpu, memory, kick_timer)
    }

    /// The guest has nothing to do. This ends a kernel turn.
    pub(super) fn guest_is_idle(
        &mut self,
        vcpu: &VcpuFd,
        memory: &GuestMemory,
        kick_timer: &KickTimer,
    ) -> Result<(), SchedulerError> {
        if let RunMode::KernelTurn { .. } = self.mode {
            self.wait_for_event(vcpu, memory, kick_timer)?;
        }
        Ok(())
    }

    /// A timer or the event loop has kicked the thread while the guest ran.
    pub(super) fn kicked(
        &mut self,
        vcpu: &VcpuFd,
        memory: &GuestMemory,
        kick_timer: &KickTimer,
    ) -> Result<(), SchedulerError> {
        let now = Instant::now();
        match self.mode {
            RunMode::Unrestricted => {}
            RunMode::CallWithoutKernel { until } => {
                if now >= until || is_halted(vcpu)? {
                    self.guest_timer.rearm(vcpu)?;
                    kick_timer.arm(Duration::ZERO)?;
                    self.mode = RunMode::Unrestricted;
                }
            }
            RunMode::KernelTurn { until } => {
                if self.mailbox.try_receive(memory)?.is_some() {
                    kick_timer.arm(Duration::ZERO)?;
                    self.last_kernel_run = now;
                    self.mode = RunMode::Unrestricted;
                } else if now >= until {
                    self.wait_for_event(vcpu, memory, kick_timer)?;
                }
            }
        }
        Ok(())
    }

    /// The vCPU stops. The guest's timer is armed again, so that a snapshot of the vCPU includes
    /// it.
    pub(super) fn stopped(
        &mut self,
        vcpu: &VcpuFd,
        kick_timer: &KickTimer,
    ) -> Result<(), SchedulerError> {
        if self.mode != RunMode::Unrestricted {
            kick_timer.arm(Duration::ZERO)?;
            self.guest_timer.rearm(vcpu)?;
            self.mode = RunMode::Unrestricted;
        }
        Ok(())
    }

    /// Waits for an event with the guest's timer disarmed. Returns when the vCPU should run again.
    fn wait_for_event(
        &mut self,
        vcpu: &VcpuFd,
        memory: &GuestMemory,
        kick_timer: &KickTimer,
    ) -> Result<(), SchedulerError> {
        self.disarm_guest_timer(vcpu, kick_timer)?;
        let began = Instant::now();
        let without_kernel = began - self.last_kernel_run;
        if without_kernel >= MAX_TIME_WITHOUT_PAUSE
            && began - self.last_pause >= MAX_TIME_WITHOUT_PAUSE
        {
            return self.begin_kernel_turn(vcpu, kick_timer);
        }
        let limit = (without_kernel >= KERNEL_TURN_INTERVAL).then_some(PAUSE_BEFORE_TURN);
        match self.mailbox.wait(memory, limit)? {
            WaitEnd::Event => {
                kick_timer.arm(MAX_HALTED_WITHOUT_TIMER)?;
                let now = Instant::now();
                if now - began >= PAUSE_BEFORE_TURN {
                    self.last_pause = now;
                }
                self.mode = RunMode::CallWithoutKernel {
                    until: now + MAX_CALL_WITHOUT_TIMER,
                };
            }
            WaitEnd::TimedOut => self.begin_kernel_turn(vcpu, kick_timer)?,
            // A stop also sets `immediate_exit`, so the vCPU leaves `KVM_RUN` before its first
            // instruction.
            WaitEnd::TurnToAgent | WaitEnd::Stop => {
                self.guest_timer.rearm(vcpu)?;
                self.mode = RunMode::Unrestricted;
            }
        }
        Ok(())
    }

    /// Ends the current mode: cancels the kick timer and disarms the guest's timer.
    fn disarm_guest_timer(
        &mut self,
        vcpu: &VcpuFd,
        kick_timer: &KickTimer,
    ) -> Result<(), SchedulerError> {
        if self.mode != RunMode::Unrestricted {
            kick_timer.arm(Duration::ZERO)?;
        }
        match self.mode {
            // The timer was disarmed before the call, and only the guest's kernel could have armed
            // it since.
            RunMode::CallWithoutKernel { .. } if self.kernel_was_silent => return Ok(()),
            RunMode::CallWithoutKernel { .. } => {}
            RunMode::Unrestricted | RunMode::KernelTurn { .. } => {
                self.last_kernel_run = Instant::now()
            }
        }
        Ok(self.guest_timer.disarm(vcpu)?)
    }

    fn begin_kernel_turn(
        &mut self,
        vcpu: &VcpuFd,
        kick_timer: &KickTimer,
    ) -> Result<(), SchedulerError> {
        self.guest_timer.rearm(vcpu)?;
        kick_timer.arm(EVENT_POLL_INTERVAL)?;
        let until = Instant::now() + MAX_KERNEL_TURN;
        self.mode = RunMode::KernelTurn { until };
        Ok(())
    }
}

/// Whether the guest has halted, which mostly means that it waits for its timer.
fn is_halted(vcpu: &VcpuFd) -> Result<bool, SchedulerError> {
    let state = vcpu
        .get_mp_state()
        .map_err(|e| StateError::Kvm("KVM_GET_MP_STATE", e))?;
    Ok(state.mp_state == KVM_MP_STATE_HALTED)
}
