//! splice(2) between sockets through a pipe: bytes move without being copied to user memory.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A pipe, and how many bytes are in it (which may be more than its nominal size).
#[derive(Debug)]
pub struct Pipe {
    out: OwnedFd,
    inp: OwnedFd,
    /// Bytes in the pipe.
    pub len: usize,
}

/// Nominal sizes tried in turn. The last is the kernel's default; what is smaller isn't worth splicing through.
const SIZES: [i32; 3] = [1 << 20, 1 << 18, 1 << 16];

/// MOVE lets old kernels hand pages over. Never MORE: on a last chunk it delays the bytes by up to a second.
const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_MOVE.union(SpliceFFlags::SPLICE_F_NONBLOCK);

impl Pipe {
    /// A pipe of 1 MiB, or 256 or 64 KiB where the user's pipe quota (pipe(7), `pipe-user-pages-soft`) allows no more.
    /// An error where it would be smaller still.
    pub fn new() -> io::Result<Self> {
        let (out, inp) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        if !SIZES.iter().any(|&size| fcntl(&inp, FcntlArg::F_SETPIPE_SZ(size)).is_ok()) {
            let size = fcntl(&inp, FcntlArg::F_GETPIPE_SZ)?;
            if size < SIZES[2] {
                return Err(Errno::EPERM.into());
            }
        }
        Ok(Self { out, inp, len: 0 })
    }

    /// Its two ends, for reading and for writing, to be handed to the next program.
    pub fn descriptors(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.out.as_fd(), self.inp.as_fd())
    }

    /// One of the program before, with so many bytes in it.
    pub fn of(out: OwnedFd, inp: OwnedFd, len: usize) -> Self {
        Self { out, inp, len }
    }

    /// Moves as much as fits from `socket` into the pipe and returns the number of bytes; 0 is a FIN.
    /// EAGAIN means "socket empty" only if the pipe was empty.
    pub fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let n = retry(|| splice(&socket, None, &self.inp, None, 1 << 30, FLAGS))?;
        self.len += n;
        Ok(n)
    }

    /// Moves bytes from the pipe to `socket`, and returns how many.
    pub fn drain(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let n = retry(|| splice(&self.out, None, &socket, None, self.len, FLAGS))?;
        self.len = self.len.saturating_sub(n);
        Ok(n)
    }
}

fn retry(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}
