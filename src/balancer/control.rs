//! The two handles of the forwarder: one drives it, the other tells and asks it things.

use super::engine::Engine;
use super::{OpenError, Order, Spec};
use crate::config::{Balancer, HealthCheck, ProxyVersion, Target};
use crate::reactor::Reactor;
use crate::status::BalancerStatus;
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// The listeners and all connections. To be handed to [`super::block_on`]; dropping it resets what is open.
#[derive(Debug)]
pub struct Forwarder(Rc<RefCell<Engine>>);

/// For the daemon's tasks on the forwarder's thread. Calls take effect at the forwarder's next turn, which follows at once.
#[derive(Clone, Debug)]
pub struct Control(Rc<RefCell<Engine>>);

/// A member of a balancer that health checks are to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// The balancer's name.
    pub balancer: String,
    /// Where the member is.
    pub address: SocketAddr,
    /// The backend it belongs to, as configured.
    pub target: Target,
    /// How to ask. None: not at all.
    pub check: Option<HealthCheck>,
    /// The PROXY protocol header that it expects before anything else.
    pub send_proxy: Option<ProxyVersion>,
}

impl Forwarder {
    /// Binds all listeners now: `bind_to_vip` on VIP:port also without the address (IP_FREEBIND), others on `[::]:port` for both
    /// families. Raises the soft limit of open files to the hard one.
    ///
    /// # Errors
    ///
    /// All listeners that can't be opened, each with the reason and the way out.
    pub fn open(spec: Spec) -> Result<(Forwarder, Control), OpenError> {
        let engine = Rc::new(RefCell::new(Engine::open(spec)?));
        Ok((Forwarder(engine.clone()), Control(engine)))
    }

    pub(super) fn reactor(&self) -> Rc<Reactor> {
        self.0.borrow().reactor()
    }

    pub(super) fn turn(&self) -> io::Result<()> {
        self.0.borrow_mut().turn()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.0.borrow_mut().close_all();
    }
}

impl Control {
    /// Whether this node holds the VIP. VIP listeners serve only meanwhile: connections that arrive at another time are reset,
    /// and on loss all that came to the VIP, through any listener, are (64 per turn, the executor polled in between). Starts as
    /// false.
    pub fn holding(&self, yes: bool) {
        self.0.borrow_mut().hold(yes);
    }

    /// Replaces the balancers. Listeners whose port and `bind_to_vip` are the same keep their sockets and counters. New ones are
    /// opened first; those gone close after what waits in their backlog was accepted. All connections go on. Members stay where
    /// their address does, with what is known of them; those gone drain.
    ///
    /// # Errors
    ///
    /// All listeners that can't be opened, each with the reason and the way out; then nothing has changed.
    pub fn apply(&self, balancers: Vec<Balancer>) -> Result<(), OpenError> {
        self.0.borrow_mut().apply(balancers)
    }

    /// Connections of all balancers open at once from now on; `None`: what the limit of open files allows. Those open go on.
    pub fn limit_connections(&self, most: Option<usize>) {
        self.0.borrow_mut().limit_connections(most);
    }

    /// The addresses of a host name, as looked up last: those are the members of each backend `Target::Name` with it.
    pub fn resolved(&self, host: &str, addresses: &[IpAddr]) {
        self.0.borrow_mut().resolved(host, addresses);
    }

    /// What health checks are to ask now: not what is in maintenance or leaving. One that comes back after it was missing here
    /// counts as up until something else is told of it.
    pub fn members(&self) -> Vec<MemberView> {
        self.0.borrow().members()
    }

    /// What the checks found; it needn't be a change. `why`: for the log line and status.
    pub fn health(&self, balancer: &str, address: SocketAddr, up: bool, why: &str) {
        self.0.borrow_mut().health(balancer, address, up, why);
    }

    /// An operator's order. `target`: `10.0.0.1:80`, `10.0.0.1`, `name` or `name:80`; without `balancer`: in each that has it.
    /// Returns a line for each backend concerned.
    ///
    /// # Errors
    ///
    /// What is wrong, with the names there are.
    pub fn order(&self, balancer: Option<&str>, target: &str, order: Order) -> Result<String, String> {
        self.0.borrow_mut().obey(balancer, target, order)
    }

    /// Closes all listeners for good; connections go on. What waits to be accepted is reset by the kernel.
    pub fn stop_accepting(&self) {
        self.0.borrow_mut().stop_accepting();
    }

    /// Counters of each balancer, in the order of the configuration.
    pub fn counters(&self) -> Vec<BalancerStatus> {
        self.0.borrow().counters()
    }

    /// Connections open now, those included that are still to be reset after a loss.
    pub fn open_connections(&self) -> usize {
        self.0.borrow().open_connections()
    }

    /// Connections open now that don't need the VIP: they came to another address of this machine.
    pub fn own_connections(&self) -> u64 {
        let engine = self.0.borrow();
        (engine.open_connections() as u64).saturating_sub(engine.vip_connections())
    }

    /// Connections open now that came to the VIP. After `holding(false)` it falls to 0 within a few turns.
    pub fn vip_connections(&self) -> u64 {
        self.0.borrow().vip_connections()
    }

    /// How often accepting was paused because a limit was hit: connections, open files, memory.
    pub fn accept_pauses(&self) -> u64 {
        self.0.borrow().accept_pauses()
    }

    /// Pipes that exist now, and how often a connection had to copy because there was none.
    pub fn pipes(&self) -> (usize, u64) {
        self.0.borrow().pipes()
    }
}
