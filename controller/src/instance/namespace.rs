//! Process id namespaces for children. A process can't enter a new one itself, only its children
//! are born into it; so the thread that starts sandboxes steps before the door of a new namespace
//! for the length of a start. The child is that namespace's first process, and still this
//! process's child: it is waited for, killed and measured as any other.

use std::fs::File;
use std::io;

use nix::sched::{CloneFlags, setns, unshare};

/// The namespace that the calling thread is in. Belongs to that thread.
#[derive(Debug)]
pub(crate) struct OwnNamespace(Option<File>);

impl OwnNamespace {
    /// Of the calling thread. Without the right to make others it does nothing, and the sandboxes
    /// say what they lack.
    pub(crate) fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/ns/pid").ok())
    }

    /// Runs `start`; a process that it starts is the first of a new namespace. `start` must not
    /// start threads.
    pub(crate) fn outside<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let Some(own) = &self.0 else {
            return start();
        };
        if unshare(CloneFlags::CLONE_NEWPID).is_err() {
            return start();
        }
        let started = start();
        // Only from its own may a thread go to another one, and with the first process of this one
        // gone nothing could be started in it.
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
