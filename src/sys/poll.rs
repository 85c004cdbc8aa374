//! poll(2) over a fixed number of descriptors, without allocation.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What to wait for on one descriptor, besides errors and hang-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Something to read.
    Reading,
    /// Something to read, or room to write.
    Both,
}

/// Waits until one of them is ready (or in error); tells which. `None` is never ready. A signal's interruption looks like no readiness.
pub fn wait<const N: usize>(fds: [Option<(BorrowedFd<'_>, For)>; N]) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|slot| match slot {
        None => libc::pollfd { fd: -1, events: 0, revents: 0 },
        Some((fd, For::Reading)) => libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        Some((fd, For::Both)) => libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN | libc::POLLOUT, revents: 0 },
    });
    // SAFETY: `polled` is an array of N pollfd that lives through the call; the descriptors are borrowed for as long.
    let result = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, -1) };
    match io::Error::last_os_error() {
        e if result < 0 && e.kind() != io::ErrorKind::Interrupted => Err(e),
        _ => Ok(polled.map(|p| p.revents != 0)),
    }
}
