//! Small servers on a host, one thread per connection: each does one thing that a forwarder can get wrong.

use super::Host;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// What a backend does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes its name and closes: shows who was chosen.
    Name,
    /// Writes back what it reads, until it reads the end.
    Echo,
    /// Reads to the end, then writes "LENGTH CRC32\n".
    Sum,
    /// Ends its own direction first (after "bye\n"), then reads to the end and keeps the sum.
    EndFirst,
    /// Sends this many bytes of [`Pattern`], then closes.
    Source(u64),
    /// Accepts and never reads or writes.
    Mute,
    /// Reads one byte, then resets the connection.
    Reset,
    /// Answers one HTTP request with its name; `GET /healthz` with the status of [`Backend::set_health`], at first 200.
    Web,
}

/// A running server. Dropping it closes the listener and every connection.
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    name: String,
    accepted: AtomicUsize,
    /// What [`Kind::Web`] says of itself, and how often it was asked something else.
    health: AtomicU16,
    served: AtomicUsize,
    closing: AtomicBool,
    sums: Mutex<Vec<Sum>>,
    open: Mutex<Vec<Weak<TcpStream>>>,
}

impl Backend {
    /// Listens on the IPv4 address of `host` at `port` (0: any).
    pub fn start(host: &Host, port: u16, kind: Kind) -> Backend {
        Self::start_on(host, host.ip4().into(), port, kind)
    }

    /// Listens on one address of `host`.
    pub fn start_on(host: &Host, ip: IpAddr, port: u16, kind: Kind) -> Backend {
        let listener = host.enter(|| TcpListener::bind((ip, port)).unwrap_or_else(|e| panic!("{ip}:{port}: {e}")));
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared { name: host.name().to_owned(), health: 200.into(), ..Shared::default() });
        let for_thread = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if for_thread.closing.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                for_thread.accepted.fetch_add(1, Ordering::SeqCst);
                let stream = Arc::new(stream);
                for_thread.open.lock().expect("not poisoned").push(Arc::downgrade(&stream));
                let shared = for_thread.clone();
                std::thread::spawn(move || drop(serve(&stream, kind, &shared)));
            }
        });
        Backend { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As a flow-style YAML entry of `backends`.
    pub fn yaml(&self) -> String {
        format!("{{address: \"{}\", port: {}}}", self.address.ip(), self.address.port())
    }

    /// How many connections came in.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// What [`Kind::Web`] answers to `GET /healthz` from now on.
    pub fn set_health(&self, status: u16) {
        self.shared.health.store(status, Ordering::SeqCst);
    }

    /// How many requests, those to `/healthz` not counted, [`Kind::Web`] got.
    pub fn served(&self) -> usize {
        self.shared.served.load(Ordering::SeqCst)
    }

    /// What [`Kind::Sum`] and [`Kind::EndFirst`] connections have read to their end.
    pub fn sums(&self) -> Vec<Sum> {
        self.shared.sums.lock().expect("not poisoned").clone()
    }

    /// Closes the listener (as a dying server would: the next connect is refused) and every open connection.
    pub fn kill(self, host: &Host) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // The accept loop sees the flag at the next connection; ours is that one.
        let _ = host.enter(|| TcpStream::connect(self.address));
        for stream in self.shared.open.lock().expect("not poisoned").drain(..).filter_map(|s| s.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let refused = || host.enter(|| TcpStream::connect(self.address)).is_err();
        super::wait_until("a killed backend refuses connections", super::secs(5), refused);
    }
}

fn serve(mut stream: &TcpStream, kind: Kind, shared: &Shared) -> std::io::Result<()> {
    match kind {
        Kind::Name => stream.write_all(format!("{}\n", shared.name).as_bytes()),
        Kind::Echo => std::io::copy(&mut &*stream, &mut stream).map(drop),
        Kind::Sum => {
            let sum = Sum::of(&mut stream)?;
            shared.sums.lock().expect("not poisoned").push(sum);
            stream.write_all(sum.text().as_bytes())
        }
        Kind::EndFirst => {
            stream.write_all(b"bye\n")?;
            stream.shutdown(Shutdown::Write)?;
            let sum = Sum::of(&mut stream)?;
            shared.sums.lock().expect("not poisoned").push(sum);
            Ok(())
        }
        Kind::Source(bytes) => std::io::copy(&mut Pattern::new(bytes), &mut stream).map(drop),
        Kind::Mute => {
            std::thread::park();
            Ok(())
        }
        Kind::Reset => {
            stream.read_exact(&mut [0])?;
            socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO))
        }
        Kind::Web => answer(stream, shared),
    }
}

fn answer(mut stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let status = match request.starts_with(b"GET /healthz ") {
        true => shared.health.load(Ordering::SeqCst),
        false => {
            shared.served.fetch_add(1, Ordering::SeqCst);
            200
        }
    };
    let (name, len) = (&shared.name, shared.name.len());
    write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{name}")
}

/// Length and CRC-32 of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    pub bytes: u64,
    pub crc: u32,
}

impl Sum {
    /// Reads to the end.
    pub fn of(reader: &mut impl Read) -> std::io::Result<Sum> {
        let (mut bytes, mut hasher, mut buffer) = (0, crc32fast::Hasher::new(), vec![0; 256 << 10]);
        loop {
            let n = reader.read(&mut buffer)?;
            if n == 0 {
                return Ok(Sum { bytes, crc: hasher.finalize() });
            }
            bytes += n as u64;
            hasher.update(&buffer[..n]);
        }
    }

    /// As [`Kind::Sum`] writes it.
    pub fn text(&self) -> String {
        format!("{} {:08x}\n", self.bytes, self.crc)
    }
}

/// A stream in which no two 64 KiB blocks are alike: noise, each block stamped with its number. A lost, doubled or swapped block
/// changes the sum.
pub struct Pattern {
    left: u64,
    block: Vec<u8>,
    number: u64,
    at: usize,
}

impl Pattern {
    /// A stream of this many bytes.
    pub fn new(bytes: u64) -> Pattern {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let noise = (0..64 << 10).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        let mut pattern = Pattern { left: bytes, block: noise.collect(), number: 0, at: 0 };
        pattern.stamp();
        pattern
    }

    fn stamp(&mut self) {
        self.block[..8].copy_from_slice(&self.number.to_be_bytes());
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.block.len() {
            self.number += 1;
            self.at = 0;
            self.stamp();
        }
        let n = buffer.len().min(self.block.len() - self.at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        buffer[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at += n;
        self.left -= n as u64;
        Ok(n)
    }
}
