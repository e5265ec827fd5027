//! The cgroup of one sandbox process: first in the controller's folder, then in the group of its function.
//!
//! A shell that becomes an instance has the share of its function by itself, until its start is over. Then it
//! moves into the function's group: a start that had to share with busy instances of its function would hold
//! its start slot for long.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use tokio::sync::Mutex;
use tracing::Span;

use super::function_cgroups::{self, FunctionCgroups, Membership};
use super::shares::{CpuLimit, set_limits};

/// The group of one process; removed when dropped, which must be after the process's end.
#[derive(Debug)]
pub(crate) struct CpuCgroup {
    pid: u32,
    path: PathBuf,
    /// The group before that, if it could not be removed yet.
    former: Option<PathBuf>,
    functions: Arc<FunctionCgroups>,
    /// Its place in the group of its function, if it is an instance.
    membership: Option<Membership>,
    limit: CpuLimit,
}

impl CpuCgroup {
    /// Makes a group in the folder and puts the process into it.
    pub(super) fn of(
        pid: u32,
        functions: &Arc<FunctionCgroups>,
        limit: CpuLimit,
    ) -> io::Result<Self> {
        let path = functions.folder().join(pid.to_string());
        fs::create_dir(&path)?;
        let group = Self {
            pid,
            path,
            former: None,
            functions: functions.clone(),
            membership: None,
            limit,
        };
        group.admit(&group.path)?;
        Ok(group)
    }

    /// Sets the share, and with `--cpu-limit cap` the quota, of a function with this memory size.
    fn set_memory(&self, memory_mib: u32) -> io::Result<()> {
        let isolation = self.functions.isolation();
        set_limits(isolation, self.limit, &self.path, memory_mib)
    }

    /// Moves the process into the group of its function, with the share, and with `--cpu-limit cap` the
    /// quota, of this memory size. May block for some milliseconds: the kernel waits until no process on
    /// the host is in the middle of a fork. The process must not have been reaped, since its id could be
    /// another one's.
    fn move_to(&mut self, function: &str, memory_mib: u32) -> io::Result<()> {
        let membership = self.functions.join(function, memory_mib)?;
        let path = membership.path().join(self.pid.to_string());
        fs::create_dir(&path)?;
        let isolation = self.functions.isolation();
        let moved =
            set_limits(isolation, self.limit, &path, memory_mib).and_then(|()| self.admit(&path));
        if moved.is_err() {
            function_cgroups::remove(&path);
            return moved;
        }
        let former = std::mem::replace(&mut self.path, path);
        self.membership = Some(membership);
        // Threads that were about to end have stayed there, and so has a process that was killed meanwhile.
        if function_cgroups::remove_soon(&former, Duration::from_millis(100)).is_err() {
            self.former = Some(former);
        }
        Ok(())
    }

    /// Makes the process a member of this group.
    fn admit(&self, group: &Path) -> io::Result<()> {
        fs::write(group.join("cgroup.procs"), self.pid.to_string())
    }
}

impl Drop for CpuCgroup {
    fn drop(&mut self) {
        function_cgroups::remove(&self.path);
        if let Some(former) = &self.former {
            function_cgroups::remove(former);
        }
    }
}

/// The group of a sandbox process, for those that change it and the one that reaps the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct CpuShare(Arc<Mutex<Option<CpuCgroup>>>);

impl CpuShare {
    pub(crate) fn new(group: Option<CpuCgroup>) -> Self {
        Self(Arc::new(Mutex::new(group)))
    }

    /// Sets the share of a function with this memory size, for the time until it joins its function.
    pub(crate) fn set_memory(&self, memory_mib: u32) -> io::Result<()> {
        match self.0.try_lock().as_deref() {
            Ok(Some(group)) => group.set_memory(memory_mib),
            // It has no group, or is about to get another one.
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Has the process moved into the group of its function, and does not wait for that.
    pub(crate) fn join(&self, function: &str, memory_mib: u32) {
        let (share, function, span) = (self.clone(), function.to_owned(), Span::current());
        tokio::task::spawn_blocking(move || {
            let mut group = share.0.blocking_lock();
            let Some(group) = group.as_mut() else {
                return;
            };
            let moved = group.move_to(&function, memory_mib);
            if let Err(error) = moved
                // Otherwise it has ended meanwhile.
                && error.raw_os_error() != Some(libc::ESRCH)
            {
                span.in_scope(|| {
                    tracing::warn!(
                        pid = group.pid,
                        %error,
                        "a sandbox has a CPU share of its own: the controller could not move it into \
                         the cgroup of its function"
                    );
                });
            }
        });
    }

    /// Takes the group; nobody changes it any more. Must be called before the process is reaped.
    pub(crate) async fn take(&self) -> Option<CpuCgroup> {
        self.0.lock().await.take()
    }
}
