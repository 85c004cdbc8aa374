use super::*;
use smol::future::{or, poll_once, yield_now, zip};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

const MS: Duration = Duration::from_millis(1);

fn run<T>(future: impl Future<Output = T>) -> T {
    block_on(future).expect("epoll works")
}

fn pair() -> (Async<TcpStream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let far = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    (Async::new(listener.accept().expect("it waits").0).expect("registered"), far)
}

fn earliest() -> Option<Instant> {
    current().expect("a reactor").timers.borrow().earliest()
}

#[test]
fn sleeps_end_in_the_order_of_their_deadlines_and_never_early() {
    let ended = RefCell::new(Vec::new());
    let one = |after: Duration| {
        let deadline = clock::now() + after;
        let ended = &ended;
        async move {
            sleep_until(deadline).await;
            assert!(clock::now() >= deadline);
            ended.borrow_mut().push(after);
        }
    };
    let [a, b, c, d] = [200, 50, 0, 120].map(|n| one(MS * n)); // so far apart that a late turn ends one, not two
    run(zip(zip(a, b), zip(c, d)));
    assert_eq!(ended.take(), [0, 50, 120, 200].map(|n| MS * n));
    assert_eq!(earliest(), None);
}

#[test]
fn a_sleep_that_is_given_up_leaves_nothing_behind_and_does_not_hide_a_later_one() {
    run(async {
        {
            let mut early = pin!(sleep(MS * 3));
            assert!(poll_once(early.as_mut()).await.is_none());
            assert!(earliest().is_some());
            sleep(MS).await; // the timerfd is armed by now
        }
        assert_eq!(earliest(), None);
        let began = clock::now();
        sleep(MS * 8).await;
        assert!(clock::now() - began >= MS * 8);
    });
}

#[test]
fn bytes_flow_both_ways_under_back_pressure() {
    const MANY: usize = 8 << 20;
    let (near, far) = pair();
    let far = Async::new(far).expect("registered");
    let send = async {
        let data: Vec<u8> = (0..MANY).map(|i| ((i * 31) >> 3) as u8).collect();
        (&far).write_all(&data).await.expect("room comes");
        far.get_ref().shutdown(Shutdown::Write).expect("open");
        let mut back = Vec::new();
        (&far).read_to_end(&mut back).await.expect("bytes");
        assert!(back == data);
    };
    let echo = async {
        let mut buffer = vec![0; 100_000];
        loop {
            let n = (&near).read(&mut buffer).await.expect("bytes");
            if n == 0 {
                return near.get_ref().shutdown(Shutdown::Write).expect("open");
            }
            (&near).write_all(&buffer[..n]).await.expect("room comes");
            yield_now().await;
        }
    };
    run(zip(send, echo));
}

#[test]
fn the_end_is_seen_whether_it_comes_with_the_last_bytes_or_after_a_short_read() {
    let read = |near: &Async<TcpStream>| {
        let mut buffer = [0; 64];
        let n = run(async { (&mut &*near).read(&mut buffer).await }).expect("bytes or the end");
        buffer[..n].to_vec()
    };
    let (near, mut far) = pair();
    far.write_all(b"last").expect("room");
    far.shutdown(Shutdown::Write).expect("open");
    assert_eq!((read(&near), read(&near)), (b"last".to_vec(), vec![]));

    let (near, mut far) = pair();
    far.write_all(b"first").expect("room");
    assert_eq!(read(&near), b"first", "a short read: nothing is left for now");
    far.write_all(b"last").expect("room");
    drop(far);
    assert_eq!((read(&near), read(&near)), (b"last".to_vec(), vec![]));
}

#[test]
fn a_refused_connect_ends_and_says_why() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port that is free again");
    let socket = crate::sys::tcp::connect(port);
    let refused = match socket {
        Err(e) => e,
        Ok(fd) => {
            let stream = Async::new(TcpStream::from(fd)).expect("registered");
            run(stream.writable());
            stream.get_ref().take_error().expect("it can be asked").expect("an error")
        }
    };
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn an_old_event_does_not_disturb_the_next_owner_of_the_number() {
    run(async {
        let (old, mut far) = pair();
        far.write_all(b"x").expect("room");
        let index = old.index;
        drop(old);
        let (next, mut far) = UnixStream::pair().expect("a pair");
        let next = Async::new(next).expect("registered");
        assert_eq!(next.index, index);
        current().expect("a reactor").sources.borrow().get(index.into()).expect("it is there").note_everything();
        let mut buffer = [0; 8];
        let mut input = &next;
        let mut reading = Box::pin(input.read(&mut buffer));
        assert!(poll_once(reading.as_mut()).await.is_none(), "nothing is there to read");
        far.write_all(b"yes").expect("room");
        assert_eq!(reading.await.expect("bytes"), 3);
        assert_eq!(&buffer[..3], b"yes");
    });
}

#[test]
fn listeners_accept_and_those_who_come_at_once_are_all_served() {
    let listener = Async::new(TcpListener::bind("127.0.0.1:0").expect("a port")).expect("registered");
    let to = listener.get_ref().local_addr().expect("an address");
    let callers: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(to).expect("the backlog has room")).collect();
    run(async {
        for caller in &callers {
            let (stream, from) = listener.accept().await.expect("a caller");
            assert_eq!(from, caller.local_addr().expect("an address"));
            (&mut &stream).write_all(b"hi").await.expect("room");
        }
        assert!(poll_once(listener.accept()).await.is_none());
    });
    for mut caller in callers {
        let mut all = Vec::new();
        caller.read_to_end(&mut all).expect("bytes and the end");
        assert_eq!(all, b"hi");
    }
}

#[test]
fn another_thread_wakes_it_every_time() {
    for _ in 0..200 {
        let (tell, told) = smol::channel::bounded(1);
        let other = std::thread::spawn(move || tell.send_blocking(7));
        assert_eq!(run(told.recv()), Ok(7));
        other.join().expect("the other thread").expect("somebody listens");
    }
}

#[test]
fn a_run_inside_another_takes_no_wake_from_it() {
    let rung = Cell::new(false);
    run(or(
        async {
            while !rung.get() {
                yield_now().await; // its wake comes before the inner run
            }
        },
        async {
            run(sleep(MS));
            rung.set(true);
            std::future::pending().await
        },
    ));
}

#[test]
fn threads_have_reactors_of_their_own() {
    let (tell, told) = mpsc::channel();
    let mine = std::thread::spawn(move || {
        run(sleep(MS * 5));
        tell.send(()).expect("the test lives");
    });
    run(sleep(MS * 2));
    assert_eq!(earliest(), None);
    told.recv().expect("the other thread's sleep ended too");
    mine.join().expect("no panic");
}
