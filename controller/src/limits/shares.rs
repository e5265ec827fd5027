//! What a memory size means in the files of a cgroup, in both versions.

use std::path::Path;
use std::{fs, io};

use clap::ValueEnum;

/// Memory of a function that has one vCPU, in MiB.
const MIB_PER_VCPU: u64 = 1769;
/// Period of a hard quota, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;
/// Shares of one vCPU in version 1: the kernel's default for a group.
pub(super) const V1_SHARES: u64 = 1024;
/// Weight of one vCPU in version 2: the kernel's default for a group.
pub(super) const V2_WEIGHT: u64 = 100;

/// How the CPU share of an instance is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CpuLimit {
    /// `cpu.weight` or `cpu.shares`: proportional when CPUs are contended.
    Share,
    /// The share, and `cpu.max` or a CFS quota: never more than it.
    Cap,
}

/// The cgroup version that enforces CPU shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// The unified hierarchy.
    V2,
    /// The cpu controller's own hierarchy.
    V1,
    /// Neither version is usable: all sandboxes have the same weight.
    None,
}

impl Isolation {
    pub(crate) const ALL: [Self; 3] = [Self::V2, Self::V1, Self::None];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::None => "none",
        }
    }
}

/// Sets the share of a memory size.
pub(super) fn set_share(isolation: Isolation, group: &Path, memory_mib: u32) -> io::Result<()> {
    let part = |whole: u64| u64::from(memory_mib) * whole / MIB_PER_VCPU;
    match isolation {
        Isolation::V2 => {
            let weight = part(V2_WEIGHT).clamp(1, 10_000);
            fs::write(group.join("cpu.weight"), weight.to_string())
        }
        Isolation::V1 => {
            let shares = part(V1_SHARES).max(2);
            fs::write(group.join("cpu.shares"), shares.to_string())
        }
        Isolation::None => Ok(()),
    }
}

/// Sets the share, and with `--cpu-limit cap` the quota, of a memory size.
pub(super) fn set_limits(
    isolation: Isolation,
    limit: CpuLimit,
    group: &Path,
    memory_mib: u32,
) -> io::Result<()> {
    set_share(isolation, group, memory_mib)?;
    let quota = (u64::from(memory_mib) * PERIOD_US / MIB_PER_VCPU).max(1000);
    match (limit, isolation) {
        (CpuLimit::Cap, Isolation::V2) => {
            fs::write(group.join("cpu.max"), format!("{quota} {PERIOD_US}"))
        }
        (CpuLimit::Cap, Isolation::V1) => {
            fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written into a group, by file.
    fn written(isolation: Isolation, limit: CpuLimit, memory_mib: u32) -> Vec<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        set_limits(isolation, limit, dir.path(), memory_mib).unwrap();
        let mut files: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|file| {
                let file = file.unwrap();
                let name = file.file_name().into_string().unwrap();
                (name, fs::read_to_string(file.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn files(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        expected.iter().map(own).collect()
    }

    #[test]
    fn a_function_of_1769_mib_weighs_one_vcpu() {
        let v1 = written(Isolation::V1, CpuLimit::Share, 1769);
        assert_eq!(v1, files(&[("cpu.shares", "1024")]));
        let v2 = written(Isolation::V2, CpuLimit::Share, 1769);
        assert_eq!(v2, files(&[("cpu.weight", "100")]));
    }

    #[test]
    fn a_cap_is_a_quota_in_proportion() {
        let v1 = written(Isolation::V1, CpuLimit::Cap, 128);
        let expected = [("cpu.cfs_quota_us", "7235"), ("cpu.shares", "74")];
        assert_eq!(v1, files(&expected));
        let v2 = written(Isolation::V2, CpuLimit::Cap, 10_240);
        let expected = [("cpu.max", "578858 100000"), ("cpu.weight", "578")];
        assert_eq!(v2, files(&expected));
    }
}
