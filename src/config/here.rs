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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, Placed, judge};
    use std::path::{Path, PathBuf};

    const FILE: &str = "vip: 10.0.0.9
interface: eth0
stateDir: /var/lib/x
localPeer: {id: a, address: 10.0.0.1, port: 10000}
remotePeers: [{id: b, address: 10.0.0.2, port: 1}, {id: c, address: 10.0.0.3, port: 1}]
loadBalancers:
- {port: 80, bindToVip: true, backends: [{address: 10.0.0.7, port: 1}]}
- {port: 8080, backends: [{address: 10.0.0.7, port: 1}]}
";

    fn placed(text: &str, overrides: Overrides) -> Placed {
        let draft = judge(Path::new("f"), text, &overrides).expect("sound");
        draft.resolve(&[], None).expect("placed")
    }

    fn good() -> Machine {
        let lo = Interface { name: "lo".into(), up: true, addresses: vec![IpAddr::from([127, 0, 0, 1])] };
        let eth0 = Interface { name: "eth0".into(), up: true, addresses: vec![IpAddr::from([10, 0, 0, 1])] };
        Machine { interfaces: Some(vec![eth0, lo]), capabilities: Some(u64::MAX), privileged_below: 1024, ..Machine::default() }
    }

    fn told(machine: &Machine) -> Vec<String> {
        let Placed { config, lines } = placed(FILE, Overrides::default());
        check(&config, &lines, machine).iter().map(|p| format!("{:?} {}: {}", p.line, p.key, p.text)).collect()
    }

    #[test]
    fn a_fitting_machine_has_no_problem() {
        assert_eq!(told(&good()), Vec::<String>::new());
        let unknown = Machine { interfaces: None, capabilities: None, ..good() };
        assert_eq!(told(&unknown), Vec::<String>::new(), "unknown is never a reason to refuse");
    }

    #[test]
    fn each_misfit_names_its_line_and_what_there_is() {
        let mut machine = good();
        let eth0 = &mut machine.interfaces.as_mut().expect("known")[0];
        (eth0.name, eth0.addresses) = ("ens3".into(), vec![IpAddr::from([10, 0, 0, 4])]);
        machine.unbindable = vec![
            (SocketAddr::from(([10, 0, 0, 1], 10000)), libc::EADDRNOTAVAIL),
            (SocketAddr::from(([0, 0, 0, 0], 8080)), libc::EADDRINUSE),
        ];
        machine.state_dir_refused = Some((libc::EROFS, PathBuf::from("/var/lib")));
        let all = told(&machine);
        let wanted = [
            "Some(2) interface: eth0 does not exist on this machine, which has ens3, lo; write one of these",
            "Some(4) localPeer.address: 10.0.0.1 is not an address of this machine, which has 10.0.0.4, 127.0.0.1;",
            "Some(8) loadBalancers[1].port: 8080 is in use",
            "Some(3) stateDir: can't make or write /var/lib/x: /var/lib: Read-only file system",
        ];
        assert_eq!(all.len(), wanted.len(), "{all:#?}");
        for (got, want) in all.iter().zip(wanted) {
            assert!(got.starts_with(want), "{got}\nshould start with\n{want}");
        }
    }

    #[test]
    fn a_taken_raft_port_and_a_downed_interface() {
        let mut machine = good();
        machine.interfaces.as_mut().expect("known")[0].up = false;
        machine.unbindable = vec![(SocketAddr::from(([10, 0, 0, 1], 10000)), libc::EADDRINUSE)];
        let all = told(&machine);
        assert!(
            all[0].contains("`ip link set eth0 up`") && all[1].starts_with("Some(4) localPeer.port: 10.0.0.1:10000 is in use"),
            "{all:?}"
        );
    }

    #[test]
    fn privileges_are_told_apart() {
        let Placed { config, lines } = placed(FILE, Overrides::default());
        let problems = check(&config, &lines, &Machine { capabilities: Some(0), ..good() });
        let names: Vec<&str> = problems.iter().filter_map(|p| p.text.split(' ').next()).collect();
        assert_eq!(names, ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"]);
        assert!(problems.iter().all(|p| p.privilege));
        let raw_only = Machine { capabilities: Some(1 << 13 | 1 << 10), ..good() };
        assert_eq!(check(&config, &lines, &raw_only).len(), 1);
        let low_ports_free = Machine { capabilities: Some(1 << 12 | 1 << 13), privileged_below: 80, ..good() };
        assert_eq!(check(&config, &lines, &low_ports_free), []);
        let disabled = placed(FILE, Overrides { disable_vip: true, ..Overrides::default() });
        let few = Machine { capabilities: Some(1 << 10), ..good() };
        assert_eq!(check(&disabled.config, &lines, &few), [], "-d needs no power over the network");
    }
}
