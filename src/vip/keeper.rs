//! The keeper process: opens everything while it may, then does what `state` says in one `poll` loop.
//!
//! The loop neither allocates nor logs: a log pipe that nobody reads must not keep the VIP past its deadline. What is worth a line goes to
//! the daemon as a report.

mod open;
mod turns;

use super::fence::Fence;
use super::host::Host;
use super::link::End;
use super::notice::Teller;
use super::ownership::Identity;
use super::state::{Input, Machine, Settings};
use crate::release::Key;
use crate::sys::ioctl::{Interface, Interfaces};
use crate::sys::netlink::Netlink;
use crate::sys::notify::Relay;
use crate::sys::packet::{Listener, Sender};
use crate::sys::signal::Signals;
use crate::sys::timer::Timer;
use crate::sys::{caps, process};
use nix::unistd::Pid;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;
use turns::Run;

/// What the keeper keeps.
#[derive(Clone, Debug)]
pub struct KeeperSpec {
    /// Where the VIP goes.
    pub interface: String,
    /// The address.
    pub vip: IpAddr,
    /// Announce on taking it, and refresh while held.
    pub announce: bool,
    /// The longest hold that an order may ask for.
    pub hold: Duration,
    /// The ownership record, needed on kernels before 5.18 only; a file that can't be written is a warning.
    pub state_file: PathBuf,
    /// Whom to send the proof of release; none with `singleNode`.
    pub notify: Option<Notify>,
    /// How long the daemon may go on after it was told to stop, beyond what handing over takes: `drain`.
    pub drain: Duration,
    /// Lock memory and run in real time, as far as this process may.
    pub realtime: bool,
}

/// Where the proof that a hold has ended goes.
#[derive(Clone, Debug)]
pub struct Notify {
    /// This node's raft address, from which its peers expect it.
    pub from: IpAddr,
    /// The peers' raft addresses; the proof goes to the same ports over UDP.
    pub peers: Vec<SocketAddr>,
    /// The cluster's hash.
    pub cluster: u64,
    /// What the secrets are made of.
    pub key: Key,
}

/// The daemon as the keeper's child.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    /// Its process id, not waited for yet.
    pub pid: Pid,
    /// It runs as another user, so that ending it needs CAP_KILL, which the keeper then keeps.
    pub other_user: bool,
}

/// Why [`Keeper::run`] returned.
#[derive(Debug)]
pub struct ExitReason {
    /// The VIP was seen gone. If not, only the kernel's lifetime ends it.
    pub gone: bool,
    /// The keeper was told to stop by a signal.
    pub stopped: bool,
    /// How the daemon ended: its exit code, or 128 + the signal. `None`: it was not a child, or it can't be ended.
    pub daemon: Option<u8>,
    /// The loop itself failed.
    pub error: Option<io::Error>,
}

impl ExitReason {
    /// The keeper's own exit code: the daemon's, and not 0 if anything but a wanted end happened.
    pub fn exit_code(&self) -> u8 {
        let fine = self.gone && self.error.is_none();
        match self.daemon {
            Some(0) | None if !fine => 1,
            Some(code) => code,
            None => u8::from(!self.stopped),
        }
    }
}

/// Everything opened, nothing held yet. The daemon's process must drop it at once after the fork: it holds the VIP's lock.
#[derive(Debug)]
pub struct Keeper {
    spec: KeeperSpec,
    _lock: UnixDatagram,
    host: Host,
    fence: Fence,
    fenced: i32, // how making the fence went
    teller: Option<Teller>,
    events: Netlink,
    interfaces: Interfaces,
    interface: Option<Interface>,
    me: Identity,
    sender: Option<Sender>,
    listener: Option<Listener>,
    signals: Signals,
    timer: Timer,
    buffer: Box<[u8]>,
    relay: Option<Relay>,
}

impl Keeper {
    /// Passes on to the service manager what the daemon says.
    pub fn relay(&mut self, relay: Option<Relay>) {
        self.relay = relay;
    }

    /// Locks memory, drops all capabilities that are not needed, then keeps the VIP as the daemon orders until the daemon has ended and
    /// the VIP was seen gone. `daemon` is the keeper's end of [`super::link::pair`]; without a child, its end stands for the daemon's.
    pub fn run(self, daemon: End, child: Option<Child>) -> ExitReason {
        if self.spec.realtime {
            steady();
        }
        let kill = child.is_some_and(|c| c.other_user).then_some(caps::KILL);
        let keep: Vec<u32> = [caps::NET_ADMIN, caps::NET_RAW].into_iter().chain(kill).collect();
        if let Err(e) = caps::keep_only(&keep) {
            log::warn!("can't drop the keeper's other capabilities: {e}");
        }
        let announce = self.spec.announce && self.sender.is_some();
        let KeeperSpec { hold, vip, drain, .. } = self.spec;
        let set = Settings { hold, announce, ipv6: vip.is_ipv6(), notify: self.teller.is_some(), drain };
        let (m, fenced, End { fd, renewals }) = (Machine::new(set), self.fenced, daemon);
        let mut run =
            Run { k: self, m, daemon: Some(fd), renewals, child, blocked: false, stopped: false, code: None, stray: None };
        run.input(Input::Fenced(fenced));
        run.tell_link();
        run.turn_until_exit()
    }
}

/// Memory and processor time are there when they are needed, as far as this process may have them.
fn steady() {
    if let Err(e) = process::lock_memory() {
        log::warn!("can't lock the keeper's memory: {e}; under memory pressure it may act late (raise LimitMEMLOCK to 16M)");
    }
    if let Err(e) = process::run_first(process::priority::KEEPER) {
        log::info!(
            "the keeper runs without real-time priority: {e}; on a busy machine it may act late (needs CAP_SYS_NICE or LimitRTPRIO={}; under systemd also RestrictRealtime=no)",
            process::priority::KEEPER
        );
    }
}
