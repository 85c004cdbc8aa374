//! Which way a connection takes: families, backends, those that are dead or silent.
use super::lab;
use super::rig::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::thread::{self};
use std::time::{Duration, Instant};

#[test]
fn echo_is_whole_and_counted() {
    let rig = Rig::new(&[backend(echo)]);
    let mut c = rig.connect();
    c.write_all(b"hello").expect("write");
    let mut buf = [0; 5];
    c.read_exact(&mut buf).expect("read");
    assert_eq!(&buf, b"hello");
    let open = rig.counters();
    assert_eq!((open.open, open.accepted, open.bytes_in, open.bytes_out, open.serving), (1, 1, 5, 5, true));
    assert_eq!((open.backends[0].open, open.backends[0].connected, open.backends[0].failed), (1, 1, 0));
    drop(c);
    rig.until("the connection is closed", |s| s.open == 0 && s.backends[0].open == 0);
    assert_eq!(rig.ask(|c| c.open_connections()), 0);
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once() {
    let rig = Rig::new(&[backend(|mut s| drop(s.write_all(b"220 ready")))]);
    for _ in 0..20 {
        let (said, end) = read_out(&mut rig.connect());
        assert_eq!((said.as_slice(), end), (&b"220 ready"[..], Ok(())));
    }
}

#[test]
fn both_families_reach_a_balancer_on_all_interfaces() {
    lab::isolated("paths::both_families_reach_a_balancer_on_all_interfaces", || {
        lab::sh("ip link set lo up");
        let rig = Rig::new(&[backend(|mut s| drop(s.write_all(b"x")))]);
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().expect("ip");
            drop(TcpListener::bind((ip, 0)).unwrap_or_else(|e| {
                panic!("{ip} can't be used in a fresh namespace ({e}): this kernel must have both families (no ipv6.disable=1)")
            }));
            let mut c = patient(TcpStream::connect((ip, rig.ports[0])).expect("connect"));
            assert_eq!(read_out(&mut c), (b"x".to_vec(), Ok(())), "over {ip}");
        }
    });
}

#[test]
fn round_robin_gives_each_backend_the_same_share() {
    let backends: Vec<_> = (0..3u8).map(|i| backend(move |mut s| drop(s.write_all(&[i])))).collect();
    let both = vec![balancer(0, false, &backends), balancer(0, false, &backends)];
    let rig = Rig::with(spec(both));
    let mut seen = [[0; 3]; 2];
    for i in 0..60 {
        let mut c = patient(TcpStream::connect(("127.0.0.1", rig.ports[i % 2])).expect("connect"));
        seen[i % 2][usize::from(read_out(&mut c).0[0])] += 1;
    }
    assert_eq!(seen, [[10; 3]; 2], "and two balancers don't share one index");
}

#[test]
fn a_dead_backend_is_skipped_and_comes_back() {
    let (dead, socket) = reserved();
    let rig = Rig::new(&[dead, backend(|mut s| drop(s.write_all(b"a"))), backend(|mut s| drop(s.write_all(b"b")))]);
    let get = || String::from_utf8(read_out(&mut rig.connect()).0).expect("text");
    let got: String = (0..10).map(|_| get()).collect();
    assert!(!got.contains("aaa") && !got.contains("bbb") && got.len() == 10, "{got}");
    let s = rig.counters();
    assert!((1..10).contains(&s.backends[0].failed), "it isn't asked each time: {s:?}");
    assert_eq!((s.backends[0].connected, s.no_backend, s.backends[1].failed), (0, 0, 0));
    socket.listen(16).expect("listen");
    let back = TcpListener::from(socket);
    thread::spawn(move || back.incoming().for_each(|s| drop(s.map(|mut s| s.write_all(b"c")))));
    let end = Instant::now() + LONG;
    while get() != "c" {
        assert!(Instant::now() < end, "it never came back");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn all_backends_dead_means_a_reset_and_a_count() {
    let rig = Rig::new(&[nobody(), nobody(), nobody()]);
    for _ in 0..5 {
        assert_eq!(read_out(&mut rig.connect()), (vec![], Err(ErrorKind::ConnectionReset)));
    }
    let s = rig.counters();
    assert_eq!((s.accepted, s.no_backend, s.open), (5, 5, 0));
    assert_eq!(s.backends.iter().map(|b| b.failed).collect::<Vec<_>>(), [5; 3], "each was tried once per connection");
}

#[test]
fn a_backend_that_does_not_answer_costs_a_timeout_not_the_connection() {
    let (silent, _queue) = silent();
    let mut spec = spec(vec![balancer(0, false, &[silent, backend(|mut s| drop(s.write_all(b"alive")))])]);
    spec.balancers[0].timeouts.connect = Duration::from_millis(200);
    let rig = Rig::with(spec);
    assert_eq!(read_out(&mut rig.connect()), (b"alive".to_vec(), Ok(())));
    assert_eq!(rig.counters().backends[0].failed, 1);
}

#[test]
fn a_client_that_leaves_during_the_connect_takes_nothing_along() {
    let (silent, _queue) = silent();
    let rig = Rig::new(&[silent]);
    let c = rig.connect();
    rig.until("accepted", |s| s.open == 1);
    rst(c);
    rig.until("forgotten", |s| s.open == 0);
}
