//! Users for sandboxes: each process has a user and group id that no other has, so that the host
//! itself keeps one from touching another. An id is in use until its process has been reaped.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::locks::lock;

/// Ids in a controller's range: more than sandboxes that it may have.
pub(crate) const COUNT: u32 = 1 << 14;
/// First of the ids that no convention gives to anybody: systemd's table of user ids calls those
/// from here to 2³¹ unused.
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
    /// Ids from `first` on, the first one handed out being somewhere among them: a controller that
    /// takes the place of a killed one should not begin where that one did.
    pub(crate) fn new(first: u32, somewhere: u32) -> Arc<Self> {
        let taken = Taken {
            offsets: HashSet::new(),
            next: somewhere % COUNT,
        };
        Arc::new(Self {
            first,
            taken: Mutex::new(taken),
        })
    }

    /// The default range of a controller: another one for every data directory (by the number that
    /// names it), as far as that goes.
    pub(crate) fn range_of(data_dir: u32) -> u32 {
        UNUSED + data_dir % (UNUSED_COUNT / COUNT) * COUNT
    }

    /// An id that nobody has; the one that was given back last is the last to be given again.
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
    fn an_id_that_was_given_back_is_not_given_again_at_once() {
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
