//! The runtime's cgroup: limits what a function may use, measures what it used, and kills all its
//! processes at once.
//!
//! The cpu controller stays off: the host enforces the share of CPU, and the controller would make each
//! scheduling decision cost more instructions. For CPU time see [`crate::cpu_time`].
//!
//! Files that are read in each invocation are kept open and read with `pread`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
/// Maximum processes and threads; Lambda's limit.
const MAX_PIDS: u32 = 1024;
/// Memory in bytes that is left to the guest kernel and the agent beyond what they use already, for socket
/// buffers and slack. The agent's memory for a payload is part of what it uses already.
const RESERVE: u64 = 6 << 20;
/// Minimum memory of a function in bytes, however small the machine is.
const MIN_MEMORY: u64 = 16 << 20;
const MIB: u64 = 1 << 20;

/// A file of the cgroup could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cgroup file {path}: {source}")]
pub(crate) struct CgroupError {
    path: PathBuf,
    source: io::Error,
}

/// The cgroup that a runtime is started in.
#[derive(Debug)]
pub(crate) struct RuntimeCgroup {
    path: PathBuf,
    procs: File,
    memory_peak: File,
    memory_events: File,
    /// `memory.max` for the function, and its current value.
    limit: u64,
    current_limit: u64,
}

impl RuntimeCgroup {
    /// Creates the cgroup, empty, with a limit on the number of processes only.
    pub(crate) fn create() -> Result<Self, CgroupError> {
        let root = Path::new(ROOT);
        for controller in ["+memory", "+pids"] {
            write(&root.join("cgroup.subtree_control"), controller)?;
        }
        let path = root.join("runtime");
        fs::create_dir(&path).map_err(|source| CgroupError {
            path: path.clone(),
            source,
        })?;
        write(&path.join("pids.max"), &MAX_PIDS.to_string())?;
        // A function that has lost one of its processes is useless, so the guest kernel kills all of them.
        write(&path.join("memory.oom.group"), "1")?;
        Self::open(path)
    }

    /// Opens the files of a cgroup that exists.
    pub(crate) fn open(path: PathBuf) -> Result<Self, CgroupError> {
        let procs = path.join("cgroup.procs");
        Ok(Self {
            procs: OpenOptions::new()
                .write(true)
                .open(&procs)
                .map_err(|source| CgroupError {
                    path: procs,
                    source,
                })?,
            memory_peak: open(&path, "memory.peak")?,
            memory_events: open(&path, "memory.events")?,
            path,
            limit: u64::MAX,
            current_limit: u64::MAX,
        })
    }

    /// Where a process writes `0` to join.
    pub(crate) fn procs(&self) -> BorrowedFd<'_> {
        self.procs.as_fd()
    }

    /// Sets the function's memory limit: its configured memory, or less if the machine has less.
    pub(crate) fn limit_memory(&mut self, memory_mib: u32) -> Result<(), CgroupError> {
        let meminfo = Path::new("/proc/meminfo");
        let text = fs::read_to_string(meminfo).map_err(|source| CgroupError {
            path: meminfo.to_owned(),
            source,
        })?;
        self.limit = share(u64::from(memory_mib) * MIB, available(&text));
        self.apply_limit(self.limit)
    }

    /// Lowers the limit for one invocation, or restores the function's own. The file is written only when
    /// the limit changes.
    pub(crate) fn limit_invocation(&mut self, memory_mib: Option<u32>) -> Result<(), CgroupError> {
        let limit = memory_mib.map_or(self.limit, |mib| self.limit.min(u64::from(mib) * MIB));
        if limit == self.current_limit {
            return Ok(());
        }
        self.apply_limit(limit)
    }

    /// Peak memory in bytes.
    pub(crate) fn peak_memory(&self) -> Result<u64, CgroupError> {
        self.read(&self.memory_peak, "memory.peak", |text| {
            text.trim().parse().ok()
        })
    }

    /// Whether the guest kernel has killed a process of this cgroup because memory ran out.
    pub(crate) fn ran_out_of_memory(&self) -> Result<bool, CgroupError> {
        self.read(&self.memory_events, "memory.events", |text| {
            field(text, "oom_kill").map(|kills| kills > 0)
        })
    }

    /// Kills every process in the cgroup.
    pub(crate) fn kill(&self) -> Result<(), CgroupError> {
        write(&self.path.join("cgroup.kill"), "1")
    }

    fn apply_limit(&mut self, limit: u64) -> Result<(), CgroupError> {
        write(&self.path.join("memory.max"), &limit.to_string())?;
        self.current_limit = limit;
        Ok(())
    }

    fn read<T>(
        &self,
        file: &File,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, CgroupError> {
        let error = |source| CgroupError {
            path: self.path.join(name),
            source,
        };
        let mut buffer = [0; 512];
        let len = file.read_at(&mut buffer, 0).map_err(error)?;
        std::str::from_utf8(&buffer[..len])
            .ok()
            .and_then(parse)
            .ok_or_else(|| error(io::ErrorKind::InvalidData.into()))
    }
}

fn open(directory: &Path, name: &str) -> Result<File, CgroupError> {
    let path = directory.join(name);
    File::open(&path).map_err(|source| CgroupError { path, source })
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    // Not `fs::write`: that would create or truncate the file, which must exist.
    let result = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.write_all_at(value.as_bytes(), 0));
    result.map_err(|source| CgroupError {
        path: path.to_owned(),
        source,
    })
}

/// The number behind `name` in a file of `name number` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?
        .trim()
        .parse()
        .ok()
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// A function's memory in bytes: so little that the cgroup runs out before the machine does. Otherwise the
/// guest kernel would choose the process to kill among all, the agent included.
fn share(promised: u64, available: Option<u64>) -> u64 {
    let possible = available.map_or(u64::MAX, |bytes| bytes.saturating_sub(RESERVE));
    promised.min(possible).max(MIN_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let events = "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 1\n";
        assert_eq!(field(events, "oom_kill"), Some(1));
        assert_eq!(field(events, "oom"), Some(2));
        assert_eq!(field(events, "swap"), None);
        assert_eq!(field("oom_kill x\n", "oom_kill"), None);
    }

    #[test]
    fn available_memory_is_read_in_bytes() {
        let meminfo = "MemTotal:  118000 kB\nMemFree: 1 kB\nMemAvailable:   100000 kB\n";
        assert_eq!(available(meminfo), Some(100_000 << 10));
        assert_eq!(available("MemTotal: 5 kB\n"), None);
    }

    #[test]
    fn a_function_gets_its_configured_memory_if_the_machine_has_it() {
        assert_eq!(share(128 * MIB, Some(200 * MIB)), 128 * MIB);
        assert_eq!(share(128 * MIB, Some(100 * MIB)), 94 * MIB);
        assert_eq!(share(128 * MIB, Some(0)), MIN_MEMORY);
        assert_eq!(share(128 * MIB, None), 128 * MIB);
    }
}
