//! The service manager that started this program: sd_notify(3)'s protocol, datagrams of `KEY=value` lines.

use std::cell::RefCell;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// So many messages are passed on at a time.
const PASSES: usize = 16;
/// So many bytes wait for room in the manager's queue.
const LATE: usize = 2048;
const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Its socket, and how often it wants a sign of life.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    /// None: the socket is one of a pair.
    address: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

/// Passes on to the manager what a child says, for managers that listen to the process they started only (`NotifyAccess=main`).
#[derive(Debug)]
pub struct Relay {
    from: UnixDatagram,
    to: Manager,
    /// What the manager's queue had no room for.
    late: RefCell<Vec<u8>>,
}

impl Manager {
    /// The manager named in the environment, which forgets it: no program started from here speaks in this one's place. None where there is
    /// none. Call it in the process that the manager started, which its watchdog is about, while there is one thread.
    ///
    /// # Errors
    /// Text for the log: a manager is named, but can't be told anything.
    pub fn take() -> Result<Option<Self>, String> {
        let [socket, usec, pid] = VARIABLES.map(env::var_os);
        // SAFETY: the caller has one thread, so nobody else reads the environment now.
        VARIABLES.iter().for_each(|name| unsafe { env::remove_var(name) });
        let Some(name) = socket.filter(|name| !name.is_empty()) else { return Ok(None) };
        let watchdog = watchdog(usec.as_deref(), pid.as_deref(), std::process::id());
        let opened = address(&name).and_then(|address| Self::open(address, watchdog));
        opened
            .map(Some)
            .map_err(|e| format!("can't tell the service manager anything at NOTIFY_SOCKET={}: {e}", name.display()))
    }

    /// The manager at this address; `watchdog` as in [`Manager::watchdog`].
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn open(address: SocketAddr, watchdog: Option<Duration>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address: Some(address), watchdog })
    }

    /// For a child: what it says through the first goes by way of the second, which stays here.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn relayed(self) -> io::Result<(Self, Relay)> {
        let (near, from) = UnixDatagram::pair()?;
        near.set_nonblocking(true)?;
        from.set_nonblocking(true)?;
        Ok((
            Self { socket: near, address: None, watchdog: self.watchdog },
            Relay { from, to: self, late: RefCell::new(Vec::with_capacity(LATE)) },
        ))
    }

    /// After this time without `WATCHDOG=1` it takes this program for hung.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells it one or more lines; never waits. Whether they are in its queue.
    pub fn tell(&self, lines: &str) -> bool {
        self.send(lines.as_bytes()).is_ok()
    }

    fn send(&self, lines: &[u8]) -> io::Result<usize> {
        match &self.address {
            Some(address) => self.socket.send_to_addr(lines, address),
            None => self.socket.send(lines),
        }
    }
}

impl Relay {
    /// Passes on what has come, without waiting: only what a daemon has to say of itself, since a manager would also take descriptors or
    /// another main process from whom it trusts.
    pub fn pass(&self, buffer: &mut [u8]) {
        for _ in 0..PASSES {
            let Ok(n) = self.from.recv(buffer) else { return };
            let lines = &buffer[..n];
            if lines.split(|byte| *byte == b'\n').all(is_own) {
                self.forward(lines);
            }
        }
    }

    /// In order, and without allocation. What doesn't get there goes with the next; a sign of life is worth nothing later.
    fn forward(&self, lines: &[u8]) {
        let mut late = self.late.borrow_mut();
        if !late.is_empty() && self.to.send(&late).is_ok() {
            late.clear();
        }
        let sent = late.is_empty() && self.to.send(lines).is_ok();
        if !sent && lines != b"WATCHDOG=1" && late.len() + lines.len() < LATE {
            if !late.is_empty() {
                late.push(b'\n');
            }
            late.extend_from_slice(lines);
        }
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

fn is_own(line: &[u8]) -> bool {
    let number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    matches!(line, b"READY=1" | b"RELOADING=1" | b"STOPPING=1" | b"WATCHDOG=1")
        || line.starts_with(b"STATUS=")
        || line.strip_prefix(b"MONOTONIC_USEC=").is_some_and(number)
}

/// A path, or `@` and an abstract name.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] if !rest.is_empty() => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

/// The watchdog, where it is about this process.
fn watchdog(usec: Option<&OsStr>, pid: Option<&OsStr>, own: u32) -> Option<Duration> {
    let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
    let meant = pid.is_none_or(|pid| number(pid) == Some(own.into()));
    usec.and_then(number).filter(|usec| *usec > 0 && meant).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_a_path_and_an_abstract_name_and_a_full_queue_is_no_wait() {
        let unique = format!("kube-vip-notify-{}", std::process::id());
        let path = env::temp_dir().join(&unique);
        for name in [path.clone().into_os_string(), format!("@{unique}").into()] {
            let address = address(&name).expect("an address");
            let listener = UnixDatagram::bind_addr(&address).expect("bound");
            let manager = Manager::open(address, None).expect("opened");
            assert!(manager.tell("READY=1\nSTATUS=follower of n2"));
            let mut buffer = [0; 64];
            let n = listener.recv(&mut buffer).expect("it came");
            assert_eq!(&buffer[..n], b"READY=1\nSTATUS=follower of n2");
            let queued = (0..100_000).take_while(|_| manager.tell("WATCHDOG=1")).count();
            assert!(queued < 100_000, "a listener that doesn't read");
        }
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_relay_passes_on_what_a_daemon_says_of_itself_and_nothing_else() {
        let address = address(OsStr::new(&format!("@kube-vip-relay-{}", std::process::id()))).expect("an address");
        let listener = UnixDatagram::bind_addr(&address).expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        let limit = Some(Duration::from_secs(10));
        let (child, relay) = Manager::open(address, limit).and_then(Manager::relayed).expect("a pair");
        assert_eq!(child.watchdog(), limit);
        let good = ["READY=1\nSTATUS=follower of n2", "STOPPING=1", "WATCHDOG=1", "RELOADING=1\nMONOTONIC_USEC=123456"];
        let bad =
            ["MONOTONIC_USEC=", "MONOTONIC_USEC=1x", "MAINPID=1", "READY=1\nMAINPID=1", "FDSTORE=1", "", "STATUS", "READY=10"];
        good.iter().chain(&bad).for_each(|lines| assert!(child.tell(lines)));
        let mut buffer = [0; 64];
        relay.pass(&mut buffer);
        let heard: Vec<_> = std::iter::from_fn(|| {
            let n = listener.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..n]).into_owned())
        })
        .collect();
        assert_eq!(heard, good);
        // A manager that does not read for a while: news waits for it, in order.
        while relay.to.tell("WATCHDOG=1") {}
        for lines in ["READY=1", "WATCHDOG=1", "STATUS=follower of n3"] {
            child.tell(lines);
        }
        relay.pass(&mut buffer);
        while listener.recv(&mut buffer).is_ok() {}
        child.tell("WATCHDOG=1");
        drop(child); // what a daemon said before it ended still counts
        relay.pass(&mut buffer);
        for lines in ["READY=1\nSTATUS=follower of n3", "WATCHDOG=1"] {
            let n = listener.recv(&mut buffer).expect("it came");
            assert_eq!(String::from_utf8_lossy(&buffer[..n]), lines);
        }
        assert!(listener.recv(&mut buffer).is_err());
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "@", "run/notify", "vsock:2:1234"] {
            assert!(address(OsStr::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn the_watchdog_is_for_the_process_it_names() {
        let of = |usec: &str, pid: Option<&str>| watchdog(Some(OsStr::new(usec)), pid.map(OsStr::new), 7);
        assert_eq!(of("10000000", Some("7")), Some(Duration::from_secs(10)));
        assert_eq!(of("10000000", None), Some(Duration::from_secs(10)));
        for (usec, pid) in [("10000000", Some("8")), ("10000000", Some("x")), ("0", Some("7")), ("ten", None), ("-1", None)] {
            assert_eq!(of(usec, pid), None, "{usec} {pid:?}");
        }
        assert_eq!(watchdog(None, None, 7), None);
    }
}
