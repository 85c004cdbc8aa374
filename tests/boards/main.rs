//! Three emulated ARM boards with kernels of their own on one bridge: the static program holds, loses and moves the VIP on them.
//! Run by `scripts/boards`. Speed is printed, not judged: an emulator on a busy machine is slow. Judged is that exactly one board
//! answers, that another one takes over after each fault, and that what goes through the VIP arrives unchanged.
//!
//! ```text
//!   user, mount, PID and network namespaces
//!     └─ br0 ─┬─ tap1 … tap3 ── qemu: Linux for ARM, tests/boards/init, kube-vip        `Board`
//!             ├─ client, observer: pings, ARP questions, TCP through the VIP            `View`, `Servers`
//!             └─ web1, web2: the servers behind the VIP
//! ```
#[path = "../lab/mod.rs"]
mod lab;

mod board;
mod machine;
mod options;
mod story;
mod transfer;
mod view;

use options::Options;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn main() {
    let options = Options::parse(std::env::args().skip(1)).unwrap_or_else(|why| {
        eprintln!("{why}");
        std::process::exit(64);
    });
    lab::isolated_program(options.machine.limit(), "boards", || {
        // As process 1 of its namespace: whatever runs in there ends with it.
        let told = catch_unwind(AssertUnwindSafe(|| story::tell(&options)));
        std::process::exit(told.unwrap_or(1));
    });
}
