//! Between the forwarder and what goes on beside it: whom to check and what the checks found, which names to look up and their addresses.
//!
//! ```text
//!   configuration ── names ──▶ Resolver ── addresses ──▶ Control ── members ──▶ Watch ── up, down ──▶ Control
//! ```

use crate::balancer::health::Watch;
use crate::balancer::resolve::{self, Resolver};
use crate::balancer::{Beside, Control};
use crate::cluster::runtime::{self, now};
use crate::config::{Balancer, Config, Target};
use log::warn;
use smol::LocalExecutor;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// So long a reload waits for the addresses of new names.
const AHEAD: Duration = Duration::from_secs(2);
/// How often it looks for them.
const LOOK: Duration = Duration::from_millis(5);

/// Health checks and look-ups, on every node, whoever leads. Dropping it ends them.
#[derive(Debug)]
pub struct Backends {
    control: Control,
    watch: Rc<Watch>,
    resolver: Resolver,
    circles: Rc<RefCell<Circles>>,
}

impl Backends {
    /// Starts them for the configuration that `control` was opened with. Needs this thread's `runtime` entered.
    pub fn start(control: Control, config: &Config, executor: &Rc<LocalExecutor<'static>>) -> Self {
        let executor = Rc::downgrade(executor);
        let spawn = Rc::new(move |task| Some(executor.upgrade()?.spawn(task)));
        let beside = Beside { spawn, random: Rc::new(runtime::random) };
        let told = control.clone();
        let report = move |balancer: &str, address, up, why: &str| told.health(balancer, address, up, why);
        let watch = Rc::new(Watch::new(beside.clone(), Box::new(report)));
        let circles = Rc::<RefCell<Circles>>::default();
        let (told, watched, left_out) = (control.clone(), watch.clone(), circles.clone());
        let warned = RefCell::default();
        let found = move |host: &str, addresses: &[IpAddr]| {
            let (good, own) = left_out.borrow().sort_out(host, addresses);
            tell(host, own, &mut warned.borrow_mut());
            told.resolved(host, &good);
            watched.reconcile(told.members());
        };
        let resolver = Resolver::new(beside, Arc::new(resolve::system), Box::new(found));
        let backends = Self { control, watch, resolver, circles };
        backends.configured(config);
        backends
    }

    /// To be awaited before [`Control::apply`]: names that are new have their addresses by then, so that no balancer is without a backend
    /// meanwhile. Those without an answer so far are not waited for any longer than [`AHEAD`].
    pub async fn look_ahead(&self, old: &Config, new: &Config) {
        let (before, after) = (hosts(&old.balancers), hosts(&new.balancers));
        let fresh: Vec<&String> = after.difference(&before).collect();
        if fresh.is_empty() {
            return;
        }
        self.resolver.want(&before.union(&after).cloned().collect(), new.resolve_interval);
        let until = now() + AHEAD;
        while now() < until && !fresh.iter().all(|host| self.resolver.knows(host)) {
            runtime::sleep(LOOK).await;
        }
    }

    /// To be called after each [`Control::apply`], with what was applied.
    pub fn configured(&self, config: &Config) {
        self.circles.replace(Circles::of(config));
        self.resolver.want(&hosts(&config.balancers), config.resolve_interval);
        self.applied();
    }

    /// To be called after each [`Control::order`]: who is in maintenance is not checked, who has left it is.
    pub fn applied(&self) {
        self.watch.reconcile(self.control.members());
    }
}

/// Names whose connections would run in a circle if they stood for this balancer itself, as a service's own name does: it leads to
/// the VIP. (With addresses, the configuration is refused.)
#[derive(Debug, Default)]
struct Circles {
    vip: Option<IpAddr>,
    nodes: Vec<IpAddr>,
    /// Host, name of the balancer, and whether that listens on the VIP alone: where both have the same port.
    names: Vec<(String, String, bool)>,
}

impl Circles {
    fn of(config: &Config) -> Self {
        let nodes = std::iter::once(&config.local).chain(&config.remotes).map(|peer| peer.address.ip()).collect();
        let mut names = Vec::new();
        for balancer in &config.balancers {
            names.extend(balancer.backends.iter().filter_map(|backend| match &backend.target {
                Target::Name { host, port } if *port == balancer.port => {
                    Some((host.clone(), balancer.name.clone(), balancer.bind_to_vip))
                }
                _ => None,
            }));
        }
        Self { vip: Some(config.vip), nodes, names }
    }

    /// Who listens there itself.
    fn listens(&self, host: &str, ip: IpAddr) -> Option<&str> {
        let own = ip.is_loopback() || self.nodes.contains(&ip);
        let there = |on_vip: bool| Some(ip) == self.vip || !on_vip && own;
        self.names.iter().find(|(name, _, on_vip)| name == host && there(*on_vip)).map(|(_, balancer, _)| &**balancer)
    }

    /// The good ones, and those that are left out, each with the balancer that listens there.
    fn sort_out(&self, host: &str, addresses: &[IpAddr]) -> (Vec<IpAddr>, Vec<(IpAddr, String)>) {
        let listens = |ip: &IpAddr| self.listens(host, *ip);
        let good = addresses.iter().copied().filter(|ip| listens(ip).is_none()).collect();
        let own = addresses.iter().filter_map(|ip| Some((*ip, listens(ip)?.to_string()))).collect();
        (good, own)
    }
}

/// Warns of those that are left out, of each once.
fn tell(host: &str, own: Vec<(IpAddr, String)>, warned: &mut BTreeSet<(String, IpAddr)>) {
    for (ip, balancer) in own {
        if warned.insert((host.to_string(), ip)) {
            warn!("{host}: {ip} is left out, balancer {balancer} listens there itself: connections would run in a circle");
        }
    }
}

/// The host names among the backends.
fn hosts(balancers: &[Balancer]) -> BTreeSet<String> {
    let targets = balancers.iter().flat_map(|balancer| &balancer.backends).map(|backend| &backend.target);
    let name = |target: &Target| match target {
        Target::Name { host, .. } => Some(host.clone()),
        Target::Address(_) => None,
    };
    targets.filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backend;
    use std::net::SocketAddr;

    #[test]
    fn each_name_is_looked_up_once() {
        let name = |host: &str, port| Backend { target: Target::Name { host: host.into(), port }, ..address().into() };
        fn address() -> SocketAddr {
            ([10, 0, 0, 1], 80).into()
        }
        let balancer = |n: u16, backends| Balancer::new(format!("b{n}"), n, false, backends);
        let balancers = [
            balancer(1, vec![name("b.lan", 80), address().into(), name("a.lan", 80)]),
            balancer(2, vec![name("a.lan", 81)]),
            balancer(3, vec![address().into()]),
        ];
        assert_eq!(hosts(&balancers).into_iter().collect::<Vec<_>>(), ["a.lan", "b.lan"]);
    }

    #[test]
    fn an_address_where_the_balancer_itself_listens_is_left_out() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let name = |host: &str, balancer: &str, on_vip| (host.to_string(), balancer.to_string(), on_vip);
        let circles = Circles {
            vip: Some(ip("10.0.0.100")),
            nodes: vec![ip("10.0.0.1")],
            names: vec![name("www.lan", "web", true), name("all.lan", "all", false)],
        };
        let left = |host| circles.sort_out(host, &["10.0.0.1", "10.0.0.9", "10.0.0.100", "::1"].map(ip)).0;
        assert_eq!(left("www.lan"), ["10.0.0.1", "10.0.0.9", "::1"].map(ip));
        assert_eq!(left("all.lan"), [ip("10.0.0.9")]);
        assert_eq!(left("other.lan").len(), 4, "its port is another");
        assert_eq!(circles.sort_out("www.lan", &[ip("10.0.0.100")]).1, [(ip("10.0.0.100"), "web".to_string())]);
    }
}
