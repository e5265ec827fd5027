//! The jail: what a sandbox process gives up before it reads its first command, so that a guest that
//! takes the process over can do nothing with it. `SECURITY.md` describes the attackers.
//!
//! * [`host_resources`]: what the process reads and opens before it enters the jail.
//! * [`descriptors`]: closes inherited descriptors.
//! * [`environment`]: wipes inherited variables.
//! * [`namespaces`]: an empty root directory, and namespaces of the process's own.
//! * [`limits`]: resource limits.
//! * [`privileges`]: user, capabilities, and what other processes can see of this one.
//! * [`landlock`]: a second line of defence behind the empty root.
//! * [`rules`], [`filter`]: the system calls that each kind of thread may make.
//!
//! The process id namespace is the one part that a process can't create for itself: the process that
//! starts it has to. [`enter`] only checks whether it is there ([`JailPart::Processes`]).

pub mod descriptors;
pub mod environment;
pub mod filter;
pub mod host_resources;
pub mod landlock;
pub mod limits;
pub mod namespaces;
pub mod privileges;
pub mod rules;

use std::io;

pub use filter::{FilterError, Filters, Mismatch, NO_MAILBOX, ThreadFilter};
use hearth_protocol::jail::{Jail, JailPart, MissingPart};
pub use host_resources::HostResources;
use nix::unistd::{geteuid, getpid};
pub use privileges::Identity;

/// Why the process could not enter the jail. It must not go on.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A part that every host supports has failed.
    #[error("jail: {0}: {1}")]
    Part(&'static str, io::Error),
}

/// Puts the calling process into the jail, except for the system call filters, and returns which
/// parts are missing.
///
/// Call this while the process has one thread: each part applies to the calling thread and to those
/// that it starts later.
pub fn enter(identity: Option<Identity>) -> Result<Jail, JailError> {
    let part = |what| move |e| JailError::Part(what, e);
    let mut missing = Missing(Vec::new());
    let root = geteuid().is_root();
    if getpid().as_raw() != 1 {
        missing.add(
            JailPart::Processes,
            "the process that started this sandbox made no process id namespace for it",
        );
    }
    // Without root, only a user namespace gives the right to create the other namespaces.
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
    // Read this before the change of user, which makes the kernel reset it.
    let death_signal = privileges::parent_death_signal().map_err(part("PR_GET_PDEATHSIG"))?;
    privileges::drop_bounding_set().map_err(part("the capability bounding set"))?;
    let own_user = match identity {
        Some(identity) => privileges::become_user(identity),
        None => Err(io::Error::other("no --uid and --gid were given")),
    };
    let processes = own_user.is_ok();
    missing.note(JailPart::User, own_user);
    privileges::drop_capabilities().map_err(part("capabilities"))?;
    privileges::no_new_privileges().map_err(part("no_new_privs"))?;
    // After the change of user: the kernel counts processes for each user.
    limits::set(processes).map_err(part("resource limits"))?;
    if root {
        privileges::hide_from_others().map_err(part("PR_SET_DUMPABLE"))?;
    }
    privileges::die_with_parent(death_signal).map_err(part("PR_SET_PDEATHSIG"))?;
    missing.note(JailPart::Landlock, landlock::deny_everything());
    Ok(Jail { missing: missing.0 })
}

/// The parts that are missing.
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
