//! Private network namespaces for tests: each test runs as root of fresh user, mount and network namespaces.
#![allow(dead_code)] // every test binary uses its own part of the lab

use std::process::Command;

/// Runs `body` as root of fresh user, mount, PID and network namespaces, by re-executing this test binary under unshare(1).
///
/// `name` is the test's own path as libtest knows it (e.g. `"election_happens"`, or `"module::name"`).
/// Everything that `body` starts ends with it, because the PID namespace does.
pub fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var("KUBE_VIP_LAB").as_deref() == Ok(name) {
        return body();
    }
    let exe = std::env::current_exe().expect("the test binary has a path");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "--"])
        .arg(exe)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("KUBE_VIP_LAB", name)
        .status()
        .expect("unshare(1) of util-linux can be started");
    assert!(status.success(), "{name} failed inside its namespaces ({status}); see the output above");
}

/// Runs a shell line in this namespace and returns its standard output; panics with both outputs where it fails.
pub fn sh(line: &str) -> String {
    let out = Command::new("sh").args(["-ec", line]).output().expect("sh can be started");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "`{line}` failed: {}\n{text}{}", out.status, String::from_utf8_lossy(&out.stderr));
    text
}
