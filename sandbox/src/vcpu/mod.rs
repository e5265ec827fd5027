//! Virtual CPUs: one thread each, what makes it stop at once, how much CPU time it may use, and
//! its state for snapshots.
//!
//! [`shift`] is what a vCPU's thread does for a runtime that waits at the mailbox.

mod cpu_time;
mod held_timer;
mod interpreted;
mod kick;
mod msr;
mod notice;
mod shift;
mod state;
mod thread;

pub use interpreted::Interpreted;
pub use notice::{Counters, MmioAccess, MmioRequest, Notice, NoticeSender, StopReason};
pub use state::{StateError, VcpuState};
pub use thread::{Attachment, IdleVcpu, Vcpu, VcpuError};
