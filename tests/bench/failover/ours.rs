//! kube-vip as a contestant.

use super::contest::{Contestant, Kind, Setting};
use super::fault::Fault;
use super::lab::node::kube_vip;
use super::lab::process::{alive, children};
use super::lab::{Node, NodeConfig, ms, secs};
use super::scene::{Scene, steady, until};
use kube_vip::status::Snapshot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// Three nodes with one preset.
pub struct Ours {
    setting: Setting,
    nodes: Vec<Node>,
    /// The daemon of each node, as last seen.
    daemons: Vec<Pid>,
}

impl Ours {
    /// Not started yet.
    pub fn new(setting: Setting) -> Ours {
        debug_assert_eq!(setting.kind, Kind::Ours);
        Ours { setting, nodes: Vec::new(), daemons: Vec::new() }
    }

    fn daemon(&self, index: usize) -> Result<Pid, String> {
        self.daemons.get(index).copied().ok_or_else(|| "no daemon is known".to_owned())
    }

    /// Restarts a node once both of its processes are gone.
    fn restart(&self, index: usize) -> Result<(), String> {
        let (node, daemon) = (&self.nodes[index], self.daemon(index)?);
        until("both processes of the old leader are gone", secs(15), || {
            (node.ended() && !alive(daemon.as_raw())).then_some(())
        })?;
        node.restart();
        Ok(())
    }

    /// The leader, if all agree on it, it holds alone, and every node has heard from both others just now.
    fn view(&self, scene: &Scene) -> Option<usize> {
        let views: Vec<Snapshot> = self.nodes.iter().map(|n| n.status()).collect::<Option<_>>()?;
        let first = &views[0];
        let agree = views.iter().all(|v| v.leader == first.leader && v.term == first.term && v.role != "quiet");
        // Peers that have nothing to tell each other send a frame each half second.
        let heard = |v: &Snapshot| v.peers.iter().all(|p| p.problem.is_none() && p.last_contact_ms.is_some_and(|ms| ms < 700));
        let leader = self.nodes.iter().position(|n| Some(n.id()) == first.leader.as_deref())?;
        let alone = views.iter().enumerate().all(|(i, v)| v.held == (i == leader)) && scene.holders() == [leader];
        (agree && alone && views.iter().all(heard)).then_some(leader)
    }
}

impl Contestant for Ours {
    fn start(&mut self, scene: &Scene) -> Result<(), String> {
        let preset = self.setting.name.clone();
        let node =
            |host| Node::start(host, &NodeConfig { timing: preset.clone(), ..NodeConfig::member(host, &scene.nodes, false) });
        self.nodes = scene.nodes.iter().map(node).collect();
        Ok(())
    }

    fn end(&mut self, scene: &Scene) {
        for node in &self.nodes {
            for pid in children(node.keeper_pid()).into_iter().chain([node.keeper_pid()]) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        for node in std::mem::take(&mut self.nodes) {
            let _ = until("a killed node is gone", secs(5), || node.ended().then_some(()));
            let _ = node.host.run(kube_vip().arg("cleanup").arg("-c").arg(node.file()));
            let _ = std::fs::remove_dir_all(node.state_dir());
        }
        let _ = until("no kernel has the VIP", secs(8), || scene.holders().is_empty().then_some(()));
    }

    fn settled(&mut self, scene: &Scene, after: Option<Fault>) -> Result<usize, String> {
        // A connection that was cut may look well until TCP repeats itself: watch two of its peers' frames go by.
        let calm = if after.is_some_and(Fault::is_network) { ms(1200) } else { ms(200) };
        let leader = steady("all three nodes agree, are in touch and one holds", secs(30), calm, || self.view(scene))?;
        let pids = self.nodes.iter().map(|n| children(n.keeper_pid()).first().copied().map(Pid::from_raw));
        self.daemons = pids.collect::<Option<_>>().ok_or("a keeper has no daemon")?;
        Ok(leader)
    }

    fn inject(&mut self, scene: &Scene, fault: Fault, old: usize) -> Result<(), String> {
        let daemon = self.daemon(old)?;
        let keeper = Pid::from_raw(self.nodes[old].keeper_pid());
        let signal = |pid, signal| kill(pid, signal).map_err(|e| format!("can't send {signal} to process {pid}: {e}"));
        match fault {
            Fault::Term => signal(keeper, Signal::SIGTERM)?,
            Fault::Handover => {
                let mut command = kube_vip();
                command.arg("handover").arg("-c").arg(self.nodes[old].file());
                let out = self.nodes[old].host.run(&command);
                if !out.status.success() {
                    return Err(format!("`kube-vip handover` failed: {}", String::from_utf8_lossy(&out.stderr).trim()));
                }
            }
            Fault::KillDaemon => signal(daemon, Signal::SIGKILL)?,
            Fault::KillKeeper => signal(keeper, Signal::SIGKILL)?,
            // Both are frozen before either dies, so that neither can do anything about the other's death.
            Fault::KillBoth => {
                signal(daemon, Signal::SIGSTOP)?;
                signal(keeper, Signal::SIGKILL)?;
                signal(daemon, Signal::SIGKILL)?;
            }
            Fault::StopDaemon => signal(daemon, Signal::SIGSTOP)?,
            Fault::StopBoth => {
                signal(daemon, Signal::SIGSTOP)?;
                signal(keeper, Signal::SIGSTOP)?;
            }
            Fault::Cable | Fault::SilentPort | Fault::Unheard | Fault::Deaf => fault.cut(scene, old),
        }
        Ok(())
    }

    fn repair(&mut self, scene: &Scene, fault: Fault, old: usize) -> Result<(), String> {
        match fault {
            Fault::Term | Fault::KillDaemon | Fault::KillKeeper | Fault::KillBoth => self.restart(old)?,
            Fault::StopDaemon | Fault::StopBoth => {
                for pid in [Pid::from_raw(self.nodes[old].keeper_pid()), self.daemon(old)?] {
                    let _ = kill(pid, Signal::SIGCONT);
                }
            }
            _ => scene.mend(),
        }
        Ok(())
    }

    fn fenced(&self, index: usize) -> Option<bool> {
        let node = &self.nodes[index];
        let out = node.host.run(kube_vip().args(["status", "--json", "-c"]).arg(node.file()));
        let status: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
        status.get("fenced")?.as_bool()
    }

    fn setting(&self) -> &Setting {
        &self.setting
    }
}

/// Whether this build has `kube-vip handover`.
pub fn knows_handover() -> bool {
    let help = kube_vip().arg("--help").output().map(|out| out.stdout).unwrap_or_default();
    String::from_utf8_lossy(&help).lines().any(|line| line.trim_start().starts_with("handover"))
}

/// From the start of three nodes without any state to the first answered ping, `trials` times.
pub fn first_holder_times(scene: &Scene, trials: usize) -> Result<Vec<Duration>, String> {
    use super::lab::{Prober, net::VIP4};
    let mut ours = Ours::new(Setting::ours("lan", ms(50)));
    let mut times = Vec::new();
    for _ in 0..trials {
        let prober = Prober::start(&scene.client, VIP4);
        let start = std::time::Instant::now();
        ours.start(scene)?;
        let first = until("the VIP answers", secs(30), || prober.first_answer_after(start))?;
        times.push(first - start);
        ours.end(scene);
    }
    Ok(times)
}
