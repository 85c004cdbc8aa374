//! Who gets a connection: weights, backups, clients, and backends that break what they took.
use super::rig::*;
use kube_vip::balancer::Order;
use kube_vip::config::{Backend, Balance, Balancer};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};

/// A backend that says its letter and closes.
fn letter(c: char) -> SocketAddr {
    backend(move |mut s| drop(s.write_all(&[c as u8])))
}

fn said(rig: &Rig) -> String {
    String::from_utf8(read_out(&mut rig.connect()).0).expect("text")
}

fn with(backends: Vec<Backend>) -> Balancer {
    Balancer { health_check: Some(check()), ..Balancer::new("b".into(), 0, false, backends) }
}

#[test]
fn weights_give_exact_shares() {
    let weigh = |c, weight| Backend { weight, ..letter(c).into() };
    let rig = Rig::with(spec(vec![with(vec![weigh('a', 5), weigh('b', 2), weigh('c', 1), weigh('d', 0)])]));
    let mut seen = BTreeMap::new();
    (0..80).for_each(|_| *seen.entry(said(&rig)).or_insert(0) += 1);
    assert_eq!(seen, BTreeMap::from([("a".into(), 50), ("b".into(), 20), ("c".into(), 10)]));
}

#[test]
fn a_backup_takes_over_and_gives_back() {
    let (main, spare) = (letter('m'), letter('s'));
    let rig = Rig::with(spec(vec![with(vec![main.into(), Backend { backup: true, ..spare.into() }])]));
    assert_eq!(said(&rig), "m");
    rig.ask(move |c| c.health("b", main, false, "status 500"));
    let s = rig.counters();
    assert_eq!((s.backends[0].state.as_str(), s.backends[0].why.as_deref()), ("down", Some("status 500")));
    assert_eq!((said(&rig), said(&rig)), ("s".into(), "s".into()));
    rig.ask(move |c| c.health("b", main, true, "status 200"));
    assert_eq!((said(&rig), rig.counters().backends[0].why.clone()), ("m".into(), None));
    rig.ask(move |c| {
        c.health("b", main, false, "status 500");
        c.health("b", spare, false, "status 500");
    });
    assert_eq!(read_out(&mut rig.connect()), (vec![], Err(ErrorKind::ConnectionReset)), "all are down by checks");
    let s = rig.counters();
    assert_eq!((s.no_backend, s.backends[0].failed, s.backends[1].failed), (1, 0, 0), "nobody was even asked");
}

#[test]
fn a_client_stays_with_its_backend() {
    let backends: Vec<_> = "abcde".chars().map(letter).collect();
    let one = Balancer { balance: Balance::SourceHash, ..balancer(0, false, &backends) };
    let rig = Rig::with(spec(vec![one]));
    let home = |i: u8| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
        socket.bind(&SocketAddr::from(([127, 0, 7, i], 0)).into()).expect("bind");
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], rig.ports[0])).into()).expect("the forwarder listens");
        read_out(&mut patient(socket.into())).0
    };
    let homes: Vec<_> = (1..60).map(|i| (i, home(i))).collect();
    assert!(homes.iter().all(|(i, first)| home(*i) == *first));
    let mut used: Vec<_> = homes.iter().map(|(_, home)| home.clone()).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 5, "each backend has clients");
}

#[test]
fn new_connections_go_where_the_fewest_are() {
    let (a, from_a) = taker();
    let (b, from_b) = taker();
    let one = Balancer { balance: Balance::LeastConnections, ..balancer(0, false, &[a, b]) };
    let rig = Rig::with(spec(vec![one]));
    let mut held: Vec<(TcpStream, TcpStream)> = Vec::new();
    for _ in 0..3 {
        held.push((rig.connect(), from_a.recv_timeout(LONG).expect("in turn")));
        held.push((rig.connect(), from_b.recv_timeout(LONG).expect("in turn")));
    }
    held.retain(|(_, s)| s.local_addr().expect("address") != b);
    rig.until("three have ended", |s| s.open == 3 && s.backends[1].open == 0);
    for _ in 0..3 {
        held.push((rig.connect(), from_b.recv_timeout(LONG).expect("it has the fewest")));
    }
}

#[test]
fn one_that_resets_what_it_accepts_is_as_one_that_refuses() {
    let (bad, good) = (backend(rst), letter('g'));
    let rig = Rig::new(&[bad, good]);
    for _ in 0..20 {
        assert_eq!(read_out(&mut rig.connect()), (b"g".to_vec(), Ok(())), "no byte was sent: another can have it");
    }
    let s = rig.counters();
    assert!(s.backends[0].failed >= 1 && s.backends[0].open == 0, "{s:?}");
    assert_eq!((s.backends[0].state.as_str(), s.no_backend), ("down", 0));
    rig.ask(move |c| c.order(None, &good.to_string(), Order::Drain)).expect("it is known");
    assert_eq!(read_out(&mut rig.connect()).1, Err(ErrorKind::ConnectionReset));
    rig.until("closed", |s| s.open == 0 && s.no_backend == 1);
}

#[test]
fn once_a_byte_was_sent_a_reset_is_passed_on() {
    let (bad, taken) = taker();
    let (other, others) = taker();
    let rig = Rig::new(&[bad, other]);
    let mut c = rig.connect();
    c.write_all(b"once only").expect("write");
    let mut s = taken.recv_timeout(LONG).expect("connected");
    std::io::Read::read_exact(&mut s, &mut [0; 9]).expect("read");
    rst(s);
    assert_eq!(read_out(&mut c).1, Err(ErrorKind::ConnectionReset));
    let (c, s) = (rig.connect(), others.recv_timeout(LONG).expect("the next in turn"));
    drop((c, s));
    assert!(others.try_recv().is_err(), "nobody else got the bytes");
}
