//! CPU shares in proportion to memory, with a cgroup for each sandbox process, in one for its function.
//!
//! On Lambda, a function with 1,769 MB of memory has one vCPU. Here the same ratio becomes a weight, of a
//! function and of each of its instances within it ([`function_cgroups`]). It
//! limits only while functions contend for CPUs; an instance that is alone on the host runs at full speed.
//! `--cpu-limit cap` adds a hard quota for each instance, so that one runs at the same speed whatever other
//! instances do. It is not the default because a function with 128 MB would get 7 % of a CPU, also for its
//! init at deploy.
//!
//! Version 2 of cgroups (`cpu.weight`, `cpu.max`) is used if its cpu controller is usable, or else
//! version 1 (`cpu.shares`, `cpu.cfs_quota_us`). All groups are in one folder with the data directory's
//! tag in its name, so that the next start finds and removes the groups of a controller that was killed.
//! A shell's group is in the folder itself; as an instance, it moves into the group of its function.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use super::cpu_share::CpuCgroup;
use super::function_cgroups::{self, FunctionCgroups, remove_soon};
use super::shares::{CpuLimit, Isolation, V1_SHARES, V2_WEIGHT, set_share};

/// Longest time in which a sandbox that was killed ends.
const ENDING: Duration = Duration::from_secs(1);

/// Makes the groups of this controller's sandboxes.
#[derive(Debug)]
pub(crate) struct CpuCgroups {
    functions: Option<Arc<FunctionCgroups>>,
    limit: CpuLimit,
    warnings: Vec<String>,
}

impl CpuCgroups {
    /// Finds a usable hierarchy below `mount` (`/sys/fs/cgroup`), removes groups that an earlier
    /// controller has left there, and makes the folder `name` in it.
    pub(crate) fn open(mount: &Path, name: &str, limit: CpuLimit) -> Self {
        let mut warnings = Vec::new();
        for (isolation, parent) in candidates(mount) {
            let folder = parent.join(name);
            match prepare(isolation, &parent, &folder) {
                Ok(()) => {
                    return Self {
                        functions: Some(Arc::new(FunctionCgroups::new(isolation, folder))),
                        limit,
                        warnings: Vec::new(),
                    };
                }
                Err(error) => warnings.push(format!("{}: {error}", folder.display())),
            }
        }
        if warnings.is_empty() {
            warnings.push(format!("no cpu controller below {}", mount.display()));
        }
        warnings.insert(
            0,
            "CPU shares are not enforced: no usable cpu cgroup".into(),
        );
        Self {
            functions: None,
            limit,
            warnings,
        }
    }

    pub(crate) fn isolation(&self) -> Isolation {
        self.functions
            .as_ref()
            .map_or(Isolation::None, |functions| functions.isolation())
    }

    /// Warnings for the administrator.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Puts a process into a group of its own. If that fails, the process runs without a CPU share.
    pub(crate) fn enter(&self, pid: u32) -> Option<CpuCgroup> {
        let functions = self.functions.as_ref()?;
        match CpuCgroup::of(pid, functions, self.limit) {
            Ok(group) => Some(group),
            Err(error) => {
                tracing::warn!(
                    pid,
                    folder = %functions.folder().display(),
                    %error,
                    "a sandbox runs without a CPU share: the controller could not make its cgroup"
                );
                None
            }
        }
    }

    /// Removes the folder. All sandboxes must have ended.
    pub(crate) fn close(&self) {
        if let Some(functions) = &self.functions
            && let Err(error) = remove(functions.folder())
        {
            tracing::warn!(
                folder = %functions.folder().display(),
                %error,
                "the controller could not remove its folder of cgroups"
            );
        }
    }
}

/// Groups in which the folder may be made, best first.
fn candidates(mount: &Path) -> Vec<(Isolation, PathBuf)> {
    let mut places = Vec::new();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own_path = |prefix: &str| {
        own.lines()
            .find_map(|line| {
                line.split_once(':')
                    .and_then(|(_, rest)| rest.strip_prefix(prefix))
            })
            .map(|path| path.trim_start_matches('/').to_owned())
    };
    for unified in [mount.to_owned(), mount.join("unified")] {
        let has_cpu = |dir: &Path| {
            fs::read_to_string(dir.join("cgroup.controllers"))
                .is_ok_and(|list| list.split_whitespace().any(|name| name == "cpu"))
        };
        if !has_cpu(&unified) {
            continue;
        }
        // A group that a service manager has delegated to this process comes first: this process may
        // make groups there.
        if let Some(own) = own_path(":").filter(|own| !own.is_empty()) {
            places.push((Isolation::V2, unified.join(own)));
        }
        places.push((Isolation::V2, unified));
    }
    for v1 in [mount.join("cpu"), mount.join("cpu,cpuacct")] {
        if !v1.join("cpu.shares").exists() {
            continue;
        }
        let own = own_path("cpu:")
            .or_else(|| own_path("cpu,cpuacct:"))
            .unwrap_or_default();
        places.push((Isolation::V1, v1.join(own)));
        places.push((Isolation::V1, v1));
    }
    places
}

/// Makes `folder` in `parent`, and checks that shares can be set in it.
fn prepare(isolation: Isolation, parent: &Path, folder: &Path) -> io::Result<()> {
    remove(folder)?;
    if isolation == Isolation::V2 {
        delegate(parent)?;
    }
    fs::create_dir(folder)?;
    let tried = (|| {
        weigh_folder(isolation, folder)?;
        if isolation == Isolation::V2 {
            fs::write(folder.join("cgroup.subtree_control"), "+cpu")?;
        }
        let trial = folder.join("trial");
        fs::create_dir(&trial)?;
        let set = set_share(isolation, &trial, 128);
        function_cgroups::remove(&trial);
        set
    })();
    if tried.is_err() {
        remove(folder)?;
    }
    tried
}

/// Sets the weight of the folder. For the groups beside it all sandboxes together count as one, by
/// default with the weight of one process. They get the weight of as many processes as there are CPUs.
fn weigh_folder(isolation: Isolation, folder: &Path) -> io::Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    match isolation {
        Isolation::V2 => {
            let weight = (V2_WEIGHT * cpus).min(10_000);
            fs::write(folder.join("cpu.weight"), weight.to_string())
        }
        Isolation::V1 => {
            let shares = (V1_SHARES * cpus).min(262_144);
            fs::write(folder.join("cpu.shares"), shares.to_string())
        }
        Isolation::None => Ok(()),
    }
}

/// Enables the cpu controller for the groups below `parent`. Version 2 allows that only if there is no
/// process in `parent` itself, so this process moves to a group beside that of the sandboxes.
fn delegate(parent: &Path) -> io::Result<()> {
    let control = parent.join("cgroup.subtree_control");
    if fs::read_to_string(&control)?
        .split_whitespace()
        .any(|name| name == "cpu")
    {
        return Ok(());
    }
    let leaf = parent.join("hearthd");
    if let Err(error) = fs::create_dir(&leaf)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())?;
    fs::write(control, "+cpu").inspect_err(|_| {
        // There are other processes in `parent` too. Move back.
        let _ = fs::write(parent.join("cgroup.procs"), std::process::id().to_string());
        let _ = fs::remove_dir(&leaf);
    })
}

/// Removes a folder of groups. Kills the processes in them, which are sandboxes of an earlier controller.
fn remove(folder: &Path) -> io::Result<()> {
    let groups = match fs::read_dir(folder) {
        Ok(groups) => groups,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for group in groups {
        let group = group?;
        if group.file_type()?.is_dir() {
            remove_group(&group.path())?;
        }
    }
    remove_soon(folder, ENDING)
}

fn remove_group(group: &Path) -> io::Result<()> {
    for inner in fs::read_dir(group)? {
        let inner = inner?;
        if inner.file_type()?.is_dir() {
            remove_group(&inner.path())?;
        }
    }
    for pid in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
        if let Ok(pid) = pid.parse() {
            tracing::warn!(
                pid,
                "the controller kills a sandbox of an earlier controller"
            );
            // An error means that it has ended meanwhile.
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
    remove_soon(group, ENDING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_cgroups_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = CpuCgroups::open(dir.path(), "hearth-x", CpuLimit::Share);
        assert_eq!(cgroups.isolation(), Isolation::None);
        assert!(cgroups.warnings()[0].contains("not enforced"));
        assert!(cgroups.enter(std::process::id()).is_none());
    }
}
