//! The forwarder over real sockets: what goes in comes out, whole or visibly broken, and nobody waits for anybody.
mod lab;

use kube_vip::balancer::{Control, Forwarder, Limits, Spec, block_on};
use kube_vip::config::Balancer;
use kube_vip::status::BalancerStatus;
use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

type Task = Pin<Box<dyn Future<Output = ()>>>;
/// Run on the forwarder's thread; what it returns becomes a task beside the forwarder.
type Ask = Box<dyn FnOnce(&Control) -> Option<Task> + Send>;

/// A forwarder in its own thread.
struct Rig {
    asks: smol::channel::Sender<Ask>,
    thread: Option<JoinHandle<()>>,
    ports: Vec<u16>,
}

fn balancer(port: u16, bind_to_vip: bool, backends: &[SocketAddr]) -> Balancer {
    Balancer { name: format!("b{port}"), port, bind_to_vip, backends: backends.to_vec() }
}

fn spec(balancers: Vec<Balancer>) -> Spec {
    Spec { balancers, vip: Ipv4Addr::LOCALHOST.into(), serve_vip_always: false, limits: Limits::default() }
}

impl Rig {
    /// One balancer on an ephemeral port.
    fn new(backends: &[SocketAddr]) -> Self {
        Self::with(spec(vec![balancer(0, false, backends)]))
    }

    fn with(spec: Spec) -> Self {
        let (asks, inbox) = smol::channel::unbounded::<Ask>();
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            let executor = smol::LocalExecutor::new();
            let (forwarder, control) = Forwarder::open(spec).expect("the listeners can be opened");
            let port = |b: &BalancerStatus| b.listen.parse::<SocketAddr>().expect("an address").port();
            tell.send(control.counters().iter().map(port).collect()).expect("the test lives");
            let main = async {
                while let Ok(ask) = inbox.recv().await {
                    if let Some(task) = ask(&control) {
                        executor.spawn(task).detach();
                    }
                }
            };
            block_on(&executor, forwarder, main).expect("epoll works");
        });
        Rig { asks, thread: Some(thread), ports: told.recv().expect("the forwarder opened") }
    }

    /// Runs `ask` on the forwarder's thread.
    fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&Control) -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let ask: Ask = Box::new(move |control| {
            drop(tell.send(ask(control)));
            None
        });
        self.asks.send_blocking(ask).expect("the forwarder runs");
        told.recv_timeout(LONG).expect("the forwarder answers")
    }

    fn counters(&self) -> BalancerStatus {
        self.ask(|c| c.counters()).remove(0)
    }

    fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(("127.0.0.1", self.ports[0])).expect("the forwarder listens"))
    }

    /// Holds the forwarder's thread until the returned guard is dropped, as SIGSTOP would.
    fn stop(&self) -> impl Drop + use<> {
        struct Go(Arc<Barrier>);
        impl Drop for Go {
            fn drop(&mut self) {
                self.0.wait();
            }
        }
        let (stopped, go) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let ask: Ask = {
            let (stopped, go) = (stopped.clone(), go.clone());
            Box::new(move |_| {
                stopped.wait();
                go.wait();
                None
            })
        };
        self.asks.send_blocking(ask).expect("the forwarder runs");
        stopped.wait();
        Go(go)
    }

    /// Waits until `what` holds of the counters.
    fn until(&self, what: &str, holds: impl Fn(&BalancerStatus) -> bool) {
        let end = Instant::now() + LONG;
        while !holds(&self.counters()) {
            assert!(Instant::now() < end, "{what}: never came: {:?}", self.counters());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.asks.close();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the forwarder's thread ended badly");
    }
}

/// No test hangs for ever in a read or a write.
fn patient(s: TcpStream) -> TcpStream {
    s.set_read_timeout(Some(LONG)).expect("option");
    s.set_write_timeout(Some(LONG)).expect("option");
    s
}

/// A backend that gives each connection to `serve` in a thread of its own.
fn backend(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || serve(patient(stream)));
        }
    });
    address
}

/// A backend whose connections the test takes itself.
fn taker() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let (tell, told) = mpsc::channel();
    (backend(move |s| drop(tell.send(s))), told)
}

fn echo(mut s: TcpStream) {
    let mut buf = vec![0; 32 << 10];
    while let Ok(n) = s.read(&mut buf) {
        if n == 0 || s.write_all(&buf[..n]).is_err() {
            return;
        }
    }
}

/// An address where nobody listens until the socket does; bound, so that no other test gets it.
fn reserved() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    (socket.local_addr().expect("address").as_socket().expect("inet"), socket)
}

/// An address where nobody ever listens.
fn nobody() -> SocketAddr {
    let (address, socket) = reserved();
    std::mem::forget(socket);
    address
}

/// An address that answers no SYN, because its queue is full; while the value lives.
fn silent() -> (SocketAddr, impl Sized) {
    let (address, socket) = reserved();
    socket.listen(0).expect("listen");
    let filler = TcpStream::connect(address).expect("the one place in its queue");
    (address, (socket, filler))
}

fn rst(s: TcpStream) {
    SockRef::from(&s).set_linger(Some(Duration::ZERO)).expect("option");
}

/// Reads to the end: the bytes, and whether the end was a FIN (or a reset).
fn read_out(s: &mut TcpStream) -> (Vec<u8>, Result<(), ErrorKind>) {
    let (mut all, mut buf) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match s.read(&mut buf) {
            Ok(0) => return (all, Ok(())),
            Ok(n) => all.extend_from_slice(&buf[..n]),
            Err(e) => return (all, Err(e.kind())),
        }
    }
}

/// Bytes that repeat only after a prime length, so that lost, doubled or moved blocks of any usual size are seen.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new(seed: u64) -> Self {
        let mut x = seed | 1;
        let step = |_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        };
        let mut bytes: Vec<u8> = (0..1_000_003).map(step).collect();
        bytes.extend_from_within(..1 << 18);
        Pattern(bytes)
    }

    fn at(&self, offset: u64, len: usize) -> &[u8] {
        let start = (offset % 1_000_003) as usize;
        &self.0[start..start + len.min(1 << 18)]
    }

    fn write(&self, s: &mut TcpStream, from: u64, to: u64) -> std::io::Result<()> {
        let mut at = from;
        while at < to {
            let piece = self.at(at, (to - at).min(200_000) as usize);
            s.write_all(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Reads and checks until `to`, or until the end of the stream; returns where it ended.
    fn check(&self, s: &mut TcpStream, from: u64, to: u64) -> u64 {
        let (mut at, mut buf) = (from, vec![0; 1 << 18]);
        while at < to {
            let want = (to - at).min(buf.len() as u64) as usize;
            let n = s.read(&mut buf[..want]).expect("the stream goes on");
            if n == 0 {
                break;
            }
            assert!(buf[..n] == *self.at(at, n), "bytes differ after offset {at}");
            at += n as u64;
        }
        at
    }
}

fn big() -> u64 {
    if cfg!(debug_assertions) { 256 << 20 } else { 1 << 30 }
}

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
    let rig = Rig::new(&[backend(|mut s| drop(s.write_all(b"x")))]);
    for ip in ["127.0.0.1", "::1"] {
        let ip: IpAddr = ip.parse().expect("ip");
        if ip.is_ipv6() && TcpListener::bind((ip, 0)).is_err() {
            eprintln!("skipped for ::1: this machine has no IPv6");
            continue;
        }
        let mut c = patient(TcpStream::connect((ip, rig.ports[0])).expect("connect"));
        assert_eq!(read_out(&mut c), (b"x".to_vec(), Ok(())));
    }
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
    spec.limits.connect_timeout = Duration::from_millis(200);
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

fn one_echo(pattern: &Pattern, mut c: TcpStream, from: u64, len: u64) {
    let mut w = c.try_clone().expect("clone");
    thread::scope(|scope| {
        scope.spawn(move || {
            pattern.write(&mut w, from, from + len).expect("write");
            w.shutdown(Shutdown::Write).expect("shutdown");
        });
        assert_eq!(pattern.check(&mut c, from, u64::MAX), from + len);
    });
}

#[test]
fn the_executor_and_async_io_go_on_under_load() {
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
    eprintln!("heartbeat each 5 ms with a round trip over async-io under full load: {count} beats, the worst {worst:?} late");
    assert!(count > 20 && worst < Duration::from_secs(3), "{count} beats, worst {worst:?}");
}

/// A task beside the forwarder: each 5 ms a round trip through an async-io socket. Returns the number and the worst delay.
fn rig_with_heartbeat(rig: &Rig, done: Arc<AtomicBool>) -> mpsc::Receiver<(u32, Duration)> {
    let (tell, told) = mpsc::channel();
    let peer = backend(echo);
    let beat = async move {
        let mut s = smol::net::TcpStream::connect(peer).await.expect("connect");
        let (mut count, mut worst) = (0, Duration::ZERO);
        while !done.load(SeqCst) {
            let due = Instant::now() + Duration::from_millis(5);
            smol::Timer::at(due).await;
            smol::io::AsyncWriteExt::write_all(&mut s, b"beat").await.expect("write");
            smol::io::AsyncReadExt::read_exact(&mut s, &mut [0; 4]).await.expect("read");
            (count, worst) = (count + 1, worst.max(due.elapsed()));
        }
        tell.send((count, worst)).expect("the test lives");
    };
    rig.asks.send_blocking(Box::new(|_| Some(Box::pin(beat)))).expect("the forwarder runs");
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
    // Other tests' timers would be served by the same async-io thread, but not by this one's forwarder thread, which is counted.
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

#[test]
fn connections_through_the_vip_live_only_while_it_is_held() {
    let (address, taken) = taker();
    let rig = Rig::with(spec(vec![balancer(0, true, &[address]), balancer(0, false, &[backend(echo)])]));
    let mut everywhere = patient(TcpStream::connect(("127.0.0.1", rig.ports[1])).expect("connect"));
    assert!(!rig.counters().serving);
    assert_eq!(read_out(&mut rig.connect()), (vec![], Err(ErrorKind::ConnectionReset)), "not held: refused at once");
    rig.ask(|c| c.holding(true));
    assert!(rig.counters().serving);
    for _ in 0..3 {
        let quiet: Vec<_> = (0..100).map(|_| rig.connect()).collect();
        rig.until("all are connected", |s| s.backends[0].open == 100);
        let mut busy = rig.connect();
        let mut peers: Vec<_> = (0..101).map(|_| taken.recv_timeout(LONG).expect("connected")).collect();
        let writers: Vec<_> =
            peers.drain(..).map(|mut s| thread::spawn(move || while s.write_all(&[1; 4096]).is_ok() {})).collect();
        busy.read_exact(&mut vec![0; 4 << 20]).expect("the bulk flows");
        rig.ask(|c| c.holding(false));
        for mut c in quiet.into_iter().chain([busy]) {
            assert_eq!(read_out(&mut c).1, Err(ErrorKind::ConnectionReset));
        }
        writers.into_iter().for_each(|w| w.join().expect("the writer ends"));
        rig.until("none is left", |s| s.open == 0);
        rig.ask(|c| c.holding(true));
    }
    everywhere.write_all(b"untouched").expect("write");
    everywhere.read_exact(&mut [0; 9]).expect("read");
    assert_eq!(rig.counters().no_backend, 0);
}

#[test]
fn a_vip_is_bound_before_this_machine_has_it() {
    lab::isolated("a_vip_is_bound_before_this_machine_has_it", || {
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

/// Resident memory of this process in KiB.
fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|l| l.starts_with("VmRSS")).expect("the line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn slow_readers_block_the_sender_and_cost_little_memory() {
    lab::isolated("slow_readers_block_the_sender_and_cost_little_memory", || {
        lab::sh("ip link set lo up");
        let (address, taken) = taker();
        let mut s = spec(vec![balancer(0, false, &[address])]);
        s.limits.pipes = 4; // so that most are blocked while copying
        let rig = Rig::with(s);
        let before = rss();
        let pairs: Vec<_> = (0..20).map(|_| (rig.connect(), taken.recv_timeout(LONG).expect("connected"))).collect();
        let pattern = Pattern::new(6);
        let mut sent = Vec::new();
        for (_, s) in &pairs {
            s.set_nonblocking(true).expect("option");
            sent.push(0u64);
        }
        // Each sender writes until it has been blocked for a while.
        let mut last = Instant::now();
        while last.elapsed() < Duration::from_millis(1500) {
            for ((_, s), sent) in pairs.iter().zip(&mut sent) {
                if let Ok(n) = (&mut &*s).write(pattern.at(*sent, 200_000)) {
                    *sent += n as u64;
                    last = Instant::now();
                }
            }
            assert!(sent.iter().all(|&n| n < 64 << 20), "the sender is never blocked");
        }
        let grown = rss().saturating_sub(before);
        let (total, pipes) = (sent.iter().sum::<u64>() >> 20, rig.ask(|c| c.pipes().0));
        eprintln!("20 blocked flows swallowed {total} MiB in kernel buffers, {pipes} pipes; RSS grew by {grown} KiB");
        assert!(grown < 6 << 10, "grew by {grown} KiB");
        for ((mut c, s), sent) in pairs.into_iter().zip(sent) {
            drop(s);
            assert_eq!(pattern.check(&mut c, 0, u64::MAX), sent, "and the reader gets it all");
        }
    });
}

#[test]
fn idle_connections_cost_little_memory() {
    lab::isolated("idle_connections_cost_little_memory", || {
        lab::sh("ip link set lo up");
        let (address, taken) = taker();
        let rig = Rig::new(&[address]);
        one_echo_pair(&rig, &taken);
        let before = (rss(), rig.ask(|c| c.open_connections()));
        // Sockets of both ends live in this process too; they cost the kernel, not RSS. The backend's threads do: keep few.
        let held: Vec<_> = (0..3000).map(|_| (rig.connect(), taken.recv_timeout(LONG).expect("connected"))).collect();
        rig.until("all are connected", |s| s.backends[0].open == 3000);
        let grown = rss().saturating_sub(before.0);
        eprintln!("3000 idle connections: RSS of forwarder and test together grew by {grown} KiB");
        assert!(grown < 3000, "less than 1 KiB each, the test's own side included");
        drop(held);
        rig.until("all are closed", |s| s.open == 0);
    });
}

fn one_echo_pair(rig: &Rig, taken: &mpsc::Receiver<TcpStream>) {
    let (mut c, mut s) = (rig.connect(), taken.recv_timeout(LONG).expect("connected"));
    c.write_all(b"x").expect("write");
    s.read_exact(&mut [0]).expect("read");
    drop((c, s));
    rig.until("closed", |s| s.open == 0);
}

/// Not a test of its own: an echo server in another process, for tests that exhaust their own descriptors.
#[test]
fn echo_process() {
    if std::env::var_os("FORWARDER_TEST_ECHO").is_none() {
        return;
    }
    println!("\nlistening {}", backend(echo));
    let _ = std::io::stdin().read(&mut [0]); // until the parent closes it
}

#[test]
fn without_descriptors_accept_pauses_and_resumes() {
    lab::isolated("without_descriptors_accept_pauses_and_resumes", || {
        lab::sh("ip link set lo up");
        let mut child = std::process::Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "echo_process", "--nocapture"])
            .env("FORWARDER_TEST_ECHO", "1")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the echo process starts");
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("piped"))).map_while(Result::ok);
        let address = lines.find_map(|l| l.strip_prefix("listening ").map(str::to_owned)).expect("its address");
        let rig = Rig::new(&[address.parse().expect("an address")]);
        let stopped = rig.stop();
        let mut clients: Vec<_> = (0..20u8).map(|_| rig.connect()).collect();
        clients.iter_mut().zip(0..).for_each(|(c, i)| c.write_all(&[i]).expect("write"));
        // From here on there is room for 7 descriptors: three connections, and a fourth that gets no second socket.
        let next = std::os::fd::AsRawFd::as_raw_fd(&std::fs::File::open("/dev/null").expect("open")) as u64;
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let hard = getrlimit(Resource::RLIMIT_NOFILE).expect("limit").1;
        setrlimit(Resource::RLIMIT_NOFILE, next + 7, hard).expect("limit");
        drop(stopped);
        thread::sleep(Duration::from_millis(1500));
        let pauses = rig.ask(|c| c.accept_pauses());
        assert!((1..20).contains(&pauses), "it pauses, and doesn't spin: {pauses} pauses in 1.5 s");
        let (mut echoed, mut reset) = (0, 0);
        for (mut c, i) in clients.into_iter().zip(0..) {
            match read_one(&mut c) {
                Some(b) => echoed += u8::from(b == i),
                None => reset += 1,
            }
        }
        eprintln!("of 20 clients {echoed} were served, {reset} reset, {pauses} pauses");
        assert_eq!(echoed + reset, 20);
        assert!(echoed >= 15, "only {echoed} of 20 were served in the end");
        drop(child.stdin.take());
        child.wait().expect("the echo process ends");
    });
}

fn read_one(c: &mut TcpStream) -> Option<u8> {
    let mut b = [0];
    c.read_exact(&mut b).ok().map(|()| b[0])
}

#[test]
fn the_limit_of_connections_holds_and_lets_the_next_in() {
    let mut s = spec(vec![balancer(0, false, &[backend(echo)])]);
    s.limits.max_connections = Some(5);
    let rig = Rig::with(s);
    let mut clients: Vec<_> = (0..12u8).map(|_| rig.connect()).collect();
    clients.iter_mut().zip(0..).for_each(|(c, i)| c.write_all(&[i]).expect("write"));
    rig.until("the limit", |s| s.open == 5);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(rig.counters().open, 5);
    for (mut c, i) in clients.into_iter().zip(0..) {
        assert_eq!(read_one(&mut c), Some(i), "each is served once it is its turn");
    }
}
