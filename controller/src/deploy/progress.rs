//! Which phase each deploy is in, for the one who waits for it: `StateReason` and
//! `LastUpdateStatusReason` show it while the deploy runs, and the metrics count the deploys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::locks::lock;

/// What a deploy does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// As many deploys run as may (`--max-deploys`).
    Waiting,
    /// The package becomes a disk image.
    Image,
    /// The runtime's kernel boots, for this deploy or for another one that needs the same snapshot.
    Boot {
        /// Lambda's identifier of the runtime.
        runtime: &'static str,
    },
    /// The function's own code runs its init.
    Init,
    /// The function snapshot is written.
    Save,
}

/// A deploy that has not ended.
#[derive(Debug, Clone, Copy)]
struct Current {
    /// Grows from deploy to deploy: they begin in this order.
    number: u64,
    phase: Phase,
    since: Instant,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// By the key that names the deploy's files.
    deploys: HashMap<String, Current>,
}

/// All deploys that have not ended. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<State>>);

/// One deploy's entry, which is removed with this.
#[derive(Debug)]
pub(super) struct Running {
    progress: Progress,
    key: String,
}

impl Progress {
    /// A deploy begins by waiting for its turn.
    pub(super) fn begin(&self, key: &str) -> Running {
        let mut state = self.lock();
        state.last += 1;
        let current = Current {
            number: state.last,
            phase: Phase::Waiting,
            since: Instant::now(),
        };
        state.deploys.insert(key.to_owned(), current);
        Running {
            progress: self.clone(),
            key: key.to_owned(),
        }
    }

    /// What the deploy of this key does, and for how long it has, in words.
    pub(crate) fn describe(&self, key: &str) -> Option<String> {
        let state = self.lock();
        let current = state.deploys.get(key)?;
        let before = state.deploys.values();
        let before = before.filter(|other| other.number < current.number).count();
        Some(words(current.phase, before, current.since.elapsed()))
    }

    /// How many deploys run, and how many wait for their turn.
    pub(crate) fn count(&self) -> (usize, usize) {
        let state = self.lock();
        let phases = state.deploys.values().map(|current| current.phase);
        let waiting = phases.filter(|phase| *phase == Phase::Waiting).count();
        (state.deploys.len() - waiting, waiting)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one insertion or removal: whole even if a thread panicked.
        lock(&self.0)
    }
}

impl Running {
    /// Sets the deploy's phase. Does nothing if the deploy is in that phase already.
    pub(super) fn enter(&self, phase: Phase) {
        let mut state = self.progress.lock();
        if let Some(current) = state.deploys.get_mut(&self.key)
            && current.phase != phase
        {
            current.phase = phase;
            current.since = Instant::now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.progress.lock().deploys.remove(&self.key);
    }
}

fn words(phase: Phase, before: usize, since: Duration) -> String {
    let doing = match phase {
        Phase::Waiting if before == 1 => "waiting for 1 other deploy".to_owned(),
        Phase::Waiting => format!("waiting for {before} other deploys"),
        Phase::Image => "building the disk image of the code".to_owned(),
        Phase::Boot { runtime } => {
            format!("booting {runtime}, once per runtime and memory size")
        }
        Phase::Init => "init of the function".to_owned(),
        Phase::Save => "writing the function's snapshot".to_owned(),
    };
    format!("{doing}: {} s", since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For minutes the state said no more than "The function is being created."
    #[test]
    fn a_deploy_says_what_it_waits_for_and_which_phase_it_is_in() {
        let progress = Progress::default();
        let (first, second) = (progress.begin("a"), progress.begin("b"));
        let third = progress.begin("c");
        first.enter(Phase::Boot {
            runtime: "python3.11",
        });
        second.enter(Phase::Init);
        let of = |key| progress.describe(key);
        assert_eq!(
            of("a").as_deref(),
            Some("booting python3.11, once per runtime and memory size: 0 s")
        );
        assert_eq!(of("b").as_deref(), Some("init of the function: 0 s"));
        assert_eq!(of("c").as_deref(), Some("waiting for 2 other deploys: 0 s"));
        assert_eq!(progress.count(), (2, 1));
        drop(second);
        assert_eq!(of("c").as_deref(), Some("waiting for 1 other deploy: 0 s"));
        assert_eq!(of("b"), None);
        drop((first, third));
        assert_eq!(progress.count(), (0, 0));
    }

    #[test]
    fn the_time_counts_from_the_beginning_of_the_phase() {
        assert!(words(Phase::Save, 0, Duration::from_secs(75)).ends_with(": 75 s"));
        let progress = Progress::default();
        let running = progress.begin("a");
        running.enter(Phase::Image);
        let since = |progress: &Progress| progress.lock().deploys["a"].since;
        let before = since(&progress);
        running.enter(Phase::Image);
        assert_eq!(since(&progress), before);
    }
}
