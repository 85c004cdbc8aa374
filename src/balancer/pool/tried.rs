//! Which members one connection has tried.

/// One bit each, for the first 64 slots. Slots beyond share bits, so with more than 64 members a connection gives up after at
/// most 64 tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    /// Whether `slot` was tried.
    pub const fn has(self, slot: usize) -> bool {
        self.0 & (1 << (slot % 64)) != 0
    }

    /// Notes that `slot` is tried.
    pub const fn add(&mut self, slot: usize) {
        self.0 |= 1 << (slot % 64);
    }

    /// Whether nothing was tried yet.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}
