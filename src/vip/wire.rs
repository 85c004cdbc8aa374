//! Orders and reports as 32 bytes each: tag, small field, number, three 64-bit words. Both ends are one binary, so byte order is the host's.

use super::{GoneWhy, Order, RefusedWhy, Report, Task, VoteKey};
use crate::sys::clock::Instant;
use std::time::Duration;

/// Length of every message.
pub const LEN: usize = 32;

/// One message on the wire.
pub type Packet = [u8; LEN];

fn pack(tag: u8, small: u8, number: i32, words: [u64; 3]) -> Packet {
    let mut p = [0; LEN];
    (p[0], p[1]) = (tag, small);
    p[4..8].copy_from_slice(&number.to_ne_bytes());
    for (slot, word) in p[8..].chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_ne_bytes());
    }
    p
}

struct Fields {
    tag: u8,
    small: u8,
    number: i32,
    words: [u64; 3],
}

fn unpack(bytes: &[u8]) -> Option<Fields> {
    let p: &Packet = bytes.try_into().ok()?;
    let word = |at: usize| Some(u64::from_ne_bytes(p.get(at..at + 8)?.try_into().ok()?));
    let number = i32::from_ne_bytes(p[4..8].try_into().ok()?);
    Some(Fields { tag: p[0], small: p[1], number, words: [word(8)?, word(16)?, word(24)?] })
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Order {
    /// As bytes.
    pub fn encode(&self) -> Packet {
        match *self {
            Order::Hold { vote, until } => pack(1, 0, 0, [vote.term, vote.node, until.as_nanos()]),
            Order::LetGo { vote } => pack(2, 0, 0, [vote.term, vote.node, 0]),
            Order::Probe => pack(3, 0, 0, [0; 3]),
            Order::Drain { time } => pack(4, 0, 0, [nanos(time), 0, 0]),
        }
    }

    /// From bytes; `None` for anything that [`Order::encode`] never makes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let Fields { tag, words: [term, node, until], .. } = unpack(bytes)?;
        match tag {
            1 => Some(Order::Hold { vote: VoteKey { term, node }, until: Instant::from_nanos(until) }),
            2 => Some(Order::LetGo { vote: VoteKey { term, node } }),
            3 => Some(Order::Probe),
            4 => Some(Order::Drain { time: Duration::from_nanos(term) }),
            _ => None,
        }
    }
}

const GONE: [GoneWhy; 6] =
    [GoneWhy::LetGo, GoneWhy::Deadline, GoneWhy::Stopping, GoneWhy::LinkGone, GoneWhy::Taken, GoneWhy::Refused];
const REFUSED: [RefusedWhy; 4] = [RefusedWhy::Foreign, RefusedWhy::Spent, RefusedWhy::Stopping, RefusedWhy::LinkGone];
const TASKS: [Task; 5] = [Task::Add, Task::Renew, Task::Remove, Task::Dump, Task::Fence];
const KERNEL: u8 = 255;

fn place<T: PartialEq>(list: &[T], item: T) -> u8 {
    // A test goes through every value, so none is missing from its list.
    list.iter().position(|x| *x == item).map_or(KERNEL, |at| at as u8)
}

impl Report {
    /// As bytes.
    pub fn encode(&self) -> Packet {
        let with = |tag, small, vote: VoteKey, took| pack(tag, small, 0, [vote.term, vote.node, nanos(took)]);
        match *self {
            Report::Held { vote, took } => with(1, 0, vote, took),
            Report::Gone { vote, why, took } => with(2, place(&GONE, why), vote, took),
            Report::Refused { vote, why: RefusedWhy::Kernel(errno) } => pack(3, KERNEL, errno, [vote.term, vote.node, 0]),
            Report::Refused { vote, why } => with(3, place(&REFUSED, why), vote, Duration::ZERO),
            Report::Restored { took } => with(4, 0, VoteKey::default(), took),
            Report::Link { up } => pack(5, up.into(), 0, [0; 3]),
            Report::Claimed { mac: [a, b, c, d, e, f] } => pack(6, 0, 0, [u64::from_be_bytes([0, 0, a, b, c, d, e, f]), 0, 0]),
            Report::Stopping => pack(7, 0, 0, [0; 3]),
            Report::Fence { errno } => pack(9, 0, errno, [0; 3]),
            Report::Trouble { task, errno } => pack(8, place(&TASKS, task), errno, [0; 3]),
        }
    }

    /// From bytes; `None` for anything that [`Report::encode`] never makes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let Fields { tag, small, number, words: [term, node, last] } = unpack(bytes)?;
        let (vote, took, at) = (VoteKey { term, node }, Duration::from_nanos(last), usize::from(small));
        Some(match tag {
            1 => Report::Held { vote, took },
            2 => Report::Gone { vote, why: *GONE.get(at)?, took },
            3 if small == KERNEL => Report::Refused { vote, why: RefusedWhy::Kernel(number) },
            3 => Report::Refused { vote, why: *REFUSED.get(at)? },
            4 => Report::Restored { took },
            5 => Report::Link { up: small != 0 },
            6 => {
                let [_, _, mac @ ..] = term.to_be_bytes();
                Report::Claimed { mac }
            }
            7 => Report::Stopping,
            9 => Report::Fence { errno: number },
            8 => Report::Trouble { task: *TASKS.get(at)?, errno: number },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTE: VoteKey = VoteKey { term: u64::MAX, node: 0x0102_0304_0506_0708 };
    const TOOK: Duration = Duration::from_nanos(123_456_789_012);

    #[test]
    fn orders_read_back() {
        for order in [
            Order::Drain { time: TOOK },
            Order::Hold { vote: VOTE, until: Instant::from_nanos(u64::MAX) },
            Order::LetGo { vote: VOTE },
            Order::Probe,
        ] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
    }

    #[test]
    fn reports_read_back() {
        let mut all = vec![
            Report::Held { vote: VOTE, took: TOOK },
            Report::Refused { vote: VOTE, why: RefusedWhy::Kernel(-7) },
            Report::Restored { took: TOOK },
            Report::Link { up: true },
            Report::Link { up: false },
            Report::Claimed { mac: [1, 2, 3, 4, 5, 255] },
            Report::Stopping,
            Report::Fence { errno: 95 },
        ];
        all.extend(GONE.map(|why| Report::Gone { vote: VOTE, why, took: TOOK }));
        all.extend(REFUSED.map(|why| Report::Refused { vote: VOTE, why }));
        all.extend(TASKS.map(|task| Report::Trouble { task, errno: i32::MAX }));
        for report in all {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
    }

    #[test]
    fn anything_else_is_refused_without_a_panic() {
        for tag in 0..=255 {
            for small in 0..=255 {
                let p = pack(tag, small, -1, [u64::MAX; 3]);
                assert_eq!(Order::decode(&p).is_some(), (1..=4).contains(&tag));
                assert!(Report::decode(&p).is_none() || (1..=9).contains(&tag));
            }
        }
        for len in (0..100).filter(|n| *n != LEN) {
            assert_eq!((Order::decode(&vec![1; len]), Report::decode(&vec![1; len])), (None, None));
        }
    }
}
