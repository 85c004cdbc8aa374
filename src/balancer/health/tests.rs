//! Checks over real sockets.

use super::ask::{Question, Shown};
use super::{AT_ONCE, Watch};
use crate::balancer::{MemberView, beside};
use crate::config::{Ask, HealthCheck, Target};
use crate::reactor;
use smol::LocalExecutor;
use smol::channel::Receiver;
use smol::future::or;
use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// For what must come at last.
const LONG: Duration = Duration::from_secs(60);
/// For a check that is to run into it.
const SHORT: Duration = Duration::from_millis(60);

type News = (String, SocketAddr, bool, String);

fn tcp() -> HealthCheck {
    let (interval, timeout) = (Duration::from_millis(20), LONG);
    HealthCheck { ask: Ask::Tcp, port: None, interval, timeout, rise: 2, fall: 3 }
}

fn http(text: Option<&str>) -> HealthCheck {
    let ask = Ask::Http { path: "/".into(), host: None, status: (200, 399), text: text.map(Into::into) };
    HealthCheck { ask, ..tcp() }
}

fn member(balancer: &str, address: SocketAddr, check: &HealthCheck) -> MemberView {
    let (balancer, target) = (balancer.into(), Target::Address(address));
    MemberView { balancer, address, target, check: Some(check.clone()), send_proxy: None }
}

/// Runs `test` beside a watch, with what differs from what it said before.
fn with_watch<F: Future<Output = ()>>(test: impl FnOnce(Watch, Receiver<News>) -> F) {
    let last = RefCell::new(None);
    watched(test, move |news| last.replace(Some(news.clone())).as_ref() != Some(news));
}

/// Runs `test` beside a watch, with those of its reports that `fits` wants.
fn watched<F: Future<Output = ()>>(test: impl FnOnce(Watch, Receiver<News>) -> F, fits: impl Fn(&News) -> bool + 'static) {
    let executor = Rc::new(LocalExecutor::new());
    let (tell, told) = smol::channel::unbounded();
    let watch = Watch::new(
        beside::of(&executor),
        Box::new(move |balancer, address, up, why| {
            let news = (balancer.into(), address, up, why.into());
            if fits(&news) {
                drop(tell.try_send(news));
            }
        }),
    );
    reactor::block_on(executor.run(test(watch, told))).expect("epoll works");
}

async fn next(told: &Receiver<News>) -> News {
    let late = async {
        reactor::sleep(LONG).await;
        panic!("no news");
    };
    or(async { told.recv().await.expect("the watch lives") }, late).await
}

async fn expect(told: &Receiver<News>, up: bool, why: &str) {
    let news = next(told).await;
    assert_eq!((news.2, &*news.3), (up, why), "{news:?}");
}

fn ask(address: SocketAddr, check: &HealthCheck) -> Shown {
    let question = Question::new(check, &member("", address, check));
    reactor::block_on(question.ask()).expect("epoll works")
}

fn bad(why: &str) -> Shown {
    Shown::Bad(why.into())
}

/// Gives each connection, with its request read, to `serve` in a thread of its own.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || {
                let (mut request, mut byte) = (Vec::new(), [0]);
                while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                    request.push(byte[0]);
                }
                assert!(request.starts_with(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:"), "{}", request.escape_ascii());
                serve(stream);
            });
        }
    });
    address
}

/// Keeps the connection until the other side ends it.
fn linger(mut stream: TcpStream) {
    let _ = stream.read(&mut [0]);
}

fn says(answer: &'static str) -> SocketAddr {
    server(move |mut stream| drop(stream.write_all(answer.as_bytes())))
}

/// Bound, so that nobody else gets it; refuses until the socket listens.
fn reserved() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    (socket.local_addr().expect("address").as_socket().expect("inet"), socket)
}

#[test]
fn a_check_says_what_it_met() {
    let http = http(Some("ok"));
    assert_eq!(ask(says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), &http), Shown::Good);
    assert_eq!(ask(says("HTTP/1.1 200 OK\r\n\r\nno"), &http), bad("body lacks \"ok\""));
    assert_eq!(ask(says("HTTP/1.0 503 Busy\r\n\r\n"), &http), bad("status 503"));
    assert_eq!(ask(says(""), &http), bad("closed without an answer"));
    assert_eq!(ask(says("hello\n"), &http), bad("not HTTP: \"hello\""));
    let (refuses, _socket) = reserved();
    assert_eq!(ask(refuses, &http), bad("connect: Connection refused"));
    assert_eq!(ask(refuses, &tcp()), bad("connect: Connection refused"));
    let resets = server(|stream| socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("option"));
    assert_eq!(ask(resets, &http), bad("no answer: Connection reset by peer"));
    let elsewhere = HealthCheck { port: Some(refuses.port()), ..http };
    assert_eq!(ask(says("HTTP/1.1 200 OK\r\n\r\nok"), &elsewhere), bad("connect: Connection refused"), "its port is asked");
}

#[test]
fn a_check_ends_in_time() {
    let hasty = |check: HealthCheck| HealthCheck { timeout: SHORT, ..check };
    assert_eq!(ask(server(linger), &hasty(http(None))), bad("no answer within 60ms"));
    let (silent, socket) = reserved();
    socket.listen(0).expect("listen");
    let _filler = TcpStream::connect(silent).expect("the one place in its queue");
    assert_eq!(ask(silent, &hasty(tcp())), bad("connect: no answer within 60ms"));
    let half = server(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\no").expect("write");
        linger(stream);
    });
    assert_eq!(ask(half, &hasty(http(Some("ok")))), bad("no whole answer within 60ms"));
    assert_eq!(ask(half, &hasty(http(None))), Shown::Good, "its status was enough");
    let slow = server(|mut stream| {
        for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n" {
            stream.write_all(&[*byte]).expect("write");
            thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(ask(slow, &http(Some("ok"))), Shown::Good);
}

#[test]
fn an_http_check_reads_its_answer_to_the_end() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = Mutex::new(tell);
    let address = server(move |mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("write");
        thread::sleep(Duration::from_millis(20)); // its status is known by now
        stream.write_all(&[b'x'; 20 << 10]).expect("write");
        stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let end = stream.read(&mut [0]).map_err(|e| e.kind());
        tell.lock().expect("not poisoned").send(end).expect("the test lives");
    });
    assert_eq!(ask(address, &http(None)), Shown::Good);
    assert_eq!(told.recv_timeout(LONG).expect("the check ended"), Ok(0), "by FIN");
}

#[test]
fn a_tcp_check_leaves_nothing_behind() {
    let (address, socket) = reserved();
    socket.listen(16).expect("listen");
    for _ in 0..5 {
        assert_eq!(ask(address, &tcp()), Shown::Good);
    }
    socket.set_nonblocking(true).expect("option");
    match socket.accept() {
        Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock, "no connection came about at all"),
        // This thread was held up for so long (40 ms) that the kernel sent the ACK by itself.
        Ok((stream, _)) => {
            let read = TcpStream::from(stream).read(&mut [0]);
            assert_eq!(read.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
        }
    }
}

#[test]
fn who_refuses_is_down_at_once_and_up_at_the_first_answer() {
    with_watch(async |watch, told| {
        let (address, socket) = reserved();
        watch.reconcile(vec![member("web", address, &HealthCheck { fall: 1_000_000, ..tcp() })]);
        assert_eq!(next(&told).await, ("web".into(), address, false, "connect: Connection refused".into()));
        socket.listen(16).expect("listen");
        assert_eq!(next(&told).await, ("web".into(), address, true, "answers its checks".into()));
    });
}

#[test]
fn each_good_answer_is_told() {
    let test = async |watch: Watch, told| {
        let (address, socket) = reserved();
        socket.listen(16).expect("listen");
        watch.reconcile(vec![member("web", address, &tcp())]);
        for _ in 0..3 {
            expect(&told, true, "answers its checks").await;
        }
    };
    watched(test, |_| true);
}

#[test]
fn who_was_up_leaves_after_fall_and_comes_back_after_rise() {
    with_watch(async |watch, told| {
        let state = Arc::new(Mutex::new((200, 0)));
        let of_server = state.clone();
        let address = server(move |mut stream| {
            let mut state = of_server.lock().expect("not poisoned");
            state.1 += 1;
            drop(write!(stream, "HTTP/1.1 {} x\r\nContent-Length: 0\r\n\r\n", state.0));
        });
        let turn = |status| *state.lock().expect("not poisoned") = (status, 0);
        watch.reconcile(vec![member("web", address, &http(None))]);
        expect(&told, true, "answers its checks").await;
        turn(503);
        expect(&told, false, "status 503").await;
        state.lock().expect("not poisoned").0 = 500;
        expect(&told, false, "status 500").await;
        assert!(state.lock().expect("not poisoned").1 >= 3, "fall");
        turn(200);
        expect(&told, true, "answers its checks").await;
        assert!(state.lock().expect("not poisoned").1 >= 2, "rise");
    });
}

#[test]
fn the_same_question_is_asked_once_whoever_wants_to_know() {
    with_watch(async |watch, told| {
        let (address, _socket) = reserved();
        let check = HealthCheck { interval: LONG, ..tcp() };
        watch.reconcile(vec![member("a", address, &check), member("b", address, &check), member("a", address, &check)]);
        assert_eq!(watch.checks(), 1);
        let both = [next(&told).await, next(&told).await];
        assert_eq!([&*both[0].0, &*both[1].0], ["a", "b"]);
        // The next check is a minute away, so what comes now was known.
        watch.reconcile(vec![member("b", address, &check), member("c", address, &check)]);
        assert_eq!(next(&told).await.0, "c");
        watch.reconcile(vec![member("a", address, &check)]);
        assert_eq!(next(&told).await.0, "a", "who was away is told anew");
        assert!(told.is_empty());
        let other = HealthCheck { rise: 3, ..check.clone() };
        let unchecked = MemberView { check: None, ..member("d", address, &check) };
        watch.reconcile(vec![member("a", address, &check), member("b", address, &other), unchecked]);
        assert_eq!(watch.checks(), 2);
        assert_eq!(next(&told).await.0, "b");
    });
}

#[test]
fn who_is_left_out_is_not_asked_any_more() {
    with_watch(async |watch, told| {
        let asked = Arc::new(AtomicUsize::new(0));
        let of_server = asked.clone();
        let busy = server(move |stream| {
            of_server.fetch_add(1, Ordering::SeqCst);
            linger(stream); // until the check is given up
        });
        let (quiet, _socket) = reserved();
        watch.reconcile(vec![member("busy", busy, &http(None)), member("quiet", quiet, &tcp())]);
        assert_eq!(next(&told).await.0, "quiet");
        while asked.load(Ordering::SeqCst) == 0 {
            reactor::sleep(Duration::from_millis(1)).await;
        }
        watch.reconcile(vec![]);
        assert_eq!(watch.checks(), 0);
        reactor::sleep(Duration::from_millis(100)).await;
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(told.is_empty());
    });
}

/// One server on all of 127.0.0.0/8, so that there are as many backends as a test wants.
#[test]
fn a_bounded_number_of_checks_is_under_way() {
    const MEMBERS: usize = 3 * AT_ONCE;
    with_watch(async |watch, told| {
        let (open, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(false), Condvar::new())));
        let (of_server, of_gate) = (open.clone(), gate.clone());
        let listener = TcpListener::bind("0.0.0.0:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                of_server.fetch_add(1, Ordering::SeqCst);
                let gate = of_gate.clone();
                thread::spawn(move || {
                    let shut = |open: &mut bool| !*open;
                    drop(gate.1.wait_while(gate.0.lock().expect("not poisoned"), shut));
                    drop(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"));
                    linger(stream);
                });
            }
        });
        let check = HealthCheck { interval: LONG, ..http(None) };
        let address = |n: usize| SocketAddr::from(([127, 0, 1, n as u8], port));
        watch.reconcile((0..MEMBERS).map(|n| member("web", address(n), &check)).collect());
        let opened = || open.load(Ordering::SeqCst);
        while opened() < AT_ONCE {
            reactor::sleep(Duration::from_millis(1)).await;
        }
        reactor::sleep(Duration::from_millis(700)).await; // by now each would have begun
        assert_eq!(opened(), AT_ONCE);
        *gate.0.lock().expect("not poisoned") = true;
        gate.1.notify_all();
        for _ in 0..MEMBERS {
            expect(&told, true, "answers its checks").await;
        }
    });
}
