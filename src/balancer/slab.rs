//! Numbered slots that never move, and keys that outlive what they name without ever naming something else.

const CHUNK: usize = 64;

/// Names one entry for ever: `stamp` differs for each entry ever made (until 2^32 later ones were), so that an event or a queue
/// entry of a connection that has ended can't reach the next user of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The slot.
    pub index: u32,
    /// Never 0.
    pub stamp: u32,
}

#[derive(Debug)]
enum Slot<T> {
    Free { next: Option<u32> },
    Used { stamp: u32, value: T },
}

/// A slab in chunks of 64: growing copies nothing, and what grew is given back once all is empty.
#[derive(Debug)]
pub struct Slab<T> {
    chunks: Vec<Box<[Slot<T>]>>,
    free: Option<u32>,
    len: usize,
    stamp: u32,
}

impl<T> Slab<T> {
    /// An empty slab; owns no memory.
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), free: None, len: 0, stamp: 0 }
    }

    /// Number of entries.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an entry. The caller keeps the number of entries under 2^31.
    pub fn insert(&mut self, value: T) -> Key {
        let index = self.free.unwrap_or_else(|| self.grow());
        self.stamp = self.stamp.checked_add(1).unwrap_or(1);
        let key = Key { index, stamp: self.stamp };
        let slot = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        if let Slot::Free { next } = *slot {
            self.free = next;
        }
        *slot = Slot::Used { stamp: key.stamp, value };
        self.len += 1;
        key
    }

    /// The entry, unless it was removed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.chunks.get_mut(key.index as usize / CHUNK)?.get_mut(key.index as usize % CHUNK)? {
            Slot::Used { stamp, value } if *stamp == key.stamp => Some(value),
            _ => None,
        }
    }

    /// Removes and returns the entry, unless it was removed before.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        let slot = &mut self.chunks[key.index as usize / CHUNK][key.index as usize % CHUNK];
        let old = std::mem::replace(slot, Slot::Free { next: self.free });
        self.free = Some(key.index);
        self.len -= 1;
        if self.len == 0 && self.chunks.len() > 1 {
            self.chunks = Vec::new();
            self.free = None;
        }
        match old {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        }
    }

    /// All entries with their keys.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.chunks.iter_mut().flatten().enumerate().filter_map(|(i, slot)| match slot {
            Slot::Used { stamp, value } => Some((Key { index: i as u32, stamp: *stamp }, value)),
            Slot::Free { .. } => None,
        })
    }

    /// Adds a chunk of free slots and returns the first.
    fn grow(&mut self) -> u32 {
        let base = (self.chunks.len() * CHUNK) as u32;
        let slot = |i: usize| Slot::Free { next: (i + 1 < CHUNK).then_some(base + i as u32 + 1) };
        self.chunks.push((0..CHUNK).map(slot).collect());
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_names_the_next_user_of_its_slot() {
        let mut slab = Slab::new();
        let a = slab.insert("a");
        assert_eq!(slab.remove(a), Some("a"));
        let b = slab.insert("b");
        assert_eq!(a.index, b.index, "the slot is used again");
        assert!(slab.get_mut(a).is_none() && slab.remove(a).is_none());
        assert_eq!(slab.get_mut(b), Some(&mut "b"));
    }

    #[test]
    fn it_grows_reuses_and_gives_back() {
        let mut slab = Slab::new();
        let keys: Vec<_> = (0..1000u32).map(|i| (i, slab.insert(i))).collect();
        assert_eq!(slab.len(), 1000);
        assert!(keys.iter().all(|&(i, key)| slab.get_mut(key) == Some(&mut i.clone())));
        assert_eq!(slab.iter_mut().map(|(_, v)| u64::from(*v)).sum::<u64>(), 999 * 500);
        for &(_, key) in keys.iter().step_by(2) {
            slab.remove(key);
        }
        let before = slab.chunks.len();
        let more: Vec<_> = (0..500).map(|i| slab.insert(i)).collect();
        assert_eq!((slab.len(), slab.chunks.len()), (1000, before));
        for key in keys.iter().map(|k| k.1).chain(more) {
            slab.remove(key);
        }
        assert!(slab.is_empty() && slab.chunks.is_empty());
        let key = slab.insert(5);
        assert!(slab.get_mut(key).is_some());
    }
}
