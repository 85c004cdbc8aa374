//! The address: a small privileged keeper process adds, renews, announces and removes it, and only until the deadline it was given.

use crate::sys::clock::Instant;
use std::time::Duration;

/// What the daemon asks of the keeper. The keeper acts on the newest order only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Hold the VIP under this vote until the instant (CLOCK_BOOTTIME). Repeated with every acknowledged heartbeat.
    Hold {
        /// The vote that gives the permission.
        vote: VoteKey,
        /// Drop the VIP at this instant unless told a later one under the same vote.
        until: Instant,
    },
    /// Remove the VIP now and say when it is gone.
    LetGo,
}

/// A raft vote as the keeper knows it: enough to tell two votes apart. Ordered as raft orders them for one cluster (by term).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VoteKey {
    /// raft term; 0 with `singleNode`.
    pub term: u64,
    /// A 64-bit hash of the node id.
    pub node: u64,
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
    /// The kernel refused to add it: an errno, e.g. EEXIST when somebody put the VIP there by hand, ENODEV, EPERM.
    Refused {
        /// Under which vote.
        vote: VoteKey,
        /// OS error number.
        errno: i32,
    },
    /// Somebody removed it while held; it is back and was announced again.
    Restored {
        /// From the netlink event to kernel acknowledged.
        took: Duration,
    },
    /// The interface: up with carrier, or not.
    Link {
        /// true: administratively up and carrier present.
        up: bool,
    },
    /// Another host answers or announces for the VIP.
    Claimed {
        /// Its link-layer address.
        mac: [u8; 6],
    },
}

/// Why the VIP is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneWhy {
    /// The daemon said `LetGo`.
    LetGo,
    /// The deadline passed without a later one.
    Deadline,
    /// The keeper was told to stop (SIGTERM, SIGINT).
    Stopping,
    /// The interface vanished.
    LinkGone,
}
