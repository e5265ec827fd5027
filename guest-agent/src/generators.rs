//! What the clones of this guest would share if it were snapshotted now: random generators whose state
//! is in the memory of the function's processes.
//!
//! The guest kernel's generator is the restored instance's own ([`crate::entropy`]); so is whatever asks
//! the kernel for each number. This module looks after the others:
//!
//! * [`processes`] finds the processes, what they have mapped, and the pages that they have marked with
//!   `MADV_WIPEONFORK`. BoringSSL, AWS-LC and s2n reseed when such a page is zero: the snapshot has it
//!   so.
//! * [`libraries`] recognises code whose generator can't be reseeded from outside. A function with such
//!   code in one of its processes gets its init in each instance.
//! * [`registered`] holds what a managed runtime says of the generators of its own language.
//! * [`frames`] translates the addresses of processes into guest-physical ones, which the sandbox needs.
//!
//! OpenSSL needs no help from here: the sandbox finds its generators in guest memory.

mod frames;
mod libraries;
mod processes;
pub(crate) mod registered;

use std::collections::BTreeSet;
use std::io;

use hearth_protocol::agent::{Inspected, SharedGenerator};
use hearth_protocol::sandbox::{MAX_RANDOM_RANGES, MAX_ZERO_PAGES};

use self::frames::Frames;
use self::libraries::Scanner;
use self::registered::{Registered, RegistrationError};

/// Most shared generators that the host is told of: one is enough for its decision.
const MAX_SHARED: usize = 16;

/// What is known of the generators in the function's processes.
#[derive(Debug, Default)]
pub(crate) struct Generators {
    registered: Registered,
    /// Knows the files that it has seen.
    scanner: Option<Scanner>,
}

impl Generators {
    /// Takes in what a runtime reports of its process.
    pub(crate) fn register(&mut self, body: &[u8]) -> Result<(), RegistrationError> {
        self.registered.take(body)
    }

    /// Looks through all processes but the agent's own.
    pub(crate) fn inspect(&mut self) -> io::Result<Inspected> {
        let scanner = match &mut self.scanner {
            Some(scanner) => scanner,
            None => self.scanner.insert(Scanner::new()?),
        };
        inspect(&self.registered, scanner)
    }
}

fn inspect(registered: &Registered, scanner: &mut Scanner) -> io::Result<Inspected> {
    let mut shared = BTreeSet::new();
    let mut zero_pages = BTreeSet::new();
    let mut threads = 0;
    for process in processes::all(scanner.image())? {
        let pid = process.pid;
        threads += process.threads;
        for file in &process.code {
            let own_generator = registered.knows(pid);
            let found = scanner.look_at(file, own_generator);
            shared.extend(found.into_iter().map(|library| SharedGenerator {
                library: library.to_owned(),
                file: file.path.clone(),
            }));
        }
        if !process.wipe_on_fork.is_empty() {
            let frames = Frames::of(pid)?;
            for range in process.wipe_on_fork {
                zero_pages.extend(frames.present(range)?);
            }
        }
    }
    let mut random_ranges = Vec::new();
    for process in registered.processes() {
        shared.extend(process.shared.iter().map(|library| SharedGenerator {
            library: library.clone(),
            file: format!("process {}", process.pid),
        }));
        match Frames::of(process.pid) {
            Ok(frames) => {
                for state in &process.states {
                    random_ranges.extend(frames.ranges(state)?);
                }
            }
            // It has ended, and its generators with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if zero_pages.len() > MAX_ZERO_PAGES || random_ranges.len() > MAX_RANDOM_RANGES {
        shared.insert(SharedGenerator {
            library: "more random generators than a snapshot can reseed".to_owned(),
            file: format!("{} and {}", zero_pages.len(), random_ranges.len()),
        });
        zero_pages.clear();
        random_ranges.clear();
    }
    Ok(Inspected {
        shared_generators: shared.into_iter().take(MAX_SHARED).collect(),
        zero_pages: zero_pages.into_iter().collect(),
        random_ranges,
        settled: threads <= 1,
    })
}
