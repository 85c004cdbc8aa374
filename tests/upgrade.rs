//! `reload --exec`: the daemon goes on as another program, in the same process, with its hold, its leadership and its connections.
mod lab;

use lab::backend::{Pattern, Sum};
use lab::net::VIP4;
use lab::node::{built, kube_vip, use_program, write_config};
use lab::process::proc_status;
use lab::{ArpWatch, Backend, Cluster, Host, Kind, LAB_DIR, Lab, Node, NodeConfig, Prober, isolated, secs, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
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

/// Whether the program runs in an emulator: exec would leave it.
fn emulated() -> bool {
    let emulated = std::env::var("TEST_RUNNER").is_ok_and(|runner| !runner.is_empty());
    if emulated {
        lab::skip("upgrades in place: a program under an emulator can't be replaced from within");
    }
    emulated
}

/// How many silent connections there are; more for measurements.
fn idle() -> usize {
    std::env::var("KUBE_VIP_IDLE").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
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
    if emulated() {
        return;
    }
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
        // The one capability that a daemon has, for ports below 1024; and nothing that it could hand to others.
        let of = |key| proc_status(node.daemon_pid(), key).trim_start_matches('0').to_owned();
        assert_eq!([of("CapEff"), of("CapPrm"), of("CapInh"), of("CapAmb")], ["400", "400", "", ""]);
        assert!(node.has_vip());
        assert!(watch.longest_outage() < Duration::from_millis(500), "{:?}", watch.outages());
        // Its stop is as orderly as that of one that was never replaced.
        let status = node.stop(Signal::SIGTERM);
        assert!(status.success() && !node.has_vip(), "{status}");
    });
}

#[test]
fn a_program_that_cannot_take_over_changes_nothing() {
    if emulated() {
        return;
    }
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

/// What no program left is no reason to go on, nor to fail: it is told, and the node starts as usual.
#[test]
fn a_baton_that_is_none_leads_to_a_usual_start() {
    if emulated() {
        return;
    }
    isolated("a_baton_that_is_none_leads_to_a_usual_start", || {
        let lab = Lab::new();
        let host = lab.host("n1");
        let file = write_config("n1", &NodeConfig::single(&host).yaml());
        let program = host.spawn("n1", kube_vip().env("KUBE_VIP_RESUME", "77").args(["start", "-c"]).arg(file));
        wait_until("the VIP is held", secs(20), || host.has(VIP4));
        let log = program.output();
        assert!(log.contains("can't go on where the program before was") && log.contains("Starting anew"), "{log}");
    });
}

/// A transfer in each direction, half-way; some that say nothing; one that is half closed: all go on to the byte.
#[test]
fn connections_go_on_through_three_upgrades() {
    if emulated() {
        return;
    }
    isolated("connections_go_on_through_three_upgrades", || {
        const EACH: u64 = 64 << 20;
        let (lab, program) = (Lab::new(), Installed::new());
        let (client, server) = (lab.host("client"), lab.host("b1"));
        let kinds = [(81, Kind::Echo), (82, Kind::Sum), (83, Kind::Source(EACH)), (84, Kind::Mute)];
        let backends: Vec<Backend> = kinds.iter().map(|(port, kind)| Backend::start(&server, *port, *kind)).collect();
        let node = alone(&lab, |c| {
            for (backend, (port, _)) in backends.iter().zip(kinds) {
                c.balancer(&format!("p{port}"), port, true, &[backend.yaml()]);
            }
        });
        let connect = |port: u16| {
            let to = SocketAddr::new(VIP4.into(), port);
            let stream = client.enter(|| TcpStream::connect_timeout(&to, secs(5))).expect("it accepts");
            stream.set_read_timeout(Some(secs(60))).expect("a socket");
            stream.set_write_timeout(Some(secs(60))).expect("a socket");
            stream
        };
        let idle: Vec<TcpStream> = (0..idle()).map(|_| connect(81)).collect();
        let (mut up, mut down, mut mute, mut half) = (connect(82), connect(83), connect(84), connect(81));
        let mut sent = Pattern::new(EACH);
        let mut part = vec![0; EACH as usize / 2];
        sent.read_exact(&mut part).expect("a pattern");
        up.write_all(&part).expect("it is read");
        // Nobody reads it: what the forwarder holds for it goes over too.
        mute.set_nonblocking(true).expect("a socket");
        let mut filled = 0;
        wait_until("the way to a backend that does not read is full", secs(20), || {
            let n = mute.write(&part).unwrap_or(0);
            filled += n;
            n == 0
        });
        half.write_all(b"last words").expect("it is read");
        half.shutdown(Shutdown::Write).expect("a socket");
        let mut got = Vec::new();
        for mut one in idle.iter().take(3) {
            let told = upgrade(&node, &program);
            assert!(told.contains("connections kept"), "{told}");
            let mut some = vec![0; 1 << 20];
            down.read_exact(&mut some).expect("more comes");
            got.extend(some);
            one.write_all(b"still there?").expect("it is open");
            let mut back = [0; 12];
            one.read_exact(&mut back).expect("an answer");
            assert_eq!(&back, b"still there?");
            assert!(connect(81).write_all(b"x").is_ok(), "new ones are served");
        }
        let mut rest = Vec::new();
        sent.read_to_end(&mut rest).expect("a pattern");
        up.write_all(&rest).expect("it is read");
        up.shutdown(Shutdown::Write).expect("a socket");
        let mut text = String::new();
        up.read_to_string(&mut text).expect("the sum");
        let wanted = Sum::of(&mut Pattern::new(EACH)).expect("a pattern");
        assert_eq!(text, wanted.text(), "every byte up");
        down.read_to_end(&mut got).expect("to its end");
        assert_eq!(Sum::of(&mut got.as_slice()).expect("bytes").text(), wanted.text(), "every byte down");
        let mut last = String::new();
        half.read_to_string(&mut last).expect("what it sent");
        assert_eq!(last, "last words");
        for mut one in idle.iter().skip(3) {
            one.write_all(b"all").expect("it is open");
            let mut back = [0; 3];
            one.read_exact(&mut back).expect("an answer");
        }
        assert_eq!(node.wait_status().gains, 1);
    });
}

/// Three nodes: the leader, then a follower; and then the leader's new program is killed.
/// A client that visits VIP:80 again and again.
struct Visits(std::thread::JoinHandle<usize>, std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Visits {
    fn start(from: &Host) -> Self {
        let (from, over) = (from.clone(), std::sync::Arc::<std::sync::atomic::AtomicBool>::default());
        let ended = over.clone();
        let visit = move || {
            let mut stream = from.enter(|| TcpStream::connect_timeout(&SocketAddr::new(VIP4.into(), 80), secs(20)))?;
            stream.set_read_timeout(Some(secs(20)))?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        };
        let thread = std::thread::spawn(move || {
            let mut served = 0;
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                let text = visit().unwrap_or_else(|e| panic!("after {served} visits: {e}"));
                assert_eq!(text, "b1\n", "after {served} visits");
                served += 1;
            }
            served
        });
        Self(thread, over)
    }

    /// How many visits there were, none of them in vain.
    fn end(self) -> usize {
        self.1.store(true, std::sync::atomic::Ordering::Relaxed);
        self.0.join().expect("every visit was served")
    }
}

#[test]
fn a_leader_is_upgraded_without_an_election_and_the_next_failover_works() {
    if emulated() {
        return;
    }
    isolated("a_leader_is_upgraded_without_an_election_and_the_next_failover_works", || {
        let (lab, program) = (Lab::new(), Installed::new());
        let host = lab.host("b1");
        let backend = Backend::start(&host, 8080, Kind::Name);
        let cluster = Cluster::start_with(&lab, 3, false, |c| c.balancer("web", 80, true, &[backend.yaml()]));
        let (leader, term) = cluster.wait_settled();
        let (arp, probe) = (ArpWatch::start(&cluster.client, VIP4), Prober::start(&cluster.client, VIP4));
        probe.wait_answer(secs(10));
        let gains = cluster.nodes[leader].wait_status().gains;
        let visits = Visits::start(&cluster.client);
        for _ in 0..3 {
            let told = upgrade(&cluster.nodes[leader], &program);
            assert!(told.contains("a majority has answered after"), "{told}");
            let status = cluster.nodes[leader].wait_status();
            assert_eq!((status.role.as_str(), status.held, status.gains, status.term), ("leader", true, gains, term));
        }
        let served = visits.end();
        assert!(served > 20, "{served} were served, one after the other, and none was sent away");
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
