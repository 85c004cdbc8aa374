//! A few numbers that this process and those it forks later see and change together, also after it has replaced its own program.

use super::handed;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::unistd::ftruncate;
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// `N` numbers, at first 0, on a page of their own: at most 512. Each process that has them gives them up for itself.
#[derive(Debug)]
pub struct Shared<const N: usize> {
    page: NonNull<[AtomicU64; N]>,
    /// By which another program of this process can map them again. None: this kernel has no memfd_create(2), or does not allow it here.
    file: Option<OwnedFd>,
}

// SAFETY: nothing but atomics behind the pointer, and no thread owns the mapping.
unsafe impl<const N: usize> Send for Shared<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Shared<N> {}

impl<const N: usize> Shared<N> {
    /// Maps them (mmap(2), MAP_SHARED).
    pub fn new() -> io::Result<Self> {
        let file = handed::memory(c"kube-vip-hold").and_then(|file| {
            ftruncate(&file, Self::length()?.get() as libc::off_t)?;
            // Neither process can take the page from under the other: touching it then would be the other's end.
            handed::seal_size(&file)?;
            Ok(file)
        });
        match file {
            Ok(file) => Self::of(file),
            Err(_) => Self::anonymous(),
        }
    }

    fn anonymous() -> io::Result<Self> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping aliases nothing; it is zeroed, aligned to a page, and as long as the numbers.
        let page = unsafe { mmap_anonymous(None, Self::length()?, access, MapFlags::MAP_SHARED)? };
        Ok(Self { page: page.cast(), file: None })
    }

    /// Maps those of an earlier program: `file` is what [`Shared::file`] was there.
    ///
    /// # Errors
    /// Where it is not such a file.
    pub fn of(file: OwnedFd) -> io::Result<Self> {
        if !handed::has_sealed_size(&file, Self::length()?.get())? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a page of shared numbers"));
        }
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping of a file whose size can't change and is that of the numbers: whole, aligned to a page, and whatever
        // another process writes there is a number.
        let page = unsafe { mmap(None, Self::length()?, access, MapFlags::MAP_SHARED, &file, 0)? };
        Ok(Self { page: page.cast(), file: Some(file) })
    }

    /// See [`Shared::of`].
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    fn length() -> io::Result<NonZeroUsize> {
        NonZeroUsize::new(size_of::<[AtomicU64; N]>()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl<const N: usize> Deref for Shared<N> {
    type Target = [AtomicU64; N];

    fn deref(&self) -> &Self::Target {
        // SAFETY: mapped from `new` to `drop`, initialised (0 is a number), and only ever touched as atomics, by any process.
        unsafe { self.page.as_ref() }
    }
}

impl<const N: usize> Drop for Shared<N> {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by `new` or `of`, and every borrow of it ends before this.
        let _ = unsafe { munmap(self.page.cast::<c_void>(), size_of::<[AtomicU64; N]>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn another_mapping_sees_the_same_numbers_and_nothing_else_is_one() {
        let one = Shared::<3>::new().expect("a page");
        one[1].store(7, Relaxed);
        let file = one.file().expect("this kernel has memfd_create").try_clone_to_owned().expect("a descriptor");
        let two = Shared::<3>::of(file).expect("the same page");
        two[2].store(9, Relaxed);
        assert_eq!([0, 1, 2].map(|n| one[n].load(Relaxed)), [0, 7, 9]);
        let other = Shared::<4>::new().expect("a page");
        let file = other.file().expect("as above").try_clone_to_owned().expect("a descriptor");
        Shared::<3>::of(file).expect_err("of another length");
        Shared::<3>::of(handed::memory(c"test").expect("memory")).expect_err("it may shrink");
        Shared::<3>::of(std::fs::File::open("/dev/null").expect("it is there").into()).expect_err("no memory at all");
    }
}
