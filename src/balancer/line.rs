//! The line in which connections wait for a backend, first come, first served. Pure.
//!
//! Those that leave before their turn (their client hung up, their time was over) are only counted out; what they leave behind
//! is skipped when its turn comes, or swept out when there is more of it than of those that wait.

use super::slab::Key;
use std::collections::VecDeque;

/// Who waits, in order.
#[derive(Debug, Default)]
pub struct Line {
    places: VecDeque<Key>,
    waiting: usize,
}

impl Line {
    /// How many wait.
    pub const fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody waits.
    pub const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Joins at the end, or `first` of all: who has waited before. `waits`: whether a key still does.
    pub fn join(&mut self, key: Key, first: bool, mut waits: impl FnMut(Key) -> bool) {
        if self.places.len() > 2 * self.waiting + 16 {
            self.places.retain(|&key| waits(key));
        }
        match first {
            true => self.places.push_front(key),
            false => self.places.push_back(key),
        }
        self.waiting += 1;
    }

    /// One of them has left on its own.
    pub const fn left(&mut self) {
        self.waiting -= 1;
    }

    /// Who is `i`th from the front of those that `waits` says still wait.
    pub fn peek(&mut self, i: usize, mut waits: impl FnMut(Key) -> bool) -> Option<Key> {
        loop {
            let key = *self.places.get(i)?;
            if waits(key) {
                return Some(key);
            }
            self.places.remove(i);
        }
    }

    /// All that joined and were not taken out, in order; some may have left.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.places.iter().copied()
    }

    /// The one that [`Line::peek`] found at `i` waits no longer.
    pub fn take(&mut self, i: usize) {
        self.places.remove(i);
        self.waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(stamp: u32) -> Key {
        Key { index: stamp, stamp }
    }

    #[test]
    fn first_come_first_served_and_who_left_is_skipped() {
        let mut line = Line::default();
        (1..=5).for_each(|i| line.join(key(i), false, |_| true));
        line.left(); // 1 and 3 hang up
        line.left();
        let waits = |k: Key| k.stamp != 1 && k.stamp != 3;
        assert_eq!((line.len(), line.peek(0, waits), line.peek(1, waits)), (3, Some(key(2)), Some(key(4))));
        line.take(1);
        line.join(key(9), true, waits);
        assert!(line.keys().filter(|&k| waits(k)).map(|k| k.stamp).eq([9, 2, 5]));
        let mut order = Vec::new();
        while let Some(k) = line.peek(0, waits) {
            order.push(k.stamp);
            line.take(0);
        }
        assert_eq!((order, line.len()), (vec![9, 2, 5], 0));
    }

    #[test]
    fn what_is_left_behind_stays_less_than_twice_those_that_wait() {
        let mut line = Line::default();
        for i in 1..=10_000 {
            line.join(key(i), false, |k| k.stamp == i);
            line.left();
        }
        assert!(line.is_empty() && line.places.len() < 20, "{}", line.places.len());
    }
}
