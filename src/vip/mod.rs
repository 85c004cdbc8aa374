//! The address: a small privileged keeper process adds, renews, announces and removes it, and only until the deadline it was given.
//!
//! ```text
//! daemon ── Order ──▶ link ─▶ keeper ─▶ state (pure: wanted vs observed, now) ─▶ Next ─┬▶ kernel: address, fence, frames
//!        ◀─ Report ──                     ▲                                            │ └▶ peers: proof of release (UDP)
//!                                         └──────────── Input: what the kernel said ◀──┘
//! ```
//!
//! Three things end it, the fastest first: the keeper at its deadline or when the daemon ends (milliseconds, and the peers are told); the
//! kernel fence, an nf_tables element with a timeout, which needs no living process (exact to a tick, on kernels that have it); and the
//! lifetime of the address itself ([`lifetime_bound`]).
//!
//! The contract between the two processes: a hold that the keeper began (or refused for what it found on this host) ends with exactly one
//! [`Report::Gone`], and its vote is spent from then on. Time is CLOCK_BOOTTIME on both sides.

mod announce;
pub mod fence;
pub mod frames;
mod host;
pub mod keeper;
pub mod link;
mod notice;
mod ownership;
mod renewals;
pub mod rtnl;
pub mod state;
mod wire;

pub use host::{CleanupReport, FenceFound, Found, OpenError, OpenErrorKind, cleanup, present};
pub use keeper::{Child, ExitReason, Keeper, KeeperSpec, Notify};
pub use link::{End, KeeperLink, KeeperSide};
pub use state::{lifetime_bound, lifetime_secs};

pub use crate::release::VoteKey;
use crate::sys::clock::Instant;
use std::fmt;
use std::time::Duration;

/// What the daemon asks of the keeper. The keeper acts on the newest order only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Hold the VIP under this vote until the instant (CLOCK_BOOTTIME). Repeated with every acknowledged heartbeat.
    ///
    /// An instant in the past is ignored; one later than now + hold counts as now + hold.
    Hold {
        /// The vote that gives the permission.
        vote: VoteKey,
        /// Drop the VIP at this instant unless told a later one under the same vote.
        until: Instant,
    },
    /// Remove the VIP now and say when it is gone. Always answered with [`Report::Gone`], also where nothing was held.
    LetGo {
        /// This vote and all before it are spent; the answer names it, or the newer one that was held.
        vote: VoteKey,
    },
    /// Ask the network three times, 1 s apart, who has the VIP; an answer comes as [`Report::Claimed`], silence as nothing.
    Probe,
    /// From now on the daemon may take this much longer to end than handing over takes: in place of [`KeeperSpec::drain`].
    Drain {
        /// `drain` of a configuration that was reloaded.
        time: Duration,
    },
}

/// What the keeper tells the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The VIP is on the interface (kernel acknowledged).
    Held {
        /// Under which vote.
        vote: VoteKey,
        /// From order received to kernel acknowledged.
        took: Duration,
    },
    /// The VIP is gone: all addresses were dumped and it is not among them (or it is there, but not ours).
    Gone {
        /// The last vote it was held (or ordered) under.
        vote: VoteKey,
        /// Why.
        why: GoneWhy,
        /// From decision to seen gone.
        took: Duration,
    },
    /// The hold was not begun. `Gone` follows where `why` is `Foreign`, `LinkGone` or `Kernel`.
    Refused {
        /// Under which vote.
        vote: VoteKey,
        /// Why.
        why: RefusedWhy,
    },
    /// Somebody removed it while held; it is back and was announced again.
    Restored {
        /// From the netlink event to kernel acknowledged.
        took: Duration,
    },
    /// The interface: up with carrier, or not. Sent at start and at each change.
    Link {
        /// true: administratively up and carrier present.
        up: bool,
    },
    /// The kernel fence: without it only the lifetime ends what no process ends. Sent at start and at each change.
    Fence {
        /// 0: it is in place. Otherwise why not: an OS error number (EOPNOTSUPP and others: this kernel has no nf_tables for netdev).
        errno: i32,
    },
    /// Another host answers or announces for the VIP, while we hold it or probe for it. At most one in 10 s about one host, and four about all.
    Claimed {
        /// Its link-layer address.
        mac: [u8; 6],
    },
    /// The keeper was told to stop, or told again: hand over and let go within [`state::STOP_TIME`], and exit within [`KeeperSpec::drain`] more.
    Stopping,
    /// The kernel refused something that the keeper tries again; at most one in a second.
    Trouble {
        /// What was tried.
        task: Task,
        /// OS error number.
        errno: i32,
    },
}

/// Why the VIP is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneWhy {
    /// The daemon said `LetGo`, or ordered a hold under another vote.
    LetGo,
    /// The deadline passed without a later one.
    Deadline,
    /// The keeper was told to stop (SIGTERM, SIGINT), and the daemon did not let go in time.
    Stopping,
    /// The interface vanished.
    LinkGone,
    /// Somebody made the address his own (`ip addr replace`): it is still there, and left alone.
    Taken,
    /// The hold was refused.
    Refused,
}

/// Why a hold was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedWhy {
    /// This host has the VIP already, and it is not ours.
    Foreign,
    /// This vote's hold ended before; only a newer vote may begin one.
    Spent,
    /// The keeper is stopping.
    Stopping,
    /// The interface does not exist.
    LinkGone,
    /// The kernel refused to add the address: an OS error number, e.g. EPERM.
    Kernel(i32),
}

/// What the keeper asks of the kernel, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Add the VIP.
    Add,
    /// Renew its lifetime.
    Renew,
    /// Remove it.
    Remove,
    /// Read all addresses.
    Dump,
    /// Find the kernel fence's table in place.
    Fence,
}

impl fmt::Display for GoneWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LetGo => "let go",
            Self::Deadline => "its time ran out",
            Self::Stopping => "the keeper stops",
            Self::LinkGone => "the interface vanished",
            Self::Taken => "somebody else on this host took the address over",
            Self::Refused => "it was refused",
        })
    }
}

impl fmt::Display for RefusedWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("this host has the address already, and not from kube-vip; remove it first (ip addr)"),
            Self::Spent => f.write_str("this vote was used up before"),
            Self::Stopping => f.write_str("the keeper is stopping"),
            Self::LinkGone => f.write_str("the interface does not exist"),
            Self::Kernel(errno) => write!(f, "the kernel said: {}", std::io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "add the VIP",
            Self::Renew => "renew the VIP's lifetime",
            Self::Remove => "remove the VIP",
            Self::Dump => "read the addresses",
            Self::Fence => "find the kernel fence (its nf_tables table was deleted, as a firewall reload does)",
        })
    }
}
