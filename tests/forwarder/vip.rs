//! Listeners on the VIP serve only while it is held.
use super::lab;
use super::rig::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread::{self};

#[test]
fn connections_through_the_vip_live_only_while_it_is_held() {
    let (address, taken) = taker();
    let rig = Rig::with(spec(vec![balancer(0, true, &[address]), balancer(0, false, &[backend(echo)])]));
    // The VIP of these tests is 127.0.0.1.
    let everywhere = |ip: &str| patient(TcpStream::connect((ip, rig.ports[1])).expect("connect"));
    let mut elsewhere = everywhere("127.0.0.2");
    assert!(!rig.counters().serving);
    assert_eq!(read_out(&mut rig.connect()), (vec![], Err(ErrorKind::ConnectionReset)), "not held: refused at once");
    rig.ask(|c| c.holding(true));
    assert!(rig.counters().serving);
    for _ in 0..3 {
        let quiet: Vec<_> = (0..100).map(|_| rig.connect()).collect();
        rig.until("all are connected", |s| s.backends[0].open == 100);
        let mut busy = rig.connect();
        let mut on_vip = everywhere("127.0.0.1");
        on_vip.write_all(b"to the VIP").expect("write");
        on_vip.read_exact(&mut [0; 10]).expect("read");
        let mut peers: Vec<_> = (0..101).map(|_| taken.recv_timeout(LONG).expect("connected")).collect();
        let writers: Vec<_> =
            peers.drain(..).map(|mut s| thread::spawn(move || while s.write_all(&[1; 4096]).is_ok() {})).collect();
        busy.read_exact(&mut vec![0; 4 << 20]).expect("the bulk flows");
        rig.ask(|c| c.holding(false));
        for mut c in quiet.into_iter().chain([busy, on_vip]) {
            assert_eq!(read_out(&mut c).1, Err(ErrorKind::ConnectionReset));
        }
        writers.into_iter().for_each(|w| w.join().expect("the writer ends"));
        rig.until("none is left", |s| s.open == 0);
        rig.ask(|c| c.holding(true));
    }
    elsewhere.write_all(b"untouched").expect("write");
    elsewhere.read_exact(&mut [0; 9]).expect("read");
    assert_eq!(rig.counters().no_backend, 0);
}

#[test]
fn a_vip_is_bound_before_this_machine_has_it() {
    lab::isolated("vip::a_vip_is_bound_before_this_machine_has_it", || {
        lab::sh("ip link set lo up");
        for (vip, add) in [("10.99.0.1", "10.99.0.1/32"), ("fd00::99", "fd00::99/128")] {
            let mut s = spec(vec![balancer(8080, true, &[backend(echo)])]);
            s.vip = vip.parse().expect("ip");
            let rig = Rig::with(s);
            assert_eq!(rig.counters().listen, SocketAddr::new(vip.parse().expect("ip"), 8080).to_string());
            rig.ask(|c| c.holding(true));
            lab::sh(&format!("ip addr add {add} dev lo nodad"));
            let vip: IpAddr = vip.parse().expect("ip");
            one_echo(&Pattern::new(2), patient(TcpStream::connect((vip, 8080)).expect("connect")), 0, 100_000);
        }
    });
}
