//! The keeper process: opens everything while it may, then does what `state` says in one `poll` loop.
//!
//! The loop neither allocates nor logs: a log pipe that nobody reads must not keep the VIP past its deadline. What is worth a line goes to
//! the daemon as a report.

use super::host::{self, Host, OpenError, OpenErrorKind};
use super::link::{self, End};
use super::ownership::{Identity, Owner};
use super::renewals::Renewals;
use super::rtnl::{Address, Event, Messages};
use super::state::{Input, Machine, Next, Settings};
use super::{Order, Report, frames};
use crate::release::Key;
use crate::sys::ioctl::{Interface, Interfaces};
use crate::sys::netlink::{EVENTS, Netlink};
use crate::sys::packet::{Listener, Sender};
use crate::sys::poll::{self, For};
use crate::sys::signal::{STOP, Signals};
use crate::sys::timer::Timer;
use crate::sys::{caps, clock, process};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// How many messages of one kind are read before the others have their turn.
const TURN: usize = 64;

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
    events: Netlink,
    interfaces: Interfaces,
    interface: Option<Interface>,
    me: Identity,
    sender: Option<Sender>,
    listener: Option<Listener>,
    signals: Signals,
    timer: Timer,
    buffer: Box<[u8]>,
}

impl Keeper {
    /// Takes the VIP's lock, opens all sockets, sweeps what an earlier run left. Blocks SIGTERM, SIGINT, SIGHUP and SIGCHLD, also for the
    /// process forked next: open [`Signals`] there too. Call it while there is one thread.
    pub fn open(spec: &KeeperSpec) -> Result<Self, OpenError> {
        let interfaces = Interfaces::open().map_err(|e| OpenError::tried("open a socket", "nothing special", &e))?;
        let interface = find_interface(&interfaces, spec)?;
        let lock = host::lock(spec.vip)?;
        let netlink = |e: io::Error| OpenError::tried("open a netlink socket", "nothing special", &e);
        let mut host = Host::open(spec.vip).map_err(netlink)?;
        let events = Netlink::open(EVENTS).map_err(netlink)?;
        if !host.may_change() {
            let text = format!("can't change addresses on {}: Operation not permitted (needs CAP_NET_ADMIN)", spec.interface);
            return Err(OpenError::new(OpenErrorKind::Privileges, text));
        }
        let (sender, listener) = packet_sockets(spec, &interface)?;
        let me = sweep(&mut host, spec, &interface)?;
        let other = |what: &'static str| move |e: io::Error| OpenError::tried(what, "nothing special", &e);
        let [term, int, hup] = STOP;
        let signals = Signals::open(&[term, int, hup, Signal::SIGCHLD]).map_err(other("open a signalfd"))?;
        let timer = Timer::open().map_err(other("open a timerfd"))?;
        let (spec, interface, buffer) = (spec.clone(), Some(interface), vec![0; 32 * 1024].into());
        Ok(Self { spec, _lock: lock, host, events, interfaces, interface, me, sender, listener, signals, timer, buffer })
    }

    /// Locks memory, drops all capabilities that are not needed, then keeps the VIP as the daemon orders until the daemon has ended and
    /// the VIP was seen gone. `daemon` is the keeper's end of [`link::pair`]; without a child, its end stands for the daemon's.
    pub fn run(self, daemon: End, child: Option<Child>) -> ExitReason {
        if let Err(e) = process::lock_memory() {
            log::warn!(
                "can't lock the keeper's memory: {e}; under memory pressure it may act late (raise LimitMEMLOCK to 16M)"
            );
        }
        let kill = child.is_some_and(|c| c.other_user).then_some(caps::KILL);
        let keep: Vec<u32> = [caps::NET_ADMIN, caps::NET_RAW].into_iter().chain(kill).collect();
        if let Err(e) = caps::keep_only(&keep) {
            log::warn!("can't drop the keeper's other capabilities: {e}");
        }
        let announce = self.spec.announce && self.sender.is_some();
        let set = Settings { hold: self.spec.hold, announce, ipv6: self.spec.vip.is_ipv6() };
        let (m, End { fd, renewals }) = (Machine::new(set), daemon);
        let mut run = Run { k: self, m, daemon: Some(fd), renewals, child, blocked: false, stopped: false, code: None };
        run.tell_link();
        run.turn_until_exit()
    }
}

fn find_interface(interfaces: &Interfaces, spec: &KeeperSpec) -> Result<Interface, OpenError> {
    let name = &spec.interface;
    let found = interfaces.get(name).map_err(|e| match e.raw_os_error() {
        Some(libc::ENODEV) => {
            let all =
                nix::net::if_::if_nameindex().map(|l| l.iter().map(|i| i.name().to_string_lossy().into_owned()).collect());
            let all: Vec<String> = all.unwrap_or_default();
            OpenError::new(
                OpenErrorKind::Interface,
                format!("there is no interface {name} here; there are: {}", all.join(", ")),
            )
        }
        _ => OpenError::tried(&format!("ask about interface {name}"), "nothing special", &e),
    })?;
    let off = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"));
    if spec.vip.is_ipv6() && off.map_or(true, |t| t.trim() != "0") {
        let text = format!("{name} can't have {}: IPv6 is off there; set net.ipv6.conf.{name}.disable_ipv6=0", spec.vip);
        return Err(OpenError::new(OpenErrorKind::Interface, text));
    }
    Ok(found)
}

/// Where the hardware is not Ethernet there are none. Without `announce` they are only for probes and claims, so a refusal is no error.
fn packet_sockets(spec: &KeeperSpec, interface: &Interface) -> Result<(Option<Sender>, Option<Listener>), OpenError> {
    let Some(mac) = interface.mac else {
        if spec.announce {
            log::info!("{} is not Ethernet: {} is not announced there", spec.interface, spec.vip);
        }
        return Ok((None, None));
    };
    match Sender::open().and_then(|s| Ok((s, Listener::open(interface.index, spec.vip, mac)?))) {
        Ok((sender, listener)) => Ok((Some(sender), Some(listener))),
        Err(_) if !spec.announce => Ok((None, None)),
        Err(e) => Err(OpenError::tried(&format!("open a packet socket on {}", spec.interface), "CAP_NET_RAW", &e)),
    }
}

fn sweep(host: &mut Host, spec: &KeeperSpec, interface: &Interface) -> Result<Identity, OpenError> {
    let mut me = host::identity(spec.vip, &spec.interface, interface.index, spec.hold, &spec.state_file);
    let swept = host.sweep(&me);
    let report = swept.map_err(|e| OpenError::tried(&format!("remove left-overs of {}", spec.vip), "CAP_NET_ADMIN", &e))?;
    report.removed.iter().for_each(|found| log::info!("removed {found}, left by an earlier run"));
    let foreign =
        |found| log::warn!("this host has {found}, not from kube-vip: it is left alone, and this node can't hold the VIP");
    report.foreign.iter().for_each(foreign);
    me.by_record = !host::keeps_proto();
    if me.by_record
        && let Err(e) = host::write_record(&spec.state_file, &host::record(&spec.interface, spec.vip))
    {
        log::warn!("can't write {}: {e}; this kernel (before 5.18) then can't tell left-overs", spec.state_file.display());
    }
    Ok(me)
}

struct Run {
    k: Keeper,
    m: Machine,
    daemon: Option<OwnedFd>,
    renewals: Rc<Renewals>,
    child: Option<Child>,
    blocked: bool,
    stopped: bool,
    code: Option<u8>,
}

impl Run {
    fn turn_until_exit(&mut self) -> ExitReason {
        let mut error = None;
        loop {
            match self.act().map_err(|gone| ExitReason { gone, stopped: self.stopped, daemon: self.code, error: error.take() })
            {
                Err(exit) => return exit,
                Ok(wake) => {
                    if let Err(e) = self.k.timer.by(wake).and_then(|()| self.wait()) {
                        // Without poll or timer nothing can be kept: end it, and act without waiting until it is gone.
                        error = Some(e);
                        self.input(Input::DaemonEnded);
                    }
                }
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.m.input(input, clock::now());
    }

    /// Does everything there is to do; the instant until which there is nothing, or Err(gone) at the end.
    fn act(&mut self) -> Result<Option<clock::Instant>, bool> {
        self.renew();
        loop {
            match self.m.next(clock::now()) {
                Next::Change(change) => {
                    let errno = self.k.host.change(change, self.k.me.index, self.k.me.lifetime);
                    self.input(Input::Answer(errno));
                }
                Next::Dump => self.dump(),
                Next::Frame(kind) => self.send(kind),
                Next::Report(report) => self.report(&report),
                Next::Kill => drop(self.child.map(|c| process::kill_child(c.pid))),
                Next::Exit { gone } => return Err(gone),
                Next::Wait(at) => return Ok(at),
            }
        }
    }

    /// Reads how long the running hold lasts by now. Another vote's comes as a message, in its turn after those before it.
    fn renew(&mut self) {
        if let Some((vote, until)) = self.renewals.read()
            && self.m.held_until(vote).is_some_and(|known| known < until)
        {
            self.input(Input::Order(Order::Hold { vote, until }));
        }
    }

    fn dump(&mut self) {
        let me = self.k.me;
        let fold = |(ours, foreign): &mut (bool, bool), a: &Address| match me.judge(a) {
            Owner::Ours => *ours = true,
            Owner::Foreign => *foreign = true,
            Owner::Unrelated => {}
        };
        let input = self.k.host.dump(fold).map_or_else(Input::Answer, |(ours, foreign)| Input::Dump { ours, foreign });
        self.input(input);
    }

    fn send(&self, kind: frames::Kind) {
        let Some((interface, sender)) = self.k.interface.zip(self.k.sender.as_ref()) else { return };
        let frame = interface.mac.and_then(|mac| frames::build(kind, mac, self.k.spec.vip));
        // A frame that can't go out (link down, queue full) is like one lost on the wire: the schedule repeats it.
        let _ = frame.map(|f| sender.send(interface.index, f.as_bytes()));
    }

    fn report(&mut self, report: &Report) {
        let sent = self.daemon.as_ref().map(|fd| link::put(fd, &report.encode()));
        match sent {
            Some(Ok(())) => self.input(Input::Reported),
            Some(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                self.input(Input::Blocked(true));
            }
            _ => self.daemon_closed(),
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let talk = if self.blocked { For::Both } else { For::Reading };
        let [timer, daemon, events, signals, frames] = poll::wait([
            Some((self.k.timer.as_fd(), For::Reading)),
            self.daemon.as_ref().map(|fd| (fd.as_fd(), talk)),
            Some((self.k.events.as_fd(), For::Reading)),
            Some((self.k.signals.as_fd(), For::Reading)),
            self.k.listener.as_ref().map(|l| (l.as_fd(), For::Reading)),
        ])?;
        // Events first: an order is then judged by what is known of the addresses now.
        let reads =
            [(events, Self::events as fn(&mut Self)), (daemon, Self::orders), (signals, Self::signals), (frames, Self::frames)];
        reads.into_iter().filter(|(ready, _)| *ready).for_each(|(_, read)| read(self));
        if timer {
            self.k.timer.fired();
        }
        Ok(())
    }

    fn events(&mut self) {
        let mut link = false;
        for _ in 0..TURN {
            let n = match self.k.events.receive(&mut self.k.buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    // ENOBUFS and whatever else: something was lost, so read everything anew.
                    link = true;
                    self.m.input(Input::Hint, clock::now());
                    break;
                }
            };
            let (mut hint, index) = (false, self.k.me.index);
            for m in Messages(&self.k.buffer[..n]) {
                match m.event {
                    // Our own renewals say what is known.
                    Event::Address(a) => {
                        hint |= a.address == self.k.me.vip && !(self.m.holds() && self.k.me.judge(&a) == Owner::Ours)
                    }
                    Event::AddressGone(a) => hint |= a.address == self.k.me.vip,
                    Event::Link(i) | Event::LinkGone(i) => link |= i == index || index == 0,
                    _ => {}
                }
            }
            if hint {
                self.input(Input::Hint);
            }
        }
        if link {
            self.tell_link();
        }
    }

    /// Reads the interface anew by its name: it may have gone, or come back under another index.
    fn tell_link(&mut self) {
        let found = self.k.interfaces.get(&self.k.spec.interface).ok();
        let index = found.map_or(0, |i| i.index);
        if index != self.k.me.index {
            self.input(Input::Link { present: false, up: false });
            self.input(Input::Hint);
        }
        let aim = found.filter(|i| self.k.interface.is_none_or(|old| (old.index, old.mac) != (i.index, i.mac)));
        if let (Some(Interface { index, mac: Some(mac), .. }), Some(listener)) = (aim, &self.k.listener) {
            let _ = listener.aim(index, self.k.spec.vip, mac); // deaf to claims until the next change: nothing hangs on them
        }
        (self.k.me.index, self.k.interface) = (index, found);
        self.input(Input::Link { present: found.is_some(), up: found.is_some_and(|i| i.up) });
    }

    fn orders(&mut self) {
        if std::mem::take(&mut self.blocked) {
            self.input(Input::Blocked(false));
        }
        for _ in 0..TURN {
            let Some(fd) = &self.daemon else { return };
            match link::get(fd) {
                Ok(Some(packet)) => {
                    if let Some(order) = Order::decode(&packet) {
                        self.input(Input::Order(order));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Ok(None) | Err(_) => return self.daemon_closed(),
            }
        }
    }

    fn daemon_closed(&mut self) {
        self.daemon = None;
        self.input(if self.child.is_some() { Input::DaemonClosed } else { Input::DaemonEnded });
        self.reap();
    }

    fn signals(&mut self) {
        while let Some(signal) = self.k.signals.next() {
            if signal == Signal::SIGCHLD {
                self.reap();
            } else {
                self.stopped = true;
                self.input(Input::Stop);
            }
        }
    }

    fn reap(&mut self) {
        if let Some(code) = self.child.and_then(|c| process::ended(c.pid)) {
            (self.child, self.code) = (None, Some(code));
            self.input(Input::DaemonEnded);
        }
    }

    fn frames(&mut self) {
        let own = self.k.interface.and_then(|i| i.mac).unwrap_or_default();
        let Some(listener) = &self.k.listener else { return };
        for _ in 0..TURN {
            match listener.receive(&mut self.k.buffer) {
                Ok(n) => {
                    if let Some(mac) = frames::claim(&self.k.buffer[..n], self.k.spec.vip, own) {
                        self.m.input(Input::Claim(mac), clock::now());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {} // ENETDOWN, once; the link event tells the rest
            }
        }
    }
}
