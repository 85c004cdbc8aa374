//! sendProxy: backends are told whose connection it is, before its first byte.
use super::lab;
use super::proxied::{connect_from, line};
use super::rig::*;
use kube_vip::config::ProxyVersion;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;

fn telling(version: ProxyVersion, backends: &[SocketAddr]) -> Rig {
    let mut b = balancer(0, false, backends);
    b.send_proxy = Some(version);
    Rig::with(spec(vec![b]))
}

/// The header about `c`, as its specification has it.
fn about(c: &TcpStream, version: ProxyVersion) -> Vec<u8> {
    let (from, to) = (c.local_addr().expect("address"), c.peer_addr().expect("address"));
    if version == ProxyVersion::V1 {
        let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
        return format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes();
    }
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    bytes.extend(if from.is_ipv4() { [0x11, 0, 12] } else { [0x21, 0, 36] });
    for ip in [from.ip(), to.ip()] {
        match ip {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    bytes.extend([from.port(), to.port()].map(u16::to_be_bytes).concat());
    bytes
}

fn read_header(s: &mut TcpStream, c: &TcpStream, version: ProxyVersion) {
    let wanted = about(c, version);
    let mut got = vec![0; wanted.len()];
    s.read_exact(&mut got).expect("a header comes");
    assert_eq!(got, wanted, "{}", String::from_utf8_lossy(&got));
}

const BOTH: [ProxyVersion; 2] = [ProxyVersion::V1, ProxyVersion::V2];

#[test]
fn the_header_comes_first_whether_or_not_the_client_speaks() {
    let (address, taken) = taker();
    for version in BOTH {
        let rig = telling(version, &[address]);
        for speaks in [false, true] {
            let mut c = rig.connect();
            if speaks {
                c.write_all(b"hello").expect("write");
            }
            let mut s = taken.recv_timeout(LONG).expect("connected");
            read_header(&mut s, &c, version);
            if !speaks {
                s.write_all(b"220 ready").expect("write");
                c.read_exact(&mut [0; 9]).expect("a server that speaks first is heard");
                c.write_all(b"hello").expect("write");
            }
            let mut hello = [0; 5];
            s.read_exact(&mut hello).expect("read");
            assert_eq!(&hello, b"hello");
        }
        assert_eq!(rig.counters().bytes_in, 10, "the header is not the client's");
    }
}

#[test]
fn both_families_reach_the_backend_as_what_they_are() {
    lab::isolated("told::both_families_reach_the_backend_as_what_they_are", || {
        lab::sh("ip link set lo up; ip addr add 10.99.0.1/32 dev lo; ip addr add fd00:99::1/128 dev lo nodad");
        let (address, taken) = taker();
        for version in BOTH {
            let rig = telling(version, &[address]);
            for ip in ["127.0.0.1", "::1", "10.99.0.1", "fd00:99::1"] {
                let ip: IpAddr = ip.parse().expect("an address");
                // The kernel routes to an IPv6 address a moment after it was added.
                let c = lab::wait_for(&format!("{ip} is reached"), LONG, || TcpStream::connect((ip, rig.ports[0])).ok());
                let c = patient(c);
                read_header(&mut taken.recv_timeout(LONG).expect("connected"), &c, version);
            }
        }
    });
}

/// Segments with data that a socket has received (tcpi_data_segs_in).
fn data_segments(s: &TcpStream) -> u32 {
    let mut info = [0u8; 256];
    let mut len = info.len() as libc::socklen_t;
    let fd = std::os::fd::AsRawFd::as_raw_fd(s);
    #[allow(unsafe_code)]
    // SAFETY: `info` and `len` are valid for the call, and `len` is the size of `info`.
    let ret = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len) };
    assert!(ret == 0 && len > 156, "the kernel tells (since Linux 4.6)");
    u32::from_ne_bytes(info[152..156].try_into().expect("four bytes"))
}

#[test]
fn header_and_first_bytes_share_a_segment() {
    let (address, taken) = taker();
    for version in BOTH {
        let rig = telling(version, &[address]);
        let mut c = rig.connect();
        let stopped = rig.stop();
        c.write_all(b"hello").expect("write");
        drop(stopped);
        let mut s = taken.recv_timeout(LONG).expect("connected");
        read_header(&mut s, &c, version);
        s.read_exact(&mut [0; 5]).expect("read");
        c.write_all(b"more").expect("write");
        s.read_exact(&mut [0; 4]).expect("read");
        let segments = data_segments(&s);
        assert!((2..=3).contains(&segments), "{segments} segments"); // 3 where the connect was seen before the client's bytes
    }
    // Sure to be there before the connect is seen: sent while the forwarder waits for another's header.
    let mut b = balancer(0, false, &[address]);
    b.send_proxy = Some(ProxyVersion::V1);
    b.accept_proxy = vec!["127.0.0.0/8".parse().expect("a network")];
    let rig = Rig::with(spec(vec![b]));
    let mut c = rig.connect();
    c.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhello").expect("write");
    let mut s = taken.recv_timeout(LONG).expect("connected");
    assert_eq!(line(&mut s), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    s.read_exact(&mut [0; 5]).expect("read");
    assert_eq!(data_segments(&s), 1);
}

#[test]
fn a_backend_tried_after_others_gets_it_once() {
    let (address, taken) = taker();
    for version in BOTH {
        let rig = telling(version, &[nobody(), nobody(), address]);
        for _ in 0..6 {
            let mut c = rig.connect();
            c.write_all(b"hello").expect("write");
            c.shutdown(Shutdown::Write).expect("shutdown");
            let mut s = taken.recv_timeout(LONG).expect("connected");
            read_header(&mut s, &c, version);
            assert_eq!(read_out(&mut s), (b"hello".to_vec(), Ok(())));
        }
        assert!(rig.counters().backends.iter().take(2).all(|b| b.failed > 0));
    }
}

#[test]
fn a_client_that_sends_nothing_but_its_end() {
    let (tell, told) = mpsc::channel();
    let address = backend(move |mut s| {
        let asked = read_out(&mut s);
        s.write_all(b"answer").expect("write");
        tell.send(asked).expect("the test lives");
    });
    for version in BOTH {
        let rig = telling(version, &[address]);
        let mut c = rig.connect();
        let (wanted, stopped) = (about(&c, version), rig.stop());
        c.shutdown(Shutdown::Write).expect("shutdown");
        drop(stopped);
        assert_eq!(told.recv_timeout(LONG).expect("asked"), (wanted, Ok(())));
        assert_eq!(read_out(&mut c), (b"answer".to_vec(), Ok(())));
    }
}

#[test]
fn much_data_both_ways_is_whole_behind_it() {
    let (address, taken) = taker();
    for version in BOTH {
        let rig = telling(version, &[address]);
        let c = rig.connect();
        let mut s = taken.recv_timeout(LONG).expect("connected");
        read_header(&mut s, &c, version);
        std::thread::spawn(move || echo(s));
        one_echo(&Pattern::new(31), c, 0, 32 << 20);
        let counters = rig.counters();
        assert_eq!((counters.bytes_in, counters.bytes_out), (32 << 20, 32 << 20));
    }
}

#[test]
fn resets_pass_as_without_it() {
    let (address, taken) = taker();
    for version in BOTH {
        let rig = telling(version, &[address]);
        let (c, mut s) = (rig.connect(), taken.recv_timeout(LONG).expect("connected"));
        read_header(&mut s, &c, version);
        rst(c);
        assert_eq!(read_out(&mut s).1, Err(ErrorKind::ConnectionReset));
        let (mut c, s) = (rig.connect(), taken.recv_timeout(LONG).expect("connected"));
        rst(s);
        assert_eq!(read_out(&mut c).1, Err(ErrorKind::ConnectionReset));
        rig.until("all are closed", |s| s.open == 0);
    }
}

#[test]
fn who_resets_on_arrival_is_replaced_and_the_next_is_told_all() {
    let (address, taken) = taker();
    let refuses = backend(rst);
    for version in BOTH {
        let mut b = balancer(0, false, &[refuses, address]);
        b.send_proxy = Some(version);
        b.accept_proxy = vec!["127.0.0.2".parse().expect("a network")];
        let rig = Rig::with(spec(vec![b]));
        for _ in 0..6 {
            let c = rig.connect();
            let mut s = taken.recv_timeout(LONG).expect("connected");
            read_header(&mut s, &c, version);
            let mut c = connect_from("127.0.0.2", &rig);
            let stopped = rig.stop();
            c.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n").expect("write");
            drop(stopped);
            let mut s = taken.recv_timeout(LONG).expect("connected");
            match version {
                ProxyVersion::V1 => assert_eq!(line(&mut s), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
                ProxyVersion::V2 => {
                    let mut header = [0; 28];
                    s.read_exact(&mut header).expect("a header comes");
                    assert_eq!(header[16..], [192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2], "of the proxy's client");
                }
            }
        }
        assert!(rig.counters().backends[0].failed > 0, "one was replaced: {:?}", rig.counters());
    }
}

#[test]
fn who_waits_for_a_place_is_told_of_when_it_has_one() {
    let (address, taken) = taker();
    for version in BOTH {
        let mut b = balancer(0, false, &[address]);
        b.send_proxy = Some(version);
        b.accept_proxy = vec!["127.0.0.2".parse().expect("a network")];
        b.backends[0].max_connections = Some(1);
        b.max_per_client = Some(2);
        let rig = Rig::with(spec(vec![b]));
        let first = rig.connect();
        let s = taken.recv_timeout(LONG).expect("connected");
        let (plain, mut brought) = (rig.connect(), connect_from("127.0.0.2", &rig));
        rig.until("one waits", |s| s.queued == 1);
        brought.write_all(b"PROXY TCP4 127.0.0.1 192.0.2.2 1 2\r\n").expect("write");
        assert_eq!(read_out(&mut brought).1, Err(ErrorKind::ConnectionReset), "its client has two, one of them waiting");
        let mut brought = connect_from("127.0.0.2", &rig);
        brought.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhello").expect("write");
        rig.until("both wait", |s| s.queued == 2);
        drop((first, s));
        let mut s = taken.recv_timeout(LONG).expect("connected");
        read_header(&mut s, &plain, version);
        drop((plain, s));
        let mut s = taken.recv_timeout(LONG).expect("connected");
        let mut header = vec![0; if version == ProxyVersion::V1 { 36 } else { 28 }];
        s.read_exact(&mut header).expect("a header comes");
        s.read_exact(&mut [0; 5]).expect("and what was said while it waited");
    }
}
