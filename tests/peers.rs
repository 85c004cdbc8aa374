//! The raft port faces the network: nothing that arrives there may disturb the leader or flood the log, and only the
//! configured members of the same cluster are heard.
mod lab;

use lab::node::RAFT_PORT;
use lab::{ArpWatch, Cluster, Host, Lab, Node, NodeConfig, STEADY, isolated, never_within, secs, wait_until};
use nix::sys::signal::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

fn steady(lab: &Lab) -> Cluster {
    Cluster::start_with(lab, 3, false, |c| c.timing = STEADY.into())
}

fn knock(from: &Host, node: &Node) -> TcpStream {
    let to = SocketAddr::from((node.host.ip4(), RAFT_PORT));
    let stream = from.enter(|| TcpStream::connect_timeout(&to, secs(5))).expect("the raft port listens");
    stream.set_read_timeout(Some(secs(30))).expect("a timeout can be set");
    stream
}

/// Reads until the other side ends the connection, by FIN or RST; fails after 30 s of patience.
fn wait_closed(mut stream: TcpStream, what: &str) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => panic!("{what}: never closed"),
            Err(_) => return,
        }
    }
}

fn lines_about(node: &Node, who: &Host) -> usize {
    let ip = format!("{}:", who.ip4());
    let alone = who.ip4().to_string();
    node.log().lines().filter(|l| l.contains(&ip) || l.split([' ', ',', ')', '(']).any(|w| w == alone)).count()
}

#[test]
fn garbage_closes_its_own_connection_only() {
    isolated("garbage_closes_its_own_connection_only", || {
        let lab = Lab::new();
        let cluster = steady(&lab);
        let stranger = lab.host("stranger");
        let before = cluster.wait_settled();
        let leader = &cluster.nodes[before.0];
        let noise: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let cases: [(&str, &[u8]); 7] = [
            ("a wrong greeting", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
            ("noise", &noise),
            ("an oversized length", &[0xff; 64]),
            ("zeros", &[0; 4096]),
            ("a length with nothing behind it", &[0, 0, 0, 16]),
            ("a TLS greeting", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
            ("nothing at all", &[]),
        ];
        for (what, bytes) in cases {
            let seen = lines_about(leader, &stranger);
            let mut stream = knock(&stranger, leader);
            // A refusal may arrive while we still write: that is a closed connection too.
            let _ = stream.write_all(bytes);
            wait_closed(stream, what);
            wait_until(&format!("{what}: a log line names the stranger"), secs(10), || lines_about(leader, &stranger) > seen);
            let lines = lines_about(leader, &stranger) - seen;
            assert!(lines <= 2, "{what}: {lines} log lines for one connection\n{}", leader.log());
        }
        assert_eq!(cluster.wait_settled(), before, "(leader, term) changed");
        assert_eq!(leader.wait_status().gains, 1);
    });
}

#[test]
fn slow_connections_and_port_scans_disturb_nobody() {
    isolated("slow_connections_and_port_scans_disturb_nobody", || {
        let lab = Lab::new();
        let cluster = steady(&lab);
        let stranger = lab.host("stranger");
        let before = cluster.wait_settled();
        let leader = &cluster.nodes[before.0];
        let watch = ArpWatch::start(&cluster.client, lab::net::VIP4);
        let resident = lab::process::rss_kib(leader.daemon_pid());
        // Many that send one byte and then hold still, on every node.
        let slow: Vec<TcpStream> = (0..300)
            .map(|i| {
                let mut stream = knock(&stranger, &cluster.nodes[i % 3]);
                let _ = stream.write_all(&[0]);
                stream
            })
            .collect();
        for _ in 0..500 {
            drop(knock(&stranger, leader));
        }
        never_within("the holder changed under a port scan", secs(3), || {
            let holders = cluster.holders();
            (holders != [before.0]).then_some(holders)
        });
        for stream in slow {
            wait_closed(stream, "a connection that never finishes its greeting");
        }
        assert_eq!(cluster.wait_settled(), before, "(leader, term) changed");
        let lines = lines_about(leader, &stranger);
        assert!(lines <= 900, "{lines} log lines for 800 connections");
        let what = format!("800 connections, {lines} log lines");
        lab::process::assert_growth_below(8 << 10, leader.daemon_pid(), resident, &what);
        watch.assert_one_holder();
    });
}

/// n1 and n2 make a cluster; n3 differs in what `edit` changes: it must be refused by name, never hold, and disturb nobody.
fn refused(edit: impl Fn(&mut NodeConfig), words: &[&str]) {
    let lab = Lab::new();
    let cluster = Cluster::start_with(&lab, 3, false, |c| {
        c.timing = STEADY.into();
        if c.id == "n3" {
            edit(c);
        }
    });
    let odd = &cluster.nodes[2];
    let good = &cluster.nodes[..2];
    wait_until("n1 or n2 holds", secs(30), || good.iter().any(Node::has_vip));
    let told = |n: &Node| {
        n.log().to_lowercase().lines().any(|l| l.contains("refus") && words.iter().any(|w| l.contains(&w.to_lowercase())))
    };
    wait_until(&format!("a log says refused and one of {words:?}"), secs(20), || cluster.nodes.iter().any(told));
    let leader = good.iter().find(|n| n.has_vip()).expect("a holder");
    let term = leader.term();
    never_within("the odd node took a VIP", Duration::from_secs(5), || odd.has_vip().then_some(()));
    assert_eq!((leader.term(), leader.held()), (term, true), "the odd node disturbed the cluster");
    // At info and above, which is what people keep: at debug each attempt has its line.
    for node in &cluster.nodes {
        let log = node.log();
        let refusals: Vec<_> = log.lines().filter(|l| !l.contains("DEBUG") && l.to_lowercase().contains("refus")).collect();
        assert!(refusals.len() <= 12, "{}: {} lines about refusals: {refusals:#?}", node.id(), refusals.len());
    }
    assert!(odd.stop(Signal::SIGTERM).success());
}

#[test]
fn a_node_with_another_vip_is_refused() {
    isolated("a_node_with_another_vip_is_refused", || {
        refused(|c| c.vip = [10, 99, 0, 101].into(), &["n3", "10.99.0.3", "vip", "cluster"])
    });
}

#[test]
fn a_node_with_other_members_is_refused() {
    isolated("a_node_with_other_members_is_refused", || {
        let extra = ("n9".to_owned(), [10, 99, 0, 9].into(), RAFT_PORT);
        refused(move |c| c.peers.push(extra.clone()), &["n3", "10.99.0.3", "member", "cluster"]);
    });
}

#[test]
fn a_node_with_an_unknown_id_is_refused() {
    isolated("a_node_with_an_unknown_id_is_refused", || refused(|c| c.id = "n7".into(), &["n7", "10.99.0.3", "unknown"]));
}

#[test]
fn a_node_with_another_timing_is_refused() {
    isolated("a_node_with_another_timing_is_refused", || {
        refused(|c| c.timing = "wifi".into(), &["n3", "10.99.0.3", "lease", "heartbeat", "timing"])
    });
}

/// Its host is gone without a word: connections time out, in one way or another.
#[test]
fn a_silent_peer_costs_a_few_log_lines() {
    isolated("a_silent_peer_costs_a_few_log_lines", || {
        let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| c.timing = "{heartbeat: 100ms, lease: 700ms}".into());
        let (leader, _) = cluster.wait_settled();
        let silent = (leader + 1) % 3;
        let others = [leader, (leader + 2) % 3].map(|i| &cluster.nodes[i]);
        let before = others.map(|n| n.log().lines().count());
        cluster.nodes[silent].host.detach();
        let words = format!("peer {}", cluster.nodes[silent].id());
        never_within("another node took over", secs(8), || (!cluster.holders().contains(&leader)).then(|| cluster.holders()));
        for (node, before) in others.iter().zip(before) {
            let log = node.log();
            let told = log.lines().skip(before).filter(|l| l.contains(&words) && !l.contains("DEBUG"));
            let told: Vec<&str> = told.collect();
            assert!((1..=6).contains(&told.len()), "{}: {} lines in 8 s\n{}", node.id(), told.len(), told.join("\n"));
        }
        cluster.nodes[silent].host.attach();
        wait_until("the silent node is heard again", secs(20), || {
            cluster.nodes[leader].wait_status().peers.iter().all(|p| p.problem.is_none())
        });
    });
}
