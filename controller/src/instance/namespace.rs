//! Process id namespaces for sandboxes. A process can't enter a new namespace, but its children can be
//! created in it. So the thread that starts sandboxes calls `unshare(CLONE_NEWPID)`, starts the child,
//! which is the first process of the new namespace, and returns to its own namespace. The sandbox is
//! still a child of the controller, which waits for it, kills it and measures it like any other.

use std::fs::File;
use std::io;

use nix::sched::{CloneFlags, setns, unshare};

/// The process id namespace of the calling thread. Must be used only by that thread.
#[derive(Debug)]
pub(crate) struct OwnNamespace(Option<File>);

impl OwnNamespace {
    /// The namespace of the calling thread. Without the right to make others, [`Self::outside`] only runs
    /// its closure, and sandboxes report that this part of the jail is missing.
    pub(crate) fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/ns/pid").ok())
    }

    /// Runs `start`. The process that it starts is the first of a new namespace. `start` must not start
    /// threads.
    pub(crate) fn outside<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let Some(own) = &self.0 else {
            return start();
        };
        if unshare(CloneFlags::CLONE_NEWPID).is_err() {
            return start();
        }
        let started = start();
        // Return to the own namespace: `unshare` works only from there, and when the first process of the
        // new namespace has ended, no other could be started in it.
        setns(own, CloneFlags::CLONE_NEWPID)?;
        started
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn each_child_is_the_first_process_of_its_namespace() {
        let thread = std::thread::spawn(|| {
            let own = OwnNamespace::of_this_thread();
            let probe = |program: &mut Command| own.outside(|| program.output()).unwrap();
            (0..3)
                .map(|_| probe(Command::new("sh").args(["-c", "echo $$"])))
                .map(|output| String::from_utf8(output.stdout).unwrap())
                .collect::<Vec<_>>()
        });
        let pids = thread.join().unwrap();
        if nix::unistd::geteuid().is_root() {
            assert_eq!(pids, ["1\n"; 3]);
        } else {
            assert_eq!(pids.len(), 3);
        }
    }
}
