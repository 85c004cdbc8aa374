//! Between the forwarder and what goes on beside it: whom to check and what the checks found, which names to look up and their addresses.
//!
//! ```text
//!   configuration ── names ──▶ Resolver ── addresses ──▶ Control ── members ──▶ Watch ── up, down ──▶ Control
//! ```

use crate::balancer::health::Watch;
use crate::balancer::resolve::{self, Resolver};
use crate::balancer::{Beside, Control};
use crate::cluster::runtime;
use crate::config::{Balancer, Target};
use smol::LocalExecutor;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Health checks and look-ups, on every node, whoever leads. Dropping it ends them.
#[derive(Debug)]
pub struct Backends {
    control: Control,
    watch: Rc<Watch>,
    resolver: Resolver,
}

impl Backends {
    /// Starts them for the balancers that `control` was opened with. Needs this thread's `runtime` entered.
    pub fn start(
        control: Control,
        balancers: &[Balancer],
        resolve_interval: Duration,
        executor: &Rc<LocalExecutor<'static>>,
    ) -> Self {
        let executor = Rc::downgrade(executor);
        let spawn = Rc::new(move |task| Some(executor.upgrade()?.spawn(task)));
        let beside = Beside { spawn, random: Rc::new(runtime::random) };
        let told = control.clone();
        let report = move |balancer: &str, address, up, why: &str| told.health(balancer, address, up, why);
        let watch = Rc::new(Watch::new(beside.clone(), Box::new(report)));
        let (told, watched) = (control.clone(), watch.clone());
        let resolver = Resolver::new(
            beside,
            Arc::new(resolve::system),
            Box::new(move |host, addresses| {
                told.resolved(host, addresses);
                watched.reconcile(told.members());
            }),
        );
        let backends = Self { control, watch, resolver };
        backends.configured(balancers, resolve_interval);
        backends
    }

    /// To be called after each [`Control::apply`], with the same balancers.
    pub fn configured(&self, balancers: &[Balancer], resolve_interval: Duration) {
        self.resolver.want(&hosts(balancers), resolve_interval);
        self.applied();
    }

    /// To be called after each [`Control::order`]: who is in maintenance is not checked, who has left it is.
    pub fn applied(&self) {
        self.watch.reconcile(self.control.members());
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
}
