//! Holds requests until what the folder holds is what the function runs.
//!
//! A request asks the gate with the state that it sees on disk. It passes if exactly that state is
//! deployed, fails if exactly that state could not be, and otherwise waits for the deployer, which
//! works until there is nothing newer. Events of the file system only make the deployer start
//! early; no answer depends on them.

use std::sync::{Condvar, Mutex, MutexGuard};

use super::fingerprint::Fingerprint;

/// What became of the last state that was deployed.
#[derive(Debug, Clone)]
enum Outcome {
    Nothing,
    Serves(Fingerprint),
    Failed(Fingerprint, String),
}

#[derive(Debug)]
struct State {
    outcome: Outcome,
    /// Grows by each request for a look at the folder.
    asked: u64,
    /// Value of `asked` that the deployer has seen.
    heard: u64,
    /// Grows by each outcome.
    outcomes: u64,
    closed: bool,
}

/// Between requests and the deployer.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// Why a request does not pass.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// This state of the folder can't be deployed.
    #[error("{0}")]
    NotDeployed(String),
    /// The server ends.
    #[error("the development server is ending")]
    Closed,
}

impl Gate {
    /// Nothing is deployed yet, and the deployer is asked to look.
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                outcome: Outcome::Nothing,
                asked: 1,
                heard: 0,
                outcomes: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is a few assignments: it is whole even if a thread panicked.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until the folder's state, as `look` sees it, is deployed or can't be.
    pub(super) fn pass(&self, look: impl Fn() -> Fingerprint) -> Result<(), Refused> {
        loop {
            // The outcome is read before the folder: a deploy that ends between the two reads costs one
            // more round, never an answer from older code.
            let before = self.lock().outcomes;
            let now = look();
            let mut state = self.lock();
            if state.closed {
                return Err(Refused::Closed);
            }
            match &state.outcome {
                Outcome::Serves(deployed) if *deployed == now => return Ok(()),
                Outcome::Failed(tried, why) if *tried == now => {
                    return Err(Refused::NotDeployed(why.clone()));
                }
                _ => {}
            }
            if state.outcomes == before {
                state.asked += 1;
                self.changed.notify_all();
                while state.outcomes == before && !state.closed {
                    state = self.wait(state);
                }
            }
        }
    }

    /// The folder may have changed.
    pub(super) fn changed(&self) {
        self.lock().asked += 1;
        self.changed.notify_all();
    }

    /// How often it has been asked for a look at the folder so far.
    pub(super) fn asked(&self) -> u64 {
        self.lock().asked
    }

    /// Refuses all requests from now on, waiting ones included.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// For the deployer: waits until a request or a file event asks for a look at the folder. Returns
    /// `false` once the gate is closed.
    pub(super) fn wait_until_asked(&self) -> bool {
        let mut state = self.lock();
        while state.asked == state.heard && !state.closed {
            state = self.wait(state);
        }
        state.heard = state.asked;
        !state.closed
    }

    /// For the deployer: whether this state has had its outcome.
    pub(super) fn is_known(&self, now: Fingerprint) -> bool {
        match &self.lock().outcome {
            Outcome::Nothing => false,
            Outcome::Serves(known) | Outcome::Failed(known, _) => *known == now,
        }
    }

    /// For the deployer: `deployed` serves, or can't.
    pub(super) fn settle(&self, deployed: Fingerprint, result: Result<(), String>) {
        let mut state = self.lock();
        state.outcome = match result {
            Ok(()) => Outcome::Serves(deployed),
            Err(why) => Outcome::Failed(deployed, why),
        };
        state.outcomes += 1;
        self.changed.notify_all();
    }

    /// For the deployer: the folder was looked at and is what it was. Those who saw something else
    /// for a moment look again.
    pub(super) fn settle_unchanged(&self) {
        self.lock().outcomes += 1;
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    fn state(n: u8) -> Fingerprint {
        Fingerprint::of_test(n)
    }

    #[test]
    fn a_deployed_state_passes_and_a_failed_one_says_why() {
        let gate = Gate::new();
        gate.settle(state(1), Ok(()));
        assert_eq!(gate.pass(|| state(1)), Ok(()));
        gate.settle(state(2), Err("why".into()));
        let refused = Refused::NotDeployed("why".into());
        assert_eq!(gate.pass(|| state(2)), Err(refused));
    }

    #[test]
    fn a_request_that_sees_a_newer_state_wakes_the_deployer_and_waits_for_it() {
        let gate = Arc::new(Gate::new());
        assert!(gate.wait_until_asked());
        gate.settle(state(1), Ok(()));
        let (passed, answer) = mpsc::channel();
        let request = {
            let gate = gate.clone();
            std::thread::spawn(move || passed.send(gate.pass(|| state(2))))
        };
        assert!(gate.wait_until_asked(), "the request asks");
        assert!(answer.try_recv().is_err(), "and waits");
        gate.settle(state(2), Ok(()));
        assert_eq!(answer.recv().unwrap(), Ok(()));
        request.join().unwrap().unwrap();
    }

    #[test]
    fn a_change_during_the_deploy_is_waited_for_as_well() {
        let gate = Arc::new(Gate::new());
        let disk = Arc::new(AtomicU8::new(2));
        let (passed, answer) = mpsc::channel();
        {
            let (gate, disk) = (gate.clone(), disk.clone());
            std::thread::spawn(move || {
                passed.send(gate.pass(|| state(disk.load(Ordering::SeqCst))))
            });
        }
        assert!(gate.wait_until_asked());
        disk.store(3, Ordering::SeqCst);
        gate.settle(state(2), Ok(()));
        // Whatever the request saw first, state 2 is not what it may be answered from.
        while !gate.is_known(state(3)) {
            assert!(gate.wait_until_asked());
            assert!(answer.try_recv().is_err());
            gate.settle(state(3), Ok(()));
        }
        assert_eq!(answer.recv().unwrap(), Ok(()));
    }

    #[test]
    fn closing_lets_everybody_go() {
        let gate = Arc::new(Gate::new());
        let waiting = {
            let gate = gate.clone();
            std::thread::spawn(move || gate.pass(|| state(1)))
        };
        assert!(gate.wait_until_asked());
        gate.close();
        assert_eq!(waiting.join().unwrap(), Err(Refused::Closed));
        assert!(!gate.wait_until_asked());
    }
}
