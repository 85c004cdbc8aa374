//! acceptProxy: clients from some networks say in a PROXY protocol header whose connection it is.
use super::lab;
use super::rig::*;
use kube_vip::config::{Balancer, ProxyVersion};
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The client and its destination in the headers of these tests.
pub const V1: &[u8] = b"PROXY TCP4 198.51.100.7 203.0.113.9 40000 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC6\x33\x64\x07\xCB\x00\x71\x09\x9C\x40\x01\xBB";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A balancer whose clients at 127.0.0.1 are proxies, and whose backend is told of each client by version 1.
pub fn proxied(backend: SocketAddr, set: impl FnOnce(&mut Balancer)) -> Rig {
    let mut b = balancer(0, false, &[backend]);
    b.accept_proxy = vec!["127.0.0.1/32".parse().expect("a network")];
    b.send_proxy = Some(ProxyVersion::V1);
    set(&mut b);
    Rig::with(spec(vec![b]))
}

/// A connection from an address of this machine that is not the usual one.
pub fn connect_from(from: &str, rig: &Rig) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::new(from.parse().expect("an address"), 0).into()).expect("bind");
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], rig.ports[0])).into()).expect("the forwarder listens");
    patient(socket.into())
}

/// The forwarder has looked at all that was written to it before.
pub fn looked(rig: &Rig) {
    for _ in 0..3 {
        rig.ask(|c| c.open_connections());
    }
}

/// The line that a backend gets first.
pub fn line(s: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        s.read_exact(&mut byte).expect("a line comes");
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("text")
}

fn own(c: &TcpStream) -> String {
    let (from, to) = (c.local_addr().expect("address"), c.peer_addr().expect("address"));
    format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port())
}

pub fn is_reset(c: &mut TcpStream) {
    assert_eq!(read_out(c), (vec![], Err(ErrorKind::ConnectionReset)));
}

#[test]
fn a_header_in_any_pieces_is_taken_and_nothing_behind_it() {
    let (address, taken) = taker();
    let rig = proxied(address, |_| {});
    let text = |header: &[u8]| [header, b"hello"].concat();
    for header in [V1, V2] {
        let all = text(header);
        for split in 0..all.len() {
            let mut c = rig.connect();
            c.set_nodelay(true).expect("option");
            for piece in [&all[..split], &all[split..]] {
                c.write_all(piece).expect("write");
                looked(&rig);
            }
            let mut s = taken.recv_timeout(LONG).expect("connected");
            assert_eq!(line(&mut s).as_bytes(), V1, "split at {split}");
            let mut hello = [0; 5];
            s.read_exact(&mut hello).expect("what follows comes");
            assert_eq!(&hello, b"hello", "split at {split}");
            s.write_all(b"and back").expect("write");
            c.read_exact(&mut [0; 8]).expect("read");
        }
    }
    assert_eq!((rig.counters().proxy_errors, rig.counters().refused), (0, 0));
}

#[test]
fn a_header_byte_by_byte_then_a_connection_as_any_other() {
    let (address, taken) = taker();
    let rig = proxied(address, |_| {});
    for header in [V1, V2] {
        let mut c = rig.connect();
        c.set_nodelay(true).expect("option");
        for byte in header {
            c.write_all(&[*byte]).expect("write");
            looked(&rig);
        }
        let mut s = taken.recv_timeout(LONG).expect("connected before any byte behind the header");
        assert_eq!(line(&mut s).as_bytes(), V1);
        c.write_all(b"ping").expect("write");
        s.read_exact(&mut [0; 4]).expect("read");
        s.write_all(b"pong").expect("write");
        c.read_exact(&mut [0; 4]).expect("read");
        s.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_out(&mut c), (vec![], Ok(())));
    }
}

#[test]
fn much_behind_a_header_is_whole() {
    let rig = proxied(backend(echo), |b| b.send_proxy = None);
    let pattern = Pattern::new(21);
    for header in [V1, V2] {
        let mut c = rig.connect();
        let first = [header, pattern.at(0, 150_000)].concat();
        c.write_all(&first).expect("write");
        assert_eq!(pattern.check(&mut c, 0, 150_000), 150_000);
        one_echo(&pattern, c, 150_000, 8 << 20);
    }
    rig.until("closed", |s| s.open == 0);
    assert_eq!(rig.counters().bytes_in, 2 * (150_000 + (8 << 20)), "a header is not the client's");
}

#[test]
fn a_half_close_right_behind_the_header_is_passed_on() {
    let (tell, told) = mpsc::channel();
    let rig = proxied(
        backend(move |mut s| {
            let asked = read_out(&mut s);
            s.write_all(b"answer").expect("write");
            tell.send(asked).expect("the test lives");
        }),
        |_| {},
    );
    for (header, behind) in [(V1, &b""[..]), (V2, b""), (V2, b"question")] {
        let mut c = rig.connect();
        let stopped = rig.stop();
        c.write_all(&[header, behind].concat()).expect("write");
        c.shutdown(Shutdown::Write).expect("shutdown");
        drop(stopped);
        assert_eq!(told.recv_timeout(LONG).expect("asked"), ([V1, behind].concat(), Ok(())));
        assert_eq!(read_out(&mut c), (b"answer".to_vec(), Ok(())));
    }
}

#[test]
fn a_server_that_speaks_first_hears_of_the_client_first() {
    let rig = proxied(
        backend(|mut s| {
            let who = line(&mut s);
            s.write_all(format!("220 {who}").as_bytes()).expect("write");
        }),
        |_| {},
    );
    for header in [V1, V2] {
        let mut c = rig.connect();
        c.write_all(header).expect("write");
        let (said, end) = read_out(&mut c);
        assert_eq!((said, end), ([b"220 ", V1].concat(), Ok(())));
    }
}

#[test]
fn a_proxy_s_own_connection_has_the_proxy_s_address() {
    let (address, taken) = taker();
    let rig = proxied(address, |_| {});
    for header in [LOCAL, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n"] {
        let mut c = rig.connect();
        c.write_all(header).expect("write");
        let mut s = taken.recv_timeout(LONG).expect("connected");
        assert_eq!(line(&mut s), own(&c));
    }
}

#[test]
fn who_is_no_proxy_is_not_believed() {
    let (address, taken) = taker();
    let rig = proxied(address, |_| {});
    let mut c = connect_from("127.0.0.2", &rig);
    let mut s = taken.recv_timeout(LONG).expect("connected without a byte");
    assert_eq!(line(&mut s), own(&c));
    for header in [V1, V2] {
        c.write_all(header).expect("write");
        let mut got = vec![0; header.len()];
        s.read_exact(&mut got).expect("its bytes pass");
        assert_eq!(got, header);
    }
    assert_eq!(rig.counters().proxy_errors, 0);
}

#[test]
fn what_is_no_header_is_reset_and_counted() {
    let (address, taken) = taker();
    let rig = proxied(address, |_| {});
    let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    let checksum =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xC6\x33\x64\x07\xCB\x00\x71\x09\x9C\x40\x01\xBB\x03\0\x04\x01\x02\x03\x04";
    let wrong: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"PROXY TCP4 198.51.100.7 203.0.113.9 40000\r\n",
        &long,
        b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03",
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0C",
        checksum,
    ];
    for (i, bytes) in wrong.iter().enumerate() {
        let mut c = rig.connect();
        c.write_all(bytes).expect("write");
        is_reset(&mut c);
        rig.until("counted", |s| s.proxy_errors == i as u64 + 1 && s.open == 0);
    }
    // The end comes before the header's does; without a byte it is a probe that only asks for the port.
    for begun in [&V1[..9], &V2[..20], b""] {
        let mut c = rig.connect();
        c.write_all(begun).expect("write");
        looked(&rig);
        c.shutdown(Shutdown::Write).expect("shutdown");
        is_reset(&mut c);
    }
    for begun in [&V1[..9], b""] {
        let c = rig.connect();
        (&c).write_all(begun).expect("write");
        looked(&rig);
        rst(c);
    }
    rig.until("all are gone", |s| s.accepted == wrong.len() as u64 + 5 && s.open == 0);
    let s = rig.counters();
    assert_eq!((s.proxy_errors, s.backends[0].connected, s.no_backend), (wrong.len() as u64 + 2, 0, 0));
    assert!(taken.try_recv().is_err(), "no backend has heard of them");
}

#[test]
fn silence_ends_after_five_seconds_and_dribbling_doesn_t_prolong_it() {
    let (address, _taken) = taker();
    let rig = proxied(address, |_| {});
    let (mut silent, mut dribbling, mut begun) = (rig.connect(), rig.connect(), rig.connect());
    begun.write_all(&V2[..20]).expect("write");
    let mut drops = dribbling.try_clone().expect("clone");
    let writer = thread::spawn(move || {
        for byte in V1.iter().cycle().take(8 * 20) {
            if drops.write_all(&[*byte]).is_err() || *byte == b'\r' {
                return;
            }
            thread::sleep(Duration::from_millis(300));
        }
    });
    is_reset(&mut silent);
    is_reset(&mut begun);
    is_reset(&mut dribbling);
    writer.join().expect("the writer ends");
    rig.until("all three are counted", |s| s.proxy_errors == 3 && s.open == 0);
}

#[test]
fn a_dead_backend_doesn_t_lose_the_header() {
    let (address, taken) = taker();
    let mut b = balancer(0, false, &[nobody(), address]);
    b.accept_proxy = vec!["127.0.0.1/32".parse().expect("a network")];
    b.send_proxy = Some(ProxyVersion::V2);
    let rig = Rig::with(spec(vec![b]));
    for _ in 0..4 {
        let mut c = rig.connect();
        c.write_all(&[V1, b"hello"].concat()).expect("write");
        let mut s = taken.recv_timeout(LONG).expect("connected");
        let mut got = vec![0; V2.len() + 5];
        s.read_exact(&mut got).expect("header and data");
        assert_eq!(got, [V2, b"hello"].concat());
    }
    assert!(rig.counters().backends[0].failed > 0);
}

#[test]
fn both_families_are_told_over_either() {
    lab::isolated("proxied::both_families_are_told_over_either", || {
        lab::sh("ip link set lo up");
        let (address, taken) = taker();
        let rig = proxied(address, |b| b.accept_proxy.push("::1".parse().expect("a network")));
        for said in [
            "PROXY TCP4 198.51.100.7 203.0.113.9 40000 443\r\n",
            "PROXY TCP6 2001:db8::7 2001:db8::9 40000 443\r\n",
            "PROXY TCP6 ::ffff:198.51.100.7 2001:db8::9 40000 443\r\n",
        ] {
            for ip in ["127.0.0.1", "::1"] {
                let ip: std::net::IpAddr = ip.parse().expect("an address");
                let mut c = patient(TcpStream::connect((ip, rig.ports[0])).expect("connect"));
                c.write_all(said.as_bytes()).expect("write");
                assert_eq!(line(&mut taken.recv_timeout(LONG).expect("connected")), said, "over {ip}");
            }
        }
    });
}
