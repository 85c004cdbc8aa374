//! Active health checks: asks each backend again and again whether it works, and tells what has changed.
//!
//! ```text
//!   members ─▶ watch.rs: a task per question ─▶ ask.rs: connect, write, read ─▶ http.rs, needle.rs (pure): what is the answer worth?
//!                 ▲                                                                │ good, bad, nothing
//!                 └── change: (balancer, address, up or down, why) ◀── count.rs (pure): rise and fall
//! ```
//!
//! Runs on every node, whoever leads, so that a new holder knows its backends at once.

mod ask;
mod count;
mod http;
mod needle;
#[cfg(test)]
mod tests;
mod watch;

pub use watch::{AT_ONCE, Report, Watch};
