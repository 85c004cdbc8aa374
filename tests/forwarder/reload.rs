//! What changes while connections are open.
use super::rig::*;
use kube_vip::balancer::Order;
use kube_vip::config::{Backend, Balancer, Target};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

fn echoes(c: &mut TcpStream) {
    c.write_all(b"still").expect("write");
    c.read_exact(&mut [0; 5]).expect("read");
}

/// The inode of the socket that listens on `port`, as /proc/net/tcp6 tells it.
fn inode(port: u16) -> String {
    let table = std::fs::read_to_string("/proc/net/tcp6").expect("procfs");
    let mut lines = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    let own = lines.find(|l| l[1].ends_with(&format!(":{port:04X}")) && l[3] == "0A").expect("it listens");
    own[9].to_string()
}

fn free_port() -> u16 {
    TcpListener::bind("[::]:0").expect("bind").local_addr().expect("address").port()
}

fn connect(port: u16) -> TcpStream {
    patient(TcpStream::connect(("127.0.0.1", port)).expect("the forwarder listens"))
}

#[test]
fn a_reload_keeps_sockets_and_connections() {
    let (old, new) = (backend(echo), backend(echo));
    let rig = Rig::new(&[old]);
    let (mut c, before) = (rig.connect(), inode(rig.ports[0]));
    echoes(&mut c);
    let more = free_port();
    rig.ask(move |c| {
        c.apply(vec![balancer(more, false, &[new]), Balancer { name: "renamed".into(), ..balancer(0, false, &[new]) }])
    })
    .expect("the new port is free");
    echoes(&mut c);
    let s = rig.ask(|c| c.counters());
    assert_eq!((s[0].listen.clone(), s[1].name.as_str()), (format!("[::]:{more}"), "renamed"), "as configured now");
    assert_eq!((s[1].open, s[1].accepted, s[1].bytes_in), (1, 1, 10), "its counters go on");
    let states: Vec<_> =
        s[1].backends.iter().map(|b| (b.address.parse().expect("address"), b.state.as_str(), b.open)).collect();
    assert_eq!(states, [(new, "up", 0), (old, "draining", 1)]);
    assert_eq!(inode(rig.ports[0]), before, "the very same socket");
    for port in [more, rig.ports[0]] {
        echoes(&mut connect(port));
    }
    drop(c);
    let end = Instant::now() + LONG;
    while rig.ask(|c| c.counters()).remove(1).backends.len() > 1 {
        assert!(Instant::now() < end, "one that is empty is listed no more");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_reload_that_cannot_open_all_changes_nothing() {
    let rig = Rig::new(&[backend(echo)]);
    let taken = TcpListener::bind("[::]:0").expect("bind");
    let (port, free) = (taken.local_addr().expect("address").port(), free_port());
    let before = rig.ask(|c| c.counters());
    let both = vec![balancer(free, false, &[nobody()]), balancer(port, false, &[nobody()])];
    let problem = rig.ask(move |c| c.apply(both).map_err(|e| e.to_string())).expect_err("one is taken");
    assert!(problem.starts_with(&format!("balancer b{port}: can't listen on [::]:{port}")), "{problem}");
    assert_eq!(rig.ask(|c| c.counters()), before);
    assert!(TcpStream::connect(("127.0.0.1", free)).is_err(), "the free one is closed again");
    echoes(&mut rig.connect());
}

#[test]
fn a_port_that_only_changes_its_address_needs_a_restart() {
    let port = free_port();
    let rig = Rig::with(spec(vec![balancer(port, false, &[backend(echo)])]));
    let problem = rig.ask(move |c| c.apply(vec![balancer(port, true, &[nobody()])]).map_err(|e| e.to_string()));
    let problem = problem.expect_err("the wildcard has the port");
    assert!(problem.contains(&format!("bindToVip of port {port} can't change while running")), "{problem}");
    echoes(&mut rig.connect());
}

#[test]
fn the_backlog_of_a_removed_listener_is_served() {
    let rig = Rig::new(&[backend(echo)]);
    let mut old = rig.connect();
    echoes(&mut old);
    let stopped = rig.stop();
    let mut waiting: Vec<_> = (0..50).map(|_| rig.connect()).collect();
    rig.asks.send_blocking(Box::new(|c| c.apply(Vec::new()).map_or(None, |()| None))).expect("the forwarder runs");
    drop(stopped);
    waiting.iter_mut().for_each(echoes);
    echoes(&mut old);
    let end = Instant::now() + LONG;
    while TcpStream::connect(("127.0.0.1", rig.ports[0])).is_ok() {
        assert!(Instant::now() < end, "it never closed");
    }
    assert_eq!(rig.ask(|c| c.counters()), []);
    drop((waiting, old));
    let end = Instant::now() + LONG;
    while rig.ask(|c| c.open_connections()) > 0 {
        assert!(Instant::now() < end, "connections of a removed listener end as others");
        std::thread::sleep(Duration::from_millis(2));
    }
    let again = vec![balancer(free_port(), false, &[backend(echo)])];
    let port = again[0].port;
    rig.ask(move |c| c.apply(again)).expect("the port is free");
    echoes(&mut connect(port));
}

#[test]
fn a_drained_backend_finishes_and_gets_nothing_new() {
    let (a, b) = (backend(echo), backend(|mut s| drop(s.write_all(b"b"))));
    let rig = Rig::new(&[a, b]);
    let mut c = rig.connect();
    echoes(&mut c);
    let said = rig.ask(move |c| c.order(None, &a.to_string(), Order::Drain)).expect("it is known");
    assert_eq!(said, format!("balancer b0: backend {a} is draining, weight 1, 1 connections open"));
    (0..6).for_each(|_| assert_eq!(read_out(&mut rig.connect()).0, b"b"));
    echoes(&mut c);
    drop(c);
    rig.until("it has finished", |s| s.backends[0].open == 0 && s.backends[0].state == "draining");
    rig.ask(move |c| c.order(Some("b0"), &a.to_string(), Order::Enable)).expect("it is known");
    let mut c = rig.connect();
    echoes(&mut c);
    assert_eq!(rig.counters().backends[0].connected, 2);
}

#[test]
fn an_order_that_names_nothing_says_what_there_is() {
    let (a, b) = (nobody(), nobody());
    let named = Backend { target: Target::Name { host: "app.example".into(), port: 80 }, ..a.into() };
    let web = Balancer::new("web".into(), 0, false, vec![a.into(), named]);
    let rig = Rig::with(spec(vec![web, balancer(0, false, &[b])]));
    let order = |balancer: Option<&'static str>, target: String, order| rig.ask(move |c| c.order(balancer, &target, order));
    let unknown = order(None, "192.0.2.1".into(), Order::Drain).expect_err("no such backend");
    assert_eq!(unknown, format!("there is no backend 192.0.2.1; there are: {a}, app.example:80, {b}"));
    let unknown = order(Some("web"), b.to_string(), Order::Drain).expect_err("not there");
    assert_eq!(unknown, format!("there is no backend {b}; there are: {a}, app.example:80"));
    assert_eq!(
        order(Some("wbe"), a.to_string(), Order::Drain).expect_err("no such balancer"),
        "there is no balancer wbe; there are: web, b0"
    );
    assert!(order(None, "app.example".into(), Order::Drain).expect_err("not looked up").contains("has no address yet"));
    assert!(order(None, a.to_string(), Order::Weight(300)).expect_err("too much").contains("0 to 256"));
}

#[test]
fn names_bring_members_and_take_them_away() {
    let server = backend(echo);
    let target = Target::Name { host: "app.example".into(), port: server.port() };
    let named = Backend { target: target.clone(), ..server.into() };
    let config = Balancer { health_check: Some(check()), ..Balancer::new("web".into(), 0, false, vec![named]) };
    let rig = Rig::with(spec(vec![config.clone()]));
    assert_eq!(read_out(&mut rig.connect()).1, Err(ErrorKind::ConnectionReset), "no address yet");
    rig.ask(move |c| c.resolved("app.example", &[server.ip()]));
    let mut c = rig.connect();
    echoes(&mut c);
    let members = rig.ask(|c| c.members());
    assert_eq!(members.len(), 1);
    let view = &members[0];
    assert_eq!((view.balancer.as_str(), view.address, &view.target, &view.check), ("web", server, &target, &Some(check())));
    rig.ask(|c| c.order(None, "app.example", Order::Disable)).expect("it is known");
    assert_eq!(rig.ask(|c| c.members()), [], "nobody checks it in maintenance");
    rig.ask(move |c| c.apply(vec![config])).expect("nothing to open");
    assert_eq!(rig.counters().backends[0].state, "maintenance", "a reload keeps the order and the name's addresses");
    rig.ask(|c| c.order(None, "app.example", Order::Enable)).expect("it is known");
    let other: SocketAddr = ([127, 0, 0, 99], server.port()).into();
    rig.ask(move |c| c.resolved("app.example", &[other.ip()]));
    let s = rig.counters();
    let listed: Vec<_> = s.backends.iter().map(|b| (b.address.clone(), b.host.clone(), b.open)).collect();
    let host = Some("app.example".to_string());
    assert_eq!(listed, [(other.to_string(), host.clone(), 0), (server.to_string(), host, 1)]);
    echoes(&mut c);
}

#[test]
fn whatever_changes_meanwhile_everybody_is_served_and_counted() {
    let backends = [backend(echo), backend(echo), backend(echo)];
    let capped = move |i: usize, weight| Backend { max_connections: Some(2), weight, ..backends[i].into() };
    let config = move |backends| Balancer {
        health_check: Some(check()),
        queue_timeout: LONG,
        ..Balancer::new("b".into(), 0, false, backends)
    };
    let all = move || config(vec![capped(0, 1), capped(1, 3), capped(2, 1)]);
    let rig = Rig::with(spec(vec![all()]));
    let pattern = Pattern::new(3);
    let left = std::sync::atomic::AtomicUsize::new(400);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let next = || left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) as isize > 0;
                while next() {
                    one_echo(&pattern, rig.connect(), 7, 5000);
                }
            });
        }
        // Backend 1 always stays, the others come and go in all ways.
        let busy = || (left.load(std::sync::atomic::Ordering::SeqCst) as isize) > 0;
        for round in (0..5).cycle().take_while(|_| busy()) {
            rig.ask(move |c| match round {
                0 => c.health("b", backends[0], false, "status 500"),
                1 => c.apply(vec![config(vec![capped(1, 2), capped(2, 1)])]).expect("nothing to open"),
                2 => drop(c.order(None, &backends[2].to_string(), Order::Drain)),
                3 => c.apply(vec![all()]).expect("nothing to open"),
                _ => drop((c.order(None, &backends[2].to_string(), Order::Enable), c.health("b", backends[0], true, "200"))),
            });
        }
    });
    rig.until("all have ended", |s| s.open == 0 && s.queued == 0);
    let s = rig.counters();
    assert_eq!((s.accepted, s.no_backend, s.queue_full, s.queue_timeouts), (400, 0, 0, 0));
    assert!(s.backends.iter().all(|b| b.open == 0), "{s:?}");
}
