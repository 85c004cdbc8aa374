//! What happens to the boards, in order.

use super::board::Board;
use super::lab::net::VIP4;
use super::lab::{Host, Lab, process, secs, wait_for, wait_until};
use super::machine::Machine;
use super::options::Options;
use super::transfer::Servers;
use super::view::View;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// After a move: so long it is watched for a second answer.
const AFTER: Duration = secs(1);

/// Everything that the story needs.
struct Stage {
    boards: Vec<Board>,
    boots: [usize; 3],
    client: Host,
    servers: Servers,
    view: View,
    machine: Machine,
    mib: u64,
    faults: Vec<String>,
    moves: Vec<String>,
}

/// Tells the whole story; the exit code.
pub fn tell(options: &Options) -> i32 {
    let mut stage = Stage::new(options);
    stage.first_holder(options.fence);
    if options.planted {
        return stage.planted();
    }
    stage.kill_processes();
    stage.partition();
    stage.power_cut();
    stage.planned_stop();
    stage.verdict()
}

/// A line of what is done.
fn step(text: &str) {
    println!("▸ {text}");
}

fn note(text: &str) {
    println!("  {text}");
}

impl Stage {
    fn new(options: &Options) -> Stage {
        let lab = Lab::new();
        let [client, observer] = ["client", "observer"].map(|name| lab.host(name));
        let web = ["web1", "web2"].map(|name| lab.host(name)); // 10.99.0.3 and .4, as config.yaml has them
        let servers = Servers::start(&web, options.mib << 20);
        let mut boards: Vec<Board> = (1..=3).map(|n| Board::new(options.machine, &options.dir, n)).collect();
        boards.iter_mut().for_each(Board::power_on);
        let view = View::start(&client, &observer, &boards, options.machine.pace());
        let (machine, mib) = (options.machine, options.mib);
        Stage { boards, boots: [1; 3], client, servers, view, machine, mib, faults: Vec::new(), moves: Vec::new() }
    }

    fn first_holder(&mut self, fence: bool) {
        step("three boards are switched on");
        for (board, boots) in self.boards.iter().zip(self.boots) {
            note(&format!("{} has booted: {}", board.id(), board.booted(boots)));
        }
        let holder = self.view.wait_holder(None, self.machine.patience());
        note(&format!("{:.1} s after power on {} answers for {VIP4}", self.view.at(Instant::now()), self.boards[holder].id()));
        self.wait_all_in();
        self.tell_fences(fence);
        let before = self.pipes(holder);
        self.transfer();
        note(&format!("the daemon of {} has {before} pipes before, {} after", self.boards[holder].id(), self.pipes(holder)));
    }

    /// Another board gets the VIP without anybody's leave; 0 if that was found.
    fn planted(&mut self) -> i32 {
        let holder = self.view.wait_holder(None, self.machine.patience());
        let other = (holder + 1) % self.boards.len();
        step(&format!("{} is given {VIP4} by hand, while {} has it", self.boards[other].id(), self.boards[holder].id()));
        self.boards[other].ask(&format!("claim {VIP4}"), "claimed");
        std::thread::sleep(AFTER); // what is to be found
        let (proven, all) = self.view.doubles();
        note(&format!("{all} questions had two answers, {proven} prove two holders"));
        i32::from(proven == 0)
    }

    fn tell_fences(&mut self, wanted: bool) {
        for board in &mut self.boards {
            let status = wait_for("kube-vip status answers", self.machine.patience(), || board.status());
            let what = match (&status.fence_problem, status.fenced) {
                (_, true) => "kernel fence in place".to_owned(),
                (Some(why), _) => format!("no kernel fence: {why}"),
                (None, _) => "no kernel fence".to_owned(),
            };
            note(&format!("kube-vip status on {}: {}, {what}", status.id, status.role));
            if status.fenced != wanted {
                self.faults.push(format!("{}: {what}", status.id));
            }
        }
    }

    /// Nobody is left to remove anything: the kernel's fence silences the VIP, the address's lifetime removes it.
    fn kill_processes(&mut self) {
        let (old, at) = self.fault("kill -9 of both processes of", |board| drop(board.ask("kill", "killed")));
        let mut had = at;
        wait_until("the dead node's kernel has removed the VIP", self.machine.patience(), || {
            let asked = Instant::now();
            let has = self.has_vip(old);
            had = if has { asked } else { had };
            !has
        });
        let gone = at.elapsed();
        self.moved("kill -9 of everything", old, at);
        note(&format!(
            "{}'s kernel had the address until {} to {} ms after the kill, where its lifetime ended it",
            self.boards[old].id(),
            (had - at).as_millis(),
            gone.as_millis()
        ));
        self.boards[old].ask("start", "started");
        self.returned(old, "is started again");
    }

    /// The leader hears nobody and nobody hears it, but its link stays up.
    fn partition(&mut self) {
        let (old, at) = self.fault("the network loses", |board| board.detach());
        self.moved("partition", old, at);
        let has = self.has_vip(old);
        note(&format!(
            "{} alone: its kernel {} the address",
            self.boards[old].id(),
            if has { "STILL HAS" } else { "no longer has" }
        ));
        if has {
            self.faults.push(format!("{} kept the VIP in a partition", self.boards[old].id()));
        }
        self.boards[old].attach();
        self.returned(old, "is back on the network");
    }

    fn power_cut(&mut self) {
        let (old, at) = self.fault("power cut of", Board::cut_power);
        self.moved("power cut", old, at);
        self.boards[old].power_on();
        self.boots[old] += 1;
        note(&format!("{} has booted again: {}", self.boards[old].id(), self.boards[old].booted(self.boots[old])));
        self.returned(old, "is back");
    }

    fn planned_stop(&mut self) {
        let mut code = String::new();
        let (old, at) = self.fault("poweroff, in order, of", |board| code = board.shut_down());
        self.moved("planned stop", old, at);
        note(&format!("{}'s kube-vip ended with exit code {code}", self.boards[old].id()));
        if code != "0" {
            self.faults.push(format!("a planned stop ended with exit code {code}"));
        }
    }

    /// Does something to the board that answers; which one, and when.
    fn fault(&mut self, what: &str, act: impl FnOnce(&mut Board)) -> (usize, Instant) {
        let old = self.view.wait_holder(None, self.machine.patience());
        step(&format!("{what} {}, which answers", self.boards[old].id()));
        let at = Instant::now();
        act(&mut self.boards[old]);
        (old, at)
    }

    /// Waits for the next holder, and tells.
    fn moved(&mut self, what: &str, old: usize, at: Instant) {
        let new = self.view.wait_holder(Some(old), self.machine.patience());
        std::thread::sleep(AFTER); // not a wait for anything
        let after = |to: Instant| format!("{} ms after it", (to - at).as_millis());
        let last = self.view.answered(old, at).map_or("never again".to_owned(), |(_, last)| format!("last {}", after(last)));
        let first = self.view.answered(new, at).map_or("not yet".to_owned(), |(first, _)| format!("first {}", after(first)));
        let (old, new) = (self.boards[old].id(), self.boards[new].id());
        let gap = format!("no ping answered for {} ms", self.view.outage(at).as_millis());
        note(&format!("{old} answered {last}, {new} {first}; {gap}"));
        self.moves.push(format!("{what}: {old} → {new}, {gap}"));
        self.transfer();
    }

    /// The old one is in again; that must not move the VIP.
    fn returned(&mut self, board: usize, what: &str) {
        let at = Instant::now();
        self.wait_all_in();
        let gap = self.view.outage(at).as_millis();
        note(&format!(
            "{} {what}; in after {:.1} s, meanwhile the longest silence was {gap} ms",
            self.boards[board].id(),
            at.elapsed().as_secs_f64()
        ));
    }

    /// Every board that is on follows or leads, under one leader, and is connected with all others.
    fn wait_all_in(&mut self) {
        let limit = self.machine.patience();
        wait_until("all boards are in", limit, || {
            let views: Vec<_> = self.boards.iter_mut().filter(|b| b.is_on()).map(Board::status).collect();
            let Some(views) = views.into_iter().collect::<Option<Vec<_>>>() else { return false };
            views.iter().all(|v| {
                ["leader", "follower"].contains(&v.role.as_str())
                    && v.leader == views[0].leader
                    && v.peers.iter().all(|p| p.problem.is_none())
            })
        });
    }

    /// It makes a pipe when it first splices, and keeps it.
    fn pipes(&mut self, board: usize) -> String {
        self.boards[board].ask("pipes", "pipes ")
    }

    fn has_vip(&mut self, board: usize) -> bool {
        self.boards[board].ask("addresses", "addresses ").contains(&format!(" {VIP4}/"))
    }

    /// New connections through the VIP. One that is cut off may be tried again (the VIP may move by itself where a machine is too busy
    /// for the timing); one that arrives changed may not.
    fn transfer(&mut self) {
        let (end, mut cut) = (Instant::now() + self.machine.patience(), 0);
        let result = loop {
            match self.servers.transfer(&self.client) {
                Err(why) if why.kind() != ErrorKind::InvalidData && Instant::now() < end => cut += 1,
                result => break result,
            }
        };
        let tries = if cut > 0 { format!(" (after {cut} that were cut off)") } else { String::new() };
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        match result {
            Ok(times) => {
                let (mib, down, up) = (self.mib, seconds(times.down), seconds(times.up));
                note(&format!("{mib} MiB through the VIP, unchanged: down in {down}, up in {up}{tries}"));
            }
            Err(why) => self.faults.push(format!("a transfer through the VIP: {why}{tries}")),
        }
    }

    fn verdict(&mut self) -> i32 {
        step("who answered for the VIP (seconds after power on)");
        self.view.story().iter().for_each(|line| note(line));
        let restless = self.view.changes().saturating_sub(self.moves.len());
        if restless > 0 {
            note(&format!("it moved {restless} times by itself: this machine was too busy for that timing"));
        }
        self.moves.iter().for_each(|line| note(line));
        let (proven, all) = self.view.doubles();
        match (proven, all) {
            (0, 0) => note("no question was answered by two"),
            (0, all) => {
                note(&format!("{all} questions had two answers, asked before the VIP had moved: they waited in an emulator"))
            }
            _ => self
                .faults
                .push(format!("two boards answered for the VIP at once: {proven} questions prove it, {all} had two answers")),
        }
        for board in &self.boards {
            if board.lines_with("panicked at") > 0 {
                self.faults.push(format!("{}: the program panicked", board.id()));
            }
        }
        if self.faults.is_empty() {
            return 0;
        }
        self.faults.iter().for_each(|fault| println!("FAILED {fault}"));
        process::print_logs();
        1
    }
}
