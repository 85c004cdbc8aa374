//! Who may come in, how many at once, and how fast.
use super::proxied::connect_from;
use super::rig::*;
use kube_vip::config::{Balancer, Network};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

fn guarded(backend: SocketAddr, set: impl FnOnce(&mut Balancer)) -> Rig {
    let mut b = balancer(0, false, &[backend]);
    set(&mut b);
    Rig::with(spec(vec![b]))
}

fn networks(list: &[&str]) -> Vec<Network> {
    list.iter().map(|n| n.parse().expect("a network")).collect()
}

fn echoes(c: &mut TcpStream) -> bool {
    c.write_all(b"x").is_ok() && c.read_exact(&mut [0]).is_ok()
}

#[test]
fn lists_decide_right_after_accept() {
    let rig = guarded(backend(echo), |b| {
        b.allow = networks(&["127.0.0.0/28", "::1"]);
        b.deny = networks(&["127.0.0.6/31"]);
    });
    let mut refused = 0;
    for (from, serves) in
        [("127.0.0.1", true), ("127.0.0.6", false), ("127.0.0.15", true), ("127.0.0.16", false), ("127.0.0.7", false)]
    {
        let mut c = connect_from(from, &rig);
        if serves {
            assert!(echoes(&mut c), "{from}");
        } else {
            refused += 1;
            assert_eq!(read_out(&mut c), (vec![], Err(ErrorKind::ConnectionReset)), "{from}");
            let s = rig.counters();
            assert_eq!((s.refused, s.over_client_limit, s.no_backend), (refused, 0, 0), "{from}");
        }
    }
    rig.until("none is left", |s| s.open == 0);
    assert_eq!(rig.counters().backends[0].connected, 2, "no backend has heard of the others");
}

#[test]
fn each_client_has_so_many_at_once() {
    let rig = guarded(backend(echo), |b| b.max_per_client = Some(3));
    let mut held: Vec<_> = (0..3).map(|_| connect_from("127.0.0.2", &rig)).collect();
    assert!(held.iter_mut().all(echoes));
    for over in 1..=2 {
        assert_eq!(read_out(&mut connect_from("127.0.0.2", &rig)).1, Err(ErrorKind::ConnectionReset));
        assert_eq!(rig.counters().over_client_limit, over);
    }
    assert!(echoes(&mut connect_from("127.0.0.3", &rig)), "another has its own count");
    // However they end, their places are free again.
    let ends: [fn(TcpStream); 3] = [drop, rst, |c| c.shutdown(std::net::Shutdown::Both).expect("shutdown")];
    for end in ends {
        rig.until("only those are open", |s| s.open == 3);
        end(held.remove(0));
        rig.until("one is gone", |s| s.open == 2);
        held.push(connect_from("127.0.0.2", &rig));
        assert!(held.iter_mut().all(echoes));
        assert_eq!(read_out(&mut connect_from("127.0.0.2", &rig)).1, Err(ErrorKind::ConnectionReset));
    }
}

#[test]
fn places_come_back_when_no_backend_answers() {
    let rig = guarded(nobody(), |b| b.max_per_client = Some(1));
    for _ in 0..10 {
        assert_eq!(read_out(&mut rig.connect()).1, Err(ErrorKind::ConnectionReset));
        rig.until("gone", |s| s.open == 0);
    }
    assert_eq!((rig.counters().no_backend, rig.counters().over_client_limit), (10, 0));
}

/// CPU time of the forwarder's thread.
fn cpu(rig: &Rig) -> Duration {
    rig.ask(|_| {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of every thread");
        Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32)
    })
}

#[test]
fn a_rate_makes_wait_and_nobody_is_refused() {
    let rig = guarded(backend(echo), |b| b.accept_rate = Some(4));
    let (began, used) = (Instant::now(), cpu(&rig));
    let mut first: Vec<_> = (0..4).map(|_| rig.connect()).collect();
    assert!(first.iter_mut().all(echoes), "a second's worth at once");
    let mut more: Vec<_> = (0..8).map(|_| rig.connect()).collect();
    // While it waits, it sleeps, and goes on with what is open.
    rig.until("it pauses", |s| s.rate_pauses > 0);
    assert!(first.iter_mut().all(echoes));
    assert!(more.iter_mut().all(echoes), "all come in at last");
    let (took, cpu) = (began.elapsed(), cpu(&rig) - used);
    assert!(took >= Duration::from_millis(1990), "eight more than four, at 4 per second, within {took:?}");
    assert!(cpu < took / 4, "{cpu:?} of CPU in {took:?}: it spins");
    let s = rig.counters();
    assert_eq!((s.accepted, s.open, s.refused), (12, 12, 0));
    assert!(s.rate_pauses >= 3, "each comes in when its own time has come, not with the next sweep: {s:?}");
}

#[test]
fn who_is_refused_takes_nobody_s_turn() {
    let rig = guarded(backend(echo), |b| {
        b.accept_rate = Some(2);
        b.deny = networks(&["127.0.0.2"]);
    });
    for _ in 0..20 {
        assert_eq!(read_out(&mut connect_from("127.0.0.2", &rig)).1, Err(ErrorKind::ConnectionReset));
    }
    assert!(echoes(&mut rig.connect()) && echoes(&mut rig.connect()));
    assert_eq!((rig.counters().refused, rig.counters().rate_pauses), (20, 0));
}

#[test]
fn a_rate_of_one_balancer_holds_up_no_other() {
    let mut slow = balancer(0, false, &[backend(echo)]);
    slow.accept_rate = Some(1);
    let rig = Rig::with(spec(vec![slow, balancer(0, false, &[backend(echo)])]));
    let mut waiting: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    assert!(echoes(&mut waiting[0]));
    rig.until("the first waits", |s| s.rate_pauses > 0);
    for _ in 0..50 {
        assert!(echoes(&mut patient(TcpStream::connect(("127.0.0.1", rig.ports[1])).expect("connect"))));
    }
    assert!(waiting.iter_mut().all(echoes));
}

#[test]
fn a_reload_changes_lists_limits_and_rate() {
    let address = backend(echo);
    let rig = guarded(address, |b| b.max_per_client = Some(2));
    let mut held = [connect_from("127.0.0.2", &rig), connect_from("127.0.0.2", &rig)];
    assert!(held.iter_mut().all(echoes));
    let apply = |set: fn(&mut Balancer)| {
        let mut b = balancer(0, false, &[address]);
        set(&mut b);
        rig.ask(move |c| c.apply(vec![b]).expect("the same listener goes on"));
    };
    let refused = |from: &str| read_out(&mut connect_from(from, &rig)).1 == Err(ErrorKind::ConnectionReset);
    assert!(refused("127.0.0.2"));
    apply(|b| b.max_per_client = Some(3));
    let mut third = connect_from("127.0.0.2", &rig);
    assert!(echoes(&mut third) && refused("127.0.0.2"), "those from before count");
    apply(|b| b.deny = networks(&["127.0.0.2/31"]));
    assert!(refused("127.0.0.2") && refused("127.0.0.3"));
    assert!(echoes(&mut connect_from("127.0.0.4", &rig)));
    assert!(held.iter_mut().all(echoes) && echoes(&mut third), "who is in stays in");
    let s = rig.counters();
    assert_eq!((s.over_client_limit, s.refused), (2, 2));
    apply(|b| b.accept_rate = Some(1));
    let mut two = [rig.connect(), rig.connect()];
    assert!(two.iter_mut().all(echoes));
    assert_eq!(rig.counters().rate_pauses, 1);
    apply(|_| {});
    assert!((0..20).all(|_| echoes(&mut rig.connect())));
    assert_eq!(rig.counters().rate_pauses, 1);
}
