//! Limits that the host's kernel enforces on sandbox processes.

mod cgroup;

pub use cgroup::CpuLimit;
pub(crate) use cgroup::{CpuCgroup, CpuCgroups, Isolation};
