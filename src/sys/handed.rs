//! What a process hands to the program that takes its place (execve(2)): descriptors, and bytes in memory.

use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Not to be executed; older kernels don't know the word for it, and newer ones may insist on it (vm.memfd_noexec).
const NOEXEC_SEAL: libc::c_uint = 8;

/// An empty file in memory (memfd_create(2)), closed on exec; its name is for /proc only.
///
/// # Errors
/// ENOSYS before Linux 3.17.
pub fn memory(name: &CStr) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let made = memfd_create(name, flags | MFdFlags::from_bits_retain(NOEXEC_SEAL));
    Ok(made.or_else(|_| memfd_create(name, flags))?)
}

fn size_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// Its size stays as it is, for good and for everybody.
///
/// # Errors
/// Where it is not from [`memory`].
pub fn seal_size(memory: &OwnedFd) -> io::Result<()> {
    fcntl(memory, FcntlArg::F_ADD_SEALS(size_seals() | SealFlag::F_SEAL_SEAL))?;
    Ok(())
}

/// Whether it is from [`memory`], with this size, which can't change any more.
///
/// # Errors
/// Where it can't be asked.
pub fn has_sealed_size(memory: &OwnedFd, size: usize) -> io::Result<bool> {
    let seals = SealFlag::from_bits_retain(fcntl(memory, FcntlArg::F_GET_SEALS)?);
    let length = File::from(memory.try_clone()?).metadata()?.len();
    Ok(seals.contains(size_seals()) && length == size as u64)
}

/// These bytes as a file in memory, to be read by [`read`].
///
/// # Errors
/// Out of memory, or [`memory`]'s.
pub fn write(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memory(name)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// All that is in it, if that is not more than `most` bytes.
///
/// # Errors
/// Where it can't be read, or there is more.
pub fn read(memory: OwnedFd, most: u64) -> io::Result<Vec<u8>> {
    let (mut bytes, mut file) = (Vec::new(), File::from(memory));
    file.rewind()?;
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// Descriptors that stay open over exec: they are named here, and open for it only while [`Passed::open`]'s guard lives.
#[derive(Debug, Default)]
pub struct Passed(Vec<RawFd>);

impl Passed {
    /// Names one. Returns its number, which is the same in the next program.
    pub fn add(&mut self, fd: &impl AsFd) -> RawFd {
        let fd = fd.as_fd().as_raw_fd();
        self.0.push(fd);
        fd
    }

    /// How many were named.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Clears their close-on-exec flags; dropping the guard sets them again.
    pub fn open(&self) -> io::Result<Open<'_>> {
        let open = Open(&self.0);
        self.0.iter().try_for_each(|fd| set(*fd, FdFlag::empty()))?;
        Ok(open)
    }
}

/// See [`Passed::open`].
#[derive(Debug)]
#[must_use = "the descriptors are closed on exec again when it is dropped"]
pub struct Open<'a>(&'a [RawFd]);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        for fd in self.0 {
            let _ = set(*fd, FdFlag::FD_CLOEXEC); // it is open, so this can't fail
        }
    }
}

fn set(fd: RawFd, flags: FdFlag) -> io::Result<()> {
    // SAFETY: borrowed for this call only, which changes a flag or says EBADF; whoever owns the descriptor keeps it.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Takes a descriptor that the earlier program passed, once: from then on it is closed on exec, and by this a second taking is refused.
///
/// # Errors
/// EBADF where there is none; where it was not passed or is taken already.
pub fn take(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {fd} is a standard stream or none")));
    }
    // SAFETY: borrowed for this call only, which reads a flag or says EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = FdFlag::from_bits_retain(fcntl(borrowed, FcntlArg::F_GETFD)?);
    if flags.contains(FdFlag::FD_CLOEXEC) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {fd} was not handed on")));
    }
    set(fd, FdFlag::FD_CLOEXEC)?;
    // SAFETY: it is open, and nobody in this program owns it: everything here is opened with close-on-exec, and so is this from now on.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces this process's program: the same process, the same arguments, the same environment with one variable more. Returns only
/// where that failed, with the reason. All other threads end.
pub fn replace(program: &Path, variable: &str, value: &str) -> io::Error {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let others = std::env::vars_os().filter(|(name, _)| name != variable);
    let mut environment: Vec<OsString> = others.map(|(name, value)| joined(&name, &value)).collect();
    environment.push(joined(OsStr::new(variable), OsStr::new(value)));
    let words = |words: Vec<OsString>| words.into_iter().map(|w| CString::new(w.into_vec())).collect::<Result<Vec<_>, _>>();
    let all = CString::new(program.as_os_str().as_bytes()).and_then(|p| Ok((p, words(arguments)?, words(environment)?)));
    match all {
        // Never by std's `exec`: it changes the signal mask first, and a signal that came then would be the end.
        Ok((program, arguments, environment)) => match nix::unistd::execve(&program, &arguments, &environment) {
            Err(e) => e.into(),
            Ok(never) => match never {},
        },
        Err(e) => e.into(),
    }
}

fn joined(name: &OsStr, value: &OsStr) -> OsString {
    [name, OsStr::new("="), value].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_back_up_to_a_bound() {
        let bytes = vec![7; 100_000];
        assert_eq!(read(write(c"test", &bytes).expect("memory"), 100_000).expect("all"), bytes);
        read(write(c"test", &bytes).expect("memory"), 99_999).expect_err("too much");
        read(std::fs::File::open("/").expect("a directory").into(), 10).expect_err("no file");
    }

    #[test]
    fn what_is_passed_is_taken_once_and_nothing_else() {
        let file = write(c"test", b"x").expect("memory");
        let mut passed = Passed::default();
        let number = passed.add(&file);
        take(number).expect_err("not open for exec");
        {
            let _open = passed.open().expect("it is open");
        }
        take(number).expect_err("not open any more");
        let open = passed.open().expect("it is open");
        std::mem::forget((open, file)); // as the next program finds it
        let taken = take(number).expect("passed");
        take(number).expect_err("taken");
        assert_eq!(read(taken, 9).expect("bytes"), b"x");
        for nothing in [-1, 0, 2, 1 << 20] {
            take(nothing).expect_err("nothing there");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert_eq!(replace(Path::new("/nowhere/program"), "A", "1").kind(), io::ErrorKind::NotFound);
    }
}
