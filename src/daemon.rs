//! Starts the parts, carries facts between them, shuts them down in order.
//!
//! ```text
//! cluster ── Hold until T / LetGo ──▶ keeper (other process) ── Held / Gone ──▶ balancer serves / resets
//!    ▲── gone, fit ──────────────────────┘
//! ```

mod backends; // checks of backends and look-ups of their names
pub mod baton; // what one program hands to the next
mod claims; // other hosts that claim the VIP
mod commands; // what the control socket tells to do
mod cordon; // the mark that outlives a restart
mod fitness; // what speaks against holding
mod guard; // where the keeper hangs or dies
pub mod holder; // between cluster, keeper and balancer
mod kept; // the holder's part of the baton
mod reach; // whether a backend is reached
mod reload; // a changed configuration, put in place
mod service; // what the service manager is told
mod single; // the clock of a node alone
mod stop; // the way out
pub mod upgrade; // another program in the place of this one

use crate::balancer::{self, Control, Forwarder};
use crate::cluster::wake::Wake;
use crate::cluster::{self, Cluster, NodeId, runtime};
use crate::config::Config;
use crate::release::Key;
use crate::status::{self, PeerStatus, Snapshot};
use crate::sys::clock::{Instant, now};
use crate::sys::handed;
use crate::sys::notify::Manager;
use crate::sys::process;
use crate::sys::signal::Signals;
use crate::vip::{KeeperLink, KeeperSide, Notify};
use backends::Backends;
use holder::{Holder, KeptHolder, Lead};
use log::{error, warn};
use reach::Tracker;
use service::{Service, Standing};
use single::Single;
pub use single::hold_of;
use smol::LocalExecutor;
use std::cell::{Cell, RefCell};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use upgrade::{Program, Resumed};

/// What the daemon is started with, beside its configuration.
pub struct Origin {
    /// To the keeper; without one this node never holds.
    pub link: Option<KeeperLink>,
    /// Those that mean stop.
    pub signals: Signals,
    /// What the secrets of this run are made of.
    pub key: Key,
    /// Who started this program, and wants to know how it does.
    pub manager: Option<Manager>,
    /// How this program was started.
    pub program: Program,
    /// The program before, whose place this one takes.
    pub resumed: Option<Resumed>,
}

/// Runs the daemon until it is told to stop (true), or can't go on (false, with the reason in the log).
pub fn run(config: Config, origin: Origin) -> bool {
    let ended = try_run(config, origin);
    if let Err(why) = &ended {
        error!("{why}");
    }
    ended.is_ok()
}

fn try_run(config: Config, origin: Origin) -> Result<(), String> {
    let executor = Rc::new(LocalExecutor::new());
    let _entered = runtime::enter(runtime::real(executor.clone()));
    let Origin { link, signals, key, manager, program, mut resumed } = origin;
    let manager = manager.map(Rc::new);
    let service = Rc::new(Service::new(manager.clone()));
    let socket = match &resumed {
        Some(resumed) => {
            handed::take(resumed.baton.control).map_err(|e| format!("can't go on with the control socket: {e}"))?.into()
        }
        None => status::socket::bind(&config.control_socket)?,
    };
    let spec = balancer_spec(&config);
    let opened = match &mut resumed {
        Some(resumed) => Forwarder::resume(spec, resumed.forwarder()),
        None => Forwarder::open(spec),
    };
    let (forwarder, control) = opened.map_err(|e| e.to_string())?;
    if let Some(resumed) = &resumed {
        // Before the loop takes its first client in: those who came meanwhile wait in the backlog.
        control.holding(resumed.baton.holder.running().is_some());
    }
    let path = config.control_socket.clone();
    let ended = balancer::block_on(&executor, forwarder, async {
        let backends = Backends::start(control.clone(), &config, &executor);
        let listener = socket.try_clone().map_err(share)?;
        let parts = Parts { link, control, backends, key, manager, program, service: service.clone(), socket: listener };
        let daemon = Rc::new(Daemon::start(config, parts, resumed.as_ref()).await?);
        let reloaded = daemon.clone();
        runtime::spawn(async move { reloaded.reload_when_hung_up().await });
        for _ in 0..status::socket::CLIENTS {
            let listener = socket.try_clone().map_err(share)?;
            let asked = daemon.clone();
            runtime::spawn(async move { status::socket::serve(listener, &*asked).await });
        }
        if let Some(resumed) = resumed {
            daemon.tell_drain(); // its keeper knows that of its first program
            let upgraded = daemon.clone();
            runtime::spawn(async move { upgraded.tell_upgraded(resumed).await });
        }
        service.attend(daemon.live(signals), || daemon.stopping.get(), || daemon.standing()).await
    });
    let _ = std::fs::remove_file(path);
    ended.map_err(|e| format!("the event loop failed: {e}"))?
}

fn share(e: std::io::Error) -> String {
    format!("can't share the control socket: {e}")
}

fn balancer_spec(config: &Config) -> balancer::Spec {
    // Where this node never holds, somebody else puts the VIP here: serve whatever arrives.
    balancer::Spec {
        balancers: config.balancers.clone(),
        vip: config.vip,
        serve_vip_always: config.disable_vip,
        limits: balancer::Limits { max_connections: most_connections(config), ..balancer::Limits::default() },
    }
}

fn most_connections(config: &Config) -> Option<usize> {
    config.max_connections.map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// What a daemon is made of that was opened before.
struct Parts {
    link: Option<KeeperLink>,
    control: Control,
    backends: Backends,
    key: Key,
    manager: Option<Rc<Manager>>,
    program: Program,
    service: Rc<Service>,
    socket: UnixListener,
}

struct Daemon {
    /// As it was started with: what a reload may change is in `running`.
    config: Config,
    running: RefCell<Rc<Config>>,
    /// Its first program.
    started: Instant,
    /// The version of its first program, and so of its keeper.
    first: String,
    program: Program,
    key: Key,
    manager: Option<Rc<Manager>>,
    /// Where it is told what to do.
    socket: UnixListener,
    cluster: Option<Cluster>,
    holder: Rc<Holder>,
    control: Control,
    /// Told of whatever changes the members.
    backends: Backends,
    tracker: RefCell<Option<Rc<Tracker>>>,
    service: Rc<Service>,
    /// SIGHUP came.
    hung_up: Wake,
    /// A thread reads the file: on a disk that hangs it may be an earlier reload's.
    reading: Arc<AtomicBool>,
    /// This process was started in a terminal.
    terminal: bool,
    /// A command is under way.
    commanded: Cell<bool>,
    stopping: Cell<bool>,
}

impl Daemon {
    async fn start(config: Config, parts: Parts, resumed: Option<&Resumed>) -> Result<Self, String> {
        let Parts { link, control, backends, key, manager, program, service, socket } = parts;
        let kept = resumed.map(|resumed| &resumed.baton.holder);
        let cordoned = kept.map_or_else(|| cordon::is_marked(&config.state_dir), KeptHolder::is_cordoned);
        let never = link.is_none() || config.witness;
        let fit = kept.map_or(!never && !cordoned, |kept| kept.fitness(never).may_hold());
        let (lead, events, cluster) = if config.single_node {
            let (single, events) = Single::start(&config, fit, resumed.and_then(Resumed::single));
            (Lead::Single(single), events, None)
        } else {
            let earlier = resumed.map(Resumed::cluster).transpose()?.flatten();
            let (cluster, events) = Cluster::start(cluster_spec(&config, fit, key.clone())?, earlier).await?;
            (Lead::Cluster(cluster.clone()), events, Some(cluster))
        };
        let link = link.map(|link| Rc::new(link) as Rc<dyn KeeperSide>);
        let holder = Holder::start(&config, link, control.clone(), lead, events, kept);
        holder.set_cordoned(cordoned);
        if cordoned {
            warn!("{} is cordoned: it does not hold {} until `kube-vip uncordon`", config.local.id, config.vip);
        }
        if let Some(cluster) = cluster.as_ref().filter(|_| !config.track_backends) {
            cluster.set_reaches(true); // an earlier program of this process may have looked, and found none
        }
        let tracker = RefCell::new(Tracker::start(&config, &control, cluster.as_ref()));
        let started = resumed.map_or_else(now, |resumed| resumed.baton.started);
        let first = resumed.map_or(env!("CARGO_PKG_VERSION"), |resumed| &resumed.baton.first).to_string();
        Ok(Self {
            running: RefCell::new(Rc::new(config.clone())),
            config,
            started,
            first,
            program,
            key,
            manager,
            socket,
            cluster,
            holder,
            control,
            backends,
            tracker,
            service,
            hung_up: Wake::default(),
            reading: Arc::default(),
            terminal: process::has_terminal(),
            commanded: Cell::new(false),
            stopping: Cell::new(false),
        })
    }

    fn standing(&self) -> Standing {
        let view = self.cluster.as_ref().map(Cluster::view).unwrap_or_default();
        Standing {
            id: self.config.local.id.clone(),
            alone: self.config.single_node,
            quiet: view.role == "quiet",
            leader: view.leader,
            held: self.holder.held().is_some(),
            may_hold: self.holder.fitness.get().may_hold(),
            cordoned: self.holder.is_cordoned(),
            vip: self.holder.name.clone(),
        }
    }

    fn describe(&self) -> Snapshot {
        let now = now();
        let view = self.cluster.as_ref().map(Cluster::view);
        let held = self.holder.held();
        let mut s = Snapshot {
            version: env!("CARGO_PKG_VERSION").to_string(),
            keeper_version: self.first.clone(),
            id: self.config.local.id.clone(),
            role: "single".to_string(),
            vip: self.config.vip.to_string(),
            interface: self.config.interface.clone(),
            held: held.is_some(),
            hold_left_ms: held.map(|until| millis(until - now)),
            gains: self.holder.gains(),
            cordoned: self.holder.is_cordoned(),
            witness: self.config.witness,
            fenced: self.holder.is_fenced(),
            fence_problem: self.holder.fence_problem(),
            reaches: self.tracker.borrow().as_ref().map(|tracker| tracker.reaches()),
            claims: self.holder.claims().count(),
            last_claim: self.holder.claims().last(),
            uptime_ms: millis(now - self.started),
            disk_ok: true,
            balancers: self.control.counters(),
            ..Snapshot::default()
        };
        if let Some(view) = view {
            s.role = view.role.to_string();
            s.term = view.term;
            s.leader = view.leader;
            s.disk_ok = view.disk_ok;
            s.loop_delay_ms = Some(millis(view.loop_delay_max));
            s.peers = view.peers.iter().map(|p| peer_status(p, now)).collect();
        }
        s
    }
}

fn peer_status(peer: &cluster::PeerView, now: Instant) -> PeerStatus {
    PeerStatus {
        id: peer.id.clone(),
        address: peer.address.to_string(),
        last_contact_ms: peer.last_contact.map(|t| millis(now - t)),
        fit: peer.says.map(|says| says.fit),
        problem: peer.problem.clone(),
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// Whom the keeper tells that the VIP is gone.
pub fn notify_of(config: &Config, key: &Key) -> Option<Notify> {
    let ids = std::iter::once(&config.local).chain(&config.remotes).map(|p| p.id.as_str());
    (!config.single_node).then(|| Notify {
        from: config.local.address.ip(),
        peers: config.remotes.iter().map(|p| p.address).collect(),
        cluster: cluster::hash_of(ids, config.vip),
        key: key.clone(),
    })
}

/// What the cluster part is told of this configuration.
///
/// # Errors
/// A name that can't be a node's.
pub fn cluster_spec(config: &Config, fit: bool, key: Key) -> Result<cluster::Spec, String> {
    let member = |p: &crate::config::Peer| -> Result<cluster::Member, String> {
        let id = NodeId::new(&p.id).map_err(|e| format!("peer {}: {e}", p.id))?;
        Ok(cluster::Member { id, address: p.address, priority: p.priority })
    };
    let own = member(&config.local)?;
    let id = own.id.clone();
    let others = config.remotes.iter().map(member).collect::<Result<Vec<_>, _>>()?;
    Ok(cluster::Spec {
        id,
        members: std::iter::once(own).chain(others).collect(),
        vip: config.vip,
        heartbeat: config.timing.heartbeat,
        lease: config.timing.lease,
        state_dir: config.state_dir.clone(),
        start_as_leader: config.start_as_leader,
        drop_margin: crate::vip::lifetime_bound(cluster::rules::hold::hold_of(config.timing.lease)),
        fit,
        fence_fast: config.fence_fast,
        preempt: config.preempt,
        key,
    })
}
