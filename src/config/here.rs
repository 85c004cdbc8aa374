//! The configuration against this machine: pure, facts come in as a [`Machine`].

use super::checked::Config;
use super::draft::{Lines, list};
use super::machine::{Interface, Machine};
use super::places::{Refused, Why};
use super::problem::Problem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Capability numbers of linux/capability.h.
const SETGID: (u32, &str) = (6, "CAP_SETGID");
const SETUID: (u32, &str) = (7, "CAP_SETUID");
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
    /// The address is the VIP, which may not be here yet.
    pub on_vip: bool,
}

/// The ports that must be free on this machine.
pub fn ports(config: &Config) -> impl Iterator<Item = Port> + '_ {
    let raft = (!config.single_node).then_some(Port { address: config.local.address, balancer: None, on_vip: false });
    // IPv4 is enough to tell that a port is taken everywhere, and works where IPv6 is off.
    let everywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let balancers = config.balancers.iter().enumerate().map(move |(n, b)| {
        let ip = if b.bind_to_vip { config.vip } else { everywhere };
        Port { address: SocketAddr::from((ip, b.port)), balancer: Some(n), on_vip: b.bind_to_vip }
    });
    raft.into_iter().chain(balancers)
}

/// What keeps `config` from working on `machine`, in no particular order.
pub fn check(config: &Config, lines: &Lines, machine: &Machine) -> Vec<Problem> {
    let judge = Judge { config, lines, machine };
    let mut problems = Vec::new();
    problems.extend(judge.interface());
    problems.extend(judge.own_address());
    problems.extend(judge.ports());
    problems.extend(judge.privileges());
    problems.extend(judge.accounts());
    problems.extend(judge.state_dir());
    problems.extend(judge.socket());
    problems
}

/// What works on `machine`, but less well than meant.
pub fn warnings(config: &Config, lines: &Lines, machine: &Machine) -> Vec<Problem> {
    let refused = machine.state_dir_refused.as_ref().filter(|r| read_only(config, r));
    let warning = refused.map(|r| {
        let text = format!(
            "{} is on a read-only file system: votes are kept in memory only, and a restart forgets them. Make it writable, \
             or name a directory on a writable disk",
            r.place.display()
        );
        Problem::new(lines.state_dir, "stateDir", text)
    });
    warning.into_iter().chain(super::lan::warnings(config, lines, &machine.arp)).collect()
}

/// The state directory is there, but its file system takes no writes.
fn read_only(config: &Config, refused: &Refused) -> bool {
    refused.place == config.state_dir && refused.why == Why::Os(libc::EROFS)
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
                let way = if port.on_vip { "or choose another port" } else { "choose another port, or set bindToVip: true" };
                Problem::new(line, key, format!("{number} is in use: {who}. Stop it, {way}"))
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
        if self.machine.changes_user {
            wanted.extend([SETUID, SETGID].map(|c| (c, "to run the daemon as `user` and `group`".to_owned())));
        }
        wanted.extend(low.map(|port| (NET_BIND_SERVICE, format!("to listen on port {port}, below {below}"))));
        let missing = wanted.into_iter().filter(|((bit, _), _)| have & (1 << bit) == 0);
        missing
            .map(|((_, name), why)| privilege("", format!("{name} is missing, needed {why}; start as root, or {}", with(name))))
            .collect()
    }

    fn accounts(&self) -> Vec<Problem> {
        let line = |key: &str| if key == "user" { self.lines.user } else { self.lines.group };
        self.machine.unknown_accounts.iter().map(|(key, why)| Problem::new(line(key), *key, why.clone())).collect()
    }

    fn state_dir(&self) -> Option<Problem> {
        let refused = self.machine.state_dir_refused.as_ref().filter(|r| !read_only(self.config, r))?;
        Some(place("stateDir", self.lines.state_dir, &self.config.state_dir, refused))
    }

    fn socket(&self) -> Option<Problem> {
        let refused = self.machine.socket_refused.as_ref()?;
        Some(place("controlSocket", self.lines.control_socket, &self.config.control_socket, refused))
    }
}

/// The problem of `key`, whose value (or default) is `wanted`.
fn place(key: &str, line: Option<u32>, wanted: &Path, refused: &Refused) -> Problem {
    let at = refused.place.display();
    let denied = matches!(refused.why, Why::Os(libc::EACCES | libc::EPERM));
    let text = match &refused.why {
        Why::Os(_) if denied => format!("can't write {at}: permission denied; start as root, or as the owner of it"),
        Why::Os(libc::ENOTDIR) => format!("{at} is no directory; set {key} to a path in one"),
        Why::Os(errno) => {
            let error = std::io::Error::from_raw_os_error(*errno);
            format!("can't write {at}: {error}; set {key} to a path on a writable disk")
        }
        Why::Missing => {
            format!("the directory {at} does not exist; `mkdir -p {at}`, or leave {key} out for one that the program makes")
        }
        Why::NoFiles => format!("{at} shows the kernel's state and takes no files; set {key} to a path below /run or /var/lib"),
        Why::NoSocket => format!("{at} exists and is not a socket; remove it, or set {key} to another path"),
        Why::Denied { owner, mode, uid, gid, passed } => {
            let way = match key {
                _ if *passed => format!("let it pass with `chmod o+x {at}`"),
                "stateDir" => format!("`chown -R {uid}:{gid} {}`", wanted.display()),
                // Such a directory may be anybody's, as /run is.
                _ => format!("leave {key} out, or name a path in a directory of uid {uid}"),
            };
            format!(
                "{at} belongs to uid {owner} with mode {mode:o}, so the daemon (uid {uid}, gid {gid}, without CAP_DAC_OVERRIDE) \
                 can't use it; {way}"
            )
        }
    };
    let subject = if refused.place == wanted { String::new() } else { format!("{}: ", wanted.display()) };
    Problem { privilege: denied, ..Problem::new(line, key, format!("{subject}{text}")) }
}

/// Which capabilities make up for not being root.
fn with(name: &str) -> String {
    let usual = [NET_ADMIN, NET_RAW, NET_BIND_SERVICE].map(|(_, name)| name.trim_start_matches("CAP_"));
    let other = name.trim_start_matches("CAP_");
    let more = if usual.contains(&other) { String::new() } else { format!(", {other}") };
    format!("with the capabilities {}{more}", usual.join(", "))
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
    use std::path::PathBuf;

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
        machine.state_dir_refused = Some(Refused { place: PathBuf::from("/var/lib"), why: Why::Os(libc::EROFS) });
        let all = told(&machine);
        let wanted = [
            "Some(2) interface: eth0 does not exist on this machine, which has ens3, lo; write one of these",
            "Some(4) localPeer.address: 10.0.0.1 is not an address of this machine, which has 10.0.0.4, 127.0.0.1;",
            "Some(8) loadBalancers[1].port: 8080 is in use",
            "Some(3) stateDir: /var/lib/x: can't write /var/lib: Read-only file system",
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
    fn a_state_directory_that_is_read_only_is_a_warning() {
        let Placed { config, lines } = placed(FILE, Overrides::default());
        let place = PathBuf::from("/var/lib/x");
        let machine = |why| Machine { state_dir_refused: Some(Refused { place: place.clone(), why }), ..good() };
        let frozen = machine(Why::Os(libc::EROFS));
        assert_eq!(check(&config, &lines, &frozen), []);
        let told = warnings(&config, &lines, &frozen);
        assert!(told.len() == 1 && told[0].line == Some(3) && told[0].text.contains("votes are kept in memory"), "{told:?}");
        let full = machine(Why::Os(libc::EIO));
        assert_eq!((check(&config, &lines, &full).len(), warnings(&config, &lines, &full).len()), (1, 0));
    }

    #[test]
    fn another_user_needs_the_capabilities_to_become_it() {
        let Placed { config, lines } = placed(FILE, Overrides::default());
        let machine = Machine { capabilities: Some(1 << 10 | 1 << 12 | 1 << 13), changes_user: true, ..good() };
        let told = check(&config, &lines, &machine);
        assert!(told.len() == 2 && told[0].text.ends_with("NET_ADMIN, NET_RAW, NET_BIND_SERVICE, SETUID"), "{told:?}");
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
