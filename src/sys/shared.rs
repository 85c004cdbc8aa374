//! A few numbers that this process and those it forks later see and change together.

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// `N` numbers, at first 0, on a page of their own: at most 512. Each process that has them gives them up for itself.
#[derive(Debug)]
pub struct Shared<const N: usize>(NonNull<[AtomicU64; N]>);

// SAFETY: nothing but atomics behind the pointer, and no thread owns the mapping.
unsafe impl<const N: usize> Send for Shared<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Shared<N> {}

impl<const N: usize> Shared<N> {
    /// Maps them (mmap(2), MAP_SHARED).
    pub fn new() -> io::Result<Self> {
        let length = Self::length()?;
        // SAFETY: a new anonymous mapping aliases nothing; it is zeroed, aligned to a page, and as long as the numbers.
        let page = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED)? };
        Ok(Self(page.cast()))
    }

    fn length() -> io::Result<NonZeroUsize> {
        NonZeroUsize::new(size_of::<[AtomicU64; N]>()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl<const N: usize> Deref for Shared<N> {
    type Target = [AtomicU64; N];

    fn deref(&self) -> &Self::Target {
        // SAFETY: mapped from `new` to `drop`, initialised (0 is a number), and only ever touched as atomics, by any process.
        unsafe { self.0.as_ref() }
    }
}

impl<const N: usize> Drop for Shared<N> {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by `new`, and every borrow of it ends before this.
        let _ = unsafe { munmap(self.0.cast::<c_void>(), size_of::<[AtomicU64; N]>()) };
    }
}
