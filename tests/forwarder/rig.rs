//! A forwarder in a thread of its own, and peers for it.
use kube_vip::balancer::{Control, Forwarder, Limits, Spec, block_on};
use kube_vip::config::{Balancer, HealthCheck};
use kube_vip::status::BalancerStatus;
use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Barrier, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const LONG: Duration = Duration::from_secs(60);

pub type Task = Pin<Box<dyn Future<Output = ()>>>;
/// Run on the forwarder's thread; what it returns becomes a task beside the forwarder.
pub type Ask = Box<dyn FnOnce(&Control) -> Option<Task> + Send>;

/// A forwarder in its own thread.
pub struct Rig {
    pub asks: smol::channel::Sender<Ask>,
    thread: Option<JoinHandle<()>>,
    pub ports: Vec<u16>,
}

pub fn balancer(port: u16, bind_to_vip: bool, backends: &[SocketAddr]) -> Balancer {
    Balancer::new(format!("b{port}"), port, bind_to_vip, backends.iter().map(|&b| b.into()).collect())
}

/// A check that the test itself plays: nobody asks.
pub fn check() -> HealthCheck {
    let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
    HealthCheck { ask: kube_vip::config::Ask::Tcp, port: None, interval, timeout, rise: 2, fall: 3 }
}

pub fn spec(balancers: Vec<Balancer>) -> Spec {
    Spec { balancers, vip: Ipv4Addr::LOCALHOST.into(), serve_vip_always: false, limits: Limits::default() }
}

impl Rig {
    /// One balancer on an ephemeral port.
    pub fn new(backends: &[SocketAddr]) -> Self {
        Self::with(spec(vec![balancer(0, false, backends)]))
    }

    pub fn with(spec: Spec) -> Self {
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
    pub fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&Control) -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let ask: Ask = Box::new(move |control| {
            drop(tell.send(ask(control)));
            None
        });
        self.asks.send_blocking(ask).expect("the forwarder runs");
        told.recv_timeout(LONG).expect("the forwarder answers")
    }

    pub fn counters(&self) -> BalancerStatus {
        self.ask(|c| c.counters()).remove(0)
    }

    pub fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(("127.0.0.1", self.ports[0])).expect("the forwarder listens"))
    }

    /// Holds the forwarder's thread until the returned guard is dropped, as SIGSTOP would.
    pub fn stop(&self) -> impl Drop + use<> {
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
    pub fn until(&self, what: &str, holds: impl Fn(&BalancerStatus) -> bool) {
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
pub fn patient(s: TcpStream) -> TcpStream {
    s.set_read_timeout(Some(LONG)).expect("option");
    s.set_write_timeout(Some(LONG)).expect("option");
    s
}

/// A backend that gives each connection to `serve` in a thread of its own.
pub fn backend(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
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
pub fn taker() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let (tell, told) = mpsc::channel();
    (backend(move |s| drop(tell.send(s))), told)
}

pub fn echo(mut s: TcpStream) {
    let mut buf = vec![0; 32 << 10];
    while let Ok(n) = s.read(&mut buf) {
        if n == 0 || s.write_all(&buf[..n]).is_err() {
            return;
        }
    }
}

/// An address where nobody listens until the socket does; bound, so that no other test gets it.
pub fn reserved() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    (socket.local_addr().expect("address").as_socket().expect("inet"), socket)
}

/// An address where nobody ever listens.
pub fn nobody() -> SocketAddr {
    let (address, socket) = reserved();
    std::mem::forget(socket);
    address
}

/// An address that answers no SYN, because its queue is full; while the value lives.
pub fn silent() -> (SocketAddr, impl Sized) {
    let (address, socket) = reserved();
    socket.listen(0).expect("listen");
    let filler = TcpStream::connect(address).expect("the one place in its queue");
    (address, (socket, filler))
}

pub fn rst(s: TcpStream) {
    SockRef::from(&s).set_linger(Some(Duration::ZERO)).expect("option");
}

/// Reads to the end: the bytes, and whether the end was a FIN (or a reset).
pub fn read_out(s: &mut TcpStream) -> (Vec<u8>, Result<(), ErrorKind>) {
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
pub struct Pattern(pub Vec<u8>);

impl Pattern {
    pub fn new(seed: u64) -> Self {
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

    pub fn at(&self, offset: u64, len: usize) -> &[u8] {
        let start = (offset % 1_000_003) as usize;
        &self.0[start..start + len.min(1 << 18)]
    }

    pub fn write(&self, s: &mut TcpStream, from: u64, to: u64) -> std::io::Result<()> {
        let mut at = from;
        while at < to {
            let piece = self.at(at, (to - at).min(200_000) as usize);
            s.write_all(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Reads and checks until `to`, or until the end of the stream; returns where it ended.
    pub fn check(&self, s: &mut TcpStream, from: u64, to: u64) -> u64 {
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

pub fn big() -> u64 {
    if cfg!(debug_assertions) { 256 << 20 } else { 1 << 30 }
}

pub fn one_echo(pattern: &Pattern, mut c: TcpStream, from: u64, len: u64) {
    let mut w = c.try_clone().expect("clone");
    thread::scope(|scope| {
        scope.spawn(move || {
            pattern.write(&mut w, from, from + len).expect("write");
            w.shutdown(Shutdown::Write).expect("shutdown");
        });
        assert_eq!(pattern.check(&mut c, from, u64::MAX), from + len);
    });
}
