//! Virtual CPUs: one thread each, what makes it stop at once, how much CPU time it may use, and
//! its state for snapshots.
//!
//! [`thread`] is a vCPU's thread as others see it, [`runner`] what goes on in it, and [`exits`] what the
//! guest leaves `KVM_RUN` for. [`shift`] is what the thread does for a runtime that waits at the mailbox.

mod cpu_time;
mod exits;
mod held_timer;
mod interpreted;
mod kick;
mod msr;
mod notice;
mod runner;
mod shift;
mod state;
mod thread;

pub use interpreted::Interpreted;
pub use notice::{Counters, MmioAccess, MmioRequest, Notice, NoticeSender, StopReason};
pub use state::{StateError, VcpuState};
pub use thread::{Attachment, IdleVcpu, Vcpu, VcpuError};
