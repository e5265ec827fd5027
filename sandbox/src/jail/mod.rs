//! The jail: what a sandbox process takes away from itself before it reads a first command, so that
//! a guest that takes the process over finds nothing to do with it. `SECURITY.md` says against whom.
//!
//! * [`outside`]: what is read and opened before the doors close.
//! * [`descriptors`]: inherited descriptors.
//! * [`environment`]: inherited variables.
//! * [`namespaces`]: the empty root, and namespaces of its own.
//! * [`limits`]: resource limits.
//! * [`privileges`]: user, capabilities, what the kernel lets others look at.
//! * [`landlock`]: a second line behind the empty root.
//! * [`rules`], [`filter`]: the system calls of each thread.
//!
//! The process id namespace is the one part that a process can't give itself: whoever starts it
//! gives it ([`JailPart::Processes`] is only looked at here).

pub mod descriptors;
pub mod environment;
pub mod filter;
pub mod landlock;
pub mod limits;
pub mod namespaces;
pub mod outside;
pub mod privileges;
pub mod rules;

use std::io;

use hearth_protocol::jail::{Jail, JailPart, MissingPart};
use nix::unistd::{geteuid, getpid};

pub use filter::{FilterError, Filters, Mismatch, NO_MAILBOX, ThreadFilter};
pub use outside::Outside;
pub use privileges::Identity;

/// Why the process is not locked up. It must not go on.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A part that every host has could not be had.
    #[error("jail: {0}: {1}")]
    Part(&'static str, io::Error),
}

/// Locks the calling process up, all but its system calls, and says which parts could not be had.
///
/// Must be called while the process has one thread: each part holds for the calling thread and
/// those that it starts.
pub fn enter(identity: Option<Identity>) -> Result<Jail, JailError> {
    let part = |what| move |e| JailError::Part(what, e);
    let mut missing = Missing(Vec::new());
    let root = geteuid().is_root();
    if getpid().as_raw() != 1 {
        missing.add(
            JailPart::Processes,
            "whoever started this process gave it none",
        );
    }
    // Without root, a user namespace is what gives the right to make the others.
    let may_separate = if root {
        Ok(())
    } else {
        namespaces::become_root_of_own_user_namespace()
    };
    match may_separate {
        Ok(()) => {
            for (part, flag) in namespaces::SEPARATE {
                missing.note(part, namespaces::separate(flag));
            }
            missing.note(JailPart::Root, namespaces::empty_root());
        }
        Err(e) => {
            for (part, _) in namespaces::SEPARATE {
                missing.add(part, format!("no user namespace: {e}"));
            }
            missing.add(JailPart::Root, format!("no user namespace: {e}"));
        }
    }
    // Remembered now: a change of user makes the kernel forget it.
    let death_signal = privileges::parent_death_signal().map_err(part("PR_GET_PDEATHSIG"))?;
    privileges::drop_bounding_set().map_err(part("the capability bounding set"))?;
    let own_user = match identity {
        Some(identity) => privileges::become_user(identity),
        None => Err(io::Error::other(
            "whoever started this process gave it none",
        )),
    };
    let processes = own_user.is_ok();
    missing.note(JailPart::User, own_user);
    privileges::drop_capabilities().map_err(part("capabilities"))?;
    privileges::no_new_privileges().map_err(part("no_new_privs"))?;
    // After the change of user: the number of processes is counted by user.
    limits::set(processes).map_err(part("resource limits"))?;
    if root {
        privileges::hide_from_others().map_err(part("PR_SET_DUMPABLE"))?;
    }
    privileges::die_with_parent(death_signal).map_err(part("PR_SET_PDEATHSIG"))?;
    missing.note(JailPart::Landlock, landlock::deny_everything());
    Ok(Jail { missing: missing.0 })
}

/// The parts that could not be had.
struct Missing(Vec<MissingPart>);

impl Missing {
    fn add(&mut self, part: JailPart, why: impl Into<String>) {
        let why = why.into();
        self.0.push(MissingPart { part, why });
    }

    fn note(&mut self, part: JailPart, result: io::Result<()>) {
        if let Err(e) = result {
            self.add(part, e.to_string());
        }
    }
}
