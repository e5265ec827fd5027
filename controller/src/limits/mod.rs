//! CPU shares, which the host's kernel enforces on sandbox processes, and how busy its CPUs are.

mod cgroup;
mod cpu_progress;
mod cpu_share;
mod function_cgroups;
mod host_cpus;
mod shares;

pub(crate) use cgroup::CpuCgroups;
pub(crate) use cpu_progress::CpuProgress;
pub(crate) use cpu_share::CpuShare;
pub(crate) use host_cpus::HostCpus;
pub use shares::CpuLimit;
pub(crate) use shares::Isolation;
