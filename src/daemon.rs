//! Starts the parts, carries facts between them, shuts them down in order.
//!
//! ```text
//! cluster ── Hold until T / LetGo ──▶ keeper (other process) ── Held / Gone ──▶ balancer serves / resets
//!    ▲── gone, fit ──────────────────────┘
//! ```

mod backends; // checks of backends and look-ups of their names
mod claims; // other hosts that claim the VIP
mod commands; // what the control socket tells to do
mod cordon; // the mark that outlives a restart
mod fitness; // what speaks against holding
mod guard; // where the keeper hangs or dies
pub mod holder; // between cluster, keeper and balancer
mod reach; // whether a backend is reached
mod reload; // a changed configuration, put in place
mod service; // what the service manager is told
mod single; // the clock of a node alone
mod stop; // the way out

use crate::balancer::{self, Control, Forwarder};
use crate::cluster::wake::Wake;
use crate::cluster::{self, Cluster, NodeId, runtime};
use crate::config::Config;
use crate::release::Key;
use crate::status::{self, PeerStatus, Snapshot};
use crate::sys::clock::{Instant, now};
use crate::sys::notify::Manager;
use crate::sys::process;
use crate::sys::signal::Signals;
use crate::vip::{KeeperLink, KeeperSide, Notify};
use backends::Backends;
use holder::{Holder, Lead};
use log::{error, warn};
use reach::Tracker;
use service::{Service, Standing};
use single::Single;
pub use single::hold_of;
use smol::LocalExecutor;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Runs the daemon until it is told to stop (true), or can't go on (false, with the reason in the log). `link` leads to the
/// keeper; without one this node never holds. `manager` started this program, and wants to know how it does.
pub fn run(config: Config, link: Option<KeeperLink>, signals: Signals, key: Key, manager: Option<Manager>) -> bool {
    let ended = try_run(config, link, signals, key, Rc::new(Service::new(manager)));
    if let Err(why) = &ended {
        error!("{why}");
    }
    ended.is_ok()
}

fn try_run(config: Config, link: Option<KeeperLink>, signals: Signals, key: Key, service: Rc<Service>) -> Result<(), String> {
    let executor = Rc::new(LocalExecutor::new());
    let _entered = runtime::enter(runtime::real(executor.clone()));
    let listener = status::socket::bind(&config.control_socket)?;
    let (forwarder, control) = Forwarder::open(balancer_spec(&config)).map_err(|e| e.to_string())?;
    let socket = config.control_socket.clone();
    let ended = balancer::block_on(&executor, forwarder, async {
        let backends = Backends::start(control.clone(), &config, &executor);
        let daemon = Rc::new(Daemon::start(config, link, control, backends, key, service.clone()).await?);
        let reloaded = daemon.clone();
        runtime::spawn(async move { reloaded.reload_when_hung_up().await });
        for _ in 0..status::socket::CLIENTS {
            let listener = listener.try_clone().map_err(|e| format!("can't share the control socket: {e}"))?;
            let asked = daemon.clone();
            runtime::spawn(async move { status::socket::serve(listener, &*asked).await });
        }
        service.attend(daemon.live(signals), || daemon.stopping.get(), || daemon.standing()).await
    });
    let _ = std::fs::remove_file(socket);
    ended.map_err(|e| format!("the event loop failed: {e}"))?
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

struct Daemon {
    /// As it was started with: what a reload may change is in `running`.
    config: Config,
    running: RefCell<Rc<Config>>,
    started: Instant,
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
    async fn start(
        config: Config,
        link: Option<KeeperLink>,
        control: Control,
        backends: Backends,
        key: Key,
        service: Rc<Service>,
    ) -> Result<Self, String> {
        let cordoned = cordon::is_marked(&config.state_dir);
        let fit = link.is_some() && !config.witness && !cordoned;
        let (lead, events, cluster) = if config.single_node {
            let (single, events) = Single::start(&config, fit);
            (Lead::Single(single), events, None)
        } else {
            let (cluster, events) = Cluster::start(cluster_spec(&config, fit, key)?).await?;
            (Lead::Cluster(cluster.clone()), events, Some(cluster))
        };
        let holder =
            Holder::start(&config, link.map(|link| Rc::new(link) as Rc<dyn KeeperSide>), control.clone(), lead, events);
        holder.set_cordoned(cordoned);
        if cordoned {
            warn!("{} is cordoned: it does not hold {} until `kube-vip uncordon`", config.local.id, config.vip);
        }
        let tracker = RefCell::new(Tracker::start(&config, &control, cluster.as_ref()));
        Ok(Self {
            running: RefCell::new(Rc::new(config.clone())),
            config,
            started: now(),
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
