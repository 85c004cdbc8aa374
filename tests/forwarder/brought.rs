//! Who is brought by a proxy is judged, counted and given a backend by the address of the header.
use super::proxied::{V1, is_reset, line, looked, proxied};
use super::rig::*;
use kube_vip::config::Balance;
use std::io::{Read, Write};

#[test]
fn the_header_s_address_is_the_one_that_counts() {
    let (address, taken) = taker();
    let network = |text: &str| text.parse().expect("a network");
    let rig = proxied(address, |b| {
        b.allow = vec![network("198.51.100.0/24")];
        b.deny = vec![network("198.51.100.66/32")];
        b.max_per_client = Some(1);
    });
    let header = |ip: &str| format!("PROXY TCP4 {ip} 203.0.113.9 40000 443\r\n");
    let say = |ip: &str| {
        let mut c = rig.connect();
        c.write_all(header(ip).as_bytes()).expect("write");
        c
    };
    let first = say("198.51.100.7");
    let mut s = taken.recv_timeout(LONG).expect("let in, though its proxy is not in the list");
    assert_eq!(line(&mut s), header("198.51.100.7"));
    is_reset(&mut say("198.51.100.7"));
    assert_eq!((rig.counters().over_client_limit, rig.counters().refused), (1, 0));
    is_reset(&mut say("198.51.100.66"));
    is_reset(&mut say("192.0.2.1"));
    let mut c = rig.connect();
    c.write_all(b"PROXY UNKNOWN\r\n").expect("write");
    is_reset(&mut c); // the proxy itself, which isn't allowed
    assert_eq!((rig.counters().over_client_limit, rig.counters().refused), (1, 3));
    let _second = say("198.51.100.8");
    drop(taken.recv_timeout(LONG).expect("another client has its own count"));
    drop((first, s));
    rig.until("the first is gone", |s| s.open <= 1);
    let _third = say("198.51.100.7");
    drop(taken.recv_timeout(LONG).expect("and frees its place"));
    assert_eq!(rig.counters().proxy_errors, 0);
}

#[test]
fn a_denied_proxy_brings_nobody() {
    let (address, _taken) = taker();
    let rig = proxied(address, |b| b.deny = vec!["127.0.0.0/8".parse().expect("a network")]);
    is_reset(&mut rig.connect()); // without being asked for its header
    rig.until("counted", |s| (s.refused, s.proxy_errors, s.open) == (1, 0, 0));
}

#[test]
fn a_client_stays_with_its_backend_by_the_header_s_address() {
    let backends: Vec<_> = (0..4u8).map(|i| backend(move |mut s| drop(s.write_all(&[i])))).collect();
    let mut b = balancer(0, false, &backends);
    b.accept_proxy = vec!["127.0.0.1/32".parse().expect("a network")];
    b.balance = Balance::SourceHash;
    let rig = Rig::with(spec(vec![b]));
    let ask = |client: u8, port: u16| {
        let mut c = rig.connect();
        c.write_all(format!("PROXY TCP4 198.51.100.{client} 203.0.113.9 {port} 443\r\n").as_bytes()).expect("write");
        read_out(&mut c).0[0]
    };
    let chosen: Vec<u8> = (0..40).map(|client| ask(client, 1000)).collect();
    assert!((0..4).all(|i| chosen.contains(&i)), "all through one proxy, and yet spread: {chosen:?}");
    assert!((0..40).all(|client| ask(client, 2000) == chosen[usize::from(client)]), "and each comes back to its own");
}

#[test]
fn a_reload_applies_to_who_comes_next_and_to_who_still_owes_a_header() {
    let (address, taken) = taker();
    let network = |text: &str| text.parse().expect("a network");
    let rig = proxied(address, |b| b.max_per_client = Some(2));
    let mut late = rig.connect();
    late.write_all(&V1[..20]).expect("write");
    let mut early = rig.connect();
    early.write_all(V1).expect("write");
    let mut served = taken.recv_timeout(LONG).expect("connected");
    line(&mut served);
    looked(&rig);
    rig.ask(move |c| {
        let mut b = balancer(0, false, &[address]);
        b.accept_proxy = vec![network("127.0.0.3/32")];
        b.max_per_client = Some(1);
        c.apply(vec![b]).expect("the same listener goes on");
    });
    late.write_all(&V1[20..]).expect("write");
    is_reset(&mut late); // its header was taken, but its client has one connection already
    assert_eq!(rig.counters().over_client_limit, 1);
    early.write_all(b"on").expect("write");
    served.read_exact(&mut [0; 2]).expect("what was let in goes on");
    let (mut plain, mut s) = (rig.connect(), taken.recv_timeout(LONG).expect("a client as any other"));
    plain.write_all(V1).expect("write");
    let mut got = vec![0; V1.len()];
    s.read_exact(&mut got).expect("its bytes pass, and no header before them");
    assert_eq!(got, V1);
    assert_eq!(rig.counters().proxy_errors, 0);
}

#[test]
fn losing_the_vip_ends_who_still_owes_a_header() {
    let (address, _taken) = taker();
    let mut b = balancer(0, true, &[address]);
    b.accept_proxy = vec!["127.0.0.1/32".parse().expect("a network")];
    let rig = Rig::with(spec(vec![b]));
    rig.ask(|c| c.holding(true));
    let mut c = rig.connect();
    c.write_all(&V1[..10]).expect("write");
    rig.until("accepted", |s| s.open == 1);
    rig.ask(|c| c.holding(false));
    is_reset(&mut c);
    assert_eq!(rig.counters().proxy_errors, 0);
}
