//! A lock for each of many things, as long as somebody wants it

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The locks, by what they are for; those that nobody wants any more are forgotten
#[derive(Debug)]
pub struct Locks<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Locks<K> {
    /// The lock for this; it is one and the same as long as somebody has it
    #[must_use]
    pub fn of<Q>(&self, key: &Q) -> Arc<tokio::sync::Mutex<()>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }

    /// Whether somebody has the lock for this, or waits for it
    #[must_use]
    pub fn is_wanted<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.get(key).is_some_and(|lock| lock.strong_count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_one_as_long_as_somebody_has_it() {
        let locks = Locks::<String>::default();
        let (one, other) = (locks.of("a"), locks.of("b"));
        assert!(Arc::ptr_eq(&one, &locks.of("a")) && !Arc::ptr_eq(&one, &other));
        assert!(locks.is_wanted("a"));
        drop((one, other));
        assert!(!locks.is_wanted("a"));
        drop(locks.of("c"));
        let kept = locks.0.lock().map(|locks| locks.len());
        assert_eq!(kept.ok(), Some(1), "who has gone is forgotten");
    }
}
