//! The state directory as files: everything here may block and runs before the daemon does, or on a helper thread.

use super::format::{Found, SLOT, SLOT_DISTANCE, SlotBody, newest_vote};
use nix::fcntl::{Flock, FlockArg};
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why the state directory can't be used: what was tried on which object, what the system said, and the way out.
#[derive(Debug)]
pub struct Problem {
    text: String,
    /// The system's error, where there was one.
    pub source: Option<io::Error>,
}

impl Problem {
    /// A problem that the system knows nothing of.
    pub(super) fn new(text: String) -> Self {
        Self { text, source: None }
    }

    /// Whether a read-only file system is all there is to it.
    pub fn is_read_only(&self) -> bool {
        self.source.as_ref().is_some_and(|e| e.kind() == ErrorKind::ReadOnlyFilesystem)
    }

    fn os(what: &str, path: &Path, error: io::Error) -> Self {
        let mend = match error.kind() {
            ErrorKind::ReadOnlyFilesystem => "remount its file system for writing, or set stateDir to another place",
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "make room on its file system, or set stateDir to another place"
            }
            ErrorKind::PermissionDenied => "give this user the directory, or set stateDir to another place",
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                "a file is in the way: remove it, or set stateDir to another place"
            }
            _ => "set stateDir to another place if this one can't be mended",
        };
        Self { text: format!("can't {what} {}: {error} ({mend})", path.display()), source: Some(error) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

/// The state directory, locked for this process until dropped.
pub struct Directory {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Directory {
    /// Makes it where it is missing (mode 0700), and locks it.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        if !path.is_dir() {
            create(path)?;
        }
        let file = File::open(path).map_err(|e| Problem::os("open the state directory", path, e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, error)| match error {
            nix::errno::Errno::EWOULDBLOCK => Problem::new(in_use(path, &file)),
            error => Problem::os("lock the state directory", path, error.into()),
        })?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// Where a file of it is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file's contents; `None` where there is no such file.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        let path = self.file(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Problem::os("read", &path, e)),
        }
    }

    /// [`replace`], for the time before the daemon runs.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Problem> {
        replace(&self.path, name, bytes).map_err(|e| Problem::os("write", &self.file(name), e))
    }

    /// Makes the vote file of a node that has never voted.
    pub fn create_votes(&self) -> Result<(), Problem> {
        let mut file = vec![0; 2 * SLOT_DISTANCE]; // both pages exist from now on: saving a vote needs no room
        for (slot, sequence) in [(0, 1), (1, 0)] {
            file[slot * SLOT_DISTANCE..][..SLOT].copy_from_slice(&SlotBody::of(None).seal(sequence));
        }
        self.write("vote", &file)
    }

    /// Opens the vote file for saving after `found`, which was read from it. On a read-only disk saving will fail, not this.
    pub fn votes(&self, found: &Found) -> Result<VoteFile, Problem> {
        let path = self.file("vote");
        let mut votes = VoteFile { path: path.clone(), file: None, slot: found.slot, sequence: found.sequence };
        unless_read_only(votes.reopen()).map_err(|e| Problem::os("open for writing", &path, e))?;
        Ok(votes)
    }

    /// Opens the log for appending after its first `good` bytes; what follows is cut off. `None`: it has to be written anew. On a
    /// read-only disk writing will fail, not this.
    pub fn log(&self, good: Option<usize>) -> Result<LogFile, Problem> {
        let path = self.file("log");
        let mut log = LogFile { dir: self.path.clone(), file: None };
        if let Some(good) = good {
            unless_read_only(log.reopen(Some(good as u64))).map_err(|e| Problem::os("open for writing", &path, e))?;
        }
        Ok(log)
    }
}

/// A card that went read-only must not keep a node from starting: its votes then count in memory, after a quiet start.
pub fn unless_read_only(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|e| if e.kind() == ErrorKind::ReadOnlyFilesystem { Ok(()) } else { Err(e) })
}

fn create(path: &Path) -> Result<(), Problem> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Problem::os("make the state directory", path, e))?;
    // Or a power cut could take the directory with the votes in it. A relative path of one part has the parent "".
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(parent).and_then(|parent| parent.sync_all());
    synced.map_err(|e| Problem::os("sync the directory", parent, e))
}

fn in_use(path: &Path, file: &File) -> String {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let holder = file.metadata().ok().and_then(|meta| holder(&locks, meta.ino()));
    let by = holder.map_or("another process".into(), |pid| format!("process {pid}"));
    format!("the state directory {} is in use by {by} (one kube-vip per directory: stop it, or set stateDir)", path.display())
}

/// The process that holds a flock(2) on the inode, by the text of /proc/locks (proc_locks(5)).
fn holder(locks: &str, inode: u64) -> Option<u32> {
    let ending = format!(":{inode}");
    let mut lines = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find_map(|words| match words[..] {
        [_, "FLOCK", _, "WRITE", pid, place, ..] if place.ends_with(&ending) => pid.parse().ok().filter(|pid| *pid > 0),
        _ => None,
    })
}

/// Puts `bytes` in the place of the file, whole or not at all, also when the power goes.
pub fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// The vote file, open for saving.
pub struct VoteFile {
    path: PathBuf,
    /// `None`: it could not be opened (yet).
    file: Option<File>,
    /// The newest good vote is here; the other slot is overwritten next.
    slot: usize,
    sequence: u64,
}

impl VoteFile {
    fn reopen(&mut self) -> io::Result<()> {
        self.file = Some(OpenOptions::new().write(true).open(&self.path)?);
        Ok(())
    }

    /// Saves a vote: when this returns without error, it is on the device. After an error the vote before is still there.
    pub fn save(&mut self, vote: &SlotBody) -> io::Result<()> {
        let (slot, sequence) = (1 - self.slot, self.sequence + 1);
        if self.file.is_none() {
            self.reopen()?;
        }
        let file = self.file.as_ref().ok_or(ErrorKind::NotFound)?;
        file.write_all_at(&vote.clone().seal(sequence), (slot * SLOT_DISTANCE) as u64)?;
        file.sync_data()?;
        (self.slot, self.sequence) = (slot, sequence);
        Ok(())
    }
}

/// The log and its directory, open for writing.
pub struct LogFile {
    dir: PathBuf,
    /// `None` after an error: only [`LogFile::replace`] helps, because nobody knows what the file holds.
    file: Option<File>,
}

impl LogFile {
    fn reopen(&mut self, cut: Option<u64>) -> io::Result<()> {
        let file = OpenOptions::new().append(true).open(self.dir.join("log"))?;
        if let Some(len) = cut {
            file.set_len(len)?;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Appends records, to the device too if `sync`.
    pub fn append(&mut self, records: &[u8], sync: bool) -> io::Result<()> {
        let file = self.file.take();
        let mut file = file.ok_or_else(|| io::Error::other("the log could not be written before and is to be replaced"))?;
        file.write_all(records)?;
        if sync {
            file.sync_data()?;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Puts another log in the place of this one.
    pub fn replace(&mut self, contents: &[u8]) -> io::Result<()> {
        self.file = None;
        replace(&self.dir, "log", contents)?;
        self.reopen(None)
    }

    /// Replaces another small file of the directory, in turn with the log.
    pub fn replace_other(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        replace(&self.dir, name, contents)
    }
}

/// Reads the vote file.
pub fn read_votes(directory: &Directory) -> Result<Option<Found>, Problem> {
    let Some(bytes) = directory.read("vote")? else { return Ok(None) };
    newest_vote(&bytes).map(Some).map_err(|damage| lost(directory, "vote", damage))
}

/// A file is beyond repair, and only starting afresh is safe.
pub fn lost(directory: &Directory, name: &str, why: impl fmt::Display) -> Problem {
    Problem::new(format!(
        "{} can't be used: {why} (remove the directory {}: the node will come back as an empty one; \
         safe while a majority of the others is up to date and keeps theirs)",
        directory.file(name).display(),
        directory.path.display(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_its_inode() {
        let locks = "1: FLOCK  ADVISORY  WRITE 1234 08:01:99 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 77 08:01:5678 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 4321 08:01:5678 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 5 08:01:5678 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 0 08:01:42 0 EOF\n";
        assert_eq!(holder(locks, 5678), Some(4321));
        assert_eq!(holder(locks, 678), None, "no part of a number");
        assert_eq!(holder(locks, 42), None, "a process of another PID namespace has no number here");
        assert_eq!(holder("", 1), None);
    }

    #[test]
    fn problems_say_how_to_mend_them() {
        let text = |kind| Problem::os("write", Path::new("/state/vote"), io::Error::from(kind)).to_string();
        assert!(text(ErrorKind::ReadOnlyFilesystem).contains("remount"));
        assert!(text(ErrorKind::StorageFull).contains("make room"));
        assert!(text(ErrorKind::PermissionDenied).starts_with("can't write /state/vote: permission denied"));
    }
}
