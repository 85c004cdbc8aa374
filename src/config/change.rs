//! What differs between the configuration that runs and a new one: what can be put in place while running, and what can't. Pure.

mod words; // a difference as a person reads it

use super::checked::{Balancer, Config, Peer};
use super::fields::written;
use std::collections::HashMap;
use std::fmt;

/// What a reload changes; nothing of it takes a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Balancers that are new, by name.
    pub added: Vec<String>,
    /// Balancers that go.
    pub removed: Vec<String>,
    /// Balancers that get another name: the old and the new one.
    pub renamed: Vec<(String, String)>,
    /// Balancers that stay and differ: name, and each difference.
    pub changed: Vec<(String, Vec<String>)>,
    /// Keys at the top, each as `drain: 5s → 10s`.
    pub keys: Vec<String>,
}

/// What can't be changed while running: each key as `vip: 10.0.0.9 → 10.0.0.8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakesRestart(pub Vec<String>);

impl Changes {
    /// Whether both say the same.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares what runs with what is wanted.
///
/// # Errors
/// Every key that differs and can't be changed while running.
pub fn between(old: &Config, new: &Config) -> Result<Changes, TakesRestart> {
    let fixed = fixed(old, new);
    if !fixed.is_empty() {
        return Err(TakesRestart(fixed));
    }
    let mut changes = Changes { keys: keys(old, new), ..Changes::default() };
    let (before, after) = (by_name(&old.balancers), by_name(&new.balancers));
    let mut gone: Vec<&Balancer> = old.balancers.iter().filter(|b| !after.contains_key(b.name.as_str())).collect();
    for balancer in &new.balancers {
        let same = |b: &&Balancer| (b.port, b.bind_to_vip) == (balancer.port, balancer.bind_to_vip);
        let known = before.get(balancer.name.as_str()).copied();
        // Its socket stays, so it is the same one by another name.
        let renamed = if known.is_none() { gone.iter().position(same).map(|at| gone.remove(at)) } else { None };
        changes.renamed.extend(renamed.map(|b| (b.name.clone(), balancer.name.clone())));
        match known.or(renamed) {
            None => changes.added.push(balancer.name.clone()),
            Some(before) => {
                let differences = words::balancer(before, balancer);
                if !differences.is_empty() {
                    changes.changed.push((balancer.name.clone(), differences));
                }
            }
        }
    }
    changes.removed = gone.into_iter().map(|b| b.name.clone()).collect();
    Ok(changes)
}

fn by_name(list: &[Balancer]) -> HashMap<&str, &Balancer> {
    list.iter().map(|b| (b.name.as_str(), b)).collect()
}

/// `key: old → new`, where they differ.
fn differs<T: PartialEq>(key: &str, old: &T, new: &T, text: impl Fn(&T) -> String) -> Option<String> {
    (old != new).then(|| format!("{key}: {} → {}", text(old), text(new)))
}

/// Keys at the top that the daemon changes while running. `startAsLeader` counts at the very first election only.
fn keys(old: &Config, new: &Config) -> Vec<String> {
    let number = |n: &Option<u32>| n.map_or("no limit".to_owned(), |n| n.to_string());
    let all = [
        differs("maxConnections", &old.max_connections, &new.max_connections, number),
        differs("resolveInterval", &old.resolve_interval, &new.resolve_interval, |t| written(*t)),
        differs("drain", &old.drain, &new.drain, |t| written(*t)),
        differs("trackBackends", &old.track_backends, &new.track_backends, bool::to_string),
        differs("startAsLeader", &old.start_as_leader, &new.start_as_leader, bool::to_string),
    ];
    all.into_iter().flatten().collect()
}

/// Keys at the top that count from the start on: the election, the keeper and the places of files are made with them.
fn fixed(old: &Config, new: &Config) -> Vec<String> {
    let account = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".to_owned());
    let preempt =
        |time: &Option<std::time::Duration>| time.map_or("false".to_owned(), |t| format!("true after {}", written(t)));
    let all = [
        differs("vip", &old.vip, &new.vip, ToString::to_string),
        differs("interface", &old.interface, &new.interface, String::clone),
        differs("gratuitousARP", &old.announce, &new.announce, bool::to_string),
        differs("singleNode", &old.single_node, &new.single_node, bool::to_string),
        differs("disableVIP", &old.disable_vip, &new.disable_vip, bool::to_string),
        differs("timing.heartbeat", &old.timing.heartbeat, &new.timing.heartbeat, |t| written(*t)),
        differs("timing.lease", &old.timing.lease, &new.timing.lease, |t| written(*t)),
        differs("fence", &old.fence_fast, &new.fence_fast, |fast| if *fast { "fast" } else { "safe" }.to_owned()),
        differs("witness", &old.witness, &new.witness, bool::to_string),
        differs("preempt", &old.preempt, &new.preempt, preempt),
        differs("realtime", &old.realtime, &new.realtime, bool::to_string),
        differs("stateDir", &old.state_dir, &new.state_dir, |p| p.display().to_string()),
        differs("controlSocket", &old.control_socket, &new.control_socket, |p| p.display().to_string()),
        differs("user", &old.user, &new.user, account),
        differs("group", &old.group, &new.group, account),
    ];
    nodes(old, new).into_iter().chain(all.into_iter().flatten()).collect()
}

/// This node and the others, by id.
fn nodes(old: &Config, new: &Config) -> Vec<String> {
    let mut all: Vec<String> = differs("this node's id", &old.local.id, &new.local.id, String::clone).into_iter().collect();
    let find = |config: &Config, id: &str| config.remotes.iter().find(|p| p.id == id).cloned();
    if all.is_empty() {
        node(&old.local, &new.local, &mut all);
    }
    for peer in &old.remotes {
        match find(new, &peer.id) {
            None => all.push(format!("node {}: {} → none", peer.id, peer.address)),
            Some(other) => node(peer, &other, &mut all),
        }
    }
    let more = new.remotes.iter().filter(|peer| find(old, &peer.id).is_none());
    all.extend(more.map(|peer| format!("node {}: none → {}", peer.id, peer.address)));
    all
}

fn node(old: &Peer, new: &Peer, all: &mut Vec<String>) {
    let key = |what: &str| format!("{what} of node {}", old.id);
    all.extend(differs(&key("address"), &old.address, &new.address, ToString::to_string));
    all.extend(differs(&key("priority"), &old.priority, &new.priority, ToString::to_string));
}

impl fmt::Display for Changes {
    /// On one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (what, names) in [("added", &self.added), ("removed", &self.removed)] {
            parts.extend(names.iter().map(|name| format!("balancer {name} {what}")));
        }
        parts.extend(self.renamed.iter().map(|(old, new)| format!("balancer {old} is {new} now")));
        parts.extend(self.changed.iter().map(|(name, list)| format!("balancer {name}: {}", few(list, ", "))));
        parts.extend(self.keys.iter().cloned());
        if parts.is_empty() { f.write_str("nothing has changed") } else { f.write_str(&few(&parts, "; ")) }
    }
}

/// The first of many: a line of the log has an end.
fn few(list: &[String], between: &str) -> String {
    const SHOWN: usize = 20;
    let more = list.len().saturating_sub(SHOWN);
    let shown = list.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(between);
    if more > 0 { format!("{shown}{between}and {more} more") } else { shown }
}

impl fmt::Display for TakesRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (which, undo) = if self.0.len() == 1 { ("this takes", "it") } else { ("these take", "them") };
        write!(f, "{which} a restart: {}; restart kube-vip, or change {undo} back", self.0.join("; "))
    }
}

impl std::error::Error for TakesRestart {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, judge};
    use std::path::Path;

    const FILE: &str = "vip: 10.0.0.9
interface: eth0
peers:
- {id: a, address: 10.0.0.1, port: 1}
- {id: b, address: 10.0.0.2, port: 1}
loadBalancers:
- {name: web, port: 80, bindToVip: true, backends: [{address: 10.0.0.7, port: 1}, {address: 10.0.0.8, port: 1}]}
- {name: db, port: 81, bindToVip: true, backends: [{address: db.lan, port: 1}]}
";

    fn config(text: &str) -> Config {
        let draft = judge(Path::new("f"), text, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"));
        draft.resolve(&["10.0.0.1".parse().expect("an address")], None).expect("placed").config
    }

    /// What is said where `from` becomes `to` in the file.
    fn told(from: &str, to: &str) -> String {
        assert!(FILE.contains(from), "{from}");
        let new = config(&FILE.replacen(from, to, 1));
        between(&config(FILE), &new).map_or_else(|e| e.to_string(), |c| c.to_string())
    }

    #[test]
    fn what_may_change_is_told_by_name() {
        for (from, to, says) in [
            ("", "", "nothing has changed"),
            ("vip: 10.0.0.9\n", "drain: 10s\nvip: 10.0.0.9\n", "drain: 5s → 10s"),
            (
                "vip: 10.0.0.9\n",
                "maxConnections: 7\nresolveInterval: 1m\nvip: 10.0.0.9\n",
                "maxConnections: no limit → 7; resolveInterval: 30s → 60s",
            ),
            ("vip: 10.0.0.9\n", "trackBackends: true\nvip: 10.0.0.9\n", "trackBackends: false → true"),
            ("vip: 10.0.0.9\n", "startAsLeader: true\nvip: 10.0.0.9\n", "startAsLeader: false → true"),
            ("name: db,", "name: sql,", "balancer db is sql now"),
            ("name: db, port: 81,", "name: sql, queue: 0, port: 81,", "balancer db is sql now; balancer sql: queue: 1000 → 0"),
            ("name: db, port: 81,", "name: sql, port: 82,", "balancer sql added; balancer db removed"),
            ("port: 81,", "port: 82,", "balancer db: port: 81 → 82"),
            ("port: 81, bindToVip: true,", "port: 81,", "balancer db: bindToVip: true → false"),
            (
                "{address: 10.0.0.8, port: 1}",
                "{address: 10.0.0.6, port: 1}",
                "balancer web: backend 10.0.0.6:1 added, backend 10.0.0.8:1 removed",
            ),
            (
                "{address: 10.0.0.8, port: 1}",
                "{address: 10.0.0.8, port: 1, weight: 3, backup: true}",
                "balancer web: weight of 10.0.0.8:1: 1 → 3, backup of 10.0.0.8:1: false → true",
            ),
            (
                "{address: db.lan, port: 1}",
                "{address: db.lan, port: 1, maxConnections: 9}",
                "balancer db: maxConnections of db.lan:1: no limit → 9",
            ),
            (
                "name: web,",
                "name: web, balance: random2, healthCheck: http, slowStart: 30s,",
                "balancer web: balance: roundRobin → random2, healthCheck: none → http /, slowStart: 0s → 30s",
            ),
            (
                "name: web,",
                "name: web, allow: [10.0.0.0/8, 10.1.1.1], sendProxy: v2,",
                "balancer web: sendProxy: none → v2, allow: none → 10.0.0.0/8 10.1.1.1/32",
            ),
            (
                "name: web,",
                "name: web, idleTimeout: 2h, acceptRate: 5,",
                "balancer web: acceptRate: no limit → 5, idleTimeout: 1h → 2h",
            ),
            (
                "[{address: 10.0.0.7, port: 1}, {address: 10.0.0.8, port: 1}]",
                "[{address: 10.0.0.8, port: 1}, {address: 10.0.0.7, port: 1}]",
                "balancer web: the order of backends",
            ),
        ] {
            assert_eq!(told(from, to), says);
        }
    }

    #[test]
    fn what_takes_a_restart_is_refused_with_all_of_it_named() {
        for (from, to, says) in [
            (
                "vip: 10.0.0.9",
                "vip: 10.0.0.10",
                "this takes a restart: vip: 10.0.0.9 → 10.0.0.10; restart kube-vip, or change it back",
            ),
            ("interface: eth0", "interface: eth1", "interface: eth0 → eth1"),
            (
                "interface: eth0",
                "interface: eth0\ntiming: wifi",
                "these take a restart: timing.heartbeat: 50ms → 500ms; timing.lease: 250ms → 3s; restart kube-vip, or change them back",
            ),
            (
                "interface: eth0",
                "interface: eth0\nfence: fast\nrealtime: false\ngratuitousARP: true",
                "gratuitousARP: false → true; fence: safe → fast; realtime: true → false",
            ),
            ("interface: eth0", "interface: eth0\npreempt: true", "preempt: false → true after 10s"),
            (
                "interface: eth0",
                "interface: eth0\nuser: x\nstateDir: /x\ncontrolSocket: /x.sock",
                "stateDir: /var/lib/kube-vip/a → /x; controlSocket: /run/kube-vip/a.sock → /x.sock; user: none → x",
            ),
            (
                "{id: a, address: 10.0.0.1, port: 1}",
                "{id: a, address: 10.0.0.1, port: 2, priority: 9, witness: true}",
                "address of node a: 10.0.0.1:1 → 10.0.0.1:2; priority of node a: 100 → 9; witness: false → true",
            ),
            (
                "{id: b, address: 10.0.0.2, port: 1}",
                "{id: c, address: 10.0.0.2, port: 1}",
                "node b: 10.0.0.2:1 → none; node c: none → 10.0.0.2:1",
            ),
            ("{id: a,", "{id: x,", "this node's id: a → x"),
        ] {
            let told = told(from, to);
            assert!(told.contains("a restart: ") && told.contains(says), "{told}\nshould contain\n{says}");
        }
        let both = FILE.replace("vip: 10.0.0.9", "vip: 10.0.0.10").replace("name: db", "name: sql");
        assert!(between(&config(FILE), &config(&both)).is_err(), "all or nothing");
    }

    #[test]
    fn names_that_change_places_are_no_new_names() {
        let swapped = FILE.replace("name: web", "name: x").replace("name: db", "name: web").replace("name: x", "name: db");
        let told = between(&config(FILE), &config(&swapped)).expect("it may change").to_string();
        assert!(told.contains("balancer web: port: 80 → 81") && told.contains("balancer db: port: 81 → 80"), "{told}");
    }

    #[test]
    fn a_line_has_an_end() {
        let list: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert!(few(&list, "; ").ends_with("; 19; and 80 more") && few(&list[..20], "; ").ends_with("; 19"));
    }

    #[test]
    fn every_key_of_a_balancer_that_differs_has_words() {
        let keys = [
            "balance: sourceHash",
            "slowStart: 1s",
            "queue: 1",
            "queueTimeout: 1s",
            "sendProxy: v1",
            "acceptProxy: 10.0.0.1",
            "allow: 10.0.0.2",
            "deny: 10.0.0.3",
            "maxConnections: 1",
            "maxConnectionsPerClient: 2",
            "acceptRate: 3",
            "connectTimeout: 1s",
            "halfCloseTimeout: 2s",
            "idleTimeout: 3s",
            "healthCheck: tcp",
        ];
        for line in keys {
            let (name, _) = line.split_once(": ").expect("key and value");
            let told = told("name: web,", &format!("name: web, {line},"));
            assert!(told.starts_with(&format!("balancer web: {name}: ")) && told.contains(" → "), "{line}: {told}");
        }
        let base = FILE.replacen("name: web,", "name: web, healthCheck: {type: http},", 1);
        for key in
            ["path: /x", "host: h", "status: 200", "text: t", "port: 7", "interval: 3s", "timeout: 500ms", "rise: 3", "fall: 4"]
        {
            let new = FILE.replacen("name: web,", &format!("name: web, healthCheck: {{type: http, {key}}},"), 1);
            let told = between(&config(&base), &config(&new)).expect("it may change").to_string();
            let (before, after) = told.split_once(" → ").expect("both");
            assert!(before.contains("healthCheck: http /") && !before.ends_with(after), "{key}: {told}");
        }
    }
}
