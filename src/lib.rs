//! `kube-vip`: a handful of nodes elect a leader; the leader holds one virtual IP (VIP) and balances TCP behind it.
//!
//! ```text
//! config.yaml ─▶ config ─▶ daemon ─┬▶ cluster ── leads until T ──▶ vip ── holds ──▶ balancer ──▶ backends
//!                                  │      ▲ frames  │ term,vote→disk    │ netlink/ARP
//!                                  │    peers       ▼                   ▼
//!                                  └──────────── status snapshot ◀── every part reports here
//! ```
//!
//! Four nouns: **cluster elects, vip holds, balancer forwards, status shows.** Arrows point one way: `daemon → parts → reactor → sys`;
//! no part imports another part. Decisions are pure files (time is an argument); effects are thin files.

pub mod balancer; // the forwarder: choose a backend, accept, copy and splice
pub mod cli; // one file per command
pub mod cluster; // who leads: openraft on smol, peers over TCP, vote and log on disk, the hold
pub mod config; // the YAML as written → checked values
pub mod daemon; // starts the parts, carries facts between them, shuts them down in order
pub mod reactor; // what a thread sleeps in: sockets and timers of its tasks, connections of the forwarder
pub mod release; // proof that a hold has ended: made by the keeper, checked by the cluster part
pub mod status; // one snapshot → table, JSON
pub mod sys; // the only `unsafe`: thin wrappers over file descriptors and system calls
pub mod vip; // the address: the keeper process, announcements, the daemon's link to the keeper
