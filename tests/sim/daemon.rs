//! A daemon's process: the product's cluster part and holder on an executor of its own, its links to the peers as frames, its
//! link to the keeper as queues.

use super::env::{Mouth, SimEnv};
use super::hub::Effect;
use super::net::{Content, Packet};
use kube_vip::balancer::{self, Forwarder};
use kube_vip::cluster::runtime::{self, sleep};
use kube_vip::cluster::wake::Wake;
use kube_vip::cluster::{Cluster, Kept, NodeId, Wires};
use kube_vip::config::Config;
use kube_vip::daemon::cluster_spec;
use kube_vip::daemon::holder::{Holder, KeptHolder, Lead};
use kube_vip::release::Key;
use kube_vip::vip::{KeeperSide, Order, Report};
use smol::future::FutureExt;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// Reports that fit into the socket before it is full.
const SOCKET: usize = 250;
/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(2);
/// The pause between two attempts, as the product has it.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(640));

/// One program of one daemon.
pub struct Daemon {
    /// Its own number, by which its peers' connections know it.
    pub run: u64,
    /// That of the first program of this process.
    pub process: u64,
    pub env: Rc<SimEnv>,
    /// SIGSTOP.
    pub paused: bool,
    /// SIGSTOP in the middle: after this many polls of tasks.
    pub pause_after: Option<u32>,
    /// What waits in its sockets.
    pub inbox: VecDeque<Packet>,
    pub inside: Rc<Inside>,
}

/// A daemon between two programs: what the first left.
pub struct Exec {
    pub run: u64,
    pub process: u64,
    pub pipe: Rc<Pipe>,
    cluster: Kept,
    holder: KeptHolder,
}

/// What the world sees of the tasks within.
pub struct Inside {
    pub holder: OnceCell<Rc<Holder>>,
    pub wires: OnceCell<Wires>,
    pub cluster: OnceCell<Cluster>,
    pub lines: Vec<Line>,
    pub pipe: Rc<Pipe>,
    signalled: Wake,
}

/// This node's connection to one peer.
#[derive(Default)]
pub struct Line {
    /// Which one; 0: none was ever tried.
    pub line: Cell<u64>,
    /// The run of the peer at the other end.
    pub peer_run: Cell<u64>,
    answer: RefCell<Option<Rc<[u8]>>>,
    answered: Wake,
    was_reset: Cell<u64>,
    reset: Wake,
}

impl Line {
    pub fn answer(&self, run: u64, bytes: Rc<[u8]>) {
        self.peer_run.set(run);
        *self.answer.borrow_mut() = Some(bytes);
        self.answered.wake();
    }

    /// The other end of this one is gone.
    pub fn reset(&self, line: u64) {
        self.was_reset.set(line);
        self.reset.wake();
    }

    async fn is_reset(&self, line: u64) {
        while self.was_reset.get() != line {
            self.reset.wait().await;
        }
    }

    async fn wait(&self) -> Rc<[u8]> {
        loop {
            if let Some(bytes) = self.answer.borrow_mut().take() {
                return bytes;
            }
            self.answered.wait().await;
        }
    }
}

/// The daemon's end of its socket to the keeper.
pub struct Pipe {
    mouth: Mouth,
    reports: RefCell<VecDeque<Report>>,
    closed: Cell<bool>,
    wake: Wake,
    present: Rc<Cell<bool>>,
}

impl Pipe {
    /// A report of the keeper; false: there is no room.
    pub fn put(&self, report: Report) -> bool {
        let mut reports = self.reports.borrow_mut();
        if reports.len() >= SOCKET {
            return false;
        }
        reports.push_back(report);
        self.wake.wake();
        true
    }

    pub fn has_room(&self) -> bool {
        self.reports.borrow().len() < SOCKET
    }

    /// The keeper has ended.
    pub fn close(&self) {
        self.closed.set(true);
        self.wake.wake();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }
}

impl KeeperSide for Pipe {
    fn send(&self, order: Order) -> io::Result<()> {
        if self.closed.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.mouth.effect(Effect::Order(order));
        Ok(())
    }

    fn next(&self) -> Pin<Box<dyn Future<Output = io::Result<Report>> + '_>> {
        Box::pin(async {
            loop {
                if let Some(report) = self.reports.borrow_mut().pop_front() {
                    return Ok(report);
                }
                if self.closed.get() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.wake.wait().await;
            }
        })
    }

    fn present(&self) -> Option<bool> {
        Some(self.present.get())
    }
}

impl Daemon {
    /// Starts it: its first turn is to be taken by the world.
    pub fn start(env: Rc<SimEnv>, config: Config, key: Key, present: Rc<Cell<bool>>, exec: Option<Exec>) -> Self {
        let before = exec.as_ref().map(|exec| exec.pipe.clone());
        let process = exec.as_ref().map_or(env.run, |exec| exec.process);
        let pipe = Rc::new(Pipe {
            mouth: env.mouth(),
            reports: RefCell::new(before.as_ref().map(|pipe| pipe.reports.take()).unwrap_or_default()),
            closed: Cell::new(before.is_some_and(|pipe| pipe.is_closed())),
            wake: Wake::default(),
            present,
        });
        let inside = Rc::new(Inside {
            wires: OnceCell::new(),
            holder: OnceCell::new(),
            cluster: OnceCell::new(),
            lines: config.remotes.iter().map(|_| Line::default()).collect(),
            pipe,
            signalled: Wake::default(),
        });
        let (run, within, surroundings) = (env.run, inside.clone(), env.mouth());
        env.executor
            .spawn(async move {
                let ended = live(&surroundings, config, key, within, exec).await;
                surroundings.effect(Effect::Exit(ended));
            })
            .detach();
        Self { run, process, env, paused: false, pause_after: None, inbox: VecDeque::new(), inside }
    }

    /// Takes in what has arrived; to be called inside its surroundings.
    pub fn read(&mut self) {
        let (env, inside) = (self.env.mouth(), self.inside.clone());
        for packet in std::mem::take(&mut self.inbox) {
            take_in(&env, &inside, packet);
        }
    }

    /// What `status` would say.
    pub fn describe(&self) -> String {
        let _inside = runtime::enter(self.env.clone());
        let Some(cluster) = self.inside.cluster.get() else { return "starts".to_string() };
        let view = cluster.view();
        let links: Vec<&str> = view.peers.iter().map(|p| if p.problem.is_none() { "+" } else { "-" }).collect();
        format!(
            "{} (term {}, leader {}, links {})",
            view.role,
            view.term,
            view.leader.as_deref().unwrap_or("none"),
            links.concat()
        )
    }

    /// Its term; none before its cluster part has started.
    pub fn term(&self) -> Option<u64> {
        let _inside = runtime::enter(self.env.clone());
        self.inside.cluster.get().map(|cluster| cluster.view().term)
    }

    /// Whether it has the list of members, and so takes part in elections.
    pub fn takes_part(&self) -> bool {
        let _inside = runtime::enter(self.env.clone());
        let role = self.inside.cluster.get().map_or("", |cluster| cluster.view().role);
        matches!(role, "leader" | "follower" | "candidate")
    }

    /// What its next program needs, if this is a moment for it. A message's bytes, as in the product: what does not go over is lost.
    pub fn keep(&self, next: u64) -> Result<Exec, &'static str> {
        let _inside = runtime::enter(self.env.clone());
        let (cluster, holder) = self.inside.cluster.get().zip(self.inside.holder.get()).ok_or("it starts")?;
        let (cluster, holder) = (cluster.keep()?, holder.keep()?);
        if cluster.until() != holder.running() {
            return Err("the hold has just changed");
        }
        let bytes = postcard::to_allocvec(&(&cluster, &holder)).map_err(|_| "it can't be written")?;
        let (cluster, holder) = postcard::from_bytes(&bytes).map_err(|_| "it can't be read")?;
        Ok(Exec { run: next, process: self.process, pipe: self.inside.pipe.clone(), cluster, holder })
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.inside.signalled.wake();
    }

    /// `kube-vip handover`.
    pub fn hand_over(&self, to: Option<NodeId>) {
        let inside = self.inside.clone();
        let command = async move {
            if let Some(cluster) = inside.cluster.get() {
                let _ = cluster.hand_over(to).await;
            }
        };
        self.env.executor.spawn(command).detach();
    }
}

fn take_in(env: &Mouth, inside: &Rc<Inside>, packet: Packet) {
    let (Some(wires), from) = (inside.wires.get(), packet.from) else { return };
    let peer = peer_of(env.node, from);
    let line = &inside.lines[peer];
    match packet.content {
        Content::Hello { line, bytes, .. } => {
            let Some((answer, peer)) = wires.greet(address(from), &bytes) else { return };
            env.effect(Effect::Greet { to: from, line, bytes: answer, welcome: peer.is_some() });
        }
        Content::Answer { line: number, run, bytes } if line.line.get() == number => line.answer(run, bytes),
        Content::Response { line: number, bytes } if line.line.get() == number => wires.response(peer, &bytes),
        Content::Notice { bytes } => wires.notice(peer, &bytes),
        Content::Reset { line: number } => line.reset(number),
        Content::Request { line, bytes, .. } => {
            let (wires, env) = (wires.clone(), env.clone());
            runtime::spawn(async move {
                if let Some(bytes) = wires.request(peer, &bytes).await {
                    env.effect(Effect::Reply { to: from, line, bytes });
                }
            });
        }
        _ => {}
    }
}

/// The address of a node.
pub fn address(node: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, node as u8 + 1])
}

/// The place of another node among this node's peers, and back.
pub fn peer_of(me: usize, node: usize) -> usize {
    if node < me { node } else { node - 1 }
}

pub fn node_of(me: usize, peer: usize) -> usize {
    if peer < me { peer } else { peer + 1 }
}

async fn live(env: &Mouth, config: Config, key: Key, inside: Rc<Inside>, exec: Option<Exec>) -> Result<(), String> {
    let spec =
        balancer::Spec { balancers: Vec::new(), vip: config.vip, serve_vip_always: false, limits: balancer::Limits::default() };
    let (_forwarder, control) = Forwarder::open(spec).map_err(|e| e.to_string())?;
    let (kept, kept_holder) = exec.map(|exec| (exec.cluster, exec.holder)).unzip();
    let fit = kept_holder.as_ref().is_none_or(|kept| kept.fitness(false).may_hold());
    let (cluster, events) = Cluster::start_node(cluster_spec(&config, fit, key)?, kept).await?;
    let wires = cluster.wires();
    let _ = inside.cluster.set(cluster.clone());
    let _ = inside.wires.set(wires.clone());
    for peer in 0..config.remotes.len() {
        runtime::spawn(keep_connected(env.clone(), wires.clone(), inside.clone(), peer));
    }
    let link = inside.pipe.clone() as Rc<dyn KeeperSide>;
    let holder = Holder::start(&config, Some(link), control.clone(), Lead::Cluster(cluster), events, kept_holder.as_ref());
    let _ = inside.holder.set(holder.clone());
    let signal = async {
        inside.signalled.wait().await;
        Ok(())
    };
    let ended = signal.or(holder.ended()).await;
    let orderly = async {
        control.stop_accepting();
        holder.stop().await;
    };
    orderly.or(holder.stop_limit()).await;
    ended
}

/// As the product's link does it, over frames.
async fn keep_connected(env: Mouth, wires: Wires, inside: Rc<Inside>, peer: usize) {
    let line = &inside.lines[peer];
    let mut backoff = BACKOFF.0;
    loop {
        if let Some(number) = dial(&env, &wires, line, peer).await {
            let pump = async {
                loop {
                    let bytes = wires.outgoing(peer).await;
                    env.effect(Effect::Frame { to: node_of(env.node, peer), line: number, bytes });
                }
            };
            let reset = async {
                line.is_reset(number).await;
                "reset".to_string()
            };
            let why = pump.or(wires.silent(peer)).or(reset).await;
            wires.disconnect(peer, &why);
            backoff = BACKOFF.0;
        }
        let jitter = Duration::from_nanos(runtime::random() % (backoff.as_nanos() as u64 / 2));
        sleep(backoff / 2 + jitter).or(wires.called_by(peer)).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Asks for a connection: its number where it came up.
async fn dial(env: &Mouth, wires: &Wires, line: &Line, peer: usize) -> Option<u64> {
    let number = env.hub.new_line();
    line.line.set(number);
    line.answer.take();
    let bytes = wires.hello(peer)?;
    env.effect(Effect::Dial { to: node_of(env.node, peer), line: number, bytes });
    let answer = async { Some(line.wait().await) };
    let late = async {
        sleep(CONNECT).await;
        None
    };
    let refused = async {
        line.is_reset(number).await;
        None
    };
    let answer = answer.or(refused).or(late).await?;
    wires.connect(peer, &answer).ok()?;
    Some(number)
}
