//! The hosts that all contestants use one after the other, and how long anybody waits for anything.

use super::lab::net::VIP4;
use super::lab::{Host, Lab, ms};
use std::time::{Duration, Instant};

/// Three hosts for nodes, one that pings and one that asks by ARP.
pub struct Scene {
    pub nodes: Vec<Host>,
    pub client: Host,
    pub observer: Host,
}

impl Scene {
    /// Builds the network; once per process.
    pub fn new() -> Scene {
        let lab = Lab::new();
        let nodes = (1..=3).map(|n| lab.host(&format!("n{n}"))).collect();
        Scene { nodes, client: lab.host("client"), observer: lab.host("observer") }
    }

    /// Undoes every fault of the network, whether there is one or not.
    pub fn mend(&self) {
        for host in &self.nodes {
            host.hear_all();
            host.attach();
            host.plug();
        }
    }

    /// Which nodes' kernels have the VIP.
    pub fn holders(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&i| self.nodes[i].has(VIP4)).collect()
    }

    /// The node with this MAC.
    pub fn node_of(&self, mac: [u8; 6]) -> Option<usize> {
        self.nodes.iter().position(|host| host.mac() == mac)
    }
}

/// Asks until there is a value; after `limit` an error that says what was missing.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T, String> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = ask() {
            return Ok(value);
        }
        if Instant::now() > end {
            return Err(format!("waited {limit:?} in vain until {what}"));
        }
        std::thread::sleep(ms(10)); // the pace of asking
    }
}

/// Asks until the same value was given for `calm` without a break.
pub fn steady<T: PartialEq>(
    what: &str,
    limit: Duration,
    calm: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> Result<T, String> {
    let mut since: Option<(Instant, T)> = None;
    until(what, limit, || {
        let value = ask();
        since = match (since.take(), value) {
            (Some((at, old)), Some(new)) if old == new => Some((at, new)),
            (_, new) => new.map(|new| (Instant::now(), new)),
        };
        since.take_if(|(at, _)| at.elapsed() >= calm).map(|(_, value)| value)
    })
}
