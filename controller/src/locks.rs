//! Takes locks even if a thread has panicked while it held them.
//!
//! A panic ends one request or one task. If a lock that it poisoned could not be taken again, every
//! later request that needs the lock would fail too.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locks a mutex.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a value for reading.
pub(crate) fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a value for writing.
pub(crate) fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_lock_that_a_panicking_thread_has_held_can_be_taken_again() {
        let mutex = Mutex::new(1);
        let shared = RwLock::new(2);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _held = (lock(&mutex), write(&shared));
            panic!("while both are held");
        }));
        assert!(panicked.is_err());
        assert!(mutex.is_poisoned() && shared.is_poisoned());
        assert_eq!((*lock(&mutex), *read(&shared)), (1, 2));
        *write(&shared) = 3;
        assert_eq!(*read(&shared), 3);
    }
}
