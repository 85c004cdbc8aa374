//! Memory, descriptors and connections have bounds.
use super::lab;
use super::lab::process::{assert_growth_below, rss_kib};
use super::rig::*;
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread::{self};
use std::time::{Duration, Instant};

fn own_pid() -> i32 {
    std::process::id().try_into().expect("process ids fit")
}

#[test]
fn slow_readers_block_the_sender_and_cost_little_memory() {
    lab::isolated("limits::slow_readers_block_the_sender_and_cost_little_memory", || {
        lab::sh("ip link set lo up");
        let (address, taken) = taker();
        let mut s = spec(vec![balancer(0, false, &[address])]);
        s.limits.pipes = 4; // so that most are blocked while copying
        let rig = Rig::with(s);
        let before = rss_kib(own_pid());
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
        let (total, pipes) = (sent.iter().sum::<u64>() >> 20, rig.ask(|c| c.pipes().0));
        let what = format!("20 blocked flows swallowed {total} MiB in kernel buffers, {pipes} pipes");
        assert_growth_below(6 << 10, own_pid(), before, &what);
        for ((mut c, s), sent) in pairs.into_iter().zip(sent) {
            drop(s);
            assert_eq!(pattern.check(&mut c, 0, u64::MAX), sent, "and the reader gets it all");
        }
    });
}

#[test]
fn idle_connections_cost_little_memory() {
    lab::isolated("limits::idle_connections_cost_little_memory", || {
        lab::sh("ip link set lo up");
        let (address, taken) = taker();
        let rig = Rig::new(&[address]);
        one_echo_pair(&rig, &taken);
        let before = rss_kib(own_pid());
        // Sockets of both ends live in this process too; they cost the kernel, not RSS. The backend's threads do: keep few.
        let held: Vec<_> = (0..3000).map(|_| (rig.connect(), taken.recv_timeout(LONG).expect("connected"))).collect();
        rig.until("all are connected", |s| s.backends[0].open == 3000);
        assert_growth_below(
            3000,
            own_pid(),
            before,
            "3000 idle connections, less than 1 KiB each, the test's own side included",
        );
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
    lab::isolated("limits::without_descriptors_accept_pauses_and_resumes", || {
        lab::sh("ip link set lo up");
        let mut child = std::process::Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "limits::echo_process", "--nocapture"])
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
        // From here on there is room for 7 descriptors: three connections, and one that is kept back.
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
        assert_eq!((echoed, reset), (20, 0), "a client that was accepted gets its backend's socket too");
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

/// Keeps the warnings of the one test of its process that installs it.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().expect("no test thread panics here").push(record.args().to_string());
    }
    fn flush(&self) {}
}

#[test]
fn running_out_of_local_ports_is_not_the_backends_fault() {
    lab::isolated("limits::running_out_of_local_ports_is_not_the_backends_fault", || {
        lab::sh("ip link set lo up");
        log::set_logger(&WARNINGS).expect("no logger yet");
        log::set_max_level(log::LevelFilter::Info);
        let rig = Rig::new(&[backend(echo), backend(echo)]);
        let first: SocketAddr = rig.counters().backends[0].address.parse().expect("an address");
        lab::sh("echo '20000 20003' > /proc/sys/net/ipv4/ip_local_port_range");
        let direct: Vec<_> = (0..4).map(|_| patient(TcpStream::connect(first).expect("one of four ports"))).collect();
        let full = TcpStream::connect(first).expect_err("no port is left");
        assert_eq!(full.kind(), ErrorKind::AddrNotAvailable);
        // Clients with ports of their own choice, because the forwarder shares their network here.
        let mut ports = 10_000..;
        let mut client = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], ports.next().expect("a port"))).into()).expect("bind");
            socket.connect(&SocketAddr::from(([127, 0, 0, 1], rig.ports[0])).into()).expect("the forwarder listens");
            let mut c = patient(socket.into());
            let _ = c.write_all(b"x"); // may be reset already
            c
        };
        let mut served: Vec<_> = (0..4).map(|_| client()).collect();
        served.iter_mut().for_each(|c| assert_eq!(read_one(c), Some(b'x'), "the second backend still has ports"));
        for _ in 0..3 {
            assert_eq!(read_one(&mut client()), None, "no backend has");
        }
        let s = rig.counters();
        assert_eq!((s.backends[0].failed, s.backends[1].failed), (0, 0), "nothing is wrong with the backends");
        assert_eq!((s.backends[0].connected, s.backends[1].connected, s.no_backend), (0, 4, 3));
        let told = WARNINGS.0.lock().expect("unpoisoned").clone();
        assert!(told.len() == 1 && told[0].contains("ip_local_port_range"), "one line with the cause: {told:?}");
        direct.into_iter().for_each(rst); // a FIN would leave the ports in TIME-WAIT
        let mut c = client();
        assert_eq!(read_one(&mut c), Some(b'x'), "there are ports again");
        assert_eq!(rig.counters().backends[0].connected, 1);
    });
}

#[test]
fn a_backend_of_a_family_that_is_off_is_down() {
    lab::isolated("limits::a_backend_of_a_family_that_is_off_is_down", || {
        lab::sh("ip link set lo up; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
        let there = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 80));
        let rig = Rig::new(&[there, backend(echo)]);
        for _ in 0..3 {
            let mut c = patient(TcpStream::connect(("127.0.0.1", rig.ports[0])).expect("the forwarder listens"));
            c.write_all(b"x").expect("write");
            assert_eq!(read_one(&mut c), Some(b'x'), "the other one serves");
        }
        let s = rig.counters();
        assert_eq!((s.backends[0].state.as_str(), s.backends[0].failed > 0), ("down", true), "{s:?}");
    });
}
