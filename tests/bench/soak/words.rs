//! What clients and backends say to each other: each connection has a number, from which both ends know every byte of it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Bytes of the first words of a client.
pub const HELLO: usize = 32;
/// Bytes of the first words of a backend: its number and its life.
pub const GREETING: usize = 16;
const PERIOD: u64 = 1_000_003;
const PIECE: usize = 64 << 10;

/// How a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The client sends all and its end; then the backend answers.
    HalfClose,
    /// Both at once.
    Both,
    /// The backend sends all and its end; then the client sends.
    BackendFirst,
    /// Small pieces there and back, with pauses.
    Talk,
}

/// All about a connection.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub number: u64,
    pub way: Way,
    /// Bytes of the client, and of the backend; of a talk: pieces, and bytes of each.
    pub up: u64,
    pub down: u64,
    /// Pause of the client after each piece that it reads.
    pub pause: Duration,
}

impl Plan {
    pub fn hello(&self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.up.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.down.to_be_bytes());
        bytes[24] = self.way as u8;
        bytes[25..].copy_from_slice(b"soaking");
        bytes
    }

    pub fn parse(bytes: &[u8; HELLO]) -> Option<Plan> {
        let number = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_be_bytes);
        let ways = [Way::HalfClose, Way::Both, Way::BackendFirst, Way::Talk];
        let way = ways.into_iter().find(|way| *way as u8 == bytes[24])?;
        let plan = Plan { number: number(0)?, up: number(8)?, down: number(16)?, way, pause: Duration::ZERO };
        (bytes[25..] == *b"soaking").then_some(plan)
    }

    /// Where the bytes of one direction start in the pattern.
    fn start(&self, up: bool) -> u64 {
        (self.number % PERIOD * 7919 + if up { 0 } else { 500_009 }) % PERIOD
    }
}

/// How a direction ended short of its plan.
#[derive(Debug)]
pub enum Broken {
    /// A reset, a timeout, or an end that came too early.
    Cut(String),
    /// Bytes that nobody sent.
    Wrong(String),
}

impl From<io::Error> for Broken {
    fn from(e: io::Error) -> Self {
        Broken::Cut(e.to_string())
    }
}

/// Pseudo-random bytes that repeat only after a prime length: lost, doubled or moved blocks are seen.
pub struct Pattern(Vec<u8>);

impl Pattern {
    pub fn new() -> Self {
        let mut x = 0x2545_f491_4f6c_dd1d_u64;
        let step = |_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        };
        let mut bytes: Vec<u8> = (0..PERIOD).map(step).collect();
        bytes.extend_from_within(..PIECE);
        Pattern(bytes)
    }

    fn at(&self, offset: u64, len: usize) -> &[u8] {
        let start = (offset % PERIOD) as usize;
        &self.0[start..start + len.min(PIECE)]
    }

    /// Writes the bytes `from..to` of a direction.
    pub fn write(&self, mut s: &TcpStream, plan: &Plan, up: bool, from: u64, to: u64) -> Result<(), Broken> {
        let (start, mut at) = (plan.start(up), from);
        while at < to {
            let piece = self.at(start + at, (to - at).min(PIECE as u64) as usize);
            s.write_all(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Reads and checks the bytes `from..to` of a direction.
    pub fn read(&self, mut s: &TcpStream, plan: &Plan, up: bool, from: u64, to: u64) -> Result<(), Broken> {
        let (start, mut at, mut buf) = (plan.start(up), from, vec![0; PIECE]);
        while at < to {
            let want = (to - at).min(PIECE as u64) as usize;
            let n = match s.read(&mut buf[..want]) {
                Ok(0) => return Err(Broken::Cut(format!("the end after {at} of {to} bytes"))),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(Broken::Cut(format!("{e} after {at} of {to} bytes"))),
            };
            if buf[..n] != *self.at(start + at, n) {
                return Err(Broken::Wrong(format!("wrong bytes after {at} of {to}")));
            }
            at += n as u64;
            if !plan.pause.is_zero() {
                std::thread::sleep(plan.pause); // the slow reader that the plan asks for
            }
        }
        Ok(())
    }
}

/// Reads the end of a stream that has given all its bytes.
pub fn read_end(mut s: &TcpStream) -> Result<(), Broken> {
    match s.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Broken::Wrong("a byte after the last".to_owned())),
        Err(e) => Err(Broken::Cut(format!("{e} instead of the end"))),
    }
}
