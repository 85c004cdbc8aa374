//! What goes in comes out: small, large, urgent, copied and spliced.
use super::rig::*;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::{self};

#[test]
fn one_byte_writes_arrive_in_order() {
    let rig = Rig::new(&[backend(echo)]);
    let mut c = rig.connect();
    c.set_nodelay(true).expect("option");
    let text: Vec<u8> = (0..5000u32).map(|i| (i * 7) as u8).collect();
    let mut reader = c.try_clone().expect("clone");
    let sent = text.clone();
    let writer = thread::spawn(move || sent.iter().for_each(|b| c.write_all(&[*b]).expect("write")));
    let mut got = vec![0; text.len()];
    reader.read_exact(&mut got).expect("read");
    assert!(got == text);
    writer.join().expect("the writer ends");
}

#[test]
fn urgent_bytes_stay_in_their_place() {
    let (address, taken) = taker();
    let rig = Rig::new(&[address]);
    for round in 0..10 {
        let (c, s) = (rig.connect(), taken.recv_timeout(LONG).expect("connected"));
        let (mut from, mut to) = if round % 2 == 0 { (c, s) } else { (s, c) };
        from.write_all(b"abc").expect("write");
        SockRef::from(&from).send_out_of_band(b"!").expect("send");
        from.write_all(b"def").expect("write");
        let mut got = [0; 7];
        to.read_exact(&mut got).expect("nothing is stuck behind the mark");
        assert_eq!(&got, b"abc!def", "round {round}");
    }
}

#[test]
fn much_data_both_ways_at_once_is_whole() {
    let (up, down) = (Arc::new(Pattern::new(3)), Arc::new(Pattern::new(4)));
    let (tell, told) = mpsc::channel();
    let patterns = (up.clone(), down.clone());
    let rig = Rig::new(&[backend(move |mut s| {
        let (up, down) = patterns.clone();
        let mut w = s.try_clone().expect("clone");
        let writer = thread::spawn(move || {
            down.write(&mut w, 0, big()).expect("write");
            w.shutdown(Shutdown::Write).expect("shutdown");
        });
        let got = up.check(&mut s, 0, u64::MAX);
        writer.join().expect("the writer ends");
        tell.send(got).expect("the test lives");
    })]);
    let mut c = rig.connect();
    let mut w = c.try_clone().expect("clone");
    let writer = thread::spawn(move || {
        up.write(&mut w, 0, big()).expect("write");
        w.shutdown(Shutdown::Write).expect("shutdown");
    });
    down.check(&mut c, 0, big() / 2);
    let (pipes, _) = rig.ask(|c| c.pipes());
    assert_eq!(down.check(&mut c, big() / 2, u64::MAX), big());
    assert_eq!(told.recv_timeout(LONG).expect("the server saw the end"), big());
    writer.join().expect("the writer ends");
    assert!(pipes > 0, "such a flow is spliced");
    let s = rig.counters();
    assert_eq!((s.bytes_in, s.bytes_out), (big(), big()));
}

#[test]
fn thick_and_thin_in_turn_lose_nothing_when_the_way_changes() {
    let rig = Rig::new(&[backend(echo)]);
    let (pattern, mut c, mut at) = (Pattern::new(9), rig.connect(), 0);
    c.set_nodelay(true).expect("option");
    for burst in [10, 4 << 20, 1, 100, 1 << 20, 1, 1, 1, 1, 1, 1, 300_000, 65_536, 131_072, 7, 7, 7, 7, 7, 8 << 20, 3] {
        let mut w = c.try_clone().expect("clone");
        thread::scope(|scope| {
            scope.spawn(|| pattern.write(&mut w, at, at + burst).expect("write"));
            assert_eq!(pattern.check(&mut c, at, at + burst), at + burst);
        });
        at += burst;
    }
}

#[test]
fn without_pipes_it_copies() {
    let mut spec = spec(vec![balancer(0, false, &[backend(echo)])]);
    spec.limits.pipes = 0;
    let rig = Rig::with(spec);
    let (pattern, mut c) = (Pattern::new(9), rig.connect());
    let mut w = c.try_clone().expect("clone");
    thread::scope(|scope| {
        scope.spawn(|| pattern.write(&mut w, 0, 32 << 20).expect("write"));
        assert_eq!(pattern.check(&mut c, 0, 32 << 20), 32 << 20);
    });
    let (pipes, refused) = rig.ask(|c| c.pipes());
    assert!(pipes == 0 && refused > 0);
}

#[test]
fn two_thousand_connections_of_random_size_are_each_whole() {
    let rig = Rig::new(&[backend(echo), backend(echo)]);
    let pattern = Arc::new(Pattern::new(11));
    let left = Arc::new(AtomicUsize::new(2000));
    thread::scope(|scope| {
        for worker in 0..16u64 {
            let (pattern, left, rig) = (pattern.clone(), left.clone(), &rig);
            scope.spawn(move || {
                let mut x = worker * 7919 + 1;
                while left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
                    x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let len = (x >> 33) % [10, 1000, 70_000, 400_000][(x >> 20) as usize % 4];
                    one_echo(&pattern, rig.connect(), x >> 40, len);
                }
            });
        }
    });
    rig.until("all are closed", |s| s.open == 0 && s.accepted == 2000);
    assert_eq!(rig.counters().no_backend, 0);
}

/// While a reader is slow, the forwarder stops listening for more bytes from the other side. It has to hear of them again in time:
/// of a last short piece, of urgent bytes between, of the end.
#[test]
fn after_a_slow_reader_nothing_goes_unheard() {
    let (address, taken) = taker();
    let rig = Rig::new(&[address]);
    let bulk = Pattern::new(9).0;
    for round in 0..6 {
        let (c, s) = (rig.connect(), taken.recv_timeout(LONG).expect("connected"));
        let (mut from, mut to) = if round % 2 == 0 { (c, s) } else { (s, c) };
        let urgent_and_end = round % 3 == 0;
        let expected = [&bulk.repeat(14)[..], b"!", &bulk[..70_000]].concat();
        let (sent, rest) = expected.split_at(14 * bulk.len());
        let before = rig.counters();
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                sent.chunks(9000).for_each(|piece| from.write_all(piece).expect("write"));
                if urgent_and_end {
                    SockRef::from(&from).send_out_of_band(&rest[..1]).expect("send");
                    from.write_all(&rest[1..]).expect("write");
                    from.shutdown(Shutdown::Write).expect("shutdown");
                }
            });
            let moved = |s: &kube_vip::status::BalancerStatus| s.bytes_in + s.bytes_out;
            rig.until("much is on its way, and nobody reads", |s| moved(s) > moved(&before) + (1 << 20));
            let mut got = vec![0; sent.len()];
            to.read_exact(&mut got).expect("read");
            assert!(got == sent, "round {round}");
            writer.join().expect("the writer ends");
        });
        if !urgent_and_end {
            for piece in [&rest[..1], &rest[1..4], &rest[4..]] {
                from.write_all(piece).expect("write");
                let mut got = vec![0; piece.len()];
                to.read_exact(&mut got).expect("the forwarder hears of a short piece");
                assert!(got == piece, "round {round}");
            }
            continue;
        }
        let (got, end) = read_out(&mut to);
        assert!(got == rest && end == Ok(()), "round {round}: {} bytes, {end:?}", got.len());
    }
}
