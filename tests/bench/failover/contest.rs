//! What the measuring needs to know of a contestant.

use super::fault::Fault;
use super::scene::Scene;
use std::time::Duration;

/// One program with one setting, on the three nodes of a scene.
pub trait Contestant {
    /// Starts all nodes, without state from earlier.
    fn start(&mut self, scene: &Scene) -> Result<(), String>;

    /// Ends all nodes, also broken ones, and removes what they left.
    fn end(&mut self, scene: &Scene);

    /// Waits until all three nodes are in and one holds, for a while; returns which.
    fn settled(&mut self, scene: &Scene, after: Option<Fault>) -> Result<usize, String>;

    /// Does `fault` to node `old`.
    fn inject(&mut self, scene: &Scene, fault: Fault, old: usize) -> Result<(), String>;

    /// Repairs it: signals, restarts.
    fn repair(&mut self, scene: &Scene, fault: Fault, old: usize) -> Result<(), String>;

    /// Whether node `index` has the kernel fence in place, if the program knows such a thing.
    fn fenced(&self, index: usize) -> Option<bool>;

    /// Its label and figures.
    fn setting(&self) -> &Setting;
}

/// A contestant by name and numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// For `--only`.
    pub name: String,
    /// For people.
    pub title: String,
    pub kind: Kind,
    /// Heartbeat or advertisement interval: faults are spread evenly over one.
    pub period: Duration,
    /// A holder that still answers after so long has survived the fault.
    pub patience: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Keepalived,
}

impl Setting {
    /// Ours with a preset whose heartbeat is `heartbeat`.
    pub fn ours(preset: &str, heartbeat: Duration) -> Setting {
        let title = format!("kube-vip `{preset}`");
        let patience = Duration::from_secs(6); // longer than any lifetime of an address
        Setting { name: preset.to_owned(), title, kind: Kind::Ours, period: heartbeat, patience }
    }

    /// keepalived with an advertisement each `advert`, a multiple of 10 ms.
    pub fn keepalived(advert: Duration) -> Setting {
        let name = if advert.subsec_millis() == 0 {
            format!("keepalived-{}s", advert.as_secs())
        } else {
            format!("keepalived-{}ms", advert.as_millis())
        };
        let title = format!("keepalived {} s", advert.as_secs_f64());
        let patience = advert * 5 + Duration::from_secs(1);
        Setting { name, title, kind: Kind::Keepalived, period: advert, patience }
    }

    /// Why `fault` can't be tried with it.
    pub fn lacks(&self, fault: Fault, handover_known: bool) -> Option<&'static str> {
        match (fault, self.kind) {
            (Fault::Handover, Kind::Keepalived) => Some("has no such command"),
            (Fault::Handover, Kind::Ours) if !handover_known => Some("command not in this build"),
            _ => None,
        }
    }
}
