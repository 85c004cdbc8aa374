//! Waiting for a place: in order, not for ever, and not in anybody's way.
use super::rig::*;
use kube_vip::config::{Backend, Balancer};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

fn capped(address: SocketAddr, cap: u32) -> Backend {
    Backend { max_connections: Some(cap), ..address.into() }
}

fn one(backends: Vec<Backend>) -> Balancer {
    Balancer { queue_timeout: LONG, health_check: Some(check()), ..Balancer::new("b".into(), 0, false, backends) }
}

/// Connects and says `i`; waits until the forwarder knows it.
fn say(rig: &Rig, i: u8) -> TcpStream {
    let accepted = rig.counters().accepted;
    let mut c = rig.connect();
    c.write_all(&[i]).expect("write");
    rig.until("accepted", |s| s.accepted > accepted);
    c
}

fn hear(mut s: impl Read) -> u8 {
    let mut b = [0];
    s.read_exact(&mut b).expect("read");
    b[0]
}

#[test]
fn who_waits_is_served_in_order_and_never_more_at_once() {
    let (a, taken) = taker();
    let rig = Rig::with(spec(vec![one(vec![capped(a, 2)])]));
    let mut clients: Vec<_> = (0..12).map(|i| say(&rig, i)).collect();
    rig.until("ten wait", |s| s.queued == 10 && s.backends[0].open == 2);
    let mut open: Vec<_> = (0..2).map(|_| taken.recv_timeout(LONG).expect("connected")).collect();
    open.sort_by_cached_key(|s| hear(s));
    for i in 2..12 {
        assert!(taken.try_recv().is_err(), "no more than two at once");
        rst(open.remove(0));
        let mut s = taken.recv_timeout(LONG).expect("a place got free");
        assert_eq!(hear(&mut s), i, "first come, first served");
        open.push(s);
    }
    let mut last = clients.pop().expect("twelve");
    open[1].write_all(b"!").expect("write");
    assert_eq!(hear(&mut last), b'!');
    let s = rig.counters();
    assert_eq!((s.queued, s.queue_full, s.queue_timeouts, s.no_backend, s.backends[0].connected), (0, 0, 0, 0, 12));
}

#[test]
fn who_waits_too_long_is_reset_and_a_full_queue_resets_at_once() {
    let (a, taken) = taker();
    let rig =
        Rig::with(spec(vec![Balancer { queue: 2, queue_timeout: Duration::from_millis(100), ..one(vec![capped(a, 1)]) }]));
    let (c, _s) = (say(&rig, 0), taken.recv_timeout(LONG).expect("connected"));
    let mut waiting: Vec<_> = (1..3).map(|i| say(&rig, i)).collect();
    assert_eq!(read_out(&mut rig.connect()).1, Err(ErrorKind::ConnectionReset), "the queue is full");
    waiting.iter_mut().for_each(|c| assert_eq!(read_out(c).1, Err(ErrorKind::ConnectionReset)));
    let s = rig.counters();
    assert_eq!((s.queued, s.queue_full, s.queue_timeouts, s.open), (0, 1, 2, 1));
    drop(c);
}

#[test]
fn who_hangs_up_leaves_the_queue() {
    let (a, taken) = taker();
    let rig = Rig::with(spec(vec![one(vec![capped(a, 1)])]));
    let (_c, s) = (say(&rig, 0), taken.recv_timeout(LONG).expect("connected"));
    let gone: Vec<_> = (0..2).map(|_| rig.connect()).collect();
    let asked = say(&rig, 7);
    rig.until("three wait", |s| s.queued == 3);
    for (i, c) in gone.into_iter().enumerate() {
        if i == 0 {
            rst(c);
        }
    }
    asked.shutdown(Shutdown::Write).expect("shutdown");
    rig.until("two have left", |s| s.queued == 1 && s.open == 2);
    rst(s);
    let mut s = taken.recv_timeout(LONG).expect("a place got free");
    assert_eq!(hear(&mut s), 7, "one that has asked and closed its half still wants the answer");
    s.write_all(b"!").expect("write");
    assert_eq!(hear(&mut { asked }), b'!');
}

#[test]
fn a_place_of_a_failed_connect_is_free_again() {
    let (a, taken) = taker();
    let (dead, _bound) = reserved();
    let rig = Rig::with(spec(vec![one(vec![capped(dead, 1), capped(a, 1)])]));
    let first = say(&rig, 0);
    let s = taken.recv_timeout(LONG).expect("connected");
    let second = say(&rig, 1);
    rig.until("it waits for the one that works", |s| s.queued == 1);
    drop((first, s));
    assert_eq!(hear(&mut taken.recv_timeout(LONG).expect("connected")), 1);
    drop(second);
}

#[test]
fn who_has_tried_the_free_one_is_in_nobodys_way() {
    let (busy, from_busy) = taker();
    let (bad, from_bad) = taker();
    let rig = Rig::with(spec(vec![one(vec![capped(busy, 1), capped(bad, 40)])]));
    let _c = say(&rig, 0);
    let _s = from_busy.recv_timeout(LONG).expect("connected");
    let clients: Vec<_> = (0..40).map(|_| rig.connect()).collect();
    let taken: Vec<_> = clients.iter().map(|_| from_bad.recv_timeout(LONG).expect("connected")).collect();
    taken.into_iter().for_each(rst);
    rig.until("all have tried it and wait", |s| s.queued == 40);
    let _late = say(&rig, 7);
    assert_eq!(hear(from_bad.recv_timeout(LONG).expect("it has rested enough")), 7, "past forty that wait for the other");
    rig.until("they still wait", |s| s.queued == 40);
}

#[test]
fn what_makes_places_serves_the_queue() {
    let (a, from_a) = taker();
    let (b, from_b) = taker();
    let (c, from_c) = taker();
    let config = one(vec![capped(a, 1), capped(b, 1)]);
    let rig = Rig::with(spec(vec![config.clone()]));
    rig.ask(move |control| control.health("b", b, false, "connection refused"));
    let mut clients = vec![say(&rig, 0)];
    let _s = from_a.recv_timeout(LONG).expect("connected");
    clients.extend((1..4).map(|i| say(&rig, i)));
    rig.until("three wait", |s| s.queued == 3);
    rig.ask(move |control| control.health("b", b, true, "connected"));
    let mut s = from_b.recv_timeout(LONG).expect("a check brought it back");
    assert_eq!(hear(&mut s), 1);
    let more = Balancer { backends: [config.backends, vec![capped(c, 2)]].concat(), ..config };
    rig.ask(move |control| control.apply(vec![more])).expect("nothing to open");
    let mut served = [0, 0].map(|_| hear(&mut from_c.recv_timeout(LONG).expect("a reload brought it")));
    served.sort_unstable();
    assert_eq!(served, [2, 3]);
    let late = say(&rig, 4);
    rig.until("one waits", |s| s.queued == 1);
    rig.ask(move |control| [a, b, c].map(|address| control.health("b", address, false, "timed out")));
    assert_eq!(read_out(&mut { late }).1, Err(ErrorKind::ConnectionReset), "nobody is left to wait for");
}

#[test]
fn a_balancer_at_its_limit_leaves_clients_in_the_backlog() {
    let config = Balancer { max_connections: Some(3), ..balancer(0, false, &[backend(echo)]) };
    let free = balancer(0, false, &[backend(echo)]);
    let rig = Rig::with(spec(vec![config, free]));
    let mut clients: Vec<_> = (0..10u8).map(|_| rig.connect()).collect();
    clients.iter_mut().zip(0..).for_each(|(c, i)| c.write_all(&[i]).expect("write"));
    rig.until("the limit", |s| s.open == 3);
    let mut other = patient(TcpStream::connect(("127.0.0.1", rig.ports[1])).expect("connect"));
    other.write_all(b"x").expect("write");
    assert_eq!(hear(&mut other), b'x', "others go on");
    let s = rig.counters();
    assert_eq!((s.open, s.accepted, s.limit_pauses), (3, 3, 1));
    for (mut c, i) in clients.into_iter().zip(0..) {
        assert_eq!(hear(&mut c), i, "each is served once it is its turn");
    }
}
