//! What an operator sees: the status table, clear errors, a log that tells the story; and what the processes may do and weigh.
mod lab;

use lab::net::{VIP4, mac_text};
use lab::packet::{Arp, PacketSocket};
use lab::process::{emulated, proc_status, rss_kib, threads};
use lab::{Backend, Cluster, Kind, Lab, Node, NodeConfig, isolated, never_within, secs, wait_until};
use nix::sys::signal::Signal;

/// Bits of linux/capability.h.
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

fn capabilities(pid: i32, which: &str) -> u64 {
    u64::from_str_radix(&proc_status(pid, which), 16).expect("capability sets are hexadecimal")
}

fn status_text(node: &Node) -> (bool, String, String) {
    node.tell(&["status"])
}

#[test]
fn status_tells_who_leads_what_is_held_and_what_flows() {
    isolated("status_tells_who_leads_what_is_held_and_what_flows", || {
        let lab = Lab::new();
        let web = lab.host("web");
        let backend = Backend::start(&web, 8080, Kind::Name);
        let cluster = Cluster::start_with(&lab, 3, false, |c| c.balancer("shop", 80, true, &[backend.yaml()]));
        let (leader, term) = cluster.wait_settled();
        for (i, node) in cluster.nodes.iter().enumerate() {
            let json = node.wait_status();
            assert_eq!((json.id.as_str(), json.leader.as_deref()), (node.id(), Some(cluster.nodes[leader].id())));
            assert_eq!((json.vip.as_str(), json.interface.as_str()), ("10.99.0.100", "eth0"));
            assert_eq!(json.balancers[0].serving, i == leader, "VIP:80 is served by the holder alone");
            assert_eq!(json.version, env!("CARGO_PKG_VERSION"));
            assert!(json.loop_delay_ms.is_some());
            assert!(json.fenced != json.fence_problem.is_some(), "fenced, or the reason why not: {json:?}");
            assert!(json.peers.iter().all(|p| p.fit == Some(true)), "{json:?}");
            assert_eq!((json.cordoned, json.witness, json.reaches, json.claims), (false, false, None, 0));
            let (ok, table, error) = status_text(node);
            assert!(ok, "{error}");
            for word in [cluster.nodes[leader].id(), &term.to_string(), "10.99.0.100", "shop", "n1", "n2", "n3"] {
                assert!(table.contains(word), "no {word:?} in\n{table}");
            }
        }
        let holder = &cluster.nodes[leader];
        wait_until("connections are counted", secs(20), || {
            let _ = cluster.client.enter(|| std::net::TcpStream::connect(("10.99.0.100", 80)));
            let b = &holder.wait_status().balancers[0];
            b.accepted > 0 && b.bytes_out >= 4 && b.backends[0].connected > 0
        });
        // A peer that dies is seen.
        let dead = &cluster.nodes[(leader + 1) % 3];
        dead.kill_both();
        wait_until("the dead peer's last contact grows old", secs(20), || {
            let peers = holder.wait_status().peers;
            peers.iter().any(|p| p.id == dead.id() && (p.problem.is_some() || p.last_contact_ms.is_none_or(|ms| ms > 1000)))
        });
    });
}

#[test]
fn status_without_a_daemon_says_so() {
    isolated("status_without_a_daemon_says_so", || {
        let host = Lab::new().host("n1");
        let node = Node::start(&host, &NodeConfig::single(&host));
        node.wait_status();
        assert!(node.stop(Signal::SIGTERM).success());
        let (ok, out, error) = status_text(&node);
        assert!(!ok, "{out}");
        assert!(error.contains("n1") && error.to_lowercase().contains("running"), "not a helpful error: {error:?}");
        assert_eq!(error.trim().lines().count().min(4), error.trim().lines().count(), "an error, not an essay: {error}");
    });
}

#[test]
fn each_process_may_do_only_its_own_part() {
    isolated("each_process_may_do_only_its_own_part", || {
        let lab = Lab::new();
        let host = lab.host("n1");
        let node = Node::start(&host, &NodeConfig::single(&host));
        wait_until("the VIP is held", secs(20), || node.has_vip());
        let (keeper, daemon) = (node.keeper_pid(), node.daemon_pid());
        for which in ["CapEff", "CapPrm"] {
            let (k, d) = (capabilities(keeper, which), capabilities(daemon, which));
            assert_eq!(k & !(NET_ADMIN | NET_RAW), 0, "keeper {which} {k:#x}");
            assert_ne!(k & NET_ADMIN, 0, "keeper {which} {k:#x}");
            assert_eq!(d & !NET_BIND_SERVICE, 0, "daemon {which} {d:#x}");
        }
        for pid in [keeper, daemon] {
            assert_eq!(
                capabilities(pid, "CapInh") | capabilities(pid, "CapAmb"),
                0,
                "nothing to pass on to a program it starts"
            );
            assert_eq!(proc_status(pid, "NoNewPrivs"), "1");
        }
        assert_eq!(threads(keeper), 1, "the keeper is one poll loop");
        assert!(threads(daemon) <= 6, "{} threads in the daemon", threads(daemon));
    });
}

#[test]
fn the_processes_are_small() {
    isolated("the_processes_are_small", || {
        let cluster = Cluster::start(&Lab::new(), 3);
        let (leader, _) = cluster.wait_settled();
        if emulated(cluster.nodes[0].keeper_pid()) {
            return lab::skip("what is resident is the emulator's memory");
        }
        for (i, node) in cluster.nodes.iter().enumerate() {
            let (keeper, daemon) = (rss_kib(node.keeper_pid()), rss_kib(node.daemon_pid()));
            let threads = threads(node.daemon_pid());
            println!(
                "{}{}: keeper {keeper} KiB, daemon {daemon} KiB, {threads} threads",
                node.id(),
                if i == leader { " leads" } else { "" }
            );
            // The keeper locks its memory, so all of an unoptimised binary counts: only a release build is held to the promise.
            let (keeper_bound, daemon_bound) = if cfg!(debug_assertions) { (96 << 10, 16 << 10) } else { (4 << 10, 4 << 10) };
            assert!(keeper < keeper_bound, "{}: keeper {keeper} KiB; bound {keeper_bound}", node.id());
            assert!(daemon < daemon_bound, "{}: daemon {daemon} KiB; bound {daemon_bound}", node.id());
        }
    });
}

#[test]
fn the_log_tells_the_story_and_does_not_chatter() {
    isolated("the_log_tells_the_story_and_does_not_chatter", || {
        let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| c.extra.clear());
        let (leader, _) = cluster.wait_settled();
        let leader_id = cluster.nodes[leader].id().to_owned();
        for node in &cluster.nodes {
            wait_until("the log names the leader", secs(10), || node.log().contains(&leader_id));
        }
        wait_until("the holder's log names the VIP", secs(10), || cluster.nodes[leader].log().contains("10.99.0.100"));
        let lines = |n: &Node| n.log().lines().filter(|l| !l.contains("DEBUG") && !l.contains("TRACE")).count();
        let before: Vec<usize> = cluster.nodes.iter().map(lines).collect();
        never_within("an undisturbed cluster chatters", secs(3), || {
            cluster.nodes.iter().zip(&before).find(|(n, b)| lines(n) > **b + 10).map(|(n, _)| n.id().to_owned())
        });
        for node in &cluster.nodes {
            assert!(!node.log().contains("panicked"), "{}", node.log());
        }
    });
}

/// The scheduling policy of each thread of a process, its first thread's first: 0 as usual, 2 SCHED_RR (proc(5), field 41 of stat).
fn policies(pid: i32) -> Vec<u32> {
    let mut threads: Vec<i32> = std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("the process runs")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().parse().expect("a number"))
        .collect();
    threads.sort_by_key(|thread| *thread != pid);
    let policy = |thread: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(38)?.parse().ok()
    };
    threads.iter().filter_map(policy).collect()
}

/// Whether it is allowed is the machine's business; but nobody is left to wonder.
#[test]
fn the_daemon_runs_in_real_time_or_says_why_not() {
    isolated("the_daemon_runs_in_real_time_or_says_why_not", || {
        let host = Lab::new().host("n1");
        let mut config = NodeConfig::single(&host);
        let node = Node::start(&host, &config);
        wait_until("the VIP is held", secs(20), || node.has_vip());
        let told = node.log().contains("no real-time scheduling");
        let policies = self::policies(node.daemon_pid());
        println!("daemon's threads: {policies:?}");
        assert_eq!(policies[0], if told { 0 } else { 2 }, "{}", node.log());
        assert!(policies[1..].iter().all(|p| *p == 0), "helper threads run as usual: {policies:?}");
        assert!(node.stop(Signal::SIGTERM).success());
        let before = node.log().len();
        config.extra.push("realtime: false".into());
        let node = Node::start(&host, &config);
        wait_until("the VIP is held", secs(20), || node.has_vip());
        assert_eq!(self::policies(node.daemon_pid())[0], 0);
        let log = node.log(); // of both runs
        let news = log.get(before..).unwrap_or(&log);
        assert!(!news.contains("real-time") && !news.contains("memory"), "{news}");
    });
}

#[test]
fn a_log_of_errors_alone_changes_nothing_else() {
    isolated("a_log_of_errors_alone_changes_nothing_else", || {
        let lab = Lab::new();
        let host = lab.host("n1");
        let config = NodeConfig::single(&host);
        let file = lab::node::write_config("n1", &config.yaml());
        let keeper = host.spawn("n1", lab::node::kube_vip().args(["start", "--log", "2", "-c"]).arg(file));
        wait_until("it holds", secs(10), || host.has(config.vip));
        never_within("it ended by itself", secs(1), || keeper.exited());
        assert!(host.has(config.vip));
        keeper.signal(Signal::SIGTERM);
        assert!(keeper.wait_exit(secs(10)).success());
        assert!(!host.has(config.vip));
        assert_eq!(keeper.output(), "");
    });
}

#[test]
fn strangers_that_claim_the_vip_are_counted_and_told_once() {
    isolated("strangers_that_claim_the_vip_are_counted_and_told_once", || {
        let lab = Lab::new();
        let (host, stranger) = (lab.host("n1"), lab.host("stranger"));
        let node = Node::start(&host, &NodeConfig::single(&host));
        wait_until("the VIP is held", secs(20), || node.has_vip() && node.held());
        let mac = stranger.mac();
        let announce = Arp { op: 1, sha: mac, spa: VIP4, tha: [0; 6], tpa: VIP4 }.frame([0xff; 6], mac);
        // The keeper tells of one claim in 10 s, so the second one takes its time.
        wait_until("two claims are counted", secs(40), || {
            stranger.enter(|| PacketSocket::open().send(&announce));
            let status = node.wait_status();
            status.claims > 1 && status.last_claim == Some(mac_text(mac))
        });
        let told = format!("another host ({}) claims 10.99.0.100", mac_text(mac));
        assert_eq!(node.log().matches(&told).count(), 1, "{}", node.log());
        let (_, table, _) = node.tell(&["status"]);
        assert!(table.contains("claims    RED") && table.contains(&mac_text(mac)), "{table}");
        assert!(node.has_vip(), "a stranger alone takes nothing away");
    });
}
