//! The snapshot as a table for people.

use super::{BackendStatus, BalancerStatus, PeerStatus, Snapshot};
use std::fmt::Write;

/// Renders the snapshot as lines of text.
pub fn render(s: &Snapshot) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write_node(&mut out, s);
    let _ = write_peers(&mut out, &s.peers);
    for balancer in &s.balancers {
        let _ = write_balancer(&mut out, balancer);
    }
    out
}

fn write_node(out: &mut String, s: &Snapshot) -> std::fmt::Result {
    let keeper = match s.keeper_version.as_str() {
        "" => String::new(),
        version if version == s.version => String::new(),
        version => format!(", its keeper {version}"),
    };
    writeln!(out, "node      {}  ({}, kube-vip {}{keeper}, up {})", s.id, s.role, s.version, duration(s.uptime_ms))?;
    let leader = s.leader.as_deref().unwrap_or("none known");
    writeln!(out, "leader    {leader}{}", if s.term > 0 { format!("  (term {})", s.term) } else { String::new() })?;
    let held = match (s.held, s.hold_left_ms) {
        (true, Some(left)) => format!("held here for {left} ms more"),
        (true, None) => "held here".to_string(),
        _ => "not held here".to_string(),
    };
    writeln!(out, "vip       {} on {}: {held}  (gained {} times)", s.vip, s.interface, s.gains)?;
    write_holding(out, s)?;
    if !s.disk_ok {
        writeln!(out, "disk      RED: vote and log don't reach the disk; see the log, free or replace it")?;
    }
    Ok(())
}

/// What keeps it from holding, and what is to be known about a hold.
fn write_holding(out: &mut String, s: &Snapshot) -> std::fmt::Result {
    if s.cordoned {
        writeln!(out, "cordoned  votes, but does not hold the VIP until `kube-vip uncordon`")?;
    }
    if s.witness {
        writeln!(out, "witness   votes, but never holds the VIP")?;
    }
    match (&s.fence_problem, s.fenced) {
        (_, true) => writeln!(out, "fence     the kernel ends the VIP at its deadline, also without kube-vip")?,
        (Some(why), false) => writeln!(out, "fence     none in the kernel: {why}")?,
        (None, false) => {}
    }
    if s.reaches == Some(false) {
        writeln!(out, "backends  RED: none of them is reached from here")?;
    }
    if let Some(mac) = &s.last_claim {
        writeln!(out, "claims    RED: {} by other hosts, last by {mac}: take the VIP from it", s.claims)?;
    }
    if let Some(ms) = s.loop_delay_ms {
        writeln!(out, "delay     {ms} ms at most in the daemon's loop (last minute)")?;
    }
    Ok(())
}

fn write_peers(out: &mut String, peers: &[PeerStatus]) -> std::fmt::Result {
    for p in peers {
        let contact = p.last_contact_ms.map_or("never heard".to_string(), |ms| format!("heard {ms} ms ago"));
        let problem = p.problem.as_ref().map(|why| format!("  [{why}]")).unwrap_or_default();
        let unfit = if p.fit == Some(false) { ", can't hold the VIP" } else { "" };
        writeln!(out, "peer      {}  {}  {contact}{unfit}{problem}", p.id, p.address)?;
    }
    Ok(())
}

fn write_balancer(out: &mut String, b: &BalancerStatus) -> std::fmt::Result {
    let serving = if b.serving { "serving" } else { "waiting for the VIP" };
    let policy = if b.policy.is_empty() { String::new() } else { format!(", {}", b.policy) };
    writeln!(
        out,
        "balancer  {}  {}  {serving}{policy}: {} open, {} accepted, {} without backend, {} in, {} out",
        b.name,
        b.listen,
        b.open,
        b.accepted,
        b.no_backend,
        bytes(b.bytes_in),
        bytes(b.bytes_out)
    )?;
    if b.queued + b.queue_full + b.queue_timeouts > 0 {
        let (full, late) = (b.queue_full, b.queue_timeouts);
        writeln!(out, "  queue   {} waiting, {full} reset because it was full, {late} after its timeout", b.queued)?;
    }
    for (n, what) in [
        (b.limit_pauses, "times at maxConnections"),
        (b.refused, "refused by allow or deny"),
        (b.over_client_limit, "over maxConnectionsPerClient"),
        (b.proxy_errors, "without a valid PROXY header"),
        (b.rate_pauses, "waits for acceptRate"),
    ] {
        if n > 0 {
            writeln!(out, "  limit   {n} {what}")?;
        }
    }
    b.backends.iter().try_for_each(|backend| write_backend(out, backend))
}

/// What is usual is left out: weight 1, no name, no reason to be down.
fn write_backend(out: &mut String, b: &BackendStatus) -> std::fmt::Result {
    let host = b.host.as_ref().map(|host| format!(" ({host})")).unwrap_or_default();
    write!(out, "  backend {}{host}  ", b.address)?;
    if !b.state.is_empty() {
        let why = b.why.as_ref().map(|why| format!(" [{why}]")).unwrap_or_default();
        let weight = if b.weight == 1 { String::new() } else { format!(", weight {}", b.weight) };
        let backup = if b.backup { ", backup" } else { "" };
        write!(out, "{}{why}{weight}{backup}: ", b.state)?;
    }
    writeln!(out, "{} open, {} connected, {} failed", b.open, b.connected, b.failed)
}

/// The backends of these balancers, one a line.
pub fn backends(balancers: &[BalancerStatus]) -> String {
    let mut rows = vec![["BALANCER", "BACKEND", "STATE", "WEIGHT", "OPEN", "NOTE"].map(str::to_owned)];
    for b in balancers {
        let row = |m: &BackendStatus| {
            let name = m.host.as_ref().map_or(String::new(), |host| format!(" ({host})"));
            let backup = m.backup.then(|| "backup".to_owned());
            let note = backup.into_iter().chain(m.why.clone()).collect::<Vec<_>>().join(", ");
            [b.name.clone(), m.address.clone() + &name, m.state.clone(), m.weight.to_string(), m.open.to_string(), note]
        };
        rows.extend(b.backends.iter().map(row));
    }
    columns(&rows)
}

/// Rows of equal length, each column as wide as its widest cell.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: Vec<usize> = (0..N).map(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match (s / 86400, s / 3600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_at_a_glance() {
        let s = Snapshot {
            version: "0.1.0".into(),
            id: "server1".into(),
            role: "leader".into(),
            term: 3,
            leader: Some("server1".into()),
            vip: "10.0.0.100".into(),
            interface: "eth0".into(),
            held: true,
            hold_left_ms: Some(171),
            gains: 1,
            uptime_ms: 3_725_000,
            disk_ok: false,
            fenced: true,
            loop_delay_ms: Some(2),
            peers: vec![
                PeerStatus {
                    id: "b".into(),
                    address: "10.0.0.2:10000".into(),
                    last_contact_ms: Some(12),
                    fit: Some(false),
                    problem: None,
                },
                PeerStatus {
                    id: "c".into(),
                    address: "10.0.0.3:10000".into(),
                    last_contact_ms: None,
                    fit: None,
                    problem: Some("refused".into()),
                },
            ],
            balancers: vec![BalancerStatus {
                name: "web".into(),
                listen: "10.0.0.100:80".into(),
                serving: true,
                open: 2,
                accepted: 9,
                bytes_in: 512,
                bytes_out: 3 << 20,
                policy: "roundRobin".into(),
                queued: 3,
                queue_timeouts: 1,
                limit_pauses: 2,
                backends: vec![
                    BackendStatus {
                        address: "10.0.0.9:80".into(),
                        state: "up".into(),
                        weight: 1,
                        open: 2,
                        connected: 9,
                        failed: 1,
                        ..Default::default()
                    },
                    BackendStatus {
                        address: "10.0.0.8:80".into(),
                        host: Some("app.example".into()),
                        state: "down".into(),
                        why: Some("status 500".into()),
                        weight: 3,
                        backup: true,
                        ..Default::default()
                    },
                ],
                ..Default::default()
            }],
            ..Snapshot::default()
        };
        let expected = "\
node      server1  (leader, kube-vip 0.1.0, up 1 h 2 min)
leader    server1  (term 3)
vip       10.0.0.100 on eth0: held here for 171 ms more  (gained 1 times)
fence     the kernel ends the VIP at its deadline, also without kube-vip
delay     2 ms at most in the daemon's loop (last minute)
disk      RED: vote and log don't reach the disk; see the log, free or replace it
peer      b  10.0.0.2:10000  heard 12 ms ago, can't hold the VIP
peer      c  10.0.0.3:10000  never heard  [refused]
balancer  web  10.0.0.100:80  serving, roundRobin: 2 open, 9 accepted, 0 without backend, 512 B in, 3.0 MiB out
  queue   3 waiting, 0 reset because it was full, 1 after its timeout
  limit   2 times at maxConnections
  backend 10.0.0.9:80  up: 2 open, 9 connected, 1 failed
  backend 10.0.0.8:80 (app.example)  down [status 500], weight 3, backup: 0 open, 0 connected, 0 failed
";
        assert_eq!(render(&s), expected);
    }

    #[test]
    fn limits_are_told_of_where_they_were_met() {
        let b = BalancerStatus { refused: 3, proxy_errors: 1, rate_pauses: 7, ..Default::default() };
        let text = render(&Snapshot { balancers: vec![b], ..Snapshot::default() });
        let limits: Vec<&str> = text.lines().filter(|l| l.starts_with("  limit ")).collect();
        let expected = [
            "  limit   3 refused by allow or deny",
            "  limit   1 without a valid PROXY header",
            "  limit   7 waits for acceptRate",
        ];
        assert_eq!(limits, expected);
    }

    #[test]
    fn what_an_older_daemon_says_is_read_and_shown() {
        let json = r#"{"name":"web","listen":"[::]:80","serving":true,"open":0,"accepted":1,"noBackend":0,"bytesIn":0,"bytesOut":0,
            "backends":[{"address":"10.0.0.9:80","open":0,"connected":1,"failed":0}]}"#;
        let mut text = String::new();
        write_balancer(&mut text, &serde_json::from_str(json).expect("readable")).expect("a String takes it");
        assert!(text.contains("serving: 0 open") && text.ends_with("10.0.0.9:80  0 open, 1 connected, 0 failed\n"), "{text}");
    }

    #[test]
    fn backends_stand_in_columns() {
        let up = BackendStatus { address: "10.0.0.9:80".into(), state: "up".into(), weight: 1, open: 12, ..Default::default() };
        let why = Some("timed out".to_owned());
        let down = BackendStatus { host: Some("b.lan".into()), state: "down".into(), backup: true, why, ..up.clone() };
        let web = BalancerStatus { name: "web".into(), backends: vec![up, down], ..Default::default() };
        let expected = "\
BALANCER  BACKEND              STATE  WEIGHT  OPEN  NOTE
web       10.0.0.9:80          up     1       12
web       10.0.0.9:80 (b.lan)  down   1       12    backup, timed out
";
        assert_eq!(backends(&[web]), expected);
    }

    #[test]
    fn what_keeps_a_node_from_holding() {
        let s = Snapshot {
            cordoned: true,
            witness: true,
            fence_problem: Some("Operation not supported".into()),
            reaches: Some(false),
            claims: 3,
            last_claim: Some("02:99:00:00:00:07".into()),
            disk_ok: true,
            ..Snapshot::default()
        };
        let text = render(&s);
        let expected = "\
cordoned  votes, but does not hold the VIP until `kube-vip uncordon`
witness   votes, but never holds the VIP
fence     none in the kernel: Operation not supported
backends  RED: none of them is reached from here
claims    RED: 3 by other hosts, last by 02:99:00:00:00:07: take the VIP from it
";
        assert!(text.ends_with(expected), "{text}");
    }
}
