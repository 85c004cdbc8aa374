//! What goes into the keeper's state machine and what comes out.

use crate::sys::clock::Instant;
use crate::vip::rtnl::Change;
use crate::vip::{Order, Report, VoteKey, frames};
use std::time::Duration;

/// How long the daemon may take to hand over after the keeper was told to stop; then the VIP is removed. What it does afterwards may take
/// [`Settings::drain`] more.
pub const STOP_TIME: Duration = Duration::from_secs(3);

/// The kernel lifetime of the address in whole seconds, for holds of this length.
///
/// 2 s for every hold: renewed each second (every renewal is an event that wakes other programs, so not more often), with a second to spare
/// for a starved keeper. 1 s would end a dead keeper's VIP one second sooner at three times the events.
pub const fn lifetime_secs(_hold: Duration) -> u32 {
    2
}

/// How long the kernel may keep the address after the last renewal when nobody removes it: lifetime + 1.5 s (measured on Linux 6.18).
pub const fn lifetime_bound(hold: Duration) -> Duration {
    Duration::from_millis(lifetime_secs(hold) as u64 * 1000 + 1500)
}

/// What doesn't change while the keeper runs, save `drain`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The longest hold that an order may ask for.
    pub hold: Duration,
    /// Send announcements while holding.
    pub announce: bool,
    /// The VIP is an IPv6 address.
    pub ipv6: bool,
    /// There are peers to send the proof of release to.
    pub notify: bool,
    /// How much longer than [`STOP_TIME`] the daemon may take to end, after the VIP is gone.
    pub drain: Duration,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The daemon said something.
    Order(Order),
    /// The kernel answered the last `Next::Change` or failed the last `Next::Dump`; 0 or an errno.
    Answer(i32),
    /// The last `Next::Dump` was complete: is our VIP there, is the VIP there as somebody else's.
    Dump {
        /// On our interface, full prefix, marked as ours.
        ours: bool,
        /// Anywhere on this host, not ours.
        foreign: bool,
    },
    /// The kernel's answer to the last `Next::Fence`, 0 or an errno; unasked: its table was just made, guarding nothing, or could not be.
    Fenced(i32),
    /// Somebody had deleted the fence's table; the answer to the last `Next::Fence` follows.
    FenceLost,
    /// An event named the VIP, or events were lost: read again.
    Hint,
    /// The interface as it is now.
    Link {
        /// It exists.
        present: bool,
        /// It is up and has a carrier.
        up: bool,
    },
    /// Another host says it has the VIP.
    Claim(frames::Mac),
    /// SIGTERM or SIGINT.
    Stop,
    /// The daemon closed its end (it ends, or it crashed).
    DaemonClosed,
    /// The daemon's process ended.
    DaemonEnded,
    /// The daemon's socket took the newest `Next::Report`.
    Reported,
    /// The daemon's socket is full (true), or has room again (false).
    Blocked(bool),
}

/// What the kernel fence is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceAct {
    /// Let the VIP be used until then, and no longer, whatever becomes of this process.
    Arm {
        /// The end of the running hold as it is known now.
        until: Instant,
    },
    /// Guard nothing: the VIP is gone.
    Clear,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Change the address; answer with `Input::Answer`.
    Change(Change),
    /// Tell the kernel fence; answer with `Input::Fenced`.
    Fence(FenceAct),
    /// Send all peers the proof that this vote's hold has ended; no answer.
    Notice {
        /// A spent vote.
        vote: VoteKey,
    },
    /// Read all addresses; answer with `Input::Dump`, or `Input::Answer` where it failed.
    Dump,
    /// Send this frame.
    Frame(frames::Kind),
    /// Tell the daemon; answer with `Input::Reported` or `Input::Blocked(true)`.
    Report(Report),
    /// The daemon did not end in time: SIGKILL.
    Kill,
    /// The daemon has ended and the VIP was seen gone (or `gone` is false, and only the kernel's lifetime is left to trust).
    Exit {
        /// A dump showed it gone.
        gone: bool,
    },
    /// Nothing until an input or this instant.
    Wait(Option<Instant>),
}
