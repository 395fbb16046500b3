//! Rows that were read since the last write, so that a client that asks again and again costs no statement.
//!
//! In: the number of writes so far ([`Writes`]) from before a statement, and what the statement gave. Out: the same
//! answer, for as long as that number stands. Whatever is written, all of it is forgotten: there is nothing to
//! invalidate by hand, and whoever has seen a write acknowledged never sees what was there before it. That holds because
//! only this process writes, and only by [`write!`](crate::write).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Rows of one kind that are kept, a few hundred bytes each. A full memory is emptied: whoever asks often is soon back.
const MAX_ROWS: usize = 2048;

/// How many transactions may have changed something.
#[derive(Debug, Default)]
pub(crate) struct Writes(AtomicU64);

impl Writes {
    pub(crate) fn so_far(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Called after a commit, also one of unknown end, and before anybody is told of it.
    pub(crate) fn one_more(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Recent<K, V>(Mutex<Rows<K, V>>);

#[derive(Debug)]
struct Rows<K, V> {
    /// All of `rows` was read after this many writes.
    writes: u64,
    rows: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Rows { writes: 0, rows: HashMap::new() }))
    }
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    /// What was read for `key`, when nothing has been written since; `writes` is their number now.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, writes: u64, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.writes == writes { kept.rows.get(key).cloned() } else { None }
    }

    /// Keeps what was read for `key` by a statement that began after `writes` writes.
    pub(crate) fn put(&self, writes: u64, key: K, value: V) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.writes > writes {
            return;
        }
        if kept.writes < writes || kept.rows.len() >= MAX_ROWS {
            kept.rows.clear();
            kept.writes = writes;
        }
        kept.rows.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_write_forgets_all() {
        let recent: Recent<String, u8> = Recent::default();
        recent.put(3, "a".to_owned(), 1);
        assert_eq!(recent.get(3, "a"), Some(1));
        assert_eq!(recent.get(4, "a"), None);
    }

    #[test]
    fn what_was_read_before_a_write_is_not_kept_after_it() {
        let recent: Recent<String, u8> = Recent::default();
        recent.put(4, "b".to_owned(), 2);
        // Its statement began before the fourth write and ended after somebody had read again.
        recent.put(3, "a".to_owned(), 1);
        assert_eq!(recent.get(4, "a"), None);
        assert_eq!(recent.get(4, "b"), Some(2));
        assert_eq!(recent.get(3, "a"), None);
    }

    #[test]
    fn it_holds_no_more_than_its_limit() {
        let recent: Recent<u32, u32> = Recent::default();
        for key in 0..10_000 {
            recent.put(1, key, key);
        }
        assert!(recent.0.lock().unwrap().rows.len() <= MAX_ROWS);
        assert_eq!(recent.get(1, &9_999), Some(9_999));
    }
}
