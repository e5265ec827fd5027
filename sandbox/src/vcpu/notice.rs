//! What a vCPU's thread reports to the event loop, and its counters.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender};

use hearth_protocol::sandbox::{ExitReason, Exits};
use vmm_sys_util::eventfd::EventFd;

/// Why a vCPU no longer runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The event loop asked it to stop.
    Requested,
    /// Its CPU budget is used up.
    BudgetExhausted,
    /// The microVM has ended: why, and the details for people.
    End(ExitReason, String),
}

/// A guest access to a device register.
#[derive(Debug)]
pub enum MmioAccess {
    /// The guest reads so many bytes.
    Read(usize),
    /// The guest writes these bytes.
    Write(Vec<u8>),
}

/// One access. The vCPU's thread waits for the reply: the bytes that a read returns, or none for a
/// write.
#[derive(Debug)]
pub struct MmioRequest {
    /// Guest-physical address.
    pub address: u64,
    /// Read or write.
    pub access: MmioAccess,
    /// Where the vCPU's thread waits.
    pub reply: SyncSender<Vec<u8>>,
}

/// What a vCPU's thread reports to the event loop.
#[derive(Debug)]
pub enum Notice {
    /// The guest accesses a device register.
    Mmio(MmioRequest),
    /// The vCPU of this number has stopped.
    Stopped(u8, StopReason),
}

/// The event loop's inbox: a channel, and an eventfd that wakes the loop.
#[derive(Debug)]
pub struct NoticeSender {
    /// Carries the notices.
    pub channel: Sender<Notice>,
    /// Wakes the loop.
    pub wake: EventFd,
}

impl NoticeSender {
    /// A second sender to the same loop.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            channel: self.channel.clone(),
            wake: self.wake.try_clone()?,
        })
    }

    /// Returns `false` if the event loop has ended, which ends the process too.
    pub(super) fn send(&self, notice: Notice) -> bool {
        self.channel.send(notice).is_ok() && self.wake.write(1).is_ok()
    }
}

/// `KVM_RUN` returns, counted over all vCPUs.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) io: AtomicU64,
    pub(super) mmio: AtomicU64,
    pub(super) emulation: AtomicU64,
    pub(super) interrupted: AtomicU64,
    pub(super) other: AtomicU64,
    pub(super) assists: AtomicU64,
}

impl Counters {
    /// Exits by reason.
    pub fn exits(&self) -> Exits {
        Exits {
            io: self.io.load(Ordering::Relaxed),
            mmio: self.mmio.load(Ordering::Relaxed),
            emulation: self.emulation.load(Ordering::Relaxed),
            interrupted: self.interrupted.load(Ordering::Relaxed),
            other: self.other.load(Ordering::Relaxed),
        }
    }

    /// Instructions completed by the assist.
    pub fn assists(&self) -> u64 {
        self.assists.load(Ordering::Relaxed)
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
