//! What arrives: at a daemon's sockets, at a keeper's packet socket, or at a port that nobody has.

use super::hub::What;
use super::keeper::Keeper;
use super::net::{Content, Packet};
use super::world::{World, latency};
use kube_vip::cluster::Label;
use kube_vip::vip::state::Input;

impl World {
    pub fn post(&mut self, from: usize, to: usize, content: Content) {
        self.net.send(Packet { from, to, content });
    }

    pub fn arrive(&mut self, packet: Packet) {
        let (from, to) = (packet.from, packet.to);
        if !self.hosts[to].powered {
            return;
        }
        match packet.content {
            Content::Claim => self.claimed(from, to),
            Content::Probe if self.hosts[to].answers() => self.post(to, from, Content::Claim),
            Content::Probe => {}
            _ if self.is_for_nobody(&packet) => self.refuse(packet),
            _ => self.deliver(packet),
        }
    }

    fn claimed(&mut self, from: usize, to: usize) {
        let host = &mut self.hosts[to];
        let Some(keeper) = host.keeper.as_mut().filter(|_| host.kernel.link_up) else { return };
        keeper.signal(Input::Claim([2, 0, 0, 0, 0, from as u8 + 1]));
        let run = keeper.run;
        self.hub.after(latency(&self.hub), What::Keeper { node: to, run });
    }

    fn is_for_nobody(&self, packet: &Packet) -> bool {
        let daemon = self.hosts[packet.to].daemon.as_ref().filter(|d| d.inside.wires.get().is_some());
        match (&packet.content, daemon) {
            (_, None) => true,
            (Content::Request { run, .. }, Some(daemon)) => daemon.run != *run,
            _ => false,
        }
    }

    /// The kernel answers for a port that nobody has, or a connection that nobody knows.
    fn refuse(&mut self, packet: Packet) {
        if let Content::Hello { line, .. } | Content::Request { line, .. } = packet.content {
            self.post(packet.to, packet.from, Content::Reset { line });
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let (from, to, now) = (packet.from, packet.to, self.hub.now());
        if let Content::Response { line, bytes } = &packet.content {
            self.check.answered(now, from, to, *line, bytes);
        }
        self.hub.note(to, kind(&packet.content), super::hub::QUIET, from as u64);
        self.print(&packet);
        let Some(daemon) = self.hosts[to].daemon.as_mut() else { return };
        daemon.inbox.push_back(packet);
        self.run_daemon(to);
    }

    /// For a replay.
    fn print(&self, packet: &Packet) {
        if let Content::Request { bytes, line, .. } | Content::Response { bytes, line } = &packet.content
            && self.hub.record.borrow().prints(self.hub.now())
        {
            println!("      line {line}: {:?}", Label::of(bytes));
        }
    }

    /// Whether the keeper of this node is at work and nothing holds it up.
    pub fn keeper_runs(keeper: &Option<Keeper>) -> bool {
        keeper.as_ref().is_some_and(Keeper::runs)
    }
}

fn kind(content: &Content) -> &'static str {
    match content {
        Content::Hello { .. } => "hello",
        Content::Answer { .. } => "answer",
        Content::Request { .. } => "request",
        Content::Response { .. } => "response",
        Content::Reset { .. } => "reset",
        Content::Notice { .. } => "notice",
        Content::Claim => "claim",
        Content::Probe => "probe",
    }
}
