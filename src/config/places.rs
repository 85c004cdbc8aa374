//! The directories that the daemon writes to, judged as the daemon will be: its user and group, without CAP_DAC_OVERRIDE.
//!
//! Modes tell for another user than this process; access lists (acl(5)) are then known by their mask only.

use super::checked::Config;
use nix::unistd::{AccessFlags, Gid, Uid, access, getegid, geteuid, getgroups};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Made by the program where it is missing.
const RUN: &str = "/run/kube-vip";
/// The daemon's own files in its state directory.
const FILES: [&str; 4] = ["vote", "log", "snapshot", "meta"];
const CHOWN: u32 = 0; // linux/capability.h
const DAC_OVERRIDE: u32 = 1;
const READ: u32 = 4; // of the three bits of a mode
const WRITE: u32 = 2;
const SEARCH: u32 = 1;

/// A place that can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The file or directory that it is about.
    pub place: PathBuf,
    /// Why.
    pub why: Why,
}

/// Why a place can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The OS error number of looking at it, or of writing it as this process.
    Os(i32),
    /// It is missing, and the program makes no directories but its own.
    Missing,
    /// It is of a file system that takes no new files or sockets, such as /proc.
    NoFiles,
    /// Something else than a socket has the socket's name.
    NoSocket,
    /// The daemon may not.
    Denied {
        /// Owner's uid.
        owner: u32,
        /// Permission bits.
        mode: u32,
        /// The daemon's uid.
        uid: u32,
        /// The daemon's gid.
        gid: u32,
        /// It is only to be passed through, on the way to what lies below.
        passed: bool,
    },
}

/// Who the daemon will be, and what `start` can do for it.
#[derive(Debug)]
pub(crate) struct Daemon {
    uid: u32,
    gid: u32,
    /// Supplementary groups, given up with a change of user.
    groups: Vec<u32>,
    /// What access(2) says of this process is true of the daemon.
    as_now: bool,
    changes: bool,
    /// What `start` makes the owner and group of the program's own directories.
    gives_to: (Option<u32>, Option<u32>),
}

impl Daemon {
    /// From `user` and `group` as found, and the effective capabilities of this process.
    pub(crate) fn new(user: Option<Uid>, group: Option<Gid>, capabilities: Option<u64>) -> Self {
        let (uid, gid) = (user.unwrap_or_else(geteuid), group.unwrap_or_else(getegid));
        let changes = (uid, gid) != (geteuid(), getegid());
        let has = |bit: u32| capabilities.map_or(geteuid().is_root(), |have| have & (1 << bit) != 0);
        let groups = if changes { Vec::new() } else { getgroups().unwrap_or_default() };
        let gives = |id: u32| has(CHOWN).then_some(id);
        Self {
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            as_now: !changes && !has(DAC_OVERRIDE),
            changes,
            gives_to: (gives(uid.as_raw()), gives(gid.as_raw())),
        }
    }

    /// Whether the daemon is another user or group than this process.
    pub(crate) fn changes(&self) -> bool {
        self.changes
    }

    /// `own`: `start` gives it to the daemon first.
    fn may(&self, place: &Path, meta: &Metadata, own: bool, need: u32) -> Result<(), Refused> {
        let (owner, group) = if own { self.gives_to } else { (None, None) };
        let (owner, group) = (owner.unwrap_or(meta.uid()), group.unwrap_or(meta.gid()));
        let shift = match () {
            () if self.uid == owner => 6,
            () if self.gid == group || self.groups.contains(&group) => 3,
            () => 0,
        };
        let mode = meta.mode() & 0o7777;
        if mode >> shift & need == need {
            return Ok(());
        }
        Err(refused(place, Why::Denied { owner, mode, uid: self.uid, gid: self.gid, passed: need == SEARCH }))
    }
}

fn refused(place: &Path, why: Why) -> Refused {
    Refused { place: place.to_owned(), why }
}

/// The state directory: there or to be made, and writable, with the files that an earlier run left in it. A read-only file system
/// under a directory that is there comes as EROFS about that directory itself.
pub(crate) fn state_dir(config: &Config, daemon: &Daemon) -> Result<(), Refused> {
    let dir = &config.state_dir;
    directory(dir, true, true, daemon)?;
    for file in FILES.map(|name| dir.join(name)) {
        let Ok(meta) = std::fs::metadata(&file) else { continue };
        if daemon.as_now {
            try_access(&file, AccessFlags::R_OK | AccessFlags::W_OK)?;
        } else {
            daemon.may(&file, &meta, true, READ | WRITE)?;
        }
    }
    Ok(())
}

/// The control socket's directory, and what has its name now.
pub(crate) fn socket(config: &Config, daemon: &Daemon) -> Result<(), Refused> {
    let path = &config.control_socket;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let state = dir == config.state_dir;
    let made = dir == Path::new(RUN) || (state && !config.single_node);
    directory(dir, made, made || state, daemon)?;
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => Err(refused(path, Why::NoSocket)),
        _ => Ok(()),
    }
}

/// `made`: the program makes it where it is missing. `own`: it gives it to the daemon's user.
fn directory(dir: &Path, made: bool, own: bool, daemon: &Daemon) -> Result<(), Refused> {
    let (nearest, meta) = nearest(dir)?;
    if nearest != dir && !made {
        return Err(refused(dir, Why::Missing));
    }
    if no_files(nearest) {
        return Err(refused(nearest, Why::NoFiles));
    }
    match try_access(nearest, AccessFlags::W_OK | AccessFlags::X_OK) {
        // It is this process that makes a missing one, and access(2) tells of a read-only file system before all else.
        Err(no) if nearest != dir || daemon.as_now || no.why == Why::Os(libc::EROFS) => return Err(no),
        _ if daemon.as_now => return Ok(()),
        _ => {}
    }
    for above in nearest.ancestors().skip(1) {
        if let Ok(meta) = std::fs::metadata(above) {
            daemon.may(above, &meta, false, SEARCH)?;
        }
    }
    let need = if nearest == dir { WRITE | SEARCH } else { SEARCH };
    daemon.may(nearest, &meta, own && nearest == dir, need)
}

/// The directory itself, or the nearest one above it that exists.
fn nearest(dir: &Path) -> Result<(&Path, Metadata), Refused> {
    for place in dir.ancestors() {
        match std::fs::metadata(place) {
            Ok(meta) if meta.is_dir() => return Ok((place, meta)),
            Ok(_) => return Err(refused(place, Why::Os(libc::ENOTDIR))),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(e) => return Err(refused(place, Why::Os(e.raw_os_error().unwrap_or(libc::EIO)))),
        }
    }
    Err(refused(dir, Why::Os(libc::ENOENT)))
}

fn try_access(place: &Path, wanted: AccessFlags) -> Result<(), Refused> {
    access(place, wanted).map_err(|e| refused(place, Why::Os(e as i32)))
}

/// File systems (statfs(2)) that show the kernel's state: proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, bpf, devpts.
fn no_files(place: &Path) -> bool {
    const KERNEL: [i128; 9] =
        [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270, 0x6462_6720, 0x7472_6163, 0x7363_6673, 0xcafe_4a11, 0x1cd1];
    let kind = nix::sys::statfs::statfs(place).map(|fs| fs.filesystem_type().0 as i128 & 0xffff_ffff);
    kind.is_ok_and(|kind| KERNEL.contains(&kind))
}
