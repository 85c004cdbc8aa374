//! The pool of pipes: a connection borrows one only while it has bytes in flight.

use crate::sys::splice::Pipe;

/// Pipes to borrow, newest first. Bounded; where it is exhausted (or the user's pipe quota is), connections copy.
#[derive(Debug)]
pub struct Pipes {
    #[allow(clippy::vec_box)] // a connection keeps the box: 8 bytes in its slot instead of 16
    idle: Vec<Box<Pipe>>,
    lent: usize,
    limit: usize,
    least_idle: usize,
    /// How often nothing could be lent.
    pub refused: u64,
}

impl Pipes {
    /// A pool of at most `limit` pipes, none of them made yet. 0: never splice.
    pub const fn new(limit: usize) -> Self {
        Self { idle: Vec::new(), lent: 0, limit, least_idle: 0, refused: 0 }
    }

    /// An empty pipe, unless the bound or the quota is reached.
    pub fn borrow(&mut self) -> Option<Box<Pipe>> {
        let pipe = self.idle.pop().or_else(|| if self.lent < self.limit { Pipe::new().ok().map(Box::new) } else { None });
        match pipe {
            Some(_) => self.lent += 1,
            None => self.refused += 1,
        }
        self.least_idle = self.least_idle.min(self.idle.len());
        pipe
    }

    /// Lends a pipe that the program before had lent.
    pub fn adopt(&mut self, pipe: Pipe) -> Box<Pipe> {
        self.lent += 1;
        Box::new(pipe)
    }

    /// Takes a pipe back. One that still has bytes in it is closed: they belong to a connection that ended.
    pub fn give_back(&mut self, pipe: Box<Pipe>) {
        self.lent -= 1;
        if pipe.len == 0 && self.idle.len() + self.lent < self.limit {
            self.idle.push(pipe);
        }
    }

    /// Never lends again: this system can't splice.
    pub fn disable(&mut self) {
        self.limit = 0;
        self.idle.clear();
    }

    /// Closes one pipe that nobody needed since the last call. To be called once a second.
    pub fn trim(&mut self) {
        if self.least_idle > 0 {
            self.idle.pop();
        }
        self.least_idle = self.idle.len();
    }

    /// Pipes that exist now.
    pub fn count(&self) -> usize {
        self.idle.len() + self.lent
    }

    /// Whether none exist, so that [`Pipes::trim`] has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_bounded_reuses_and_shrinks() {
        let mut pipes = Pipes::new(2);
        let a = pipes.borrow().expect("one");
        let mut b = pipes.borrow().expect("two");
        assert!(pipes.borrow().is_none() && pipes.refused == 1);
        pipes.give_back(a);
        b.len = 1;
        pipes.give_back(b);
        assert_eq!(pipes.count(), 1, "the one with left-over bytes is gone");
        pipes.trim(); // it was in use a moment ago
        assert_eq!(pipes.count(), 1);
        pipes.trim();
        assert!(pipes.is_empty());
    }
}
