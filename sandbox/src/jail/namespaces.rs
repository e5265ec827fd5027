//! Namespaces of the process's own, and an empty root directory.

use std::{fs, io};

use hearth_protocol::jail::JailPart;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, getegid, geteuid, pivot_root};

/// Namespaces that only have to be created.
pub const SEPARATE: [(JailPart, CloneFlags); 4] = [
    (JailPart::Network, CloneFlags::CLONE_NEWNET),
    (JailPart::Ipc, CloneFlags::CLONE_NEWIPC),
    (JailPart::HostName, CloneFlags::CLONE_NEWUTS),
    (JailPart::Cgroups, CloneFlags::CLONE_NEWCGROUP),
];

/// A directory that every Linux system has. The new root is mounted over it.
const COVERED: &str = "/proc";

/// Makes a namespace of this kind and enters it.
pub fn separate(kind: CloneFlags) -> io::Result<()> {
    Ok(unshare(kind)?)
}

/// Gives a process without privileges the right to create namespaces: it enters a user namespace
/// that maps only its own user and group, to the same numbers.
pub fn become_root_of_own_user_namespace() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Enters a mount namespace whose root is an empty, read-only directory. Nothing else is mounted in
/// it.
pub fn empty_root() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    // Mounts in here must not propagate to the host.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing)?;
    let harmless = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // One inode: the directory itself, and no file.
    let room = Some("mode=0555,nr_inodes=1,size=4096");
    mount(Some("jail"), COVERED, Some("tmpfs"), harmless, room)?;
    chdir(COVERED)?;
    // `pivot_root(".", ".")` stacks the old root on top of the new one; it is then unmounted with
    // everything below it.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}
