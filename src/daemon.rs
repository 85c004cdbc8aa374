//! Starts the parts, carries facts between them, shuts them down in order.
//!
//! ```text
//! cluster ── Hold until T / LetGo ──▶ keeper (other process) ── Held / Gone ──▶ balancer serves / resets
//!    ▲── gone, fit ──────────────────────┘
//! ```

mod guard;
mod holder;
mod single;

use crate::balancer::{self, Control, Forwarder};
use crate::cluster::{self, Cluster, NodeId, runtime};
use crate::config::Config;
use crate::reactor::Async;
use crate::release::Key;
use crate::status::{self, PeerStatus, Snapshot};
use crate::sys::clock::{Instant, now};
use crate::sys::signal::Signals;
use crate::vip::{KeeperLink, KeeperSide, Notify};
use holder::{Holder, Lead};
use log::{error, info};
use single::Single;
pub use single::hold_of;
use smol::LocalExecutor;
use std::rc::Rc;
use std::time::Duration;

/// Runs the daemon until it is told to stop (true), or can't go on (false, with the reason in the log). `link` leads to the
/// keeper; without one this node never holds.
pub fn run(config: Config, link: Option<KeeperLink>, signals: Signals, key: Key) -> bool {
    let ended = try_run(config, link, signals, key);
    if let Err(why) = &ended {
        error!("{why}");
    }
    ended.is_ok()
}

fn try_run(config: Config, link: Option<KeeperLink>, signals: Signals, key: Key) -> Result<(), String> {
    let executor = Rc::new(LocalExecutor::new());
    let _entered = runtime::enter(runtime::real(executor.clone()));
    let listener = status::socket::bind(&config.control_socket)?;
    let (forwarder, control) = Forwarder::open(balancer_spec(&config)).map_err(|e| e.to_string())?;
    let socket = config.control_socket.clone();
    let ended = balancer::block_on(&executor, forwarder, async {
        let daemon = Rc::new(Daemon::start(config, link, control, key).await?);
        let asked = daemon.clone();
        runtime::spawn(status::socket::serve(listener, move || asked.snapshot()));
        daemon.live(signals).await
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
        limits: balancer::Limits::default(),
    }
}

struct Daemon {
    config: Config,
    started: Instant,
    cluster: Option<Cluster>,
    holder: Rc<Holder>,
    control: Control,
}

impl Daemon {
    async fn start(config: Config, link: Option<KeeperLink>, control: Control, key: Key) -> Result<Self, String> {
        let has_keeper = link.is_some();
        let (lead, events, cluster) = if config.single_node {
            let (single, events) = Single::start(&config, has_keeper);
            (Lead::Single(single), events, None)
        } else {
            let (cluster, events) = Cluster::start(cluster_spec(&config, has_keeper, key)?).await?;
            (Lead::Cluster(cluster.clone()), events, Some(cluster))
        };
        let holder =
            Holder::start(&config, link.map(|link| Rc::new(link) as Rc<dyn KeeperSide>), control.clone(), lead, events);
        Ok(Self { config, started: now(), cluster, holder, control })
    }

    /// Until a signal, or until a part can't go on.
    async fn live(&self, signals: Signals) -> Result<(), String> {
        use smol::future::FutureExt;
        let ended = signalled(signals).or(self.holder.ended()).await;
        info!("stopping: {}", ended.as_ref().err().map_or("told to", String::as_str));
        let begun = now();
        let orderly = async {
            self.control.stop_accepting();
            self.holder.stop().await;
        };
        orderly.or(self.holder.stop_limit()).await;
        info!("stopped in {} ms", (now() - begun).as_millis());
        ended
    }

    fn snapshot(&self) -> Snapshot {
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
            s.peers = view.peers.iter().map(|p| peer_status(p, now)).collect();
        }
        s
    }
}

/// Waits for a signal that means stop.
async fn signalled(signals: Signals) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("can't read signals: {e}");
    let signals = Async::new(signals).map_err(failed)?;
    let next = |signals: &Signals| signals.next().ok_or(std::io::ErrorKind::WouldBlock.into());
    let signal = signals.read_with(next).await.map_err(failed)?;
    info!("{signal}");
    Ok(())
}

fn peer_status(peer: &cluster::PeerView, now: Instant) -> PeerStatus {
    PeerStatus {
        id: peer.id.clone(),
        address: peer.address.to_string(),
        last_contact_ms: peer.last_contact.map(|t| millis(now - t)),
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

fn cluster_spec(config: &Config, has_keeper: bool, key: Key) -> Result<cluster::Spec, String> {
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
        fit: has_keeper,
        fence_fast: false,
        preempt: None,
        key,
    })
}
