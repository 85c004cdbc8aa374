//! The loop: asks `state` what to do, does it, waits, and tells what happened.

use super::{Child, ExitReason, Keeper};
use crate::sys::clock;
use crate::sys::ioctl::Interface;
use crate::sys::poll::{self, For};
use crate::sys::process;
use crate::vip::ownership::Owner;
use crate::vip::renewals::Renewals;
use crate::vip::rtnl::{Address, Change, Event, Messages};
use crate::vip::state::{FenceAct, Input, Machine, Next};
use crate::vip::{Order, Report, frames, link};
use nix::sys::signal::Signal;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// How many messages of one kind are read before the others have their turn.
const TURN: usize = 64;

pub(super) struct Run {
    pub(super) k: Keeper,
    pub(super) m: Machine,
    pub(super) daemon: Option<OwnedFd>,
    pub(super) renewals: Rc<Renewals>,
    pub(super) child: Option<Child>,
    pub(super) blocked: bool,
    pub(super) stopped: bool,
    pub(super) code: Option<u8>,
    /// Where ours was last seen, if not on the interface by its present number.
    pub(super) stray: Option<u32>,
}

impl Run {
    pub(super) fn turn_until_exit(&mut self) -> ExitReason {
        let mut error = None;
        loop {
            match self.act().map_err(|gone| ExitReason { gone, stopped: self.stopped, daemon: self.code, error: error.take() })
            {
                Err(exit) => {
                    if exit.gone {
                        let _ = self.k.fence.remove(); // without nf_tables there is none
                    }
                    return exit;
                }
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

    pub(super) fn input(&mut self, input: Input) {
        self.m.input(input, clock::now());
    }

    /// Does everything there is to do; the instant until which there is nothing, or Err(gone) at the end.
    fn act(&mut self) -> Result<Option<clock::Instant>, bool> {
        loop {
            // Before each step: a call that took the kernel longer than what was left must not end a hold that goes on.
            self.renew();
            match self.m.next(clock::now()) {
                Next::Change(change) => {
                    let errno = self.k.host.change(change, self.place_of(change), self.k.me.lifetime);
                    self.renew();
                    self.input(Input::Answer(errno));
                }
                Next::Fence(act) => self.fence(act),
                Next::Notice { vote } => self.k.teller.iter().for_each(|teller| teller.tell(vote)),
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
        let Some((vote, until)) = self.renewals.read() else { return };
        let Some(known) = self.m.held_until(vote) else { return };
        if known < until {
            self.input(Input::Order(Order::Hold { vote, until }));
        }
        self.renewals.know(known.max(until));
    }

    /// Ours is removed where it is, even if the interface has another name or number by now.
    fn place_of(&self, change: Change) -> u32 {
        self.stray.filter(|_| change == Change::Remove).unwrap_or(self.k.me.index)
    }

    fn fence(&mut self, act: FenceAct) {
        let errno = match act {
            FenceAct::Clear => self.k.fence.clear(),
            FenceAct::Arm { until } => {
                let armed = self.k.fence.arm(until);
                if armed.again {
                    self.input(Input::FenceLost);
                }
                armed.errno
            }
        };
        self.input(Input::Fenced(errno));
    }

    fn dump(&mut self) {
        let me = self.k.me;
        let fold = |seen: &mut (bool, bool, Option<u32>), a: &Address| match me.judge(a) {
            Owner::Ours => seen.0 = true,
            // It went with an interface that was renamed: not gone, and nobody else's.
            Owner::Foreign if me.left_over(a) => (seen.0, seen.2) = (true, Some(a.index)),
            Owner::Foreign => seen.1 = true,
            Owner::Unrelated => {}
        };
        let input = match self.k.host.dump(fold) {
            Ok((ours, foreign, stray)) => {
                self.stray = stray;
                Input::Dump { ours, foreign }
            }
            Err(errno) => Input::Answer(errno),
        };
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
        let [timer, daemon, events, signals, frames, relay] = poll::wait([
            Some((self.k.timer.as_fd(), For::Reading)),
            self.daemon.as_ref().map(|fd| (fd.as_fd(), talk)),
            Some((self.k.events.as_fd(), For::Reading)),
            Some((self.k.signals.as_fd(), For::Reading)),
            self.k.listener.as_ref().map(|l| (l.as_fd(), For::Reading)),
            self.k.relay.as_ref().map(|r| (r.as_fd(), For::Reading)),
        ])?;
        // Events first: an order is then judged by what is known of the addresses now.
        let reads =
            [(events, Self::events as fn(&mut Self)), (daemon, Self::orders), (signals, Self::signals), (frames, Self::frames)];
        reads.into_iter().filter(|(ready, _)| *ready).for_each(|(_, read)| read(self));
        if timer {
            self.k.timer.fired();
        }
        if relay && let Some(relay) = &self.k.relay {
            relay.pass(&mut self.k.buffer);
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
    pub(super) fn tell_link(&mut self) {
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
        if found.is_some() && index != self.k.me.index {
            let errno = self.k.fence.install(); // its chains went with the old interface
            self.input(Input::Fenced(errno));
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
            match signal {
                Signal::SIGCHLD => self.reap(),
                // The configuration is the daemon's business; whether a terminal went away, too.
                Signal::SIGHUP => drop(self.child.map(|c| process::hang_up(c.pid))),
                _ => {
                    self.stopped = true;
                    self.input(Input::Stop);
                }
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
