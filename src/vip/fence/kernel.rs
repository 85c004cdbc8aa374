//! The fence as the kernel has it: sends what `fence` says and reads the answers, which come within the same call.

use super::{Batch, LEAST_MS, Table};
use crate::sys::clock::{self, Instant};
use crate::sys::netlink::Netlink;
use crate::vip::rtnl::{Event, Messages};
use std::io;
use std::net::IpAddr;

/// An answer repeats the message that it refuses; the longest is a rule.
const BUFFER: usize = 2048;

/// How arming went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed {
    /// 0, or why not.
    pub errno: i32,
    /// Somebody had deleted the table (`nft flush ruleset`): it was made again.
    pub again: bool,
}

/// One VIP's fence. Nothing here blocks for longer than the kernel works on the transaction, and nothing allocates after `open`.
#[derive(Debug)]
pub struct Fence {
    netlink: Result<Netlink, i32>,
    table: Table,
    seq: u32,
    installed: bool,
    buffer: Box<[u8]>,
}

impl Fence {
    /// Opens the socket, asks for nothing yet. A kernel that refuses it says so by every later answer.
    pub fn open(vip: IpAddr, interface: &str) -> Self {
        let netlink = Netlink::netfilter().map_err(|e| number(&e));
        Self { netlink, table: Table::new(vip, interface), seq: 1, installed: false, buffer: vec![0; BUFFER].into() }
    }

    /// The table's name, for messages.
    pub fn name(&self) -> &str {
        self.table.name()
    }

    /// Makes the table anew, guarding nothing; 0 or an errno.
    pub fn install(&mut self) -> i32 {
        let mut errno = self.ask(self.table.install(self.seq, true));
        if errno != 0 {
            errno = self.ask(self.table.install(self.seq, false)); // no egress hook before Linux 5.16
        }
        self.installed = errno == 0;
        errno
    }

    /// From now on the VIP is answered for until `until`, and not after, whatever becomes of this process. Makes the table where it is absent.
    ///
    /// The timeout is relative: a process that is stopped between reading the clock and the kernel's work arms it for too long. Whoever
    /// arms therefore looks at the clock afterwards.
    pub fn arm(&mut self, until: Instant) -> Armed {
        let mut again = false;
        for _ in 0..2 {
            if !self.installed {
                match self.install() {
                    0 => {}
                    errno => return Armed { errno, again },
                }
            }
            match self.ask(self.table.arm(self.seq, timeout(until, clock::now()))) {
                libc::ENOENT => (self.installed, again) = (false, true),
                errno => return Armed { errno, again },
            }
        }
        Armed { errno: libc::ENOENT, again }
    }

    /// Guards nothing any more. Only after the VIP was seen gone.
    pub fn clear(&mut self) -> i32 {
        match self.ask(self.table.clear(self.seq)) {
            libc::ENOENT => {
                self.installed = false;
                0
            }
            errno => errno,
        }
    }

    /// Deletes the table. Only after the VIP was seen gone. Ok(false): there was none.
    pub fn remove(&mut self) -> Result<bool, i32> {
        self.installed = false;
        match self.ask(self.table.remove(self.seq)) {
            0 => Ok(true),
            libc::ENOENT => Ok(false),
            errno => Err(errno),
        }
    }

    /// Sends a batch; 0 where all of it took effect, otherwise the first refusal, and nothing did.
    fn ask(&mut self, batch: Batch) -> i32 {
        self.seq = batch.next_seq();
        let netlink = match &self.netlink {
            Ok(netlink) => netlink,
            Err(errno) => return *errno,
        };
        netlink.send(batch.as_bytes()).and_then(|()| answer(netlink, &batch, &mut self.buffer)).unwrap_or_else(|e| number(&e))
    }
}

/// The first answer is there when the send returns: the first refusal, or the success of the message that asked for an answer. Further
/// refusals of an earlier batch may still wait before it.
fn answer(netlink: &Netlink, batch: &Batch, buffer: &mut [u8]) -> io::Result<i32> {
    loop {
        let n = netlink.receive(buffer)?;
        for m in Messages(&buffer[..n]).filter(|m| batch.has(m.seq)) {
            if let Event::Answer(errno) = m.event {
                return Ok(errno);
            }
        }
    }
}

fn number(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// Whole milliseconds that are left, rounded down; 0 where that is too little to ask for.
fn timeout(until: Instant, now: Instant) -> u64 {
    let left = u64::try_from((until - now).as_millis()).unwrap_or(u64::MAX);
    if left < LEAST_MS { 0 } else { left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_rounded_down_and_never_next_to_nothing() {
        let at = Instant::from_nanos;
        for (left_us, want) in [(0, 0), (9_999, 0), (10_000, 10), (10_999, 10), (190_500, 190)] {
            assert_eq!(timeout(at(1_000_000 + left_us * 1000), at(1_000_000)), want, "{left_us} us");
        }
        assert_eq!(timeout(at(5), at(10)), 0);
    }
}
