//! The service manager that started this program: sd_notify(3)'s protocol, datagrams of `KEY=value` lines.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Its socket, and how often it wants a sign of life.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
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
        Ok(Self { socket, address, watchdog })
    }

    /// After this time without `WATCHDOG=1` it takes this program for hung.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells it one or more lines; never waits. Whether they are in its queue.
    pub fn tell(&self, lines: &str) -> bool {
        self.socket.send_to_addr(lines.as_bytes(), &self.address).is_ok()
    }
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
