//! The parts of a sandbox process's jail, and its report of the parts that are missing because the
//! host or the process's privileges did not allow them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One part of the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JailPart {
    /// A user and group id that no other process has.
    User,
    /// A mount namespace whose root is an empty, read-only directory.
    Root,
    /// A process id namespace: the process can't name any other process.
    Processes,
    /// A network namespace without an interface.
    Network,
    /// A namespace of System V and POSIX IPC objects.
    Ipc,
    /// A namespace of host names.
    HostName,
    /// A control group namespace.
    Cgroups,
    /// Landlock: a second line of defence behind the empty root.
    Landlock,
    /// The system call filters of all threads.
    Seccomp,
}

impl JailPart {
    /// All parts.
    pub const ALL: [Self; 9] = [
        Self::User,
        Self::Root,
        Self::Processes,
        Self::Network,
        Self::Ipc,
        Self::HostName,
        Self::Cgroups,
        Self::Landlock,
        Self::Seccomp,
    ];

    /// The part's name in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Root => "root",
            Self::Processes => "processes",
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::HostName => "host_name",
            Self::Cgroups => "cgroups",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }
}

/// The state of one process's jail. Parts that are not listed as missing are in force. So are those
/// that every host supports: no new privileges, no capabilities, resource limits, closed
/// descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// The missing parts.
    pub missing: Vec<MissingPart>,
}

/// A missing part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingPart {
    /// The part.
    pub part: JailPart,
    /// The host's error.
    pub why: String,
}

impl Jail {
    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Whether `part` is in force.
    pub fn has(&self, part: JailPart) -> bool {
        self.missing.iter().all(|missing| missing.part != part)
    }
}

impl fmt::Display for Jail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_complete() {
            return f.write_str("complete");
        }
        f.write_str("without ")?;
        for (n, missing) in self.missing.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{} ({})", missing.part.name(), missing.why)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_reason() {
        let mut jail = Jail::default();
        assert_eq!(jail.to_string(), "complete");
        jail.missing.push(MissingPart {
            part: JailPart::User,
            why: "not root".into(),
        });
        assert_eq!(jail.to_string(), "without user (not root)");
        assert!(!jail.has(JailPart::User) && jail.has(JailPart::Seccomp));
    }

    #[test]
    fn every_part_has_its_own_name() {
        let names: std::collections::BTreeSet<_> =
            JailPart::ALL.iter().map(|part| part.name()).collect();
        assert_eq!(names.len(), JailPart::ALL.len());
    }
}
