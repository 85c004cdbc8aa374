//! `kube-vip` itself on a host: its configuration, its two processes, what it says about itself.

use super::net::{VIP4, VIP6};
use super::process::{alive, children};
use super::{Host, LAB_DIR, Lab, Process, secs, usual_timing, wait_for, wait_until};
use kube_vip::status::Snapshot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// Raft's port on every node.
pub const RAFT_PORT: u16 = 10000;

/// A lease that a busy test machine doesn't miss, for tests about a leader that must stay.
pub const STEADY: &str = "{heartbeat: 200ms, lease: 1500ms}";

/// One node's configuration; rendered as the YAML of 2020.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub id: String,
    pub address: IpAddr,
    pub port: u16,
    /// (id, address, port) of the others.
    pub peers: Vec<(String, IpAddr, u16)>,
    pub vip: IpAddr,
    pub announce: bool,
    pub single: bool,
    /// The value of `timing`, as YAML.
    pub timing: String,
    /// Flow-style entries of `loadBalancers`.
    pub balancers: Vec<String>,
    /// Further top-level lines.
    pub extra: Vec<String>,
}

impl NodeConfig {
    /// A node alone (`singleNode`) on `host`, IPv4.
    pub fn single(host: &Host) -> NodeConfig {
        NodeConfig {
            id: host.name().to_owned(),
            address: host.ip4().into(),
            port: RAFT_PORT,
            peers: Vec::new(),
            vip: VIP4.into(),
            announce: true,
            single: true,
            timing: usual_timing(),
            balancers: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// One of `members`, over IPv4 or (`v6`) IPv6.
    pub fn member(host: &Host, members: &[Host], v6: bool) -> NodeConfig {
        let address = |h: &Host| if v6 { IpAddr::V6(h.ip6()) } else { IpAddr::V4(h.ip4()) };
        let others = members.iter().filter(|h| h.name() != host.name());
        NodeConfig {
            address: address(host),
            peers: others.map(|h| (h.name().to_owned(), address(h), RAFT_PORT)).collect(),
            vip: if v6 { VIP6.into() } else { VIP4.into() },
            single: false,
            ..NodeConfig::single(host)
        }
    }

    /// Adds a tcp balancer; `backends` are flow-style entries (see `Backend::yaml`).
    pub fn balancer(&mut self, name: &str, port: u16, bind_to_vip: bool, backends: &[String]) {
        let backends = backends.join(", ");
        self.balancers
            .push(format!("{{name: {name}, type: tcp, port: {port}, bindToVip: {bind_to_vip}, backends: [{backends}]}}"));
    }

    /// The file.
    pub fn yaml(&self) -> String {
        let peer = |id: &str, ip: &IpAddr, port: u16| format!("{{id: {id}, address: \"{ip}\", port: {port}}}");
        let mut text = format!("localPeer: {}\n", peer(&self.id, &self.address, self.port));
        if !self.peers.is_empty() {
            text += "remotePeers:\n";
        }
        for (id, ip, port) in &self.peers {
            let _ = writeln!(text, "- {}", peer(id, ip, *port));
        }
        let _ = writeln!(text, "vip: \"{}\"\ninterface: eth0\ngratuitousARP: {}", self.vip, self.announce);
        let _ = writeln!(text, "singleNode: {}\nstartAsLeader: false\ntiming: {}", self.single, self.timing);
        if !self.balancers.is_empty() {
            text += "loadBalancers:\n";
        }
        for entry in self.balancers.iter() {
            let _ = writeln!(text, "- {entry}");
        }
        for line in &self.extra {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

thread_local! {
    /// See [`use_program`].
    static PROGRAM: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// From now on this thread starts another file than that which Cargo built.
pub fn use_program(file: &Path) {
    PROGRAM.set(Some(file.to_owned()));
}

/// The file that Cargo built, or `$KUBE_VIP_BIN`.
pub fn built() -> PathBuf {
    std::env::var_os("KUBE_VIP_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_kube-vip").into()).into()
}

/// The program under test: `$KUBE_VIP_BIN` or the one Cargo built, behind `$TEST_RUNNER` (e.g. an emulator) where that is set.
pub fn kube_vip() -> Command {
    let binary = PROGRAM.with_borrow(Clone::clone).unwrap_or_else(built);
    let runner = std::env::var("TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(first) = words.next() else { return Command::new(binary) };
    let mut command = Command::new(first);
    command.args(words).arg(binary);
    command
}

/// `kube-vip start` on a host.
pub struct Node {
    pub host: Host,
    pub config: NodeConfig,
    file: PathBuf,
    flags: Vec<String>,
    keeper: RefCell<Process>,
}

impl Node {
    /// Writes the configuration and starts the program.
    pub fn start(host: &Host, config: &NodeConfig) -> Node {
        Self::start_with(host, config, &[])
    }

    /// [`Self::start`] with further flags.
    pub fn start_with(host: &Host, config: &NodeConfig, flags: &[&str]) -> Node {
        Self::launch_file(host, config, write_config(&config.id, &config.yaml()), flags)
    }

    /// Starts the program with a file as it is; `config` says what the file says, for the test's own use.
    pub fn start_file(host: &Host, config: &NodeConfig, file: &Path) -> Node {
        Self::launch_file(host, config, file.to_owned(), &[])
    }

    fn launch_file(host: &Host, config: &NodeConfig, file: PathBuf, flags: &[&str]) -> Node {
        let flags: Vec<String> = flags.iter().map(|f| (*f).to_owned()).collect();
        let keeper = RefCell::new(launch(host, &config.id, &file, &flags));
        Node { host: host.clone(), config: config.clone(), file, flags, keeper }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.config.id
    }

    /// Its configuration file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where it keeps its state by default.
    pub fn state_dir(&self) -> PathBuf {
        Path::new("/var/lib/kube-vip").join(self.id())
    }

    /// Starts it again, after it has ended.
    pub fn restart(&self) {
        assert!(self.keeper.borrow().exited().is_some(), "{} still runs", self.id());
        *self.keeper.borrow_mut() = launch(&self.host, self.id(), &self.file, &self.flags);
    }

    /// Id of the keeper: the process that was started.
    pub fn keeper_pid(&self) -> i32 {
        self.keeper.borrow().pid()
    }

    /// Id of the daemon: the keeper's child. Waits until there is one.
    #[track_caller]
    pub fn daemon_pid(&self) -> i32 {
        wait_for(&format!("the keeper of {} has a child", self.id()), secs(10), || children(self.keeper_pid()).first().copied())
    }

    /// Signals the keeper.
    pub fn signal(&self, signal: Signal) {
        self.keeper.borrow().signal(signal);
    }

    /// Signals the daemon.
    #[track_caller]
    pub fn signal_daemon(&self, signal: Signal) {
        kill(Pid::from_raw(self.daemon_pid()), signal).expect("the daemon runs and may be signalled");
    }

    /// Signals the keeper, waits for both processes to end, and returns the keeper's exit status.
    #[track_caller]
    pub fn stop(&self, signal: Signal) -> ExitStatus {
        let daemon = children(self.keeper_pid());
        self.signal(signal);
        let status = self.wait_exit(secs(15));
        wait_until(&format!("the daemon of {} ends", self.id()), secs(15), || !daemon.iter().any(|&pid| alive(pid)));
        status
    }

    /// `kill -9` to both processes with nothing in between that they could use: the daemon is frozen first.
    #[track_caller]
    pub fn kill_both(&self) {
        let daemon = Pid::from_raw(self.daemon_pid());
        kill(daemon, Signal::SIGSTOP).expect("the daemon runs");
        self.signal(Signal::SIGKILL);
        kill(daemon, Signal::SIGKILL).expect("the daemon was frozen");
        self.wait_exit(secs(5));
        wait_until("a killed daemon is gone", secs(5), || !alive(daemon.as_raw()));
    }

    /// Waits for the keeper's end.
    #[track_caller]
    pub fn wait_exit(&self, limit: Duration) -> ExitStatus {
        self.keeper.borrow().wait_exit(limit)
    }

    /// Whether the keeper has ended.
    pub fn ended(&self) -> bool {
        self.keeper.borrow().exited().is_some()
    }

    /// Waits for a line of its log.
    #[track_caller]
    pub fn wait_for_log(&self, pattern: &str, limit: Duration) -> String {
        self.keeper.borrow().wait_for_log(pattern, limit)
    }

    /// Its log so far, restarts included.
    pub fn log(&self) -> String {
        self.keeper.borrow().output()
    }

    /// Runs a command that asks or tells this node, e.g. `["handover", "--to", "n2"]`: whether it went well, its output, its errors.
    pub fn tell(&self, words: &[&str]) -> (bool, String, String) {
        let out = self.host.run(kube_vip().args(words).arg("-c").arg(&self.file));
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (out.status.success(), text(&out.stdout), text(&out.stderr))
    }

    /// `kube-vip status --json`, if it answers.
    pub fn status(&self) -> Option<Snapshot> {
        let out = self.host.run(kube_vip().args(["status", "--json", "-c"]).arg(&self.file));
        out.status.success().then(|| serde_json::from_slice(&out.stdout).expect("status --json prints the snapshot"))
    }

    /// [`Self::status`], waited for.
    #[track_caller]
    pub fn wait_status(&self) -> Snapshot {
        wait_for(&format!("{} answers `status`", self.id()), secs(10), || self.status())
    }

    /// Its raft term, by status.
    #[track_caller]
    pub fn term(&self) -> u64 {
        self.wait_status().term
    }

    /// `leader`, `follower`, `candidate`, `quiet`, `single`, by status.
    #[track_caller]
    pub fn role(&self) -> String {
        self.wait_status().role
    }

    /// Whether it says that it holds the VIP.
    #[track_caller]
    pub fn held(&self) -> bool {
        self.wait_status().held
    }

    /// Whether the kernel of its host has the VIP.
    pub fn has_vip(&self) -> bool {
        self.host.has(self.config.vip)
    }
}

/// Writes `<id>.yaml` into the lab's directory.
pub fn write_config(id: &str, yaml: &str) -> PathBuf {
    let file = Path::new(LAB_DIR).join(format!("{id}.yaml"));
    std::fs::write(&file, yaml).expect("the lab's directory is writable");
    file
}

fn launch(host: &Host, name: &str, file: &Path, flags: &[String]) -> Process {
    host.spawn(name, kube_vip().args(["start", "--log", "5", "-c"]).arg(file).args(flags))
}

/// Some nodes of one cluster, and a client beside them.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub client: Host,
    pub vip: IpAddr,
}

impl Cluster {
    /// `count` nodes n1, n2, … over IPv4, preset `lan`.
    pub fn start(lab: &Lab, count: usize) -> Cluster {
        Self::start_with(lab, count, false, |_| {})
    }

    /// The same with changes to each configuration.
    pub fn start_with(lab: &Lab, count: usize, v6: bool, edit: impl Fn(&mut NodeConfig)) -> Cluster {
        let hosts: Vec<Host> = (1..=count).map(|n| lab.host(&format!("n{n}"))).collect();
        let client = lab.host("client");
        let nodes = hosts.iter().map(|host| {
            let mut config = NodeConfig::member(host, &hosts, v6);
            edit(&mut config);
            Node::start(host, &config)
        });
        let nodes: Vec<Node> = nodes.collect();
        let vip = nodes[0].config.vip;
        Cluster { nodes, client, vip }
    }

    /// Which nodes' kernels have the VIP.
    pub fn holders(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&i| self.nodes[i].has_vip()).collect()
    }

    /// Waits until exactly one kernel has the VIP, and returns which.
    #[track_caller]
    pub fn wait_holder(&self) -> usize {
        self.wait_holder_other_than(usize::MAX)
    }

    /// Waits until exactly one kernel has the VIP and it isn't node `old`'s.
    #[track_caller]
    pub fn wait_holder_other_than(&self, old: usize) -> usize {
        wait_for("exactly one (other) node has the VIP", secs(30), || match self.holders()[..] {
            [one] if one != old => Some(one),
            _ => None,
        })
    }

    /// Waits until every running node names the same leader, that one holds, and each has heard of all others that run.
    /// Returns the leader's index and term.
    #[track_caller]
    pub fn wait_settled(&self) -> (usize, u64) {
        wait_for("all running nodes agree on a leader that holds the VIP", secs(30), || self.settled())
    }

    fn settled(&self) -> Option<(usize, u64)> {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|&i| !self.nodes[i].ended()).collect();
        let views: Vec<Snapshot> = running.iter().map(|&i| self.nodes[i].status()).collect::<Option<_>>()?;
        let (leader, term) = (views[0].leader.clone()?, views[0].term);
        let agree = views.iter().all(|v| v.leader.as_ref() == Some(&leader) && v.term == term && v.role != "quiet");
        let holder = self.holders();
        let index = self.nodes.iter().position(|n| n.id() == leader)?;
        (agree && holder == [index] && views[running.iter().position(|&i| i == index)?].held).then_some((index, term))
    }
}
