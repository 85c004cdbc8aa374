//! `reload --exec`: the daemon goes on as another program, in the same process, with its hold, its leadership and its connections.
mod lab;

use lab::net::VIP4;
use lab::node::{built, use_program};
use lab::{ArpWatch, Cluster, LAB_DIR, Lab, Node, NodeConfig, Prober, isolated, secs, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the program under test is installed.
struct Installed(PathBuf);

impl Installed {
    fn new() -> Self {
        let installed = Self(Path::new(LAB_DIR).join("bin/kube-vip"));
        fs::create_dir_all(Path::new(LAB_DIR).join("bin")).expect("the lab's directory is writable");
        installed.install();
        use_program(&installed.0);
        installed
    }

    /// The same program as a new file, put in the old one's place at once.
    fn install(&self) {
        let new = self.0.with_extension("new");
        fs::copy(built(), &new).expect("the program is there");
        fs::rename(new, &self.0).expect("renamed");
    }

    /// Something else in its place.
    fn install_text(&self, text: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, text).expect("it is writable");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("it is ours");
        fs::rename(new, &self.0).expect("renamed");
    }

    fn inode(&self) -> u64 {
        fs::metadata(&self.0).expect("it is there").ino()
    }
}

/// Which file this process runs.
fn running(pid: i32) -> u64 {
    fs::metadata(format!("/proc/{pid}/exe")).expect("it runs").ino()
}

/// Upgrades a node and says what it answered.
#[track_caller]
fn upgrade(node: &Node, program: &Installed) -> String {
    let daemon = node.daemon_pid();
    program.install();
    // Asked by the old file: the command is any version's.
    let (fine, out, errors) = node.tell(&["reload", "--exec"]);
    assert!(fine, "{}: {out}{errors}", node.id());
    println!("{}: {}", node.id(), out.trim());
    assert_eq!((node.daemon_pid(), running(daemon)), (daemon, program.inode()), "the same process runs the new file");
    out
}

fn alone(lab: &Lab, edit: impl Fn(&mut NodeConfig)) -> Node {
    let host = lab.host("n1");
    let mut config = NodeConfig::single(&host);
    edit(&mut config);
    let node = Node::start(&host, &config);
    wait_until("the VIP is held", secs(20), || node.has_vip() && node.status().is_some_and(|s| s.held));
    node
}

#[test]
fn a_node_alone_is_upgraded_three_times_and_never_lets_the_vip_go() {
    isolated("a_node_alone_is_upgraded_three_times_and_never_lets_the_vip_go", || {
        let (lab, program) = (Lab::new(), Installed::new());
        let client = lab.host("client");
        let node = alone(&lab, |_| {});
        let watch = Prober::start(&client, VIP4);
        watch.wait_answer(secs(10));
        for _ in 0..3 {
            upgrade(&node, &program);
            let status = node.wait_status();
            assert_eq!((status.held, status.gains), (true, 1), "{status:?}");
        }
        assert!(node.has_vip());
        assert!(watch.longest_outage() < Duration::from_millis(500), "{:?}", watch.outages());
        // Its stop is as orderly as that of one that was never replaced.
        let status = node.stop(Signal::SIGTERM);
        assert!(status.success() && !node.has_vip(), "{status}");
    });
}

#[test]
fn a_program_that_cannot_take_over_changes_nothing() {
    isolated("a_program_that_cannot_take_over_changes_nothing", || {
        let (lab, program) = (Lab::new(), Installed::new());
        let node = alone(&lab, |_| {});
        let (daemon, inode) = (node.daemon_pid(), program.inode());
        let whole = fs::read(built()).expect("the program is there");
        let refused = |why: &str| {
            use_program(&built());
            let (fine, _, errors) = node.tell(&["reload", "--exec"]);
            assert!(!fine && errors.contains("nothing has changed") && errors.contains(why), "{why}: {errors}");
            let status = node.wait_status();
            assert_eq!((status.held, status.gains, node.daemon_pid(), running(daemon)), (true, 1, daemon, inode), "{why}");
        };
        program.install_text("#!/bin/sh\necho broken >&2\nexit 3\n");
        refused("broken");
        program.install_text("#!/bin/sh\nexit 0\n");
        refused("is not a kube-vip that can take over in place");
        program.install_text("#!/bin/sh\necho '{\"version\": \"kube-vip 9\", \"format\": 99, \"wire\": 1, \"fixed\": {}}'\n");
        refused("kube-vip 9 can't take over in place from this version: stop and start");
        program.install_text("no program at all");
        refused("can't start");
        let new = program.0.with_extension("new");
        fs::write(&new, &whole[..100_000]).expect("it is writable");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("it is ours");
        fs::rename(new, &program.0).expect("renamed");
        refused("");
        fs::remove_file(&program.0).expect("it is ours");
        refused("can't start");
        program.install();
        let file = fs::read_to_string(node.file()).expect("it is there");
        fs::write(node.file(), file.clone() + "nonsense: 1\n").expect("it is writable");
        // The command itself reads the file too: it is the first to say so.
        let (fine, _, errors) = node.tell(&["reload", "--exec"]);
        assert!(!fine && errors.contains("nonsense"), "{errors}");
        fs::write(node.file(), file.replace("gratuitousARP: true", "gratuitousARP: false")).expect("it is writable");
        refused("another gratuitousARP than the running node");
        fs::write(node.file(), file).expect("it is writable");
        upgrade(&node, &program);
    });
}

/// Three nodes: the leader, then a follower; and then the leader's new program is killed.
#[test]
fn a_leader_is_upgraded_without_an_election_and_the_next_failover_works() {
    isolated("a_leader_is_upgraded_without_an_election_and_the_next_failover_works", || {
        let (lab, program) = (Lab::new(), Installed::new());
        let cluster = Cluster::start(&lab, 3);
        let (leader, term) = cluster.wait_settled();
        let (arp, probe) = (ArpWatch::start(&cluster.client, VIP4), Prober::start(&cluster.client, VIP4));
        probe.wait_answer(secs(10));
        let gains = cluster.nodes[leader].wait_status().gains;
        for _ in 0..3 {
            let told = upgrade(&cluster.nodes[leader], &program);
            assert!(told.contains("a majority has answered after"), "{told}");
            let status = cluster.nodes[leader].wait_status();
            assert_eq!((status.role.as_str(), status.held, status.gains, status.term), ("leader", true, gains, term));
        }
        let follower = (leader + 1) % 3;
        upgrade(&cluster.nodes[follower], &program);
        assert_eq!(cluster.wait_settled(), (leader, term), "nobody was elected meanwhile");
        assert!(probe.longest_outage() < Duration::from_millis(500), "{:?}", probe.outages());
        assert!(!cluster.nodes[leader].log().contains("letting the VIP go"), "{}", cluster.nodes[leader].log());
        cluster.nodes[leader].signal_daemon(Signal::SIGKILL);
        cluster.nodes[leader].wait_exit(secs(20));
        let next = cluster.wait_holder_other_than(leader);
        let proven = cluster.nodes.iter().any(|node| node.log().contains("the VIP is gone from"));
        assert!(proven, "the keeper's proof fits the key that was handed on: {}", cluster.nodes[next].log());
        arp.assert_one_holder();
    });
}
