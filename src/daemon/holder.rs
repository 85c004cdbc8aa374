//! Between cluster, keeper and balancer: passes orders on, and acts on what the keeper reports.

use super::claims::Claims;
use super::fitness::Fitness;
pub use super::kept::KeptHolder;
use super::single::Single;
use crate::balancer::Control;
use crate::cluster::runtime::now;
use crate::cluster::vote::VoteId;
use crate::cluster::wake::Wake;
use crate::cluster::{Cluster, Event, runtime};
use crate::config::Config;
use crate::sys::clock::Instant;
use crate::vip::{GoneWhy, KeeperSide, Order, RefusedWhy, Report, VoteKey};
use log::{error, info, warn};
use smol::channel::Receiver;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// Letting go waits at most this long for the resets to clients.
const RESETS: Duration = Duration::from_millis(3);
/// When to ask the network who has the VIP: late enough to have heard of a leader, whose answer would be no surprise.
const PROBE_AFTER: Duration = Duration::from_millis(500);

/// Who says how long the VIP may be held.
#[derive(Clone)]
pub enum Lead {
    /// raft.
    Cluster(Cluster),
    /// A clock, with `singleNode`.
    Single(Rc<Single>),
}

impl Lead {
    pub(super) fn gone(&self, vote: VoteKey) {
        match self {
            Lead::Cluster(cluster) => cluster.vip_gone(vote),
            Lead::Single(single) => single.next_term(),
        }
    }

    fn next_vote(&self) {
        if let Lead::Single(single) = self {
            single.next_term();
        }
    }

    pub(super) fn set_fenced(&self, fenced: bool) {
        if let Lead::Cluster(cluster) = self {
            cluster.set_fenced(fenced);
        }
    }
}

/// The daemon's side of the hold.
pub struct Holder {
    pub(super) vip: IpAddr,
    /// `10.0.0.100 on eth0`, for the log.
    pub(super) name: String,
    pub(super) hold: Duration,
    pub(super) link: Option<Rc<dyn KeeperSide>>,
    pub(super) control: Control,
    pub(super) lead: Lead,
    pub(super) ordered: RefCell<Option<(VoteId, Instant)>>,
    /// The last vote whose hold the keeper has ended.
    pub(super) ended: RefCell<Option<VoteId>>,
    pub(super) held: Cell<bool>,
    pub(super) held_since: Cell<Instant>,
    pub(super) gains: Cell<u64>,
    pub(super) refusals: Cell<u32>,
    pub(super) fitness: Cell<Fitness>,
    /// What the keeper said of the kernel fence: 0, or an OS error number.
    pub(super) fence: Cell<Option<i32>>,
    /// Without a keeper: from when on nobody answers for the VIP here.
    pub(super) silent_by: Cell<Instant>,
    pub(super) claims: Claims,
    pub(super) gone: Wake,
    end: RefCell<Option<Result<(), String>>>,
    end_ring: Wake,
}

impl Holder {
    /// Spawns the two tasks that carry orders and reports. `kept`: what an earlier program of this process was at.
    pub fn start(
        config: &Config,
        link: Option<Rc<dyn KeeperSide>>,
        control: Control,
        lead: Lead,
        events: Receiver<Event>,
        kept: Option<&KeptHolder>,
    ) -> Rc<Self> {
        let never = link.is_none() || config.witness;
        let prefix = if config.vip.is_ipv4() { 32 } else { 128 };
        let holder = Rc::new(Self {
            vip: config.vip,
            name: format!("{}/{prefix} on {}", config.vip, config.interface),
            hold: super::single::hold_of(config),
            link,
            control,
            lead,
            ordered: RefCell::new(None),
            ended: RefCell::new(None),
            held: Cell::new(false),
            held_since: Cell::new(Instant::default()),
            gains: Cell::new(0),
            refusals: Cell::new(0),
            fitness: Cell::new(kept.map_or(Fitness::new(never), |kept| kept.fitness(never))),
            fence: Cell::new(None),
            silent_by: Cell::new(Instant::default()),
            claims: kept.map(KeptHolder::claims).unwrap_or_default(),
            gone: Wake::default(),
            end: RefCell::new(None),
            end_ring: Wake::default(),
        });
        if let Some(kept) = kept {
            holder.go_on_from(kept);
        }
        runtime::spawn(holder.clone().carry_orders(events));
        if let Some(link) = holder.link.clone() {
            runtime::spawn(holder.clone().carry_reports(link));
            if kept.is_none() {
                runtime::spawn(holder.clone().probe());
            }
            runtime::spawn(holder.clone().watch_the_address());
        }
        holder
    }

    /// Uses the quiet start to find a machine that has the VIP already.
    async fn probe(self: Rc<Self>) {
        runtime::sleep(PROBE_AFTER).await;
        if !self.held.get() {
            self.send(Order::Probe);
        }
    }

    /// Until when the VIP is held, if it is.
    pub fn held(&self) -> Option<Instant> {
        let ordered = self.ordered.borrow();
        ordered.as_ref().filter(|_| self.held.get()).map(|(_, until)| *until)
    }

    /// How often the VIP was gained.
    pub fn gains(&self) -> u64 {
        self.gains.get()
    }

    /// Waits until a part can't go on, or the keeper says stop.
    pub async fn ended(&self) -> Result<(), String> {
        loop {
            if let Some(end) = self.end.borrow_mut().take() {
                return end;
            }
            self.end_ring.wait().await;
        }
    }

    /// Lets go and hands over.
    pub async fn stop(&self) {
        match &self.lead {
            Lead::Cluster(cluster) => cluster.stop().await,
            Lead::Single(_) => {
                self.never_again();
                self.release().await;
            }
        }
    }

    /// With `singleNode`, once it may not hold: the VIP goes now, and is gone when this returns.
    pub async fn release(&self) {
        self.control.holding(false);
        self.resets_leave().await;
        let vote = self.ordered.borrow().as_ref().map(|(vote, _)| vote.key()).unwrap_or_default();
        self.send(Order::LetGo { vote });
        while self.held.get() && self.link.is_some() {
            self.gone.wait().await;
        }
    }

    /// Other hosts that claimed the VIP.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Whether that is so already, and nobody has asked yet.
    pub(super) fn is_over(&self) -> bool {
        self.end.borrow().is_some()
    }

    pub(super) fn finish(&self, end: Result<(), String>) {
        self.end.borrow_mut().get_or_insert(end);
        self.end_ring.wake();
    }

    async fn carry_orders(self: Rc<Self>, events: Receiver<Event>) {
        while let Ok(event) = events.recv().await {
            match event {
                Event::Hold { vote, until } => {
                    // Before the address is there: a client that comes with the first announcement must find a server.
                    self.control.holding(self.ended.borrow().as_ref() != Some(&vote));
                    self.send(Order::Hold { vote: vote.key(), until });
                    *self.ordered.borrow_mut() = Some((vote, until));
                    self.clone().look_after_the_keeper();
                }
                Event::LetGo { vote } => {
                    self.control.holding(false);
                    self.resets_leave().await;
                    self.send(Order::LetGo { vote: vote.key() });
                    // Also where its order to hold was never seen here: the answer is for this vote.
                    self.ordered.borrow_mut().get_or_insert((vote.clone(), now())).0 = vote.clone();
                }
                Event::Failed(why) => self.finish(Err(format!("the cluster part ended: {why}"))),
            }
        }
    }

    /// Resets to clients leave from the VIP, so they must go before it does; not at the cost of a slow move, though.
    async fn resets_leave(&self) {
        let until = now() + RESETS;
        while self.control.vip_connections() > 0 && now() < until {
            smol::future::yield_now().await;
        }
    }

    /// Whether the kernel has the VIP; where it can't be read it counts as there: unknown is never a reason to act.
    pub(super) fn present(&self) -> bool {
        self.link.as_ref().and_then(|link| link.present()).unwrap_or(true)
    }

    pub(super) fn send(&self, order: Order) {
        if let Some(link) = &self.link
            && let Err(e) = link.send(order)
        {
            log::debug!("can't tell the keeper {order:?}: {e}");
        }
    }

    async fn carry_reports(self: Rc<Self>, link: Rc<dyn KeeperSide>) {
        loop {
            match link.next().await {
                Ok(report) => self.note(report),
                Err(why) => return self.outlive_the_keeper(&why.to_string()).await,
            }
        }
    }

    fn note(self: &Rc<Self>, report: Report) {
        self.keeper_spoke();
        match report {
            Report::Held { vote, took } => self.gained(vote, took),
            Report::Gone { vote, why, took } => self.lost(vote, why, took),
            Report::Refused { vote, why } => self.refused(vote, why),
            Report::Restored { took } => {
                warn!("somebody removed {}: it is back after {:.1} ms, and announced", self.name, ms(took));
            }
            Report::Link { up } => self.link_is(up),
            Report::Claimed { mac } => self.claimed(mac),
            Report::Stopping => self.finish(Ok(())),
            Report::Fence { errno } => self.fence_is(errno),
            Report::Trouble { task, errno } => {
                error!("the keeper can't {task}: {} (trying again)", std::io::Error::from_raw_os_error(errno));
            }
        }
    }

    fn gained(&self, vote: VoteKey, took: Duration) {
        if !self.is_newest(vote) {
            return;
        }
        self.held.set(true);
        self.held_since.set(now());
        self.gains.set(self.gains.get() + 1);
        self.refusals.set(0);
        info!("holding {} (term {}), added in {:.1} ms", self.name, vote.term, ms(took));
    }

    fn lost(&self, vote: VoteKey, why: GoneWhy, took: Duration) {
        if !self.is_newest(vote) {
            return;
        }
        self.end_vote();
        if self.held.replace(false) {
            let held_for = (now() - self.held_since.get()).as_millis();
            info!("released {}: {why}; gone in {:.1} ms, held for {held_for} ms", self.name, ms(took));
        }
        self.gone.wake();
        self.lead.gone(vote);
    }

    fn refused(self: &Rc<Self>, vote: VoteKey, why: RefusedWhy) {
        if !self.is_newest(vote) {
            return;
        }
        self.end_vote();
        error!("can't hold {}: {why}", self.name);
        match why {
            RefusedWhy::Stopping => {}
            // raft's `Gone` for that vote has come, or is owed while the address is still there: only it opens the vote gate.
            RefusedWhy::Spent => self.lead.next_vote(),
            RefusedWhy::Foreign | RefusedWhy::LinkGone | RefusedWhy::Kernel(_) => self.stand_back(),
        }
    }

    /// Orders under this vote that are still under way must not make the balancer serve again.
    pub(super) fn end_vote(&self) {
        *self.ended.borrow_mut() = self.ordered.borrow().as_ref().map(|(vote, _)| vote.clone());
        self.control.holding(false);
    }

    /// Reports about an earlier vote are history.
    fn is_newest(&self, vote: VoteKey) -> bool {
        self.ordered.borrow().as_ref().is_some_and(|(newest, _)| newest.key() == vote)
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}
