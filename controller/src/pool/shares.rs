//! What one function may have of the host's instances and memory, and what it can't lose to others.
//!
//! * Reserved concurrency sets instances and their memory aside: others leave free what the function does
//!   not use of it. At most half of the host is set aside; if functions have reserved more, each gets its
//!   part of the half.
//! * A function without reserved concurrency has at most [`Capacity::max_per_function`](super::entry::Capacity::max_per_function) instances and
//!   [`Capacity::memory_per_function_mib`](super::entry::Capacity::memory_per_function_mib) of memory. One instance is always allowed.
//! * A function that has an instance gets no other one at the cost of another function's last idle
//!   instance, if that has served within [`RECENT`]. It may take one that has been idle for longer:
//!   otherwise functions that are called once would fill the host.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::dispatch::Pool;
use super::entry::Phase;
use super::reservations::Amount;
use super::state::State;
use crate::function::{FunctionName, Version};

/// For how long a function's last idle instance is safe from functions that have instances.
const RECENT: Duration = Duration::from_secs(60);

/// What a function has.
#[derive(Debug, Default)]
struct Holding {
    has: Amount,
    /// Its idle instances that are not provisioned: since when, their ids and their memory.
    idle: Vec<(Instant, u64, u64)>,
}

impl State {
    /// Sets how many instances of a function, each with so much memory, others must leave room for.
    fn reserve(&mut self, function: &FunctionName, instances: usize, memory_mib: u64) {
        self.reservations
            .set(function, instances, memory_mib, &self.capacity);
    }

    fn holdings(&self) -> HashMap<&FunctionName, Holding> {
        let mut holdings: HashMap<&FunctionName, Holding> = HashMap::new();
        for (id, entry) in &self.instances {
            let holding = holdings.entry(&entry.version.name).or_default();
            let memory = u64::from(entry.version.config.memory_mib);
            holding.has.add(Amount::of(1, memory));
            if let Phase::Idle { since, .. } = entry.phase
                && !self.is_wanted(entry.version.serial)
            {
                holding.idle.push((since, *id, memory));
            }
        }
        holdings
    }

    /// Whether one more instance of a version fits, if need be after evictions.
    pub(super) fn fits(&self, version: &Version, now: Instant) -> bool {
        self.evictions_for(version, now).is_some()
    }

    /// Evicts idle instances until one more instance of a version fits. Returns whether it fits. Evicts
    /// none if it would not fit after all evictions.
    pub(super) fn evict_for(&mut self, version: &Version, now: Instant) -> bool {
        let Some(evictions) = self.evictions_for(version, now) else {
            return false;
        };
        for id in evictions {
            self.end(id);
            self.evicted += 1;
        }
        true
    }

    /// The instances to evict for one more of a version, least recently used first; `None` if it does not
    /// fit.
    fn evictions_for(&self, version: &Version, now: Instant) -> Option<Vec<u64>> {
        if self.ending {
            return None;
        }
        let (function, memory) = (&version.name, u64::from(version.config.memory_mib));
        let mut holdings = self.holdings();
        let mut own = holdings.remove(function).unwrap_or_default();
        own.idle.sort_unstable();
        let mut evictions = Vec::new();
        let mut gone = Amount::default();
        let mut own_idle = own.idle.into_iter();
        // At its own limit a function gives up its idle instances of other versions.
        while !self.within_share(function, own.has, gone, memory) {
            let (_, id, freed) = own_idle.next()?;
            gone.add(Amount::of(1, freed));
            evictions.push(id);
        }
        let mut aside = Amount::default();
        for (other, reservation) in self.reservations.all() {
            if other != function {
                let has = holdings.get(other).map_or(0, |of| of.has.instances);
                let unused = reservation.granted.saturating_sub(has);
                aside.add(Amount::of(unused, reservation.memory_mib));
            }
        }
        let fits = |gone: Amount| {
            self.instances.len() - gone.instances + aside.instances < self.capacity.max_instances
                && self.memory_mib - gone.memory_mib + memory + aside.memory_mib
                    <= self.capacity.memory_mib
        };
        if fits(gone) {
            return Some(evictions);
        }
        let mut idle: Vec<_> = own_idle.collect();
        for (other, holding) in holdings {
            let granted = self.reservations.granted(other);
            idle.extend(holding.evictable(granted, own.has.instances > 0, now));
        }
        idle.sort_unstable();
        for (_, id, freed) in idle {
            gone.add(Amount::of(1, freed));
            evictions.push(id);
            if fits(gone) {
                return Some(evictions);
            }
        }
        None
    }

    /// Whether a function that has `has` without `gone` may have one more instance.
    fn within_share(
        &self,
        function: &FunctionName,
        has: Amount,
        gone: Amount,
        memory_mib: u64,
    ) -> bool {
        let instances = has.instances - gone.instances;
        let memory = has.memory_mib - gone.memory_mib + memory_mib;
        instances == 0
            || instances < self.reservations.granted(function)
            || (instances < self.capacity.max_per_function
                && memory <= self.capacity.memory_per_function_mib)
    }
}

impl Holding {
    /// The idle instances that another function may take.
    fn evictable(
        mut self,
        granted: usize,
        by_one_with_instances: bool,
        now: Instant,
    ) -> Vec<(Instant, u64, u64)> {
        self.idle.sort_unstable();
        if by_one_with_instances
            && let Some((since, ..)) = self.idle.last()
            && now < *since + RECENT
        {
            self.idle.pop();
        }
        self.idle
            .truncate(self.has.instances.saturating_sub(granted));
        self.idle
    }
}

impl Pool {
    /// Sets how many instances of a function, each with so much memory, others must leave room for.
    pub(crate) fn reserve(&self, function: &FunctionName, instances: u32, memory_mib: u32) {
        let instances = usize::try_from(instances).unwrap_or(usize::MAX);
        let mut state = self.shared.state();
        state.reserve(function, instances, memory_mib.into());
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Capacity;
    use super::super::state::tests::{Book, ROOMY, ordered, version};
    use super::*;

    /// Takes as many instances of a version as it gets; returns how many.
    fn fill(book: &mut Book, version: &std::sync::Arc<Version>) -> usize {
        let mut taken = 0;
        while let [id] = book.submit(version)[..] {
            book.take(id);
            taken += 1;
        }
        taken
    }

    #[test]
    fn reserved_instances_and_memory_are_there_whatever_others_do() {
        for (max_instances, memory_mib) in [(10, 100_000), (100, 1280)] {
            let mut book = Book::new(Capacity {
                max_instances,
                max_per_function: 100,
                memory_mib,
                ..ROOMY
            });
            let (f, g) = (version("f", 128), version("g", 128));
            book.state.reserve(&f.name, 3, 128);
            assert_eq!(fill(&mut book, &g), 7);
            assert_eq!(fill(&mut book, &f), 3);
        }
    }

    #[test]
    fn an_idle_instance_of_reserved_concurrency_is_not_evicted_for_others() {
        let mut book = Book::new(Capacity {
            max_instances: 4,
            ..ROOMY
        });
        let (f, g) = (version("f", 128), version("g", 128));
        book.state.reserve(&f.name, 2, 128);
        let (_, mut idle) = book.idle(&f);
        book.now += 2 * RECENT;
        assert_eq!(fill(&mut book, &g), 2);
        assert_eq!(ordered(&mut idle), None);
    }

    #[test]
    fn reservations_take_at_most_half_of_the_host_and_each_its_part() {
        let mut book = Book::new(Capacity {
            max_instances: 12,
            max_per_function: 12,
            ..ROOMY
        });
        let (f, g, h) = (version("f", 128), version("g", 128), version("h", 128));
        book.state.reserve(&f.name, 200, 128);
        book.state.reserve(&g.name, 100, 128);
        assert_eq!(fill(&mut book, &h), 6);
        assert_eq!((fill(&mut book, &f), fill(&mut book, &g)), (4, 2));
        book.state.reserve(&f.name, 0, 128);
        assert_eq!(book.state.reservations.granted(&g.name), 6);
    }

    #[test]
    fn one_function_without_reserved_concurrency_gets_no_more_than_its_share_of_memory() {
        let mut book = Book::new(Capacity {
            memory_mib: 1280,
            memory_per_function_mib: 640,
            ..ROOMY
        });
        let (f, g, large) = (version("f", 128), version("g", 128), version("l", 700));
        assert_eq!(fill(&mut book, &f), 5);
        assert_eq!(fill(&mut book, &g), 5);
        let mut book = Book::new(book.state.capacity);
        assert_eq!(fill(&mut book, &large), 1, "one always fits");
    }

    #[test]
    fn at_its_limit_a_function_gives_up_its_idle_instance_of_another_version() {
        let mut book = Book::new(Capacity {
            max_per_function: 1,
            ..ROOMY
        });
        let (old, new) = (version("f", 128), version("f", 256));
        let (_, mut idle) = book.idle(&old);
        assert_eq!(book.submit(&new).len(), 1);
        assert_eq!(ordered(&mut idle), Some(0));
    }

    #[test]
    fn nobodys_last_idle_instance_is_evicted_for_anothers_burst() {
        let mut book = Book::new(Capacity {
            max_instances: 3,
            ..ROOMY
        });
        let (f, g) = (version("f", 128), version("g", 128));
        let ids: Vec<u64> = (0..2).flat_map(|_| book.submit(&f)).collect();
        for id in &ids {
            book.take(*id);
        }
        let mut older = book.park(ids[0]);
        let mut last = book.park(ids[1]);
        assert_eq!(fill(&mut book, &g), 2);
        assert_eq!((ordered(&mut older), ordered(&mut last)), (Some(0), None));
        book.now += RECENT;
        assert_eq!(book.state.admit(book.now).len(), 1);
        assert_eq!(ordered(&mut last), Some(0), "it was not used for long");
    }

    #[test]
    fn a_function_without_an_instance_gets_one_at_the_cost_of_anothers_last_idle_one() {
        let mut book = Book::new(Capacity {
            max_instances: 1,
            ..ROOMY
        });
        let (_, mut idle) = book.idle(&version("f", 128));
        assert_eq!(book.submit(&version("g", 128)).len(), 1);
        assert_eq!(ordered(&mut idle), Some(0));
    }
}
