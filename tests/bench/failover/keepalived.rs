//! keepalived as a contestant: one VRRP instance on three hosts, its defaults but for the interval and `nopreempt`.

use super::contest::{Contestant, Kind, Setting};
use super::fault::Fault;
use super::lab::net::VIP4;
use super::lab::process::{alive, children};
use super::lab::{Host, LAB_DIR, Process, ms, secs};
use super::scene::{Scene, steady, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// The program, and its libraries where it isn't installed: `$KEEPALIVED_BIN`, `$KEEPALIVED_LIBS` (set by scripts/bench).
fn program() -> Command {
    let mut command = Command::new(std::env::var_os("KEEPALIVED_BIN").unwrap_or_else(|| "keepalived".into()));
    if let Some(libs) = std::env::var_os("KEEPALIVED_LIBS") {
        command.env("LD_LIBRARY_PATH", libs);
    }
    command
}

/// Its version, or why it can't be run.
pub fn version() -> Result<String, String> {
    let out = program().arg("--version").output().map_err(|e| format!("can't start keepalived: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let first = text.lines().next().unwrap_or_default().to_owned();
    if out.status.success() { Ok(first) } else { Err(format!("keepalived can't run: {first}")) }
}

/// Three nodes with one interval.
pub struct Keepalived {
    setting: Setting,
    nodes: Vec<Process>,
    /// The VRRP process of each node, as last seen.
    vrrp: Vec<Pid>,
}

impl Keepalived {
    /// Not started yet.
    pub fn new(setting: Setting) -> Keepalived {
        debug_assert_eq!(setting.kind, Kind::Keepalived);
        Keepalived { setting, nodes: Vec::new(), vrrp: Vec::new() }
    }

    /// VRRP version 2 counts in seconds; shorter intervals need version 3. Priorities 250, 200, 150 keep the skew small.
    fn config(&self, index: usize) -> String {
        let seconds = self.setting.period.as_secs_f64();
        let version = if self.setting.period.subsec_nanos() == 0 { 2 } else { 3 };
        let mut text =
            String::from("vrrp_instance vip {\n  state BACKUP\n  nopreempt\n  interface eth0\n  virtual_router_id 51\n");
        let _ = writeln!(text, "  version {version}\n  advert_int {seconds}\n  priority {}", 250 - 50 * index);
        let _ = writeln!(text, "  virtual_ipaddress {{ {VIP4}/32 dev eth0 }}\n}}");
        text
    }

    fn launch(&self, index: usize, host: &Host) -> Result<Process, String> {
        let file = |suffix: &str| PathBuf::from(format!("{LAB_DIR}/keepalived-{}.{suffix}", host.name()));
        let [config, parent, child] = ["conf", "pid", "vrrp.pid"].map(file);
        std::fs::write(&config, self.config(index)).map_err(|e| format!("{}: {e}", config.display()))?;
        let _ = (std::fs::remove_file(&parent), std::fs::remove_file(&child)); // of a killed one
        let mut command = program();
        // In the foreground, log to stderr with details, VRRP only.
        command.args(["-n", "-l", "-D", "-P", "-f"]).arg(config).arg("-p").arg(parent).arg("-r").arg(child);
        Ok(host.spawn(&format!("keepalived-{}", host.name()), &command))
    }

    fn parent(&self, index: usize) -> Pid {
        Pid::from_raw(self.nodes[index].pid())
    }

    fn vrrp(&self, index: usize) -> Result<Pid, String> {
        self.vrrp.get(index).copied().ok_or_else(|| "no VRRP process is known".to_owned())
    }

    /// Ends what is left of a node and starts it again: a parent that just respawned its child is slower the next time.
    fn restart(&mut self, index: usize, host: &Host) -> Result<(), String> {
        let vrrp = self.vrrp(index)?;
        self.nodes[index].signal(Signal::SIGTERM);
        until("the old master's parent process ends", secs(10), || self.nodes[index].exited())?;
        if alive(vrrp.as_raw()) {
            let _ = kill(vrrp, Signal::SIGTERM);
        }
        until("the old master's VRRP process ends", secs(10), || (!alive(vrrp.as_raw())).then_some(()))?;
        self.nodes[index] = self.launch(index, host)?;
        Ok(())
    }

    /// The master, if there is exactly one by everybody's log and by the kernels' addresses.
    fn view(&self, scene: &Scene) -> Option<usize> {
        let states: Vec<State> = self.nodes.iter().map(|n| state(&n.output())).collect::<Option<_>>()?;
        let masters: Vec<usize> = (0..states.len()).filter(|&i| states[i] == State::Master).collect();
        let [master] = masters[..] else { return None };
        (states.iter().filter(|s| **s == State::Backup).count() == 2 && scene.holders() == [master]).then_some(master)
    }

    /// What each node said last, and which kernels have the VIP: for a wait in vain.
    fn story(&self, scene: &Scene) -> String {
        let last = |n: &Process| n.output().lines().next_back().unwrap_or_default().to_owned();
        let said: Vec<String> = self.nodes.iter().map(last).collect();
        format!("newest log lines: {said:?}, the VIP is on {:?}", scene.holders())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Master,
    Backup,
    Other,
}

/// The state entered last since the newest start, by its log.
fn state(log: &str) -> Option<State> {
    // Not the line about the VRRP process: its parent may write that one after the child's first lines.
    let newest = &log[log.rfind("Starting Keepalived v")?..];
    let line = newest.lines().rfind(|l| l.contains(") Entering "))?;
    Some(match line {
        l if l.contains("MASTER") => State::Master,
        l if l.contains("BACKUP") => State::Backup,
        _ => State::Other,
    })
}

impl Contestant for Keepalived {
    fn start(&mut self, scene: &Scene) -> Result<(), String> {
        self.nodes = scene.nodes.iter().enumerate().map(|(i, host)| self.launch(i, host)).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn end(&mut self, scene: &Scene) {
        for node in std::mem::take(&mut self.nodes) {
            for pid in children(node.pid()).into_iter().chain([node.pid()]) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = until("a killed keepalived is gone", secs(5), || node.exited());
        }
        for host in &scene.nodes {
            host.sh(&format!(
                "ip addr del {VIP4}/32 dev eth0 2>/dev/null || true; rm -f {LAB_DIR}/keepalived-{}.log",
                host.name()
            ));
        }
    }

    fn settled(&mut self, scene: &Scene, _: Option<Fault>) -> Result<usize, String> {
        let calm = self.setting.period + ms(200); // every backup has heard an advertisement
        let master = steady("there is one master and two backups", secs(30), calm, || self.view(scene))
            .map_err(|why| format!("{why}; {}", self.story(scene)))?;
        let pids = self.nodes.iter().map(|n| children(n.pid()).first().copied().map(Pid::from_raw));
        self.vrrp = pids.collect::<Option<_>>().ok_or("a keepalived has no VRRP process")?;
        Ok(master)
    }

    fn inject(&mut self, scene: &Scene, fault: Fault, old: usize) -> Result<(), String> {
        let (parent, vrrp) = (self.parent(old), self.vrrp(old)?);
        let signals: &[(Pid, Signal)] = match fault {
            Fault::Term => &[(parent, Signal::SIGTERM)],
            Fault::KillDaemon => &[(vrrp, Signal::SIGKILL)],
            Fault::KillKeeper => &[(parent, Signal::SIGKILL)],
            Fault::KillBoth => &[(vrrp, Signal::SIGSTOP), (parent, Signal::SIGKILL), (vrrp, Signal::SIGKILL)],
            Fault::StopDaemon => &[(vrrp, Signal::SIGSTOP)],
            Fault::StopBoth => &[(vrrp, Signal::SIGSTOP), (parent, Signal::SIGSTOP)],
            Fault::Handover => return Err("keepalived has no such command".to_owned()),
            Fault::Cable | Fault::SilentPort | Fault::Unheard | Fault::Deaf => &[],
        };
        for (pid, signal) in signals {
            kill(*pid, *signal).map_err(|e| format!("can't send {signal} to process {pid}: {e}"))?;
        }
        fault.cut(scene, old);
        Ok(())
    }

    fn repair(&mut self, scene: &Scene, fault: Fault, old: usize) -> Result<(), String> {
        match fault {
            Fault::StopDaemon | Fault::StopBoth => {
                for pid in [self.vrrp(old)?, self.parent(old)] {
                    let _ = kill(pid, Signal::SIGCONT);
                }
                Ok(())
            }
            _ if fault.is_network() => {
                scene.mend();
                Ok(())
            }
            _ => self.restart(old, &scene.nodes[old]),
        }
    }

    fn fenced(&self, _: usize) -> Option<bool> {
        None
    }

    fn setting(&self) -> &Setting {
        &self.setting
    }
}
