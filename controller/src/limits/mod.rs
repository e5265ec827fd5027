//! CPU shares, which the host's kernel enforces on sandbox processes, and how busy its CPUs are.

mod cgroup;
mod cpu_wait;
mod host_cpus;

pub use cgroup::CpuLimit;
pub(crate) use cgroup::{CpuCgroup, CpuCgroups, Isolation};
pub(crate) use cpu_wait::cpu_wait;
pub(crate) use host_cpus::HostCpus;
