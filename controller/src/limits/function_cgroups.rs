//! A cgroup for each function that has instances, with the groups of their sandboxes in it.
//!
//! All instances of a function together have the CPU share of one: sixteen busy ones of one function leave
//! to another function's instance as much as a single one would. Within the function, instances share in
//! proportion to their memory.
//!
//! A function's group is made when its first instance moves in, and removed when its last one has ended.
//! Both happen under one lock: otherwise a group could be removed while the next instance moves in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, io};

use super::shares::{Isolation, set_share};
use crate::locks::lock;

/// The functions' groups in the controller's folder.
#[derive(Debug)]
pub(super) struct FunctionCgroups {
    isolation: Isolation,
    folder: PathBuf,
    /// Memory of each instance in a function's group, in MiB.
    functions: Mutex<HashMap<String, Vec<u32>>>,
}

impl FunctionCgroups {
    pub(super) fn new(isolation: Isolation, folder: PathBuf) -> Self {
        Self {
            isolation,
            folder,
            functions: Mutex::default(),
        }
    }

    pub(super) fn isolation(&self) -> Isolation {
        self.isolation
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds an instance to a function, whose group is made if there is none.
    pub(super) fn join(
        self: &Arc<Self>,
        function: &str,
        memory_mib: u32,
    ) -> io::Result<Membership> {
        let path = self.path(function);
        let mut functions = lock(&self.functions);
        if !functions.contains_key(function) {
            fs::create_dir(&path)?;
            if let Err(error) = self.open(&path) {
                remove(&path);
                return Err(error);
            }
        }
        let members = functions.entry(function.to_owned()).or_default();
        members.push(memory_mib);
        let membership = Membership {
            groups: self.clone(),
            function: function.to_owned(),
            memory_mib,
        };
        let shared = self.share(&path, members);
        // The membership's end takes the lock.
        drop(functions);
        shared.map(|()| membership)
    }

    /// Lets groups in a function's group have shares.
    fn open(&self, path: &Path) -> io::Result<()> {
        match self.isolation {
            Isolation::V2 => fs::write(path.join("cgroup.subtree_control"), "+cpu"),
            Isolation::V1 | Isolation::None => Ok(()),
        }
    }

    /// A function's share is that of its largest instance: versions may differ in their memory.
    fn share(&self, path: &Path, members: &[u32]) -> io::Result<()> {
        let largest = members.iter().max().copied().unwrap_or_default();
        set_share(self.isolation, path, largest)
    }

    fn leave(&self, function: &str, memory_mib: u32) {
        let path = self.path(function);
        let mut functions = lock(&self.functions);
        let Some(members) = functions.get_mut(function) else {
            return;
        };
        if let Some(place) = members.iter().position(|memory| *memory == memory_mib) {
            members.swap_remove(place);
        }
        if members.is_empty() {
            functions.remove(function);
            remove(&path);
        } else if let Err(error) = self.share(&path, members) {
            tracing::warn!(function, %error, "the controller could not set the CPU share of a function");
        }
    }

    /// Sandboxes' groups are named by numbers, so no function's name is one of theirs.
    fn path(&self, function: &str) -> PathBuf {
        self.folder.join(format!("function-{function}"))
    }
}

/// An instance's place in the group of its function. Must be dropped after the instance's own group has
/// been removed.
#[derive(Debug)]
pub(super) struct Membership {
    groups: Arc<FunctionCgroups>,
    function: String,
    memory_mib: u32,
}

impl Membership {
    /// The function's group.
    pub(super) fn path(&self) -> PathBuf {
        self.groups.path(&self.function)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.groups.leave(&self.function, self.memory_mib);
    }
}

/// Removes a group whose last process or thread may still be ending. Blocks for `limit` at most.
pub(super) fn remove_soon(group: &Path, limit: Duration) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && began.elapsed() < limit => {
                std::thread::sleep(Duration::from_millis(5));
            }
            // The owner of its last process has removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}

/// Removes a group without processes.
pub(super) fn remove(group: &Path) {
    if let Err(error) = fs::remove_dir(group) {
        tracing::warn!(
            group = %group.display(),
            %error,
            "the controller could not remove the cgroup of a sandbox or a function"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a folder of plain files; a group's removal needs it empty, as in a real hierarchy.
    fn groups() -> (tempfile::TempDir, Arc<FunctionCgroups>) {
        let dir = tempfile::tempdir().unwrap();
        let groups = FunctionCgroups::new(Isolation::V1, dir.path().to_owned());
        (dir, Arc::new(groups))
    }

    fn shares(membership: &Membership) -> String {
        fs::read_to_string(membership.path().join("cpu.shares")).unwrap()
    }

    fn empty(membership: &Membership) {
        fs::remove_file(membership.path().join("cpu.shares")).unwrap();
    }

    #[test]
    fn a_function_has_the_share_of_its_largest_instance_however_many_it_has() {
        let (_dir, groups) = groups();
        let first = groups.join("f", 1769).unwrap();
        assert_eq!(shares(&first), "1024");
        let others: Vec<_> = (0..16).map(|_| groups.join("f", 128).unwrap()).collect();
        assert_eq!(shares(&first), "1024");
        drop(first);
        assert_eq!(shares(&others[0]), "74");
    }

    #[test]
    fn a_functions_group_goes_with_its_last_instance_and_comes_again() {
        let (dir, groups) = groups();
        let (first, second) = (
            groups.join("f", 128).unwrap(),
            groups.join("f", 128).unwrap(),
        );
        let other = groups.join("g", 128).unwrap();
        drop(first);
        assert!(second.path().exists());
        empty(&second);
        drop(second);
        assert!(!dir.path().join("function-f").exists());
        assert!(other.path().exists());
        assert!(groups.join("f", 128).unwrap().path().exists());
    }
}
