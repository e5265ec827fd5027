//! Virtual CPUs: one thread each, what makes it stop at once, how much CPU time it may use, and
//! its state for snapshots.

mod cpu_time;
mod kick;
mod msr;
mod state;
mod thread;

pub use state::{StateError, VcpuState};
pub use thread::{
    Attachment, Counters, IdleVcpu, MmioAccess, MmioRequest, Notice, NoticeSender, StopReason,
    Vcpu, VcpuError,
};
