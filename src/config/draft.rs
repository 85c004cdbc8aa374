//! Raw shape → a file that is sound in itself ([`Draft`]) → this node's [`Config`].

use super::balancers::{self, Around};
use super::checked::{Balancer, Config, Peer, Timing};
use super::nodes::{self, Alone, Local, NodeAt};
use super::problem::{Problem, Problems, Warning, nearest, shown};
use super::raw::{self, RawConfig, RawTiming};
use super::walk::{Found, Given};
use super::{fields, hosts, limits, moves, tree};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIN_HEARTBEAT: Duration = Duration::from_millis(5);
const MAX_LEASE: Duration = Duration::from_secs(60);

/// What flags of `start` change; they win over the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `-d`, `--disableVIP`.
    pub disable_vip: bool,
    /// `-s`, `--singleNode`.
    pub single_node: bool,
    /// `-l`, `--startAsLeader`.
    pub start_as_leader: bool,
}

/// A file without a problem of its own. Which node this machine is may still be open.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What probably isn't meant.
    pub warnings: Vec<Warning>,
    nodes: Vec<NodeAt>,
    local: Local,
    state_dir: Option<PathBuf>,
    control_socket: Option<PathBuf>,
    lines: Lines,
    /// All that is the same on every node; `local` and what depends on it are filled in by `resolve`.
    common: Config,
}

/// On which lines stands what is held against the machine; none where the file doesn't say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// `interface`.
    pub interface: Option<u32>,
    /// `stateDir`.
    pub state_dir: Option<u32>,
    /// `controlSocket`.
    pub control_socket: Option<u32>,
    /// `user`.
    pub user: Option<u32>,
    /// `group`.
    pub group: Option<u32>,
    /// This node, and its key's path.
    pub local: Option<(u32, String)>,
    /// The `port` of each balancer, in order.
    pub balancers: Vec<Option<u32>>,
}

/// A node's configuration, and the lines it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The checked configuration.
    pub config: Config,
    /// Lines for messages about this machine.
    pub lines: Lines,
}

/// Judges the text of the file `file` (a name for messages) on its own.
///
/// # Errors
/// All problems at once.
pub fn judge(file: &Path, text: &str, overrides: &Overrides) -> Result<Draft, Problems> {
    let mut found = Found::default();
    let draft = match tree::parse(text) {
        Err(problem) => {
            found.problems.push(problem);
            None
        }
        Ok(root) if root.value == tree::Value::Null => {
            found.whole("", "nothing is configured here; `kube-vip sample config` prints a file to edit");
            None
        }
        Ok(root) => raw::read(&root, &mut found).and_then(|raw| checked(file, &raw, overrides, &mut found)),
    };
    match draft {
        Some(draft) if found.problems.is_empty() => {
            let warnings = sorted(found.warnings).into_iter().map(|w| Warning::new(file, w)).collect();
            Ok(Draft { warnings, ..draft })
        }
        _ => Err(Problems::new(file, found.problems)),
    }
}

fn sorted(mut list: Vec<Problem>) -> Vec<Problem> {
    list.sort_by_key(|p| p.line);
    list
}

/// Every check that needs no machine. None only where something is wrong, and then `found` says what.
fn checked(file: &Path, raw: &RawConfig, overrides: &Overrides, found: &mut Found) -> Option<Draft> {
    let alone = match (raw.single_node.or(false), overrides.single_node) {
        (true, _) => Alone::File,
        (false, true) => Alone::Flag,
        (false, false) => Alone::No,
    };
    let (nodes, local) = nodes::judge(raw, alone, found);
    let vip = vip(raw, &nodes, found);
    let interface = required(&raw.interface, "interface", "the network interface that gets the VIP, e.g. eth0", found);
    let interface = interface.and_then(|given| given.checked(found, |t| fields::interface(t)));
    let max_connections = limits::max_connections(raw, found);
    let balancers = balancers::judge(raw, &Around { nodes: &nodes, vip, max_connections }, found);
    let timing = timing(&raw.timing, found);
    let resolve_interval = limits::resolve_interval(raw, found);
    let moves = moves::judge(raw, alone, found);
    let state_dir = raw.state_dir.checked(found, |t| fields::path(t));
    let control_socket = raw.control_socket.checked(found, |t| fields::socket_path(t));
    let user = raw.user.checked(found, |t| fields::account(t));
    let group = raw.group.checked(found, |t| fields::account(t));
    let lines = Lines {
        interface: raw.interface.line(),
        state_dir: raw.state_dir.line(),
        control_socket: raw.control_socket.line(),
        user: raw.user.line(),
        group: raw.group.line(),
        local: None,
        balancers: raw.balancers.iter().map(|b| b.port.line()).collect(),
    };
    let common = Config {
        file: file.to_owned(),
        overrides: *overrides,
        local: nodes::nameless(),
        remotes: Vec::new(),
        interface: interface?,
        vip: vip?,
        announce: raw.announce.or(false),
        single_node: alone != Alone::No,
        start_as_leader: raw.start_as_leader.or(false) || overrides.start_as_leader,
        disable_vip: overrides.disable_vip,
        balancers,
        timing: timing?,
        fence_fast: moves.fence_fast,
        drain: moves.drain,
        witness: moves.witness,
        preempt: moves.preempt,
        track_backends: moves.track_backends,
        max_connections,
        resolve_interval,
        realtime: moves.realtime,
        state_dir: PathBuf::new(),
        control_socket: PathBuf::new(),
        user,
        group,
    };
    Some(Draft { warnings: Vec::new(), nodes, local, state_dir, control_socket, lines, common })
}

/// The key, or none after noting that it is missing.
fn required<'a, T>(given: &'a Given<T>, key: &str, what: &str, found: &mut Found) -> Option<&'a Given<T>> {
    if given.is_absent() {
        found.whole(key, format!("missing; {what}"));
    }
    given.good().map(|_| given)
}

fn vip(raw: &RawConfig, nodes: &[NodeAt], found: &mut Found) -> Option<IpAddr> {
    let given = required(&raw.vip, "vip", "the address that moves between the nodes, a free one of their network", found)?;
    given.checked(found, |text| {
        let vip = hosts::vip(text)?;
        match nodes.iter().find(|n| n.peer.address.ip() == vip) {
            Some(n) => Err(format!(
                "is also the own address of {} (line {}); the VIP comes and goes, so it must be an address that no machine has. Choose a free one",
                n.path, n.line
            )),
            None => Ok(vip),
        }
    })
}

fn timing(raw: &RawTiming, found: &mut Found) -> Option<Timing> {
    const PRESETS: [(&str, Timing); 3] = [("fast", Timing::FAST), ("lan", Timing::LAN), ("wifi", Timing::WIFI)];
    match raw {
        RawTiming::Absent => Some(Timing::LAN),
        RawTiming::Bad => None,
        RawTiming::Preset(spot) => {
            let preset = PRESETS.iter().find(|(name, _)| spot.value.eq_ignore_ascii_case(name));
            if preset.is_none() {
                let way = match nearest(&spot.value, PRESETS.map(|(name, _)| name)) {
                    Some(name) => format!("did you mean {name}?"),
                    None => "write fast, lan, wifi or {heartbeat: 50ms, lease: 250ms}".to_owned(),
                };
                found.at(spot, format!("{} is no preset; {way}", shown(&spot.value)));
            }
            preset.map(|(_, timing)| *timing)
        }
        RawTiming::Own { line, heartbeat, lease } => own_timing(*line, heartbeat, lease, found),
    }
}

fn own_timing(line: u32, heartbeat: &Given<String>, lease: &Given<String>, found: &mut Found) -> Option<Timing> {
    for (given, key, example) in [(heartbeat, "heartbeat", "50ms"), (lease, "lease", "250ms")] {
        if given.is_absent() {
            found.on(
                line,
                format!("timing.{key}"),
                format!("missing; heartbeat and lease belong together, e.g. `{key}: {example}`"),
            );
        }
    }
    let heartbeat = heartbeat.checked(found, |t| fields::duration(t).and_then(long_enough));
    let beat = heartbeat.filter(|h| *h <= MAX_LEASE);
    let lease = lease.checked(found, |t| fields::duration(t).and_then(|lease| lease_fits(lease, beat)));
    Some(Timing { heartbeat: heartbeat?, lease: lease? })
}

fn long_enough(heartbeat: Duration) -> Result<Duration, String> {
    if heartbeat < MIN_HEARTBEAT {
        return Err("is shorter than 5ms; timers and disks are not that exact. Write 5ms or more, 15ms is fast".to_owned());
    }
    if heartbeat > MAX_LEASE / 3 {
        return Err("is longer than 20s; the lease is at least three heartbeats and at most 60s. Write 20s or less".to_owned());
    }
    Ok(heartbeat)
}

fn lease_fits(lease: Duration, heartbeat: Option<Duration>) -> Result<Duration, String> {
    if lease > MAX_LEASE {
        return Err(
            "is longer than 60s, and so long would the VIP be without a holder when one dies; write 60s or less".to_owned()
        );
    }
    let Some(beat) = heartbeat else { return Ok(lease) };
    if lease < beat * 3 {
        return Err(format!(
            "is less than 3 × timing.heartbeat ({}); a late heartbeat would start an election. Raise lease to {} or more, or lower heartbeat",
            fields::written(beat),
            fields::written(beat * 3)
        ));
    }
    // The holder keeps the VIP for 0.8 × lease − 10 ms after each acknowledged heartbeat, so another must fit in.
    let hold = (lease * 4 / 5).saturating_sub(Duration::from_millis(10));
    if hold <= beat {
        let needed = (beat + Duration::from_millis(11)) * 5 / 4;
        return Err(format!(
            "lets the leader hold the VIP for {} at a time (0.8 × lease − 10ms), no longer than a heartbeat ({}). Raise lease to {} or more",
            fields::written(hold),
            fields::written(beat),
            fields::written(Duration::from_millis(needed.as_millis() as u64 + 1))
        ));
    }
    Ok(lease)
}

impl Draft {
    /// Settles which node this machine is, and what depends on it.
    ///
    /// `own` are the machine's addresses, looked at only where the file has `peers`. `state_directory` is systemd's
    /// `$STATE_DIRECTORY`: state goes to it, or to its sub-directory named after the id unless it is named so already, which for
    /// `StateDirectory=kube-vip` is the default directory.
    ///
    /// # Errors
    /// None or several of `peers` are this machine.
    pub fn resolve(&self, own: &[IpAddr], state_directory: Option<&Path>) -> Result<Placed, Problems> {
        let index = self.local_index(own).map_err(|problem| Problems::new(&self.common.file, vec![problem]))?;
        let mut config = self.common.clone();
        let mut lines = self.lines.clone();
        if let Some(node) = index.and_then(|n| self.nodes.get(n)) {
            config.local = node.peer.clone();
            config.witness |= node.peer.witness;
            lines.local = Some((node.line, node.path.clone()));
        }
        let others = self.nodes.iter().enumerate().filter(|(n, _)| Some(*n) != index);
        config.remotes = others.map(|(_, node)| node.peer.clone()).collect();
        let id = &config.local.id;
        config.state_dir = self.state_dir.clone().unwrap_or_else(|| match state_directory {
            Some(dir) if dir.file_name().is_some_and(|name| name == id.as_str()) => dir.to_owned(),
            Some(dir) => dir.join(id),
            None => Path::new("/var/lib/kube-vip").join(id),
        });
        config.control_socket =
            self.control_socket.clone().unwrap_or_else(|| Path::new("/run/kube-vip").join(format!("{id}.sock")));
        Ok(Placed { config, lines })
    }

    fn local_index(&self, own: &[IpAddr]) -> Result<Option<usize>, Problem> {
        let line = match self.local {
            Local::Nameless => return Ok(None),
            Local::First => return Ok(Some(0)),
            Local::ByAddress { line } => line,
        };
        let hits: Vec<usize> = (0..self.nodes.len()).filter(|n| own.contains(&self.nodes[*n].peer.address.ip())).collect();
        match hits[..] {
            [one] => Ok(Some(one)),
            [] => Err(Problem::new(
                Some(line),
                "peers",
                format!("none of them is this machine, which has {}; add its address, or name it in localPeer", list(own)),
            )),
            _ => {
                let names: Vec<&str> = hits.iter().map(|n| self.nodes[*n].peer.id.as_str()).collect();
                let text = format!(
                    "{} are all this machine, which has {}; give each node an address of its own, or use localPeer and remotePeers",
                    names.join(", "),
                    list(own)
                );
                Err(Problem::new(Some(line), "peers", text))
            }
        }
    }

    /// The part of the configuration that is the same on every node, for a word about the file: its `local` is a placeholder.
    pub fn gist(&self) -> String {
        let Config { vip, interface, balancers, .. } = &self.common;
        let nodes: Vec<&str> = self.nodes.iter().map(|n| n.peer.id.as_str()).collect();
        let names = if nodes.is_empty() { "one node".to_owned() } else { format!("nodes {}", nodes.join(", ")) };
        let count = |n: usize| if n == 1 { "1 balancer".to_owned() } else { format!("{n} balancers") };
        format!("{names}; VIP {vip} on {interface}; {}", count(balancers.len()))
    }

    /// The balancers, the same on every node.
    pub fn balancers(&self) -> &[Balancer] {
        &self.common.balancers
    }

    /// All nodes in file order.
    pub fn nodes(&self) -> impl Iterator<Item = &Peer> {
        self.nodes.iter().map(|n| &n.peer)
    }
}

/// Addresses for a message.
pub(crate) fn list(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "no address".to_owned();
    }
    let shown: Vec<String> = addresses.iter().take(20).map(IpAddr::to_string).collect();
    shown.join(", ")
}
