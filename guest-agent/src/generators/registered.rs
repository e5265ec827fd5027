//! What a managed runtime says of the generators of its language, once its function's init is over:
//! `POST /hearth/generators` on the Runtime API.
//!
//! The body is text, a line for each fact, numbers in decimal:
//!
//! ```text
//! process 12                    the sender: everything below is about it
//! random 94837465200 2496       state of a generator: address and length in bytes
//! shared Node's worker threads  a generator that the runtime can't reseed
//! ```
//!
//! A process that is not registered and runs an interpreter counts as one with a generator that can't be
//! reseeded. What a hostile process registers harms itself alone: the sandbox fills memory of its own
//! microVM with random bytes.

/// Longest body in bytes.
pub(crate) const MAX_BODY: usize = 16 * 1024;
/// Most processes of a function that register.
const MAX_PROCESSES: usize = 8;
/// Most states of one process.
const MAX_STATES: usize = 48;
/// Longest state in bytes.
const MAX_STATE: u32 = 64 * 1024;
/// Most generators of one process that can't be reseeded, and the longest name of one in bytes.
const MAX_SHARED: usize = 8;
const MAX_NAME: usize = 200;

/// Why a registration was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegistrationError {
    #[error("the first line must be: process PID")]
    NoProcess,
    #[error("line {0} can't be understood")]
    Line(usize),
    #[error("more than {0} lines of a kind")]
    TooMany(usize),
    #[error("{0} processes have registered already")]
    TooManyProcesses(usize),
}

/// State of a generator in a process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) address: u64,
    pub(crate) len: u32,
}

/// A process that knows its generators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegisteredProcess {
    pub(crate) pid: i32,
    pub(crate) states: Vec<State>,
    pub(crate) shared: Vec<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    processes: Vec<RegisteredProcess>,
}

impl Registered {
    /// Takes a registration in; it replaces an earlier one of the same process.
    pub(crate) fn take(&mut self, body: &[u8]) -> Result<(), RegistrationError> {
        let process = parse(body)?;
        self.processes.retain(|known| known.pid != process.pid);
        if self.processes.len() >= MAX_PROCESSES {
            return Err(RegistrationError::TooManyProcesses(MAX_PROCESSES));
        }
        self.processes.push(process);
        Ok(())
    }

    /// Whether this process has registered.
    pub(crate) fn knows(&self, pid: i32) -> bool {
        self.processes.iter().any(|process| process.pid == pid)
    }

    /// The processes.
    pub(crate) fn processes(&self) -> &[RegisteredProcess] {
        &self.processes
    }
}

fn parse(body: &[u8]) -> Result<RegisteredProcess, RegistrationError> {
    let text = std::str::from_utf8(body).map_err(|_| RegistrationError::NoProcess)?;
    let mut lines = text.lines().enumerate();
    let pid = lines
        .next()
        .and_then(|(_, line)| line.strip_prefix("process ")?.parse::<u32>().ok())
        .and_then(|pid| i32::try_from(pid).ok())
        .filter(|pid| *pid > 0)
        .ok_or(RegistrationError::NoProcess)?;
    let mut process = RegisteredProcess {
        pid,
        states: Vec::new(),
        shared: Vec::new(),
    };
    for (index, line) in lines {
        let not_understood = || RegistrationError::Line(index + 1);
        match line.split_once(' ').ok_or_else(not_understood)? {
            ("random", state) => {
                if process.states.len() >= MAX_STATES {
                    return Err(RegistrationError::TooMany(MAX_STATES));
                }
                process
                    .states
                    .push(state_of(state).ok_or_else(not_understood)?);
            }
            ("shared", name) if name.len() <= MAX_NAME && !name.contains(char::is_control) => {
                if process.shared.len() >= MAX_SHARED {
                    return Err(RegistrationError::TooMany(MAX_SHARED));
                }
                process.shared.push(name.to_owned());
            }
            _ => return Err(not_understood()),
        }
    }
    Ok(process)
}

fn state_of(text: &str) -> Option<State> {
    let (address, len) = text.split_once(' ')?;
    let (address, len): (u64, u32) = (address.parse().ok()?, len.parse().ok()?);
    // User space ends at 2^47; no address overflows later.
    let possible = (1..=MAX_STATE).contains(&len) && address < 1 << 47;
    possible.then_some(State { address, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_names_its_states_and_what_it_can_not_reseed() {
        let mut registered = Registered::default();
        registered
            .take(b"process 12\nrandom 4096 2496\nshared worker threads\n")
            .unwrap();
        assert!(registered.knows(12) && !registered.knows(13));
        let [process] = registered.processes() else {
            panic!("{registered:?}");
        };
        let state = State {
            address: 4096,
            len: 2496,
        };
        assert_eq!(process.states, [state]);
        assert_eq!(process.shared, ["worker threads"]);
        registered.take(b"process 12").unwrap();
        assert_eq!(registered.processes().len(), 1);
        assert!(registered.processes()[0].states.is_empty());
    }

    #[test]
    fn what_can_not_be_a_registration_is_refused_and_changes_nothing() {
        let mut registered = Registered::default();
        for body in [
            "",
            "random 1 2",
            "process -1",
            "process 0",
            "process 99999999999",
            "process 1\nrandom 1",
            "process 1\nrandom 1 0",
            "process 1\nrandom 1 65537",
            "process 1\nrandom 140737488355328 8",
            "process 1\nrandom -1 8",
            "process 1\nshared a\u{7}b",
            "process 1\nnonsense x",
            "process 1\n\n",
        ] {
            assert!(registered.take(body.as_bytes()).is_err(), "{body:?}");
        }
        assert!(registered.take(b"process 1\n\xff").is_err());
        let many = format!("process 1\n{}", "random 1 1\n".repeat(MAX_STATES + 1));
        assert_eq!(
            registered.take(many.as_bytes()),
            Err(RegistrationError::TooMany(MAX_STATES))
        );
        assert!(registered.processes().is_empty());
    }

    #[test]
    fn there_is_a_limit_to_processes() {
        let mut registered = Registered::default();
        for pid in 1..=MAX_PROCESSES {
            registered
                .take(format!("process {pid}").as_bytes())
                .unwrap();
        }
        assert!(registered.take(b"process 1000").is_err());
        registered.take(b"process 1").unwrap();
    }
}
