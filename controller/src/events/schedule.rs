//! Which event runs next: pure decisions about ids and times, no I/O, no clock of its own.
//!
//! Each function has a lane. Its events become ready in the order of their acceptance, or when their
//! retry is due; as many of them run at a time as the lane's window is wide. The window opens while
//! runs succeed, events wait and the host's CPUs have time left, and closes when the function is
//! throttled. When nothing of it could be run at all the lane pauses, ever longer. Lanes take turns.
//!
//! Only ids are held here, so that a long queue costs little memory.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use super::retry;
use crate::function::FunctionName;

/// Limits of all lanes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Most events that run at a time.
    pub(crate) running: usize,
    /// Most of one function that run at a time.
    pub(crate) per_function: usize,
    /// Window of a lane that has not shown yet what it can take.
    pub(crate) first_window: usize,
    /// Most events in the queue.
    pub(crate) events: u64,
    /// Most bytes in the queue.
    pub(crate) bytes: u64,
}

/// The queue has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The event queue is full: it holds {events} events, {bytes} bytes")]
pub(crate) struct QueueFull {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

/// An event to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) id: i64,
    pub(crate) function: FunctionName,
}

/// Why nothing of an event was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// Every instance that its function may have is busy.
    Throttle,
    /// The host could not start an instance.
    Failure,
}

/// One function's events.
#[derive(Debug)]
struct Lane {
    ready: VecDeque<i64>,
    /// Those whose retry is due later, by that time.
    delayed: BTreeSet<(i64, i64)>,
    running: HashSet<i64>,
    window: usize,
    /// Times in a row that nothing could be run.
    obstacles: u32,
    paused_until_ms: Option<i64>,
    /// Its place among the timers.
    timer_ms: Option<i64>,
    in_ring: bool,
    events: u64,
    bytes: u64,
}

impl Lane {
    fn new(window: usize) -> Self {
        Self {
            ready: VecDeque::new(),
            delayed: BTreeSet::new(),
            running: HashSet::new(),
            window,
            obstacles: 0,
            paused_until_ms: None,
            timer_ms: None,
            in_ring: false,
            events: 0,
            bytes: 0,
        }
    }

    fn may_run(&self) -> bool {
        !self.ready.is_empty() && self.running.len() < self.window && self.paused_until_ms.is_none()
    }
}

/// All events' places.
#[derive(Debug)]
pub(crate) struct Schedule {
    bounds: Bounds,
    lanes: HashMap<FunctionName, Lane>,
    /// Lanes that may run something, in turn; some of them may not any more.
    ring: VecDeque<FunctionName>,
    /// When lanes have to be looked at again.
    timers: BTreeSet<(i64, FunctionName)>,
    running: usize,
    events: u64,
    bytes: u64,
}

impl Schedule {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            lanes: HashMap::new(),
            ring: VecDeque::new(),
            timers: BTreeSet::new(),
            running: 0,
            events: 0,
            bytes: 0,
        }
    }

    /// Takes room in the queue for an event that is about to be stored.
    pub(crate) fn reserve(&mut self, cost: u64) -> Result<(), QueueFull> {
        if self.events >= self.bounds.events || self.bytes + cost > self.bounds.bytes {
            return Err(QueueFull {
                events: self.events,
                bytes: self.bytes,
            });
        }
        self.hold(cost);
        Ok(())
    }

    /// Takes room that is taken already on disk, full or not.
    pub(crate) fn hold(&mut self, cost: u64) {
        self.events += 1;
        self.bytes += cost;
    }

    /// Gives room back that no event came to take.
    pub(crate) fn release(&mut self, cost: u64) {
        self.events -= 1;
        self.bytes -= cost;
    }

    /// A stored event, whose room is reserved. It is due at `due_ms`, or at once.
    pub(crate) fn add(&mut self, function: &FunctionName, id: i64, cost: u64, due_ms: Option<i64>) {
        let first_window = self.bounds.first_window.min(self.bounds.per_function);
        let lane = self
            .lanes
            .entry(function.clone())
            .or_insert_with(|| Lane::new(first_window));
        lane.events += 1;
        lane.bytes += cost;
        match due_ms {
            Some(due_ms) => drop(lane.delayed.insert((due_ms, id))),
            None => lane.ready.push_back(id),
        }
        self.offer(function);
    }

    /// The next event to run, if there is one that may.
    pub(crate) fn next(&mut self, now_ms: i64) -> Option<Turn> {
        self.elapse(now_ms);
        if self.running >= self.bounds.running {
            return None;
        }
        while let Some(function) = self.ring.pop_front() {
            let Some(lane) = self.lanes.get_mut(&function) else {
                continue;
            };
            lane.in_ring = false;
            if !lane.may_run() {
                continue;
            }
            let Some(id) = lane.ready.pop_front() else {
                continue;
            };
            lane.running.insert(id);
            self.running += 1;
            self.offer(&function);
            return Some(Turn { id, function });
        }
        None
    }

    /// When [`Schedule::next`] may find something without anything having happened.
    pub(crate) fn wake_at_ms(&self) -> Option<i64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The function ran with an event: well, or with an error that is somebody else's business.
    pub(crate) fn ran(&mut self, function: &FunctionName, idle_cpus: bool) {
        if let Some(lane) = self.lanes.get_mut(function) {
            lane.obstacles = 0;
            lane.paused_until_ms = None;
            if idle_cpus && !lane.ready.is_empty() && lane.window < self.bounds.per_function {
                lane.window += 1;
            }
        }
        self.offer(function);
    }

    /// It is not in the queue any more.
    pub(crate) fn finish(&mut self, turn: &Turn, cost: u64) {
        if self.end_run(turn)
            && let Some(lane) = self.lanes.get_mut(&turn.function)
        {
            lane.events -= 1;
            lane.bytes -= cost;
            self.events -= 1;
            self.bytes -= cost;
        }
        self.settle(&turn.function);
    }

    /// Another run is due later.
    pub(crate) fn retry(&mut self, turn: &Turn, due_ms: i64) {
        if self.end_run(turn)
            && let Some(lane) = self.lanes.get_mut(&turn.function)
        {
            lane.delayed.insert((due_ms, turn.id));
        }
        self.settle(&turn.function);
    }

    /// Nothing was run: it is the next of its lane again. The lane pauses, but not beyond
    /// `until_ms`, unless others of it run: then it waits for them.
    pub(crate) fn put_back(&mut self, turn: &Turn, why: Obstacle, until_ms: i64, now_ms: i64) {
        if self.end_run(turn)
            && let Some(lane) = self.lanes.get_mut(&turn.function)
        {
            lane.ready.push_front(turn.id);
            lane.window = (lane.window / 2).max(1);
            if why == Obstacle::Failure || lane.running.is_empty() {
                lane.obstacles = lane.obstacles.saturating_add(1);
                let pause = retry::millis(retry::pause(lane.obstacles));
                let until = now_ms.saturating_add(pause).min(until_ms.max(now_ms + 1));
                lane.paused_until_ms = Some(until);
            } else {
                lane.window = lane.window.min(lane.running.len());
            }
        }
        self.settle(&turn.function);
    }

    /// It stays where it is, on disk, and is not looked at again.
    pub(crate) fn leave(&mut self, turn: &Turn) {
        self.end_run(turn);
    }

    /// Forgets a function's events; those that run are nobody's from here on.
    pub(crate) fn forget(&mut self, function: &FunctionName) -> u64 {
        let Some(lane) = self.lanes.remove(function) else {
            return 0;
        };
        if let Some(at) = lane.timer_ms {
            self.timers.remove(&(at, function.clone()));
        }
        self.events -= lane.events;
        self.bytes -= lane.bytes;
        lane.events
    }

    /// Whether the event is still in the queue.
    pub(crate) fn holds(&self, turn: &Turn) -> bool {
        self.lanes
            .get(&turn.function)
            .is_some_and(|lane| lane.running.contains(&turn.id))
    }

    pub(crate) fn functions(&self) -> Vec<FunctionName> {
        self.lanes.keys().cloned().collect()
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the run was one of a lane that still is.
    fn end_run(&mut self, turn: &Turn) -> bool {
        self.running -= 1;
        self.lanes
            .get_mut(&turn.function)
            .is_some_and(|lane| lane.running.remove(&turn.id))
    }

    /// Moves what has become due, and ends pauses.
    fn elapse(&mut self, now_ms: i64) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now_ms) {
            let Some((_, function)) = self.timers.pop_first() else {
                return;
            };
            let Some(lane) = self.lanes.get_mut(&function) else {
                continue;
            };
            lane.timer_ms = None;
            if lane.paused_until_ms.is_some_and(|until| until <= now_ms) {
                lane.paused_until_ms = None;
            }
            while let Some((due, id)) = lane.delayed.first().copied()
                && due <= now_ms
            {
                lane.delayed.pop_first();
                lane.ready.push_back(id);
            }
            self.offer(&function);
        }
    }

    /// After a run: the lane goes if nothing is left of it.
    fn settle(&mut self, function: &FunctionName) {
        if self
            .lanes
            .get(function)
            .is_some_and(|lane| lane.events == 0)
        {
            self.forget(function);
        } else {
            self.offer(function);
        }
    }

    /// Gives a lane its place among those that may run, and among the timers.
    fn offer(&mut self, function: &FunctionName) {
        let Some(lane) = self.lanes.get_mut(function) else {
            return;
        };
        if lane.may_run() && !lane.in_ring {
            lane.in_ring = true;
            self.ring.push_back(function.clone());
        }
        let due = lane.delayed.first().map(|(due, _)| *due);
        let timer = match (due, lane.paused_until_ms) {
            (Some(due), Some(until)) => Some(due.min(until)),
            (due, until) => due.or(until),
        };
        if timer != lane.timer_ms {
            if let Some(at) = std::mem::replace(&mut lane.timer_ms, timer) {
                self.timers.remove(&(at, function.clone()));
            }
            if let Some(at) = timer {
                self.timers.insert((at, function.clone()));
            }
        }
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
