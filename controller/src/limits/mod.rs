//! Limits that the host enforces on sandbox processes.

mod cgroup;

pub(crate) use cgroup::{CpuCgroup, CpuCgroups, Isolation};
