//! The kind of KVM host, and what identifies its CPU.
//!
//! *Hardware* hosts run the guest natively. *Software* hosts have a `/dev/kvm` without
//! virtualization extensions: guest user code runs natively, guest kernel code is interpreted, and
//! the [`crate::assist`] module completes what the interpreter can't.

use std::time::SystemTime;
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// The host's wall clock, in nanoseconds since the epoch.
pub fn realtime_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A host whose clock is before 1970 or after 2554 reports 0.
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0))
}

/// The two kinds of KVM host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostKind {
    /// VT-x or AMD-V.
    Hardware,
    /// KVM interprets ring 0.
    Software,
}

impl HostKind {
    /// `hardware` or `software`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Software => "software",
        }
    }

    fn from_cpuinfo(cpuinfo: &str) -> Self {
        let extensions = field(cpuinfo, "flags")
            .split_ascii_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm");
        if extensions {
            Self::Hardware
        } else {
            Self::Software
        }
    }
}

/// What a snapshot's CPU state depends on. A snapshot can only be restored on a host with the same
/// identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIdentity {
    /// The kind of KVM.
    pub kind: HostKind,
    /// Vendor, family, model and stepping.
    pub cpu: String,
    /// The CPU's feature flags.
    pub flags: String,
}

impl HostIdentity {
    /// Reads `/proc/cpuinfo`.
    pub fn detect() -> io::Result<Self> {
        Ok(Self::from_cpuinfo(&fs::read_to_string("/proc/cpuinfo")?))
    }

    fn from_cpuinfo(cpuinfo: &str) -> Self {
        let cpu = ["vendor_id", "cpu family", "model", "stepping"].map(|name| field(cpuinfo, name));
        Self {
            kind: HostKind::from_cpuinfo(cpuinfo),
            cpu: cpu.join("/"),
            flags: field(cpuinfo, "flags").to_owned(),
        }
    }
}

/// The value of `name` for the first CPU; empty if it isn't there.
fn field<'a>(cpuinfo: &'a str, name: &str) -> &'a str {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map_or("", |(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuinfo(flags: &str) -> String {
        format!(
            "processor\t: 0\nvendor_id\t: X\ncpu family\t: 6\nmodel\t\t: 1\nmodel name\t: Y\nstepping\t: 2\nflags\t\t: {flags}\n"
        )
    }

    #[test]
    fn extensions_make_a_hardware_host_and_their_absence_a_software_one() {
        assert_eq!(
            HostIdentity::from_cpuinfo(&cpuinfo("fpu vmx")).kind,
            HostKind::Hardware
        );
        assert_eq!(
            HostIdentity::from_cpuinfo(&cpuinfo("svm fpu")).kind,
            HostKind::Hardware
        );
        assert_eq!(
            HostIdentity::from_cpuinfo(&cpuinfo("fpu avx")).kind,
            HostKind::Software
        );
    }

    #[test]
    fn another_cpu_or_flag_is_another_identity() {
        let one = HostIdentity::from_cpuinfo(&cpuinfo("fpu avx"));
        assert_eq!(one.cpu, "X/6/1/2");
        assert_ne!(one, HostIdentity::from_cpuinfo(&cpuinfo("fpu")));
    }
}
