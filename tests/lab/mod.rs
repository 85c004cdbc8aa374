//! Private network namespaces for tests: hosts on a bridge, real daemons on them, observers beside them.
//!
//! ```text
//!   test (own user, mount, PID and network namespaces)          `isolated`
//!     └─ br0 ─┬─ p1 ── eth0 of host n1   10.99.0.1, fd00:99::1      `Lab`, `Host`
//!             ├─ p2 ── eth0 of host n2   10.99.0.2, fd00:99::2      `Node`: keeper + daemon on a host
//!             ├─ …                                                  `Backend`: a server thread on a host
//!             └─ pN ── eth0 of host client                          `ArpWatch`, `Prober`, `Capture`: they see what a LAN sees
//! ```
//!
//! Everything a test starts lives in its PID namespace and ends with it; everything it writes is on its own `/run` and ends too.
#![allow(dead_code, unused_imports)] // every test binary uses its own part of the lab

pub mod backend;
pub mod dns;
pub mod kept;
pub mod net;
pub mod node;
pub mod observe;
pub mod packet;
pub mod process;

pub use backend::{Backend, Kind};
pub use dns::Dns;
pub use net::{Host, Lab};
pub use node::{Cluster, Node, NodeConfig, STEADY};
pub use observe::{ArpWatch, Capture, Prober};
pub use process::Process;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Where the lab keeps logs, configurations and state: on the private `/run`, so it vanishes with the test.
pub const LAB_DIR: &str = "/run/lab";

/// How long one isolated test may take before it is ended with its logs.
const LIMIT: Duration = Duration::from_secs(120);

/// Set to the test's name inside its namespaces.
const INSIDE: &str = "KUBE_VIP_LAB";

const UNSHARE: [&str; 8] = ["--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// Runs `body` as root of fresh user, mount, PID and network namespaces, by re-executing this test binary under unshare(1).
///
/// `name` is the test's own path as libtest knows it (e.g. `"election_happens"`, or `"module::name"`). Works for root and for plain
/// users. Everything that `body` starts ends with it, because the PID namespace does.
pub fn isolated(name: &str, body: impl FnOnce()) {
    isolated_for(LIMIT, name, body);
}

/// [`isolated`] with another time limit.
pub fn isolated_for(limit: Duration, name: &str, body: impl FnOnce()) {
    if is_inside(name) {
        return inside(limit, body);
    }
    let mut command = unshared();
    command.args(["--exact", name, "--nocapture", "--test-threads=1", "--include-ignored"]).env(INSIDE, name);
    let out = command.output().expect("unshare(1) of util-linux can be started");
    print!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{name} failed inside its namespaces ({}); see the output above", out.status);
    // libtest is content with a name that no test has.
    let ran = String::from_utf8_lossy(&out.stdout).contains("test result: ok. 1 passed");
    assert!(ran, "`{name}` is not the path of this test: nothing ran inside the namespaces");
}

/// [`isolated`] for a program without libtest: re-executes it with the arguments it got, output passed straight through.
pub fn isolated_program(limit: Duration, name: &str, body: impl FnOnce()) {
    if is_inside(name) {
        return inside(limit, body);
    }
    let status = unshared().args(std::env::args_os().skip(1)).env(INSIDE, name).status().expect("unshare(1) can be started");
    std::process::exit(status.code().unwrap_or(1));
}

fn is_inside(name: &str) -> bool {
    std::env::var(INSIDE).as_deref() == Ok(name)
}

/// `unshare … -- this-binary`, once it is clear that namespaces may be made here.
fn unshared() -> Command {
    static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
    if let Some(why) = REFUSAL.get_or_init(namespaces_refused) {
        panic!("{why}");
    }
    let mut command = Command::new("unshare");
    command.args(UNSHARE).arg("--").arg(std::env::current_exe().expect("the test binary has a path"));
    command
}

/// Why this user can't make namespaces on this machine, and what to do about it; `None` where it can.
fn namespaces_refused() -> Option<String> {
    let probe =
        Command::new("unshare").args(UNSHARE).args(["--", "sh", "-c", "mount -t tmpfs tmpfs /run && ip link show"]).output();
    let out = match probe {
        Err(e) => return Some(format!("can't start unshare(1): {e}; install it: apt-get install util-linux iproute2")),
        Ok(out) if out.status.success() => return None,
        Ok(out) => out,
    };
    let mut text = format!(
        "this machine refuses the namespaces that network tests run in: {}",
        String::from_utf8_lossy(&out.stderr).trim()
    );
    for (path, bad, cure) in SWITCHES {
        let value = std::fs::read_to_string(format!("/proc/sys/{path}")).unwrap_or_default();
        if value.trim() == bad {
            text += &format!("\n  {} is {bad}; as root: sysctl -w {}", path.replace('/', "."), cure);
        }
    }
    text += "\n  in a container: allow unshare(2) and mount(2), e.g. docker run --security-opt seccomp=unconfined --cap-add SYS_ADMIN";
    text += "\n  `ip: not found` means: apt-get install iproute2";
    Some(text)
}

/// Kernel switches that forbid user namespaces: file under /proc/sys, forbidding value, cure.
const SWITCHES: [(&str, &str, &str); 3] = [
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
    ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
];

fn inside(limit: Duration, body: impl FnOnce()) {
    let limit = patient(limit);
    private_directories();
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        eprintln!("\nstill not done after {limit:?}: ending this test");
        process::print_logs();
        std::process::exit(102); // pid 1 of its namespace: everything else ends with it
    });
    body();
}

/// Fresh `/run` and `/var/lib/kube-vip`, so that the default control socket and state directory are this test's own.
fn private_directories() {
    sh("mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/lab /run/kube-vip");
    if !Path::new("/var/lib/kube-vip").is_dir() {
        // A plain user can't make the directory on the real /var/lib; nothing else in there matters to a test,
        // unless the build itself lives there.
        if std::env::current_exe().is_ok_and(|exe| exe.starts_with("/var/lib")) {
            return;
        }
        sh("mount -t tmpfs -o mode=755 tmpfs /var/lib && mkdir /var/lib/kube-vip");
    }
    sh("mount -t tmpfs -o mode=755 tmpfs /var/lib/kube-vip");
}

/// Runs a shell line in this namespace and returns its standard output; panics with both outputs where it fails.
pub fn sh(line: &str) -> String {
    let out = Command::new("sh").args(["-ec", line]).output().expect("sh can be started");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "`{line}` failed: {}\n{text}{}", out.status, String::from_utf8_lossy(&out.stderr));
    text
}

/// How long to wait on this machine for what takes at most `limit` on an ordinary one: `$KUBE_VIP_TEST_SLOW` times as long, e.g. 4
/// under an emulator. For what must come at last, never for what must not happen.
pub fn patient(limit: Duration) -> Duration {
    limit * slowness()
}

fn slowness() -> u32 {
    let text = std::env::var("KUBE_VIP_TEST_SLOW").unwrap_or_default();
    if text.is_empty() { 1 } else { text.parse().expect("KUBE_VIP_TEST_SLOW is a whole number") }
}

/// The timing of nodes where a test asks for none: the preset `lan`, or as many times slower as this machine is.
pub fn usual_timing() -> String {
    match slowness() {
        1 => "lan".to_owned(),
        n => format!("{{heartbeat: {}ms, lease: {}ms}}", 50 * n, 250 * n),
    }
}

/// Says that this test, or a part of it, can't work on this machine, and why; scripts/test shows these lines at its end.
pub fn skip(why: &str) {
    let test = std::env::var(INSIDE).ok().or_else(|| std::thread::current().name().map(str::to_owned)).unwrap_or_default();
    println!("SKIP {test}: {why}");
    let Some(file) = std::env::var_os("KUBE_VIP_TEST_SKIPPED") else { return };
    let file = std::fs::File::options().append(true).create(true).open(file);
    file.and_then(|mut file| file.write_all(format!("{test}: {why}\n").as_bytes()))
        .expect("the list of skipped tests is writable");
}

/// Asks `condition` again and again until it gives a value, and returns it; panics with `what` and all logs after `limit`
/// (a slow machine's, see [`patient`]).
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let limit = patient(limit);
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        if Instant::now() > end {
            process::print_logs();
            panic!("waited {limit:?} in vain until {what}");
        }
        std::thread::sleep(Duration::from_millis(5)); // the pace of asking, not a time to hope for
    }
}

/// [`wait_for`] a plain yes.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || condition().then_some(()));
}

/// Panics with `what` and all logs if `condition` gives a value within `span`: for things that must not happen.
#[track_caller]
pub fn never_within<T: std::fmt::Debug>(what: &str, span: Duration, mut condition: impl FnMut() -> Option<T>) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        if let Some(seen) = condition() {
            process::print_logs();
            panic!("{what}: {seen:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Seconds, briefly.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Milliseconds, briefly.
pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
