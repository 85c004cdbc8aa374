//! The forwarder: accepts TCP on the VIP (or everywhere), chooses a backend, copies and splices both ways.
//!
//! ```text
//!            block_on (run.rs): the daemon's executor and ONE epoll loop on one thread
//!                │ turn
//!   listeners ─▶ engine.rs ─▶ pool/ (pure) ─▶ connect ─▶ conn.rs: client ⇄ backend
//!  (listen.rs)   accept.rs    which member    life.rs     flow.rs: recv/send ⇄ splice (pipes.rs)
//!                arrive.rs      ▲
//!                   │           checks, names, orders: control.rs, reload.rs
//!                   └── admit.rs (pure): who may come in; proxy/ (pure): for whom a proxy comes
//! ```
//!
//! All connections are one future's worth of state, not a task each: a slab of small entries, a queue of those that have work,
//! and an own edge-triggered epoll in which each socket is registered once. The executor is polled between bounded batches
//! (64 turns or about 1 ms), so that a heartbeat never waits for data. Idle without connections it never wakes up by itself.

mod accept;
mod admit;
mod arrive;
mod beside;
mod client;
mod conn;
mod control;
mod engine;
mod flow;
mod handoff;
pub mod health;
mod life;
mod line;
mod listen;
mod pipes;
mod pool;
mod proxy;
mod reload;
pub mod resolve;
mod run;
mod slab;
mod wait;

pub use beside::{Beside, Spawn};
pub use control::{Control, Forwarder, MemberView};
pub use handoff::KeptForwarder;
pub use listen::OpenError;
pub use pool::Order;
pub use run::block_on;

use crate::config::Balancer;
use std::net::IpAddr;
use std::time::Duration;

/// What to forward.
#[derive(Clone, Debug)]
pub struct Spec {
    /// One listener each.
    pub balancers: Vec<Balancer>,
    /// Where `bind_to_vip` balancers listen, before this node has it.
    pub vip: IpAddr,
    /// Serve VIP listeners also while not holding (`disableVIP`: somebody else puts the address there).
    pub serve_vip_always: bool,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of the forwarder that all balancers share; their own are in the configuration of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For sent bytes to stay unacknowledged, or undeliverable because the receiver reads nothing (TCP_USER_TIMEOUT).
    /// Default 120 s: as long as keepalive (60 s + 6 × 10 s) takes to find a silent peer dead.
    pub user_timeout: Duration,
    /// Connections open at once. `None`: what the limit of open files allows (two per connection, some spared), at most 65536.
    pub max_connections: Option<usize>,
    /// Pipes for splicing, of up to 1 MiB each, thus a bound on kernel memory too. Connections beyond copy. Default 64.
    pub pipes: usize,
    /// Connections that may wait to be accepted, per listener; the kernel caps it at net.core.somaxconn. Default 4096.
    pub backlog: i32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { user_timeout: Duration::from_secs(120), max_connections: None, pipes: 64, backlog: 4096 }
    }
}
