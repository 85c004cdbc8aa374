//! A keeper without a daemon: the test plays the daemon over the socket pair.
#![allow(unsafe_code)] // fork, which the keeper's own process needs

use super::patient;
use kube_vip::reactor;
use kube_vip::sys::clock::{self, Instant};
use kube_vip::vip::{self, Child, GoneWhy, Keeper, KeeperLink, KeeperSpec, Order, Report, VoteKey};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use std::net::IpAddr;
use std::time::Duration;

/// The longest hold of these keepers: shorter than the address's own lifetime.
pub const HOLD: Duration = Duration::from_millis(500);

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A keeper of this address, without peers.
pub fn spec(interface: &str, vip: IpAddr) -> KeeperSpec {
    KeeperSpec {
        interface: interface.into(),
        vip,
        announce: true,
        hold: HOLD,
        state_file: "/run/kube-vip-test/keeper".into(),
        notify: None,
        drain: Duration::ZERO,
        realtime: true,
    }
}

/// Waits for that, and says how long it took.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let start = clock::now();
    while !done() {
        assert!(clock::now() - start < patient(Duration::from_secs(20)), "waited 20 s (or longer, see `patient`) for {what}");
        std::thread::sleep(ms(2));
    }
    clock::now() - start
}

/// A keeper in a process of its own, and the daemon's end of its link.
pub struct Kept {
    pub pid: Pid,
    pub link: Option<KeeperLink>,
    pub holding: Option<VoteKey>,
}

impl Kept {
    /// `with_child`: the keeper gets `sleep` as the daemon's process. `prepare` runs in the keeper's process first.
    pub fn start(spec: &KeeperSpec, with_child: bool, prepare: impl FnOnce()) -> Self {
        let (ours, theirs) = vip::link::pair().expect("a socket pair");
        let spec = spec.clone();
        // SAFETY: the other thread (libtest's) only waits for this one; the child runs the keeper and then ends without unwinding.
        match unsafe { nix::unistd::fork() }.expect("fork") {
            ForkResult::Parent { child } => {
                drop(ours);
                Self { pid: child, link: Some(KeeperLink::new(theirs, spec.vip).expect("a link")), holding: None }
            }
            ForkResult::Child => {
                drop(theirs);
                prepare();
                let keeper = Keeper::open(&spec).unwrap_or_else(|e| {
                    eprintln!("keeper: {e}");
                    // SAFETY: ends this process at once, which is the point.
                    unsafe { libc::_exit(100 + e.kind as i32) }
                });
                let sleep = with_child.then(|| std::process::Command::new("sleep").arg("1000").spawn().expect("sleep"));
                let child = sleep.map(|c| Child { pid: Pid::from_raw(c.id() as i32), other_user: false });
                let code = keeper.run(ours, child).exit_code();
                // SAFETY: ends this process at once, which is the point.
                unsafe { libc::_exit(code.into()) }
            }
        }
    }

    /// [`Self::start`] without a child, on an interface that is up.
    pub fn up(spec: &KeeperSpec, prepare: impl FnOnce()) -> Self {
        let mut k = Self::start(spec, false, prepare);
        k.expect("the link", |r| matches!(r, Report::Link { up: true }));
        k
    }

    pub fn send(&self, order: Order) {
        self.link.as_ref().expect("a link").send(order).expect("the keeper takes orders");
    }

    pub fn hold(&mut self, vote: VoteKey, for_: Duration) -> Instant {
        let until = clock::now() + for_;
        self.holding = Some(vote);
        self.send(Order::Hold { vote, until });
        until
    }

    /// The next report within `patience`; holds are repeated meanwhile like heartbeats.
    pub fn report(&mut self, patience: Duration) -> Option<Report> {
        let start = clock::now();
        while clock::now() - start < patience {
            let link = self.link.as_ref().expect("a link");
            let next = async { Some(link.next().await.expect("the keeper lives")) };
            let pause = async {
                reactor::sleep(patience.min(ms(50))).await;
                None
            };
            if let Some(report) = reactor::block_on(smol::future::or(next, pause)).expect("a reactor") {
                return Some(report);
            }
            if let Some(vote) = self.holding {
                self.hold(vote, HOLD);
            }
        }
        None
    }

    /// Goes on holding, without any news, until something is so.
    pub fn keep_until(&mut self, what: &str, done: impl Fn() -> bool) {
        let start = clock::now();
        while !done() {
            assert_eq!(self.report(ms(20)), None, "an undisturbed hold has no news");
            assert!(
                clock::now() - start < patient(Duration::from_secs(20)),
                "waited 20 s (or longer, see `patient`) for {what}"
            );
        }
    }

    pub fn expect(&mut self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let mut others = Vec::new();
        while let Some(r) = self.report(patient(Duration::from_secs(10))) {
            if wanted(&r) {
                return r;
            }
            others.push(r);
        }
        panic!("no report of {what}; there were {others:?}");
    }

    pub fn held(&mut self, vote: VoteKey) -> Duration {
        self.hold(vote, HOLD);
        match self.expect("the hold", |r| matches!(r, Report::Held { vote: v, .. } if *v == vote)) {
            Report::Held { took, .. } => took,
            _ => unreachable!(),
        }
    }

    pub fn gone(&mut self, why: GoneWhy) -> Duration {
        self.holding = None;
        match self.expect("the end", |r| matches!(r, Report::Gone { why: w, .. } if *w == why)) {
            Report::Gone { took, .. } => took,
            _ => unreachable!(),
        }
    }

    pub fn let_go(&mut self) -> Duration {
        self.holding = None;
        self.send(Order::LetGo { vote: VoteKey::default() });
        self.gone(GoneWhy::LetGo)
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("the keeper's process");
    }

    /// Waits for the keeper's end: exit code, or 128 + signal.
    pub fn ended(&mut self) -> i32 {
        match waitpid(self.pid, None).expect("our child") {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
            other => panic!("{other:?}"),
        }
    }
}
