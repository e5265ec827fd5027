//! User ids for sandboxes: each process has a user and group id that no other process has, so that the
//! host's kernel isolates it from the others. An id is in use until its process has been reaped.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::locks::lock;

/// Number of ids in a controller's range: more than it may have sandboxes.
pub(crate) const COUNT: u32 = 1 << 14;
/// The first id of the range up to 2³¹ that systemd's table of user ids lists as unused.
const UNUSED: u32 = 0x7000_0000;

/// The ids of one controller.
#[derive(Debug)]
pub(crate) struct Identities {
    first: u32,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    offsets: HashSet<u32>,
    next: u32,
}

/// An id in use.
#[derive(Debug)]
pub(crate) struct Identity {
    id: u32,
    from: Arc<Identities>,
}

impl Identities {
    /// Ids from `first` on. `start` selects the first one that is leased: a controller should not begin
    /// with the same id as a killed one before it, whose sandboxes may not have ended yet.
    pub(crate) fn new(first: u32, start: u32) -> Arc<Self> {
        let taken = Taken {
            offsets: HashSet::new(),
            next: start % COUNT,
        };
        Arc::new(Self {
            first,
            taken: Mutex::new(taken),
        })
    }

    /// The default range of a controller, derived from its data directory's tag. Ranges of different data
    /// directories are different with high probability.
    pub(crate) fn range_of(data_dir: u32) -> u32 {
        UNUSED + data_dir % (UNUSED_COUNT / COUNT) * COUNT
    }

    /// Leases an unused id. An id that was returned is leased again as late as possible.
    pub(crate) fn lease(self: &Arc<Self>) -> Option<Identity> {
        let mut taken = self.lock();
        let free = (0..COUNT)
            .map(|n| (taken.next + n) % COUNT)
            .find(|offset| !taken.offsets.contains(offset))?;
        taken.offsets.insert(free);
        taken.next = (free + 1) % COUNT;
        Some(Identity {
            id: self.first + free,
            from: self.clone(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        lock(&self.taken)
    }
}

const UNUSED_COUNT: u32 = (1 << 31) - UNUSED;

impl Identity {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.from
            .lock()
            .offsets
            .remove(&(self.id - self.from.first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_live_sandboxes_share_an_id() {
        let identities = Identities::new(1000, COUNT - 2);
        let held: Vec<_> = std::iter::from_fn(|| identities.lease()).collect();
        let ids: HashSet<_> = held.iter().map(Identity::id).collect();
        assert_eq!(ids.len(), COUNT as usize);
        assert!(ids.iter().all(|id| (1000..1000 + COUNT).contains(id)));
        assert!(identities.lease().is_none());
    }

    #[test]
    fn a_returned_id_is_not_leased_again_at_once() {
        let identities = Identities::new(1000, 0);
        let first = identities.lease().unwrap().id();
        assert_ne!(identities.lease().unwrap().id(), first);
    }

    #[test]
    fn ranges_stay_below_two_to_the_31() {
        for data_dir in [0, 1, 0x3fff, u32::MAX] {
            let first = Identities::range_of(data_dir);
            assert!(first >= UNUSED && first + (COUNT - 1) < 1 << 31);
        }
        assert_ne!(Identities::range_of(1), Identities::range_of(2));
    }
}
