//! The addresses of this host: asked, changed, swept. Thin effects over netlink; what they mean is decided in `ownership` and `state`.

use super::fence::Fence;
use super::ownership::{self, Identity};
use super::rtnl::{self, Address, Change, Event, Messages, Request};
use super::state::lifetime_secs;
use crate::sys::ioctl::Interfaces;
use crate::sys::netlink::Netlink;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// Longer than any datagram of a dump (the kernel makes them at most 32 KiB, and no longer than the buffer of the last call).
const BUFFER: usize = 32 * 1024;
/// How often, and after which pause, a taken lock is tried again.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(30);
/// How often a dump is begun anew because addresses changed meanwhile.
const DUMP_TRIES: usize = 8;

/// Why the keeper (or `cleanup`) could not start.
#[derive(Debug)]
pub struct OpenError {
    /// What kind, for the exit code.
    pub kind: OpenErrorKind,
    text: String,
}

/// The kinds of [`OpenError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenErrorKind {
    /// A capability is missing.
    Privileges,
    /// There is no such interface, or it can't have such an address.
    Interface,
    /// Another keeper on this host has this VIP.
    Taken,
    /// Anything else.
    Other,
}

impl OpenError {
    pub(super) fn new(kind: OpenErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// From an OS error: lacking rights are told from the rest.
    pub(super) fn tried(what: &str, needs: &str, e: &io::Error) -> Self {
        match e.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                Self::new(OpenErrorKind::Privileges, format!("can't {what}: {e} (needs {needs})"))
            }
            _ => Self::new(OpenErrorKind::Other, format!("can't {what}: {e}")),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for OpenError {}

/// One VIP's view of this host's addresses.
#[derive(Debug)]
pub(super) struct Host {
    netlink: Netlink,
    seq: u32,
    vip: IpAddr,
    buffer: Box<[u8]>,
}

impl Host {
    pub(super) fn open(vip: IpAddr) -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(0)?, seq: 0, vip, buffer: vec![0; BUFFER].into() })
    }

    /// Adds, renews or removes the VIP; the kernel's answer: 0 or an errno.
    pub(super) fn change(&mut self, change: Change, index: u32, lifetime: u32) -> i32 {
        self.seq = self.seq.wrapping_add(1);
        let message = Request { change, index, address: self.vip, lifetime, seq: self.seq }.encode();
        let answer = self.netlink.send(message.as_bytes()).and_then(|()| self.answer());
        answer.unwrap_or_else(|e| e.raw_os_error().unwrap_or(libc::EIO))
    }

    fn answer(&mut self) -> io::Result<i32> {
        loop {
            let n = self.netlink.receive(&mut self.buffer)?;
            for m in Messages(&self.buffer[..n]).filter(|m| m.seq == self.seq) {
                if let Event::Answer(errno) = m.event {
                    return Ok(errno);
                }
            }
        }
    }

    /// Reads all addresses of the VIP's family, on all interfaces, into one value; complete or an errno.
    pub(super) fn dump<T: Default>(&mut self, fold: impl Fn(&mut T, &Address)) -> Result<T, i32> {
        for _ in 0..DUMP_TRIES {
            match self.dump_once(&fold) {
                Ok(Some(all)) => return Ok(all),
                Ok(None) => {} // disturbed by a change: anew
                Err(e) => return Err(e.raw_os_error().unwrap_or(libc::EIO)),
            }
        }
        Err(libc::EAGAIN)
    }

    fn dump_once<T: Default>(&mut self, fold: impl Fn(&mut T, &Address)) -> io::Result<Option<T>> {
        self.seq = self.seq.wrapping_add(1);
        self.netlink.send(rtnl::dump_addresses(self.vip, self.seq).as_bytes())?;
        let (mut all, mut whole) = (T::default(), true);
        loop {
            let n = self.netlink.receive(&mut self.buffer)?;
            for m in Messages(&self.buffer[..n]).filter(|m| m.seq == self.seq) {
                whole &= !m.interrupted;
                match m.event {
                    Event::Address(a) => fold(&mut all, &a),
                    Event::Done(0) | Event::Answer(0) => return Ok(whole.then_some(all)),
                    Event::Done(errno) | Event::Answer(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    _ => {}
                }
            }
        }
    }

    /// Removes what an earlier run left; tells what is removed and what is somebody else's.
    pub(super) fn sweep(&mut self, me: &Identity) -> io::Result<CleanupReport> {
        let mut report = CleanupReport::default();
        for a in self.vips()? {
            if !me.left_over(&a) {
                report.foreign.push(Found::from(&a));
                continue;
            }
            match self.change(Change::Remove, a.index, 0) {
                0 | libc::EADDRNOTAVAIL | libc::ENODEV => report.removed.push(Found::from(&a)),
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
        match self.vips()?.iter().any(|a| me.left_over(a)) {
            true => Err(io::Error::other("the kernel says it removed it, but it is still there")),
            false => Ok(report),
        }
    }

    fn vips(&mut self) -> io::Result<Vec<Address>> {
        let vip = self.vip;
        let fold = |all: &mut Vec<Address>, a: &Address| all.extend((a.address == vip).then_some(*a));
        self.dump(fold).map_err(io::Error::from_raw_os_error)
    }

    /// Asks for an address change that can't succeed, to learn early whether we may make one: the kernel checks rights first.
    pub(super) fn may_change(&mut self) -> bool {
        !matches!(self.change(Change::Remove, 0, 0), libc::EPERM | libc::EACCES)
    }
}

/// Holds the VIP's name on this host: an abstract UNIX socket, which ends with the last process that has it open.
pub(super) fn lock(vip: IpAddr) -> Result<UnixDatagram, OpenError> {
    let name = format!("kube-vip/{vip}");
    let bind = || SocketAddr::from_abstract_name(name.as_bytes()).and_then(|a| UnixDatagram::bind_addr(&a));
    let mut bound = bind();
    // A keeper that was killed a moment ago may not have been taken apart yet.
    for _ in 0..LOCK_TRIES {
        if !bound.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        bound = bind();
    }
    bound.map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => OpenError::new(
            OpenErrorKind::Taken,
            format!(
                "another kube-vip keeper has {vip} on this host; stop it first (`ss -xap | grep @{name}` shows its process, and \
                 whether it is kube-vip at all: any local program can take that name)"
            ),
        ),
        _ => OpenError::tried(&format!("bind the abstract socket @{name}"), "nothing special", &e),
    })
}

/// An address that was found, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Interface name (or `#index` where it has none any more).
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
}

impl From<&Address> for Found {
    fn from(a: &Address) -> Self {
        let name = nix::net::if_::if_indextoname(a.index).ok().and_then(|n| n.into_string().ok());
        Self { interface: name.unwrap_or_else(|| format!("#{}", a.index)), address: a.address, prefix: a.prefix }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.address, self.prefix, self.interface)
    }
}

/// What [`cleanup`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanupReport {
    /// Left by an earlier run, now removed.
    pub removed: Vec<Found>,
    /// The same address, but not from this program: left alone.
    pub foreign: Vec<Found>,
    /// The kernel fence.
    pub fence: FenceFound,
}

/// What became of an earlier run's nf_tables table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FenceFound {
    /// There was none, or this kernel knows none.
    #[default]
    Absent,
    /// It had this name in the family netdev, and is deleted.
    Removed(String),
    /// The kernel doesn't let us look: an OS error number.
    Unknown(i32),
}

/// Who we are: by index where the interface exists; by the record where the kernel keeps no owner.
pub(super) fn identity(vip: IpAddr, interface: &str, index: u32, hold: Duration, state_file: &Path) -> Identity {
    let by_record = !keeps_proto() && std::fs::read_to_string(state_file).is_ok_and(|t| t == record(interface, vip));
    Identity { vip, index, lifetime: lifetime_secs(hold), by_record }
}

/// Whether the running kernel keeps IFA_PROTO.
pub(super) fn keeps_proto() -> bool {
    ownership::keeps_proto(&std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default())
}

/// The record as it has to be for this boot.
pub(super) fn record(interface: &str, vip: IpAddr) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    ownership::record(interface, vip, boot.trim())
}

/// Writes the record. The directory may belong to the daemon's user, so no link of his is followed: the file is always a new one.
pub(super) fn write_record(path: &Path, text: &str) -> io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// Removes what an earlier run of this program left of `vip`, and nothing else: the address first, then the fence that guards it. Needs CAP_NET_ADMIN; refused while a keeper runs.
///
/// `state_file` is the record that [`super::KeeperSpec`] names; it counts only where the kernel (before 5.18) keeps no owner of addresses.
pub fn cleanup(interface: &str, vip: IpAddr, state_file: &Path) -> Result<CleanupReport, OpenError> {
    let _lock = lock(vip)?;
    let index = Interfaces::open().and_then(|i| i.get(interface)).map_or(0, |i| i.index); // absent: left-overs may be elsewhere
    let me = identity(vip, interface, index, Duration::ZERO, state_file);
    let swept = Host::open(vip).and_then(|mut host| host.sweep(&me));
    let report = swept.map_err(|e| OpenError::tried(&format!("remove left-overs of {vip}"), "CAP_NET_ADMIN", &e))?;
    let mut fence = Fence::open(vip, interface);
    let fence = match fence.remove() {
        Ok(true) => FenceFound::Removed(fence.name().to_string()),
        Err(errno @ (libc::EPERM | libc::EACCES)) => FenceFound::Unknown(errno),
        Ok(false) | Err(_) => FenceFound::Absent,
    };
    Ok(CleanupReport { fence, ..report })
}

/// Whether any interface of this host has the address. Needs no privileges; for the daemon whose keeper was killed.
pub fn present(vip: IpAddr) -> io::Result<bool> {
    let fold = |found: &mut bool, a: &Address| *found |= a.address == vip;
    Host::open(vip)?.dump(fold).map_err(io::Error::from_raw_os_error)
}
