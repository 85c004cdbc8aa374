//! How streams end: half-close, reset, and never the one for the other.
use super::rig::*;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread::{self};
use std::time::Duration;

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
    spec.limits.half_close_timeout = Duration::from_millis(300);
    let rig = Rig::with(spec);
    let mut c = rig.connect();
    let mut other = rig.connect();
    c.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_out(&mut c), (vec![], Err(ErrorKind::ConnectionReset)));
    assert_eq!(rig.counters().open, 1, "one that isn't half-closed stays");
    other.set_nonblocking(true).expect("option");
    assert_eq!(other.read(&mut [0]).expect_err("open, and silent").kind(), ErrorKind::WouldBlock);
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
