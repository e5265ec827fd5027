//! Namespaces of the process's own, and a root directory with nothing in it.

use std::fs;
use std::io;

use hearth_protocol::jail::JailPart;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, getegid, geteuid, pivot_root};

/// Namespaces that need nothing but to be made.
pub const SEPARATE: [(JailPart, CloneFlags); 4] = [
    (JailPart::Network, CloneFlags::CLONE_NEWNET),
    (JailPart::Ipc, CloneFlags::CLONE_NEWIPC),
    (JailPart::HostName, CloneFlags::CLONE_NEWUTS),
    (JailPart::Cgroups, CloneFlags::CLONE_NEWCGROUP),
];

/// A directory that every Linux system has. It is covered before it becomes the root.
const COVERED: &str = "/proc";

/// Makes a namespace of this kind and enters it.
pub fn separate(kind: CloneFlags) -> io::Result<()> {
    Ok(unshare(kind)?)
}

/// Gives a process without privileges the right to make namespaces: in a user namespace that holds
/// its own user, under the same number, and nobody else.
pub fn become_root_of_own_user_namespace() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Enters a mount namespace of its own whose root is an empty, read-only directory; nothing else is
/// mounted in it.
pub fn empty_root() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    // What is mounted and unmounted here must not reach the host.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing)?;
    let harmless = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Room for the directory itself and for no file.
    let room = Some("mode=0555,nr_inodes=1,size=4096");
    mount(Some("jail"), COVERED, Some("tmpfs"), harmless, room)?;
    chdir(COVERED)?;
    // The old root ends up on top of the new one, and is taken off with everything below it.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}
