//! Virtual CPUs: one thread each, the kick that stops it at once, its limit of CPU time, and its
//! state for snapshots.
//!
//! `thread` is the handle by which the event loop starts, stops and saves a vCPU. `runner` is the
//! thread's own loop, and `exits` serves what the guest leaves `KVM_RUN` for. `mailbox_scheduler` is
//! what the thread does while the guest's runtime waits at the mailbox.

mod cpu_time;
mod emulation_counter;
mod exits;
mod held_timer;
mod kick;
mod mailbox_scheduler;
mod msr;
mod notice;
mod runner;
mod state;
mod thread;

pub use emulation_counter::EmulationCounter;
pub use notice::{Counters, MmioAccess, MmioRequest, Notice, NoticeSender, StopReason};
pub use state::{StateError, VcpuState};
pub use thread::{Attachment, IdleVcpu, Vcpu, VcpuError};
