//! The configuration against this machine: pure, facts come in as a [`Machine`].

use super::checked::Config;
use super::draft::{Lines, list};
use super::machine::{Interface, Machine};
use super::problem::Problem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Capability numbers of linux/capability.h.
const NET_BIND_SERVICE: (u32, &str) = (10, "CAP_NET_BIND_SERVICE");
const NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const NET_RAW: (u32, &str) = (13, "CAP_NET_RAW");

/// A port that the daemon will listen on, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Where it listens.
    pub address: SocketAddr,
    /// Which balancer; none for raft.
    pub balancer: Option<usize>,
}

/// The ports that must be free on this machine. Those on the VIP are not among them: the VIP may not be here yet.
pub fn ports(config: &Config) -> impl Iterator<Item = Port> + '_ {
    let raft = (!config.single_node).then_some(Port { address: config.local.address, balancer: None });
    let everywhere = config.balancers.iter().enumerate().filter(|(_, b)| !b.bind_to_vip);
    // IPv4 is enough to tell that a port is taken, and works where IPv6 is off.
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    raft.into_iter().chain(everywhere.map(move |(n, balancer)| Port { address: any(balancer.port), balancer: Some(n) }))
}

/// What keeps `config` from working on `machine`, in no particular order.
pub fn check(config: &Config, lines: &Lines, machine: &Machine) -> Vec<Problem> {
    let judge = Judge { config, lines, machine };
    let mut problems = Vec::new();
    problems.extend(judge.interface());
    problems.extend(judge.own_address());
    problems.extend(judge.ports());
    problems.extend(judge.privileges());
    problems.extend(judge.state_dir());
    problems
}

struct Judge<'a> {
    config: &'a Config,
    lines: &'a Lines,
    machine: &'a Machine,
}

impl Judge<'_> {
    fn interface(&self) -> Option<Problem> {
        let all = self.machine.interfaces.as_ref()?;
        let name = &self.config.interface;
        let problem = |text: String| Some(Problem::new(self.lines.interface, "interface", text));
        match all.iter().find(|i| i.name == *name) {
            _ if self.config.disable_vip => None,
            None => problem(format!("{name} does not exist on this machine, which has {}; write one of these", names(all))),
            Some(found) if !found.up => {
                problem(format!("{name} is down, so nobody would hear of the VIP; `ip link set {name} up`"))
            }
            Some(_) => None,
        }
    }

    fn own_address(&self) -> Option<Problem> {
        let all = self.machine.interfaces.as_ref()?;
        let own: Vec<IpAddr> = all.iter().flat_map(|i| i.addresses.iter().copied()).collect();
        let wanted = self.config.local.address.ip();
        if self.config.single_node || own.contains(&wanted) || is_loopback_net(wanted) {
            return None;
        }
        let (line, path) = self.local();
        let text =
            format!("{wanted} is not an address of this machine, which has {}; write the one its peers know", list(&own));
        Some(Problem::new(line, format!("{path}.address"), text))
    }

    fn local(&self) -> (Option<u32>, &str) {
        self.lines.local.as_ref().map_or((None, "localPeer"), |(line, path)| (Some(*line), path))
    }

    fn ports(&self) -> Vec<Problem> {
        let taken = ports(self.config).filter_map(|port| {
            let (_, errno) = self.machine.unbindable.iter().find(|(address, _)| *address == port.address)?;
            // A missing address or privilege has a problem of its own.
            (*errno == libc::EADDRINUSE).then(|| self.taken(port))
        });
        taken.collect()
    }

    fn taken(&self, port: Port) -> Problem {
        let number = port.address.port();
        let who = format!(
            "another program listens there (`ss -ltnp 'sport = :{number}'` names it; kube-vip itself, if it runs already)"
        );
        match port.balancer {
            None => {
                let (line, path) = self.local();
                Problem::new(
                    line,
                    format!("{path}.port"),
                    format!("{} is in use: {who}. Stop it or choose another port", port.address),
                )
            }
            Some(n) => {
                let line = self.lines.balancers.get(n).copied().flatten();
                let key = format!("loadBalancers[{n}].port");
                Problem::new(
                    line,
                    key,
                    format!("{number} is in use: {who}. Stop it, choose another port, or set bindToVip: true"),
                )
            }
        }
    }

    fn privileges(&self) -> Vec<Problem> {
        let Some(have) = self.machine.capabilities else { return Vec::new() };
        let below = self.machine.privileged_below;
        let raft = (!self.config.single_node).then_some(self.config.local.address.port());
        let low = self.config.balancers.iter().map(|b| b.port).chain(raft).find(|p| *p < below);
        let vip = !self.config.disable_vip;
        let mut wanted = Vec::new();
        if vip {
            wanted.push((NET_ADMIN, "to add and remove the VIP".to_owned()));
            wanted.push((NET_RAW, "to announce the VIP".to_owned()));
        }
        wanted.extend(low.map(|port| (NET_BIND_SERVICE, format!("to listen on port {port}, below {below}"))));
        let missing = wanted.into_iter().filter(|((bit, _), _)| have & (1 << bit) == 0);
        missing
            .map(|((_, name), why)| {
                privilege("", format!("{name} is missing, needed {why}; start as root or by the systemd unit"))
            })
            .collect()
    }

    fn state_dir(&self) -> Option<Problem> {
        let (errno, place) = self.machine.state_dir_refused.as_ref()?;
        let dir = self.config.state_dir.display();
        let error = std::io::Error::from_raw_os_error(*errno);
        let denied = matches!(*errno, libc::EACCES | libc::EPERM);
        let mend = if denied {
            "start as root, or as the owner of that directory"
        } else {
            "set stateDir to a directory on a writable disk"
        };
        let mut problem = privilege("stateDir", format!("can't make or write {dir}: {}: {error}; {mend}", place.display()));
        problem.line = self.lines.state_dir;
        problem.privilege = denied;
        Some(problem)
    }
}

fn privilege(key: &str, text: String) -> Problem {
    Problem { privilege: true, ..Problem::new(None, key, text) }
}

/// Every address of 127.0.0.0/8 is this machine's own.
fn is_loopback_net(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6 == Ipv6Addr::LOCALHOST,
    }
}

fn names(interfaces: &[Interface]) -> String {
    let names: Vec<&str> = interfaces.iter().map(|i| i.name.as_str()).take(30).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
