//! Deadlines of many transactions, ordered.

use std::collections::BTreeSet;
use std::time::Instant;

/// At most one deadline per owner; finding the earliest and moving one cost O(log n).
#[derive(Debug)]
pub(crate) struct Timers<K> {
    queue: BTreeSet<(Instant, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Timers { queue: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Moves the deadline of `owner` from `old` (as set before) to `new`.
    pub fn update(&mut self, owner: K, old: Option<Instant>, new: Option<Instant>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.queue.remove(&(old, owner));
        }
        if let Some(new) = new {
            self.queue.insert((new, owner));
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes the owner of the earliest deadline that has passed; its deadline is then unset.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Instant, K)> {
        if self.next()? > now {
            return None;
        }
        self.queue.pop_first()
    }

    /// How many deadlines are set.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.queue.len()
    }
}
