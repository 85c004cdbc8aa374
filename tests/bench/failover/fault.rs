//! What can befall the leader, and the part of it that the network does.

use super::lab::Host;
use super::scene::Scene;

/// One way to lose the node that holds the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A planned stop: SIGTERM to the program as a service manager sends it.
    Term,
    /// A planned move by command, nothing stops.
    Handover,
    /// SIGKILL of the daemon; keepalived: of its VRRP process.
    KillDaemon,
    /// SIGKILL of the keeper; keepalived: of the parent process.
    KillKeeper,
    /// SIGKILL of both at once: nobody is left to remove anything.
    KillBoth,
    /// SIGSTOP of the daemon; keepalived: of its VRRP process.
    StopDaemon,
    /// SIGSTOP of both.
    StopBoth,
    /// The cable is pulled: the host sees its carrier go.
    Cable,
    /// The switch port swallows everything, the carrier stays.
    SilentPort,
    /// The other nodes no longer hear the leader; clients do, and the leader hears all.
    Unheard,
    /// The leader no longer hears the other nodes; everybody hears the leader.
    Deaf,
}

impl Fault {
    /// In the order of the tables.
    pub const ALL: [Fault; 11] = [
        Fault::Term,
        Fault::Handover,
        Fault::KillDaemon,
        Fault::KillKeeper,
        Fault::KillBoth,
        Fault::StopDaemon,
        Fault::StopBoth,
        Fault::Cable,
        Fault::SilentPort,
        Fault::Unheard,
        Fault::Deaf,
    ];

    /// The name for `--only`.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Term => "sigterm",
            Fault::Handover => "handover",
            Fault::KillDaemon => "kill-daemon",
            Fault::KillKeeper => "kill-keeper",
            Fault::KillBoth => "kill-both",
            Fault::StopDaemon => "stop-daemon",
            Fault::StopBoth => "stop-both",
            Fault::Cable => "cable",
            Fault::SilentPort => "silent-port",
            Fault::Unheard => "unheard",
            Fault::Deaf => "deaf",
        }
    }

    /// The name for people.
    pub fn title(self) -> &'static str {
        match self {
            Fault::Term => "SIGTERM",
            Fault::Handover => "handover by command",
            Fault::KillDaemon => "SIGKILL of the daemon",
            Fault::KillKeeper => "SIGKILL of the keeper",
            Fault::KillBoth => "SIGKILL of both",
            Fault::StopDaemon => "SIGSTOP of the daemon",
            Fault::StopBoth => "SIGSTOP of both",
            Fault::Cable => "cable pulled",
            Fault::SilentPort => "silent switch port",
            Fault::Unheard => "peers can't hear it",
            Fault::Deaf => "it can't hear peers",
        }
    }

    /// Whether the network does it, rather than a signal.
    pub fn is_network(self) -> bool {
        matches!(self, Fault::Cable | Fault::SilentPort | Fault::Unheard | Fault::Deaf)
    }

    /// Whether no process of the program is left to end a hold: then only a kernel can.
    pub fn leaves_nobody(self) -> bool {
        matches!(self, Fault::KillBoth | Fault::StopBoth)
    }

    /// Breaks the network around `scene.nodes[old]`; nothing for the other faults.
    pub fn cut(self, scene: &Scene, old: usize) {
        let leader = &scene.nodes[old];
        match self {
            Fault::Cable => leader.unplug(),
            Fault::SilentPort => leader.detach(),
            Fault::Unheard => others(scene, old).for_each(|other| other.stop_hearing(leader)),
            Fault::Deaf => others(scene, old).for_each(|other| leader.stop_hearing(other)),
            _ => {}
        }
    }
}

fn others(scene: &Scene, old: usize) -> impl Iterator<Item = &Host> {
    scene.nodes.iter().enumerate().filter(move |(i, _)| *i != old).map(|(_, host)| host)
}
