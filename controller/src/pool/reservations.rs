//! How many instances, and how much memory, are set aside for functions with reserved concurrency.

use std::collections::HashMap;

use super::entry::Capacity;
use crate::function::FunctionName;

/// Instances and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) instances: usize,
    pub(super) memory_mib: u64,
}

impl Amount {
    pub(super) fn of(instances: usize, memory_mib: u64) -> Self {
        Self {
            instances,
            memory_mib: instances as u64 * memory_mib,
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.instances += other.instances;
        self.memory_mib += other.memory_mib;
    }
}

/// The reserved concurrency of a function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reservation {
    /// As the function has reserved it.
    wanted: usize,
    /// What is set aside of it.
    pub(super) granted: usize,
    /// Memory of one instance.
    pub(super) memory_mib: u64,
}

/// All reservations.
#[derive(Debug, Default)]
pub(super) struct Reservations(HashMap<FunctionName, Reservation>);

impl Reservations {
    pub(super) fn set(
        &mut self,
        function: &FunctionName,
        wanted: usize,
        memory_mib: u64,
        capacity: &Capacity,
    ) {
        if wanted == 0 {
            self.0.remove(function);
        } else {
            let reservation = Reservation {
                wanted,
                granted: wanted,
                memory_mib,
            };
            self.0.insert(function.clone(), reservation);
        }
        let mut all = Amount::default();
        for one in self.0.values() {
            all.add(Amount::of(one.wanted, one.memory_mib));
        }
        let (instances, memory) = (capacity.max_instances / 2, capacity.memory_mib / 2);
        for one in self.0.values_mut() {
            one.granted = one.wanted;
            if all.instances > instances {
                one.granted = one.granted.min(one.wanted * instances / all.instances);
            }
            if all.memory_mib > memory {
                let part = one.wanted as u64 * memory / all.memory_mib;
                one.granted = one.granted.min(usize::try_from(part).unwrap_or(usize::MAX));
            }
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&FunctionName, &Reservation)> {
        self.0.iter()
    }

    pub(super) fn granted(&self, function: &FunctionName) -> usize {
        self.0.get(function).map_or(0, |one| one.granted)
    }
}
