//! One life of a function, from its creation to its deletion.
//!
//! Another function can get the name of a deleted one, but not its incarnation. What a deleted function's
//! running invocations still write, to its log and in metrics, is dropped, so that it never reaches the
//! next function of that name.

use std::sync::{Arc, RwLock};

use crate::locks::{read, write};

/// One life of a function. All versions of the function share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Incarnation(Arc<RwLock<Life>>);

#[derive(Debug, Default, PartialEq, Eq)]
enum Life {
    #[default]
    Lasts,
    Over,
}

impl Incarnation {
    /// The function is deleted. Waits until all calls of [`Self::while_it_lasts`] have returned; later
    /// ones do nothing.
    pub(crate) fn end(&self) {
        *write(&self.0) = Life::Over;
    }

    /// Whether the function was deleted.
    pub(crate) fn is_over(&self) -> bool {
        *read(&self.0) == Life::Over
    }

    /// Whether both are the same life of the same function.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Does something that must not happen after the deletion, such as counting. It must be short.
    pub(crate) fn while_it_lasts(&self, act: impl FnOnce()) {
        let life = read(&self.0);
        if *life == Life::Lasts {
            act();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn nothing_happens_for_a_function_after_its_deletion() {
        let (one, next) = (Incarnation::default(), Incarnation::default());
        let held_by_a_version = one.clone();
        let count = Cell::new(0);
        assert!(held_by_a_version.is_same(&one) && !next.is_same(&one));
        held_by_a_version.while_it_lasts(|| count.set(count.get() + 1));
        one.end();
        held_by_a_version.while_it_lasts(|| count.set(count.get() + 1));
        assert!(held_by_a_version.is_over() && !next.is_over());
        next.while_it_lasts(|| count.set(count.get() + 1));
        assert_eq!(count.get(), 2);
    }
}
