//! TCP through the VIP: balanced, half-closed, reset and slowed down as the two ends mean it, byte for byte.
mod lab;

use lab::backend::{Pattern, Sum};
use lab::net::VIP4;
use lab::process::{assert_growth_below, rss_kib};
use lab::{Backend, Cluster, Host, Kind, Lab, Node, NodeConfig, isolated, isolated_for, never_within, secs, wait_until};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};

/// Size of the big transfer: 1 GiB, also in debug builds (splice does the work, not our code).
const BIG: u64 = 1 << 30;

/// One node alone that holds the VIP, with one balancer on VIP:80.
struct Single {
    node: Node,
    client: Host,
}

impl Single {
    fn start(lab: &Lab, backends: &[&Backend]) -> Single {
        Self::start_with(lab, |c| c.balancer("web", 80, true, &backends.iter().map(|b| b.yaml()).collect::<Vec<_>>()))
    }

    fn start_with(lab: &Lab, edit: impl Fn(&mut NodeConfig)) -> Single {
        let (host, client) = (lab.host("n1"), lab.host("client"));
        let mut config = NodeConfig::single(&host);
        edit(&mut config);
        let single = Single { node: Node::start(&host, &config), client };
        wait_until("the VIP is held", secs(20), || single.node.has_vip() && single.node.status().is_some_and(|s| s.held));
        wait_until("VIP:80 accepts", secs(10), || connect(&single.client, VIP4, 80).is_ok());
        single
    }

    fn connect(&self) -> TcpStream {
        connect(&self.client, VIP4, 80).expect("VIP:80 accepts")
    }
}

fn connect(from: &Host, to: impl Into<IpAddr>, port: u16) -> std::io::Result<TcpStream> {
    let to = SocketAddr::new(to.into(), port);
    let stream = from.enter(|| TcpStream::connect_timeout(&to, secs(5)))?;
    stream.set_read_timeout(Some(secs(60)))?;
    stream.set_write_timeout(Some(secs(60)))?;
    Ok(stream)
}

fn read_text(mut stream: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text).map(|_| text)
}

/// How often each backend's name came back in `n` connections.
fn names(n: usize, connect: impl Fn() -> std::io::Result<TcpStream>) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..n {
        let name = connect().and_then(read_text).unwrap_or_else(|e| format!("({})", e.kind()));
        *seen.entry(name.trim().to_owned()).or_default() += 1;
    }
    seen
}

fn hosts_with(lab: &Lab, kind: Kind, names: &[&str]) -> Vec<(Host, Backend)> {
    let start = |name: &&str| {
        let host = lab.host(name);
        let backend = Backend::start(&host, 8080, kind);
        (host, backend)
    };
    names.iter().map(start).collect()
}

#[test]
fn connections_are_spread_evenly_and_around_a_dead_backend() {
    isolated("connections_are_spread_evenly_and_around_a_dead_backend", || {
        let lab = Lab::new();
        let mut backends = hosts_with(&lab, Kind::Name, &["b1", "b2", "b3"]);
        let single = Single::start(&lab, &backends.iter().map(|b| &b.1).collect::<Vec<_>>());
        let seen = names(30, || connect(&single.client, VIP4, 80));
        assert_eq!(seen.values().copied().collect::<Vec<_>>(), [10, 10, 10], "{seen:?}");
        let (host, dead) = backends.remove(0);
        dead.kill(&host);
        let seen = names(30, || connect(&single.client, VIP4, 80));
        assert_eq!(seen.len(), 2, "the dead backend's turns go to the living ones, no client notices: {seen:?}");
        let (host, dead) = backends.remove(0);
        dead.kill(&host);
        assert_eq!(names(10, || connect(&single.client, VIP4, 80)), BTreeMap::from([("b3".to_owned(), 10)]));
        let (host, dead) = backends.remove(0);
        dead.kill(&host);
        // The reset may be there before the connect returns.
        let reset = connect(&single.client, VIP4, 80).and_then(read_text);
        assert_eq!(reset.expect_err("no backend is left").kind(), ErrorKind::ConnectionReset);
        let status = single.node.wait_status();
        assert!(status.balancers[0].no_backend >= 1, "{status:?}");
        // A backend that comes back is used again.
        let _back = Backend::start(&host, 8080, Kind::Name);
        wait_until("the returned backend answers", secs(30), || {
            connect(&single.client, VIP4, 80).and_then(read_text).is_ok_and(|t| t == "b3\n")
        });
    });
}

/// Each balancer turns by itself (the program of 2020 had one index for all).
#[test]
fn balancers_turn_independently() {
    isolated("balancers_turn_independently", || {
        let lab = Lab::new();
        let backends = hosts_with(&lab, Kind::Name, &["b1", "b2"]);
        let yaml: Vec<String> = backends.iter().map(|b| b.1.yaml()).collect();
        let single = Single::start_with(&lab, |c| {
            c.balancer("one", 80, true, &yaml);
            c.balancer("two", 81, true, &yaml);
        });
        let mut seen = [BTreeMap::new(), BTreeMap::new()];
        for turn in 0..20 {
            let name = names(1, || connect(&single.client, VIP4, 80 + turn % 2)).into_keys().next();
            *seen[usize::from(turn % 2)].entry(name).or_insert(0) += 1;
        }
        for seen in seen {
            assert_eq!(seen.values().copied().collect::<Vec<_>>(), [5, 5], "{seen:?}");
        }
    });
}

#[test]
fn either_side_may_end_its_direction_first() {
    isolated("either_side_may_end_its_direction_first", || {
        let lab = Lab::new();
        let mut backends = hosts_with(&lab, Kind::Sum, &["b1"]);
        let own = Sum::of(&mut Pattern::new(500_000)).expect("memory");
        let single = Single::start(&lab, &[&backends[0].1]);
        // The client ends first and still gets its answer.
        let mut stream = single.connect();
        std::io::copy(&mut Pattern::new(500_000), &mut stream).expect("all is taken");
        stream.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(read_text(stream).expect("a clean end"), own.text());
        // The server ends first and still gets everything.
        let (host, backend) = backends.remove(0);
        backend.kill(&host);
        let backend = Backend::start(&host, 8080, Kind::EndFirst);
        let mut stream = single.connect();
        assert_eq!(read_text(&stream).expect("the server's end arrives"), "bye\n");
        std::io::copy(&mut Pattern::new(500_000), &mut stream).expect("the other direction still flows");
        stream.shutdown(Shutdown::Write).expect("half-close");
        wait_until("the server has read to the end", secs(20), || backend.sums().contains(&own));
    });
}

#[test]
fn resets_pass_through_both_ways() {
    isolated("resets_pass_through_both_ways", || {
        let lab = Lab::new();
        let mut backends = hosts_with(&lab, Kind::Reset, &["b1"]);
        let single = Single::start(&lab, &[&backends[0].1]);
        let mut stream = single.connect();
        stream.write_all(b"x").expect("one byte goes out");
        assert_eq!(read_text(stream).expect_err("a reset, not an end").kind(), ErrorKind::ConnectionReset);
        // A client that resets must not look like one that ended: the sum is never taken.
        let (host, backend) = backends.remove(0);
        backend.kill(&host);
        let backend = Backend::start(&host, 8080, Kind::Sum);
        for n in 0..10 {
            let mut stream = single.connect();
            stream.write_all(b"half a message").expect("goes out");
            // A reset that comes before the backend was asked never reaches it.
            wait_until("the backend sees it come", secs(10), || backend.accepted() > n);
            socket2::SockRef::from(&stream).set_linger(Some(secs(0))).expect("linger 0 makes close a reset");
        }
        never_within("a reset arrived as a clean end", secs(1), || backend.sums().iter().find(|s| s.bytes > 0).copied());
    });
}

#[test]
fn a_gigabyte_arrives_whole_each_way() {
    isolated_for(secs(300), "a_gigabyte_arrives_whole_each_way", || {
        let lab = Lab::new();
        let up = Backend::start(&lab.host("b1"), 8080, Kind::Sum);
        let down = Backend::start(&lab.host("b2"), 8080, Kind::Source(BIG));
        let single = Single::start_with(&lab, |c| {
            c.balancer("up", 80, true, &[up.yaml()]);
            c.balancer("down", 81, true, &[down.yaml()]);
        });
        let before = rss_kib(single.node.daemon_pid());
        let own = Sum::of(&mut Pattern::new(BIG)).expect("memory");
        let mut stream = single.connect();
        std::io::copy(&mut Pattern::new(BIG), &mut stream).expect("all is taken");
        stream.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(read_text(stream).expect("a clean end"), own.text(), "client to backend");
        let mut stream = connect(&single.client, VIP4, 81).expect("VIP:81 accepts");
        assert_eq!(Sum::of(&mut stream).expect("a clean end"), own, "backend to client");
        wait_until("the counters agree", secs(10), || {
            let all = single.node.wait_status().balancers;
            all.iter().any(|b| b.bytes_in >= BIG) && all.iter().any(|b| b.bytes_out >= BIG)
        });
        println!("2 GiB through; daemon RSS {before} → {} KiB", rss_kib(single.node.daemon_pid()));
    });
}

#[test]
fn single_bytes_and_a_chatty_echo_stay_in_order() {
    isolated("single_bytes_and_a_chatty_echo_stay_in_order", || {
        let lab = Lab::new();
        let backends = hosts_with(&lab, Kind::Echo, &["b1"]);
        let single = Single::start(&lab, &[&backends[0].1]);
        let mut stream = single.connect();
        stream.set_nodelay(true).expect("an option");
        let mut bytes = vec![0; 20_000];
        Pattern::new(20_000).read_exact(&mut bytes).expect("memory");
        // One at a time, each awaited, then all without waiting.
        for &byte in &bytes[..500] {
            stream.write_all(&[byte]).expect("goes out");
            let mut back = [0];
            stream.read_exact(&mut back).expect("comes back");
            assert_eq!(back, [byte]);
        }
        for &byte in &bytes {
            stream.write_all(&[byte]).expect("goes out");
        }
        stream.shutdown(Shutdown::Write).expect("half-close");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("a clean end");
        assert!(back == bytes, "{} bytes came back of {}, or in another order", back.len(), bytes.len());
    });
}

/// Readers that don't read: the sender is slowed down, the forwarder's memory is not the buffer.
#[test]
fn slow_readers_cost_bounded_memory() {
    isolated("slow_readers_cost_bounded_memory", || {
        let lab = Lab::new();
        let source = Backend::start(&lab.host("b1"), 8080, Kind::Source(64 << 20));
        let mute = Backend::start(&lab.host("b2"), 8080, Kind::Mute);
        let single = Single::start_with(&lab, |c| {
            c.balancer("down", 80, true, &[source.yaml()]);
            c.balancer("up", 81, true, &[mute.yaml()]);
        });
        let daemon = single.node.daemon_pid();
        let before = rss_kib(daemon);
        // 20 clients that don't read 64 MiB each, and 20 backends that don't read what clients send.
        let mut readers: Vec<TcpStream> = (0..20).map(|_| single.connect()).collect();
        for _ in 0..20 {
            let stream = connect(&single.client, VIP4, 81).expect("VIP:81 accepts");
            stream.set_nonblocking(true).expect("an option");
            readers.push(stream);
        }
        let chunk = vec![7u8; 256 << 10];
        let mut stuffed = 0;
        wait_until("senders are held back", secs(30), || {
            let taken: usize = readers[20..].iter_mut().map(|s| s.write(&chunk).unwrap_or(0)).sum();
            stuffed += taken;
            taken == 0
        });
        let what = format!("40 stalled connections, {stuffed} bytes taken from senders");
        assert_growth_below(8 << 10, daemon, before, &what);
        // They still work: one reads on, to the end.
        let mut first = readers.swap_remove(0);
        let sum = Sum::of(&mut first).expect("a clean end");
        assert_eq!(sum, Sum::of(&mut Pattern::new(64 << 20)).expect("memory"));
    });
}

#[test]
fn peers_can_be_backends_and_ports_have_a_default() {
    isolated("peers_can_be_backends_and_ports_have_a_default", || {
        let lab = Lab::new();
        let cluster = Cluster::start_with(&lab, 3, false, |c| {
            c.extra.push("addPeersAsBackends: true".into());
            c.balancers.push("{name: api, type: TCP, port: 80, bindToVip: true, backendPort: 6443}".into());
        });
        let _servers: Vec<Backend> = cluster.nodes.iter().map(|n| Backend::start(&n.host, 6443, Kind::Name)).collect();
        cluster.wait_settled();
        wait_until("VIP:80 answers", secs(20), || connect(&cluster.client, VIP4, 80).and_then(read_text).is_ok());
        // Which nodes serve is the point, not how evenly: the own node may or may not be among the peers.
        let seen = names(30, || connect(&cluster.client, VIP4, 80));
        assert!(seen.keys().all(|k| ["n1", "n2", "n3"].contains(&k.as_str())) && seen.len() >= 2, "{seen:?}");
    });
}

#[test]
fn without_bind_to_vip_every_node_balances_always() {
    isolated("without_bind_to_vip_every_node_balances_always", || {
        let lab = Lab::new();
        let web = lab.host("web");
        let backend = Backend::start(&web, 8080, Kind::Name);
        let cluster = Cluster::start_with(&lab, 3, false, |c| c.balancer("web", 80, false, &[backend.yaml()]));
        let ask = |ip: IpAddr| connect(&cluster.client, ip, 80).and_then(read_text).is_ok_and(|t| t == "web\n");
        // Before any election too: the quiet start alone takes longer than this needs.
        for node in &cluster.nodes {
            wait_until(&format!("{} balances", node.id()), secs(20), || ask(node.host.ip4().into()));
        }
        cluster.wait_settled();
        wait_until("the VIP balances", secs(10), || ask(VIP4.into()));
        cluster.nodes.iter().for_each(|n| assert!(ask(n.host.ip4().into()), "{}", n.id()));
    });
}

/// Connections on the VIP end with the hold, so that clients reconnect to the next holder instead of waiting on a mute one.
#[test]
fn losing_the_vip_closes_its_connections() {
    isolated("losing_the_vip_closes_its_connections", || {
        let lab = Lab::new();
        let web = lab.host("web");
        let backend = Backend::start(&web, 8080, Kind::Echo);
        let cluster = Cluster::start_with(&lab, 3, false, |c| c.balancer("web", 80, true, &[backend.yaml()]));
        let (old, _) = cluster.wait_settled();
        wait_until("VIP:80 accepts", secs(10), || connect(&cluster.client, VIP4, 80).is_ok());
        let mut stream = connect(&cluster.client, VIP4, 80).expect("VIP:80 accepts");
        stream.write_all(b"x").expect("goes out");
        stream.read_exact(&mut [0]).expect("comes back");
        wait_until("status counts it", secs(10), || cluster.nodes[old].wait_status().balancers[0].open >= 1);
        cluster.nodes[old].signal(Signal::SIGTERM);
        cluster.wait_holder_other_than(old);
        // Closed by the old holder while it could still say so, or refused by the new one that doesn't know it.
        let ended = |stream: &mut TcpStream| match stream.write(b"y").and_then(|_| stream.read(&mut [0])) {
            Ok(n) => n == 0,
            Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        stream.set_read_timeout(Some(secs(20))).expect("an option");
        assert!(ended(&mut stream), "a connection outlived its VIP");
        wait_until("a new connection works", secs(10), || {
            let mut back = [0];
            connect(&cluster.client, VIP4, 80)
                .is_ok_and(|mut s| s.write_all(b"z").and_then(|()| s.read_exact(&mut back)).is_ok())
        });
    });
}

/// An open connection to an echo server, over which a byte has gone both ways.
fn echoing(from: &Host, to: impl Into<IpAddr>, port: u16) -> TcpStream {
    let mut stream = connect(from, to, port).expect("it accepts");
    echo(&mut stream).expect("a byte comes back");
    stream
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

#[track_caller]
fn is_reset(mut stream: TcpStream, what: &str) {
    let error = stream.read(&mut [0]).and_then(|n| if n == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) });
    assert_eq!(error.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset), "{what}");
}

/// Three nodes whose port 80 is on all their addresses, and port 81 on the VIP.
fn draining(lab: &Lab, backend: &Backend, drain: &str) -> Cluster {
    let cluster = Cluster::start_with(lab, 3, false, |c| {
        c.balancer("own", 80, false, &[backend.yaml()]);
        c.balancer("vip", 81, true, &[backend.yaml()]);
        c.extra.push(format!("drain: {drain}"));
    });
    cluster.wait_settled();
    wait_until("VIP:81 accepts", secs(10), || connect(&cluster.client, VIP4, 81).is_ok());
    cluster
}

#[test]
fn connections_that_need_no_vip_outlive_a_stop_and_end_in_order() {
    isolated("connections_that_need_no_vip_outlive_a_stop_and_end_in_order", || {
        let lab = Lab::new();
        let backend = Backend::start(&lab.host("web"), 8080, Kind::Echo);
        let cluster = draining(&lab, &backend, "60s");
        let (old, _) = cluster.wait_settled();
        let node = &cluster.nodes[old];
        let mut own = echoing(&cluster.client, node.host.ip4(), 80);
        let (on_vip, through_vip) = (echoing(&cluster.client, VIP4, 81), echoing(&cluster.client, VIP4, 80));
        node.signal(Signal::SIGTERM);
        is_reset(on_vip, "a connection to the VIP's own listener");
        is_reset(through_vip, "a connection to the VIP through a listener on all addresses");
        cluster.wait_holder_other_than(old);
        node.wait_for_log("draining 1 connections for up to 60 s", secs(10));
        echo(&mut own).expect("the connection goes on after the stop");
        assert!(connect(&cluster.client, node.host.ip4(), 80).is_err(), "a stopping node accepts no more");
        own.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(read_text(&own).expect("an end in order"), "");
        assert!(node.wait_exit(secs(10)).success());
        node.wait_for_log("all have ended: 0 connections cut", secs(5));
    });
}

#[test]
fn a_second_signal_ends_the_drain() {
    isolated("a_second_signal_ends_the_drain", || {
        told_twice(Node::signal_daemon);
    });
}

#[test]
fn a_second_signal_to_the_keeper_ends_the_drain() {
    isolated("a_second_signal_to_the_keeper_ends_the_drain", || {
        told_twice(Node::signal);
    });
}

fn told_twice(signal: fn(&Node, Signal)) {
    let lab = Lab::new();
    let backend = Backend::start(&lab.host("web"), 8080, Kind::Echo);
    let cluster = draining(&lab, &backend, "60s");
    let (old, _) = cluster.wait_settled();
    let node = &cluster.nodes[old];
    let own = echoing(&cluster.client, node.host.ip4(), 80);
    signal(node, Signal::SIGTERM);
    node.wait_for_log("draining 1 connections", secs(10));
    signal(node, Signal::SIGTERM);
    is_reset(own, "a connection that was cut");
    assert!(node.wait_exit(secs(10)).success());
    node.wait_for_log("told again: 1 connections cut", secs(5));
}

#[test]
fn without_a_drain_connections_end_with_the_stop() {
    isolated("without_a_drain_connections_end_with_the_stop", || {
        let lab = Lab::new();
        let backend = Backend::start(&lab.host("web"), 8080, Kind::Echo);
        let cluster = draining(&lab, &backend, "0s");
        let (old, _) = cluster.wait_settled();
        let own = echoing(&cluster.client, cluster.nodes[old].host.ip4(), 80);
        assert!(cluster.nodes[old].stop(Signal::SIGTERM).success());
        is_reset(own, "a connection that was cut");
        assert!(!cluster.nodes[old].log().contains("draining"));
    });
}

#[test]
fn a_cordon_resets_what_needs_the_vip_and_nothing_else() {
    isolated("a_cordon_resets_what_needs_the_vip_and_nothing_else", || {
        let lab = Lab::new();
        let backend = Backend::start(&lab.host("web"), 8080, Kind::Echo);
        let cluster = draining(&lab, &backend, "5s");
        let (old, _) = cluster.wait_settled();
        let mut own = echoing(&cluster.client, cluster.nodes[old].host.ip4(), 80);
        let (on_vip, through_vip) = (echoing(&cluster.client, VIP4, 81), echoing(&cluster.client, VIP4, 80));
        let (ok, out, error) = cluster.nodes[old].tell(&["cordon"]);
        assert!(ok, "{out}{error}");
        is_reset(on_vip, "a connection to the VIP's own listener");
        is_reset(through_vip, "a connection to the VIP through a listener on all addresses");
        cluster.wait_holder_other_than(old);
        echo(&mut own).expect("the node itself goes on");
        echo(&mut echoing(&cluster.client, cluster.nodes[old].host.ip4(), 80)).expect("and accepts");
    });
}
