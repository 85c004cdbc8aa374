//! The loop beside everything else: tasks, wakes from other threads, start and stop.
use super::rig::*;
use kube_vip::balancer::Forwarder;
use kube_vip::reactor::{self, Async};
use kube_vip::sys::clock;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::{self};
use std::time::{Duration, Instant};

#[test]
fn tasks_with_sockets_and_timers_go_on_under_load() {
    let rig = Rig::new(&[backend(echo)]);
    let done = Arc::new(AtomicBool::new(false));
    let beats = rig_with_heartbeat(&rig, done.clone());
    let pattern = Pattern::new(1);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| one_echo(&pattern, rig.connect(), 0, 48 << 20));
        }
        for _ in 0..2 {
            scope.spawn(|| (0..300).for_each(|_| one_echo(&pattern, rig.connect(), 5, 100)));
        }
    });
    done.store(true, SeqCst);
    let (count, worst) = beats.recv_timeout(LONG).expect("the heartbeat task ends");
    eprintln!("heartbeat each 5 ms with a round trip under full load: {count} beats, the worst {worst:?} late");
    assert!(count > 20 && worst < Duration::from_secs(3), "{count} beats, worst {worst:?}");
}

/// A task beside the forwarder: each 5 ms a round trip through a socket. Returns the number and the worst delay.
fn rig_with_heartbeat(rig: &Rig, done: Arc<AtomicBool>) -> mpsc::Receiver<(u32, Duration)> {
    let (tell, told) = mpsc::channel();
    let peer = backend(echo);
    let beat = move || async move {
        let stream = Async::new(TcpStream::connect(peer).expect("connect")).expect("registered");
        let mut s = &stream;
        let (mut count, mut worst) = (0, Duration::ZERO);
        while !done.load(SeqCst) {
            let due = clock::now() + Duration::from_millis(5);
            reactor::sleep_until(due).await;
            smol::io::AsyncWriteExt::write_all(&mut s, b"beat").await.expect("write");
            smol::io::AsyncReadExt::read_exact(&mut s, &mut [0; 4]).await.expect("read");
            (count, worst) = (count + 1, worst.max(clock::now() - due));
        }
        tell.send((count, worst)).expect("the test lives");
    };
    rig.asks.send_blocking(Box::new(|_| Some(Box::pin(beat())))).expect("the forwarder runs");
    told
}

#[test]
fn wakes_from_other_threads_are_never_lost() {
    let rig = Rig::new(&[nobody()]);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..2000).for_each(|_| assert_eq!(rig.ask(|c| c.open_connections()), 0)));
        }
    });
    eprintln!("8000 questions from 4 threads: {:?}", began.elapsed());
}

#[test]
fn an_idle_forwarder_sleeps() {
    let rig = Rig::new(&[backend(echo)]);
    let tid = rig.ask(|_| nix::unistd::gettid());
    let sleeps = || {
        let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).expect("procfs");
        let line = status.lines().find(|l| l.starts_with("voluntary_ctxt")).expect("the line");
        line.split_whitespace().last().and_then(|n| n.parse::<u64>().ok()).expect("a number")
    };
    one_echo(&Pattern::new(1), rig.connect(), 0, 4 << 20); // pipes were used; they go, and the sweeps with them
    let end = Instant::now() + LONG;
    while rig.ask(|c| c.pipes().0) > 0 || rig.ask(|c| c.open_connections()) > 0 {
        assert!(Instant::now() < end, "the pool never shrank");
        thread::sleep(Duration::from_millis(100));
    }
    thread::sleep(Duration::from_millis(1200)); // one last sweep may be under way
    let before = sleeps();
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(sleeps(), before, "nothing woke it");
}

#[test]
fn after_stop_accepting_old_connections_go_on_and_new_ones_are_refused() {
    let rig = Rig::new(&[backend(echo)]);
    let mut c = rig.connect();
    rig.until("accepted", |s| s.open == 1);
    rig.ask(|c| c.stop_accepting());
    assert!(!rig.counters().serving);
    let refused = TcpStream::connect(("127.0.0.1", rig.ports[0])).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    c.write_all(b"still").expect("write");
    c.read_exact(&mut [0; 5]).expect("read");
}

#[test]
fn the_end_of_main_resets_what_is_open() {
    let rig = Rig::new(&[backend(echo)]);
    let mut c = rig.connect();
    rig.until("accepted", |s| s.open == 1);
    drop(rig);
    assert_eq!(read_out(&mut c), (vec![], Err(ErrorKind::ConnectionReset)));
}

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("address").port();
    let both = vec![balancer(port, true, &[nobody()]), balancer(port, false, &[nobody()])];
    let text = Forwarder::open(spec(both)).expect_err("both are taken").to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].starts_with(&format!("balancer b{port}: can't listen on 127.0.0.1:{port}: Address already in use")),
        "{text}"
    );
    assert!(lines[1].contains(&format!("can't listen on [::]:{port}")) && lines[1].contains("ss -ltnp"), "{text}");
}
