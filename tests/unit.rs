//! The systemd unit: what systemd says of it, and its command lines with its privileges and no others.
//!
//! A real systemd runs it in `scripts/package --check`, with its system call filter and its user.

mod lab;

use lab::net::VIP4;
use lab::node::{kube_vip, write_config};
use lab::process::{children, proc_status};
use lab::{Host, Lab, NodeConfig, Process, STEADY, isolated, secs, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where the unit has the program, and the configuration.
const PROGRAM: &str = "/usr/local/bin/kube-vip";
const CONFIG: &str = "/etc/kube-vip/config.yaml";

fn text() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/kube-vip.service")).expect("the unit")
}

/// The values of a key, in the order of the file; a later line adds to those before.
fn values(key: &str) -> Vec<String> {
    let text = text();
    let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let values: Vec<String> = lines.map(str::to_owned).collect();
    assert!(!values.is_empty(), "the unit has no {key}");
    values
}

fn analyze(words: &[&str], unit: &Path) -> Output {
    let output = Command::new("systemd-analyze").args(words).arg(unit).output();
    output.unwrap_or_else(|e| panic!("can't start systemd-analyze: {e}; install it: apt-get install systemd"))
}

/// The unit, with the program where this build has it.
fn here(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("kube-vip-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary directory");
    let unit = dir.join("kube-vip.service");
    let program = kube_vip().get_program().to_string_lossy().into_owned();
    std::fs::write(&unit, text().replace(PROGRAM, &program)).expect("the temporary directory is writable");
    unit
}

#[test]
fn systemd_understands_every_line() {
    let unit = here("verify");
    let out = analyze(&["verify", "--man=no"], &unit);
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && !told.contains("kube-vip.service"), "{told}");
    std::fs::remove_dir_all(unit.parent().expect("its directory")).expect("removed");
}

/// Tenths. What is left is the host's network with two capabilities over it, packet sockets, and capset to drop the capabilities.
#[test]
fn its_exposure_does_not_grow() {
    let unit = here("security");
    let out = analyze(&["security", "--offline=true", "--no-pager", "--threshold=20"], &unit);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    let stricter = analyze(&["security", "--offline=true", "--no-pager", "--threshold=5"], &unit);
    assert!(!stricter.status.success(), "the threshold is looked at");
    std::fs::remove_dir_all(unit.parent().expect("its directory")).expect("removed");
}

/// The first of the key's command lines, for this node's configuration, with the unit's capabilities: uid 0 counts as nobody special.
fn command(key: &str, config: &Path) -> Command {
    let lower = |c: &str| c.trim_start_matches("CAP_").to_lowercase();
    let set = |key: &str| {
        let names: Vec<String> =
            values(key).iter().flat_map(|v| v.split_whitespace()).map(|c| format!("+{}", lower(c))).collect();
        format!("-all,{}", names.join(","))
    };
    let ambient = set("AmbientCapabilities");
    assert_eq!(values("NoNewPrivileges"), ["yes"]);
    let mut command = Command::new("setpriv");
    command.args(["--securebits", "+noroot,+noroot_locked", "--no-new-privs", "--bounding-set", &set("CapabilityBoundingSet")]);
    command.args(["--inh-caps", &ambient, "--ambient-caps", &ambient, "--"]);
    let line = values(key).remove(0);
    let mut words = line.trim_start_matches('-').split_whitespace();
    assert_eq!(words.next(), Some(PROGRAM), "{line}");
    command.arg(kube_vip().get_program()).args(kube_vip().get_args());
    assert!(line.contains(CONFIG), "{line}");
    command.args(words.map(|word| if word == CONFIG { config.to_string_lossy().into_owned() } else { word.to_owned() }));
    command.env("STATE_DIRECTORY", "/var/lib/kube-vip");
    command
}

fn run(host: &Host, key: &str, config: &Path) {
    let out = host.run(&command(key, config));
    let told = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{key} on {}: {}\n{told}", host.name(), out.status);
}

fn start(host: &Host, config: &Path) -> Process {
    run(host, "ExecStartPre", config);
    host.spawn(host.name(), &command("ExecStart", config))
}

/// `KillMode=control-group`.
fn tell_both(keeper: &Process, signal: Signal) {
    assert_eq!(values("KillMode"), ["control-group"]);
    let both = children(keeper.pid()).into_iter().chain([keeper.pid()]);
    both.for_each(|pid| kill(Pid::from_raw(pid), signal).expect("it runs"));
}

#[test]
fn three_nodes_need_no_more_than_the_unit_gives() {
    isolated("three_nodes_need_no_more_than_the_unit_gives", || {
        let lab = Lab::new();
        let hosts: Vec<Host> = ["n1", "n2", "n3"].iter().map(|name| lab.host(name)).collect();
        let files: Vec<PathBuf> = hosts
            .iter()
            .map(|host| {
                let mut config = NodeConfig::member(host, &hosts, false);
                config.timing = STEADY.into();
                config.balancer("low", 80, false, &["{address: 10.99.0.1, port: 9}".into()]);
                write_config(&config.id, &config.yaml())
            })
            .collect();
        let nodes: Vec<Process> = hosts.iter().zip(&files).map(|(host, file)| start(host, file)).collect();
        let holder = |not: usize| (0..3).find(|&i| i != not && hosts[i].has(VIP4));
        let first = wait_for("one holds", secs(30), || holder(3));
        let daemon = children(nodes[first].pid())[0];
        for (pid, capabilities) in [(nodes[first].pid(), "0000000000003000"), (daemon, "0000000000000400")] {
            assert_eq!(proc_status(pid, "CapPrm"), capabilities, "NET_ADMIN and NET_RAW; NET_BIND_SERVICE");
            assert_eq!(proc_status(pid, "CapAmb"), "0000000000000000");
        }
        let log = nodes[first].output();
        assert!(!log.contains("no kernel fence (Operation not permitted"), "{log}");

        tell_both(&nodes[first], Signal::SIGTERM);
        assert!(nodes[first].wait_exit(secs(15)).success());
        assert!(!hosts[first].has(VIP4), "ended in order, with the VIP");
        run(&hosts[first], "ExecStopPost", &files[first]);
        let second = wait_for("another holds", secs(30), || holder(first));

        // Nothing of it lives, but the kernel has the address: that is what ExecStopPost= is for.
        tell_both(&nodes[second], Signal::SIGSTOP);
        let pids = children(nodes[second].pid());
        nodes[second].signal(Signal::SIGKILL);
        pids.iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).expect("it runs"));
        nodes[second].wait_exit(secs(5));
        run(&hosts[second], "ExecStopPost", &files[second]);
        assert!(!hosts[second].has(VIP4), "swept");
    });
}

#[test]
fn without_a_capability_it_says_which() {
    isolated("without_a_capability_it_says_which", || {
        let host = Lab::new().host("n1");
        let file = write_config("n1", &NodeConfig::single(&host).yaml());
        let mut poorer = Command::new("setpriv");
        let granted = command("ExecStart", &file);
        let words = granted.get_args().map(|w| w.to_string_lossy().replace("+net_admin,", "").replace("+net_admin", ""));
        poorer.args(words).env("STATE_DIRECTORY", "/var/lib/kube-vip");
        let out = host.run(&poorer);
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(77), "{told}");
        assert!(told.contains("CAP_NET_ADMIN"), "{told}");
        wait_until("nothing was added", secs(1), || !host.has(VIP4));
    });
}
