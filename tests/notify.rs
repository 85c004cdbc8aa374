//! The service manager's side of the program: what it is told, by whom, and when it falls silent.

mod lab;

use kube_vip::sys::clock;
use lab::node::{kube_vip, write_config};
use lab::process::children;
use lab::{Host, LAB_DIR, Lab, NodeConfig, Process, STEADY, isolated, ms, never_within, secs, wait_for, wait_until};
use nix::cmsg_space;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred};
use nix::unistd::Pid;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A service manager, as far as its socket goes.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Vec<Heard>,
}

/// One line, and which process said it.
#[derive(Clone, Debug)]
struct Heard {
    line: String,
    pid: i32,
    at: clock::Instant,
}

impl Manager {
    fn listen(name: &str) -> Manager {
        let path = PathBuf::from(LAB_DIR).join(format!("{name}.notify"));
        let socket = UnixDatagram::bind(&path).expect("the lab's directory is writable");
        socket.set_nonblocking(true).expect("a socket");
        setsockopt(&socket, PassCred, &true).expect("a UNIX socket tells who sent");
        Manager { socket, path, heard: Vec::new() }
    }

    /// Starts a node as a service manager does.
    fn start(&self, host: &Host, config: &NodeConfig, watchdog: Option<Duration>) -> Process {
        let file = write_config(&config.id, &config.yaml());
        let mut command = Command::new("sh");
        command.args(["-c", "export WATCHDOG_PID=$$; exec \"$@\"", "sh"]);
        command.arg(kube_vip().get_program()).args(kube_vip().get_args()).args(["start", "-c"]).arg(file);
        command.env("NOTIFY_SOCKET", &self.path);
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        host.spawn(&config.id, &command)
    }

    /// Reads what has come, and returns what is new.
    fn news(&mut self) -> Vec<Heard> {
        let before = self.heard.len();
        let (mut text, mut space) = ([0; 4096], cmsg_space!(UnixCredentials));
        loop {
            let mut parts = [IoSliceMut::new(&mut text)];
            let received = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty());
            let Ok(message) = received else { return self.heard[before..].to_vec() };
            let pid = message.cmsgs().expect("room for it").find_map(|c| match c {
                ControlMessageOwned::ScmCredentials(who) => Some(who.pid()),
                _ => None,
            });
            let (n, pid, at) = (message.bytes, pid.expect("who sent it"), clock::now());
            let lines = String::from_utf8_lossy(&text[..n]).into_owned();
            self.heard.extend(lines.lines().map(|line| Heard { line: line.to_owned(), pid, at }));
        }
    }

    fn count(&mut self, line: &str) -> usize {
        self.news();
        self.heard.iter().filter(|heard| heard.line == line).count()
    }

    #[track_caller]
    fn wait_for(&mut self, line: &str, limit: Duration) -> Heard {
        wait_for(&format!("{line:?} is told"), limit, || {
            self.news();
            self.heard.iter().rev().find(|heard| heard.line == line).cloned()
        })
    }

    fn statuses(&mut self) -> Vec<String> {
        self.news();
        self.heard.iter().filter_map(|heard| heard.line.strip_prefix("STATUS=").map(str::to_owned)).collect()
    }
}

#[test]
fn a_node_alone_tells_its_manager_and_falls_silent_when_it_hangs() {
    isolated("a_node_alone_tells_its_manager_and_falls_silent_when_it_hangs", || {
        let host = Lab::new().host("n1");
        let mut manager = Manager::listen("n1");
        let limit = ms(1200);
        let keeper = manager.start(&host, &NodeConfig::single(&host), Some(limit));
        let daemon = wait_for("the keeper has a child", secs(10), || children(keeper.pid()).first().copied());
        manager.wait_for("READY=1", secs(10));
        manager.wait_for("STATUS=alone, holds 10.99.0.100/32 on eth0", secs(10));
        let fed = manager.count("WATCHDOG=1");
        wait_until("the watchdog is fed again and again", secs(20), || manager.count("WATCHDOG=1") >= fed + 10);
        let times: Vec<_> = manager.heard.iter().filter(|h| h.line == "WATCHDOG=1").map(|h| h.at).collect();
        let mut gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps.sort();
        assert!(gaps[gaps.len() / 2] < limit / 2, "the usual time between two is less than half of the watchdog's: {gaps:?}");

        let signal = |signal| kill(Pid::from_raw(daemon), signal).expect("the daemon runs");
        signal(Signal::SIGSTOP);
        wait_until("its hold ends", secs(10), || !host.has(lab::net::VIP4));
        manager.news();
        never_within("a daemon that hangs is alive to its manager", limit * 2, || manager.news().pop());
        signal(Signal::SIGCONT);
        let fed = manager.count("WATCHDOG=1");
        wait_until("it is alive again", secs(10), || manager.count("WATCHDOG=1") > fed);

        keeper.signal(Signal::SIGTERM);
        assert!(keeper.wait_exit(secs(15)).success());
        manager.wait_for("STOPPING=1", secs(1));
        assert_eq!((manager.count("READY=1"), manager.count("STOPPING=1")), (1, 1), "{:?}", manager.heard);
        let strangers: Vec<_> = manager.heard.iter().filter(|h| h.pid != keeper.pid()).collect();
        assert!(strangers.is_empty(), "all comes from the process that was started: {strangers:?}");
        let statuses = manager.statuses();
        assert!(statuses.windows(2).all(|pair| pair[0] != pair[1]), "changes only: {statuses:?}");
    });
}

#[test]
fn a_reload_is_told_from_its_beginning_to_its_end() {
    isolated("a_reload_is_told_from_its_beginning_to_its_end", || {
        let host = Lab::new().host("n1");
        let mut manager = Manager::listen("n1");
        let mut config = NodeConfig::single(&host);
        let keeper = manager.start(&host, &config, None);
        manager.wait_for("STATUS=alone, holds 10.99.0.100/32 on eth0", secs(10));
        manager.wait_for("READY=1", secs(10));
        let before = manager.heard.len();
        config.extra.push("drain: 1s".into());
        write_config(&config.id, &config.yaml());
        keeper.signal(Signal::SIGHUP);
        wait_until("it is ready again", secs(10), || manager.count("READY=1") == 2);
        let heard: Vec<_> = manager.heard[before..].iter().map(|h| h.line.split('=').next().unwrap_or_default()).collect();
        assert_eq!(heard, ["RELOADING", "MONOTONIC_USEC", "READY"]);
        keeper.wait_for_log("is in place: drain: 5s → 1s", secs(1));
    });
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    isolated("a_watchdog_of_another_process_is_not_fed", || {
        let host = Lab::new().host("n1");
        let mut manager = Manager::listen("n1");
        let file = write_config("n1", &NodeConfig::single(&host).yaml());
        let mut command = kube_vip();
        command.args(["start", "-d", "-c"]).arg(file).env("NOTIFY_SOCKET", &manager.path);
        let keeper = host.spawn("n1", command.env("WATCHDOG_USEC", "400000").env("WATCHDOG_PID", "1"));
        manager.wait_for("READY=1", secs(10));
        never_within("fed", secs(1), || manager.news().into_iter().find(|h| h.line == "WATCHDOG=1"));
        keeper.signal(Signal::SIGTERM);
        assert!(keeper.wait_exit(secs(15)).success());
    });
}

#[test]
fn each_node_of_a_cluster_tells_its_role() {
    isolated("each_node_of_a_cluster_tells_its_role", || {
        let lab = Lab::new();
        let hosts: Vec<Host> = ["n1", "n2", "n3"].iter().map(|name| lab.host(name)).collect();
        let mut managers: Vec<Manager> = ["n1", "n2", "n3"].iter().map(|name| Manager::listen(name)).collect();
        let start = |managers: &[Manager], i: usize| {
            let config = NodeConfig { timing: STEADY.into(), ..NodeConfig::member(&hosts[i], &hosts, false) };
            managers[i].start(&hosts[i], &config, Some(secs(10)))
        };
        // Its peers are down: a boot goes on nevertheless, but not at once.
        let begun = clock::now();
        let first = start(&managers, 0);
        let waiting = "STATUS=no leader: waiting for a majority";
        managers[0].wait_for(waiting, secs(30));
        managers[0].wait_for("READY=1", secs(30));
        assert!(clock::now() - begun > secs(14), "{:?}", managers[0].heard);

        let all = [first, start(&managers, 1), start(&managers, 2)];
        let vip = lab::net::VIP4;
        let holder = wait_for("one of them holds", secs(30), || (0..3).find(|&i| hosts[i].has(vip)));
        for (i, manager) in managers.iter_mut().enumerate() {
            let role = match i == holder {
                true => "STATUS=leader, holds 10.99.0.100/32 on eth0".to_owned(),
                false => format!("STATUS=follower of {}", hosts[holder].name()),
            };
            manager.wait_for(&role, secs(30));
            manager.wait_for("READY=1", secs(1));
        }
        all[holder].signal(Signal::SIGTERM);
        assert!(all[holder].wait_exit(secs(15)).success());
        managers[holder].wait_for("STOPPING=1", secs(1));
        let next = wait_for("another holds", secs(30), || (0..3).find(|&i| i != holder && hosts[i].has(vip)));
        managers[next].wait_for("STATUS=leader, holds 10.99.0.100/32 on eth0", secs(30));
        let third = 3 - holder - next;
        managers[third].wait_for(&format!("STATUS=follower of {}", hosts[next].name()), secs(30));
    });
}
