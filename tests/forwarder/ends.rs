//! How streams end: half-close, reset, and never the one for the other.
use super::lab;
use super::rig::*;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::{self};
use std::time::{Duration, Instant};

#[test]
fn half_close_by_the_client_leaves_the_answer_its_way() {
    let rig = Rig::new(&[backend(|mut s| {
        let (asked, end) = read_out(&mut s);
        s.write_all(format!("{} {end:?}", asked.len()).as_bytes()).expect("write");
    })]);
    for len in [0, 1, 1000, 65_535, 65_536, 65_537, 131_072, 5_000_000] {
        let mut c = rig.connect();
        c.write_all(&vec![7; len]).expect("write");
        c.shutdown(Shutdown::Write).expect("shutdown");
        let (answer, end) = read_out(&mut c);
        assert_eq!((String::from_utf8_lossy(&answer).as_ref(), end), (format!("{len} Ok(())").as_str(), Ok(())));
    }
}

#[test]
fn half_close_by_the_server_leaves_the_client_its_way() {
    let (tell, told) = mpsc::channel();
    let rig = Rig::new(&[backend(move |mut s| {
        s.write_all(b"bye").expect("write");
        s.shutdown(Shutdown::Write).expect("shutdown");
        tell.send(read_out(&mut s)).expect("the test lives");
    })]);
    for len in [0, 1, 65_536, 3_000_000] {
        let mut c = rig.connect();
        assert_eq!(read_out(&mut c), (b"bye".to_vec(), Ok(())));
        c.write_all(&vec![7; len]).expect("the other direction is open");
        drop(c);
        let (got, end) = told.recv_timeout(LONG).expect("the server saw the end");
        assert_eq!((got.len(), end), (len, Ok(())));
    }
}

#[test]
fn a_half_closed_connection_without_a_byte_is_reset_in_time() {
    let mut spec = spec(vec![balancer(
        0,
        false,
        &[backend(|mut s| drop((s.set_read_timeout(None), s.read(&mut [0; 8]), thread::sleep(LONG))))],
    )]);
    spec.balancers[0].timeouts.half_close = Duration::from_millis(300);
    let rig = Rig::with(spec);
    let mut c = rig.connect();
    let mut other = rig.connect();
    c.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_out(&mut c), (vec![], Err(ErrorKind::ConnectionReset)));
    assert_eq!(rig.counters().open, 1, "one that isn't half-closed stays");
    other.set_nonblocking(true).expect("option");
    assert_eq!(other.read(&mut [0]).expect_err("open, and silent").kind(), ErrorKind::WouldBlock);
}

/// A server that answers once it was asked, and asking by half-close through a `rig` with these timeouts.
fn half_closed_download(
    len: u64,
    half_close: Duration,
    idle: Duration,
    mut c: impl FnMut(&Rig) -> TcpStream,
) -> (Rig, TcpStream) {
    let server = backend(move |mut s| {
        let _ = SockRef::from(&s).set_send_buffer_size(128 << 10);
        read_out(&mut s).1.expect("the request ends");
        // An error is seen by the client too, and told there.
        let _ = Pattern::new(8).write(&mut s, 0, len);
    });
    let mut spec = spec(vec![balancer(0, false, &[server])]);
    (spec.balancers[0].timeouts.half_close, spec.balancers[0].timeouts.idle) = (half_close, idle);
    let rig = Rig::with(spec);
    let mut c = c(&rig);
    c.write_all(b"all of it, please").expect("write");
    c.shutdown(Shutdown::Write).expect("shutdown");
    (rig, c)
}

/// Reads `step` bytes each 100 ms for `time`, then the rest as fast as it comes; returns the length.
fn read_slowly_then_fast(c: &mut TcpStream, step: u64, time: Duration) -> u64 {
    let (pattern, began, mut at) = (Pattern::new(8), Instant::now(), 0);
    while began.elapsed() < time {
        at = pattern.check(c, at, at + step);
        thread::sleep(Duration::from_millis(100));
    }
    pattern.check(c, at, u64::MAX)
}

#[test]
fn a_half_closed_download_outlives_its_timeout_while_the_reader_is_slow() {
    let len = 16 << 20; // more than the buffers on the way take
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let (rig, mut c) = half_closed_download(len, second, hour, Rig::connect);
    assert_eq!(read_slowly_then_fast(&mut c, 2000, 4 * second), len);
    rig.until("closed", |s| s.open == 0);
}

#[test]
fn what_a_slow_reader_takes_from_a_full_pipe_counts_as_life() {
    lab::isolated("ends::what_a_slow_reader_takes_from_a_full_pipe_counts_as_life", || {
        // The forwarder receives much at once and sends in small bites: many sends for one read.
        lab::sh("ip link set lo up mtu 1500");
        lab::sh("echo '4096 1048576 4194304' > /proc/sys/net/ipv4/tcp_rmem");
        lab::sh("echo '4096 8192 8192' > /proc/sys/net/ipv4/tcp_wmem");
        let len = 4 << 20;
        let two = Duration::from_secs(2);
        let (rig, mut c) = half_closed_download(len, two, two, |rig| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            socket.set_recv_buffer_size(8 << 10).expect("option");
            socket.connect(&SocketAddr::from(([127, 0, 0, 1], rig.ports[0])).into()).expect("the forwarder listens");
            patient(socket.into())
        });
        assert_eq!(read_slowly_then_fast(&mut c, 3000, 3 * two), len);
        rig.until("closed", |s| s.open == 0);
    });
}

#[test]
fn a_reset_is_passed_on_as_a_reset_both_ways() {
    let (address, taken) = taker();
    let rig = Rig::new(&[address]);
    for bytes in [0, 1, 1000, 300_000] {
        let (c, mut s) = (rig.connect(), taken.recv_timeout(LONG).expect("connected"));
        (&c).write_all(&vec![1; bytes]).expect("write");
        rst(c);
        assert_eq!(read_out(&mut s).1, Err(ErrorKind::ConnectionReset), "the server after {bytes} bytes");
        let (mut c, s) = (rig.connect(), taken.recv_timeout(LONG).expect("connected"));
        (&s).write_all(&vec![1; bytes]).expect("write");
        rst(s);
        assert_eq!(read_out(&mut c).1, Err(ErrorKind::ConnectionReset), "the client after {bytes} bytes");
    }
    rig.until("all are closed", |s| s.open == 0);
}

/// All that epoll says of data and a reset that came together is also what it says of data and a FIN, but for ERR and HUP.
#[test]
fn data_and_a_reset_at_once_never_look_like_a_whole_stream() {
    let (address, taken) = taker();
    let rig = Rig::new(&[address]);
    for round in 0..40 {
        let (c, s) = (rig.connect(), taken.recv_timeout(LONG).expect("connected"));
        rig.until("the backend's connect was seen", |s| s.backends[0].open == 1);
        let (from, mut to) = if round % 2 == 0 { (c, s) } else { (s, c) };
        let len = [1, 100, 65_536, 200_000][round / 2 % 4];
        let stopped = rig.stop();
        (&from).write_all(&vec![1; len]).expect("the kernel takes it");
        match round / 8 % 3 {
            0 => {}
            1 => to.write_all(b"meanwhile").expect("write"), // so that the forwarder's send meets the reset first
            _ => to.shutdown(Shutdown::Write).expect("shutdown"),
        }
        rst(from);
        drop(stopped);
        let (got, end) = read_out(&mut to);
        assert_eq!(end, Err(ErrorKind::ConnectionReset), "round {round}: {} of {len} bytes, then a clean end", got.len());
        rig.until("closed", |s| s.open == 0);
    }
}

#[test]
fn data_and_a_fin_at_once_are_a_whole_stream() {
    let (address, taken) = taker();
    let rig = Rig::new(&[address]);
    for round in 0..20 {
        let (c, s) = (rig.connect(), taken.recv_timeout(LONG).expect("connected"));
        let (mut from, mut to) = if round % 2 == 0 { (c, s) } else { (s, c) };
        let len = [0, 1, 65_536, 200_000][round / 2 % 4];
        let stopped = rig.stop();
        from.write_all(&vec![1; len]).expect("the kernel takes it");
        from.shutdown(Shutdown::Write).expect("shutdown");
        drop(stopped);
        let (got, end) = read_out(&mut to);
        assert_eq!((got.len(), end), (len, Ok(())), "round {round}");
        to.write_all(b"thanks").expect("write");
        drop(to);
        assert_eq!(read_out(&mut from), (b"thanks".to_vec(), Ok(())), "round {round}");
    }
}

#[test]
fn a_reset_while_the_other_direction_splices_is_never_a_clean_end() {
    let (address, taken) = taker();
    let rig = Rig::new(&[address]);
    let noise = vec![5; 1 << 20];
    for round in 0..30 {
        let (c, s) = (rig.connect(), taken.recv_timeout(LONG).expect("connected"));
        let (mut from, to) = if round % 2 == 0 { (c, s) } else { (s, c) };
        let (mut bulk, noise) = (to.try_clone().expect("clone"), noise.clone());
        // The kernel tells of a reset once: to the reader or to the writer. After a FIN it would tell EPIPE instead.
        let writer = thread::spawn(move || {
            loop {
                if let Err(e) = bulk.write_all(&noise) {
                    return e.kind();
                }
            }
        });
        from.read_exact(&mut vec![0; 3 << 20]).expect("the bulk flows");
        from.write_all(b"a beginning").expect("write");
        rst(from);
        let end = read_out(&mut { to }).1;
        let told = [end.err(), Some(writer.join().expect("the writer ends"))];
        assert!(told.contains(&Some(ErrorKind::ConnectionReset)), "round {round}: {told:?}");
    }
}
