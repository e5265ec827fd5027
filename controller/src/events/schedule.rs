//! Decides which event runs next: pure decisions about ids and times, without I/O or a clock.
//!
//! Each function has a lane. Its events become ready in the order of their acceptance, or when their
//! retry is due. At most as many of them run at once as the lane's window allows. The window grows while
//! runs succeed, events wait and the host's CPUs are idle; it is halved when the function is throttled.
//! If none of a function's events could run, its lane pauses, for longer each time. Lanes take turns.
//!
//! The schedule holds only ids, so that a long queue needs little memory.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use super::retry;
use crate::function::FunctionName;

/// Limits of the queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Maximum number of events that run at once.
    pub(crate) running: usize,
    /// Maximum number of events of one function that run at once.
    pub(crate) per_function: usize,
    /// Window of a new lane.
    pub(crate) first_window: usize,
    /// Maximum number of events in the queue.
    pub(crate) events: u64,
    /// Maximum size of all events in the queue, in bytes.
    pub(crate) bytes: u64,
}

/// The queue is full.
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

/// Why an event could not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// A limit of concurrency or instances is reached.
    Throttle,
    /// The host could not start an instance.
    Failure,
}

/// One function's events.
#[derive(Debug)]
struct Lane {
    ready: VecDeque<i64>,
    /// Events whose retry is due later: the time and the id.
    delayed: BTreeSet<(i64, i64)>,
    running: HashSet<i64>,
    window: usize,
    /// Number of attempts in a row in which nothing could run.
    obstacles: u32,
    paused_until_ms: Option<i64>,
    /// The lane's entry in [`Schedule::timers`].
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

/// The schedule of all events.
#[derive(Debug)]
pub(crate) struct Schedule {
    bounds: Bounds,
    lanes: HashMap<FunctionName, Lane>,
    /// Lanes that could run an event when they were added, in turn.
    ring: VecDeque<FunctionName>,
    /// When a retry is due or a pause ends, for each lane that waits for either.
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

    /// Reserves space in the queue for an event that is about to be stored.
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

    /// Counts an event that is already on disk, even if the queue is full.
    pub(crate) fn hold(&mut self, cost: u64) {
        self.events += 1;
        self.bytes += cost;
    }

    /// Releases space that was reserved for an event that could not be stored.
    pub(crate) fn release(&mut self, cost: u64) {
        self.events -= 1;
        self.bytes -= cost;
    }

    /// Adds a stored event whose space is reserved. It is due at `due_ms`, or at once.
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

    /// The next event to run, if one may run now.
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

    /// The next time at which [`Schedule::next`] may return an event without any other change.
    pub(crate) fn wake_at_ms(&self) -> Option<i64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The function has run with an event, successfully or with a function error.
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

    /// Removes an event that is over.
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

    /// Ends a run; another one is due later.
    pub(crate) fn retry(&mut self, turn: &Turn, due_ms: i64) {
        if self.end_run(turn)
            && let Some(lane) = self.lanes.get_mut(&turn.function)
        {
            lane.delayed.insert((due_ms, turn.id));
        }
        self.settle(&turn.function);
    }

    /// The event did not run; it becomes the next of its lane. If other events of a throttled lane run,
    /// the lane waits for one of them to end. Otherwise it pauses, until `until_ms` at the latest.
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

    /// Ends a run without an outcome. This process does not run the event again.
    pub(crate) fn abandon(&mut self, turn: &Turn) {
        self.end_run(turn);
    }

    /// Removes a function's events, also those that run: when their runs end, nothing changes.
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

    /// Ends a run. Returns whether the event is still in the queue.
    fn end_run(&mut self, turn: &Turn) -> bool {
        self.running -= 1;
        self.lanes
            .get_mut(&turn.function)
            .is_some_and(|lane| lane.running.remove(&turn.id))
    }

    /// Makes due events ready and ends pauses.
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

    /// After a run: removes the lane if it is empty.
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

    /// Updates a lane's entries in the ring and among the timers.
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
