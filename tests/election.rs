//! Three nodes elect one holder, and whatever ends the leader, another takes over; the LAN never sees two.
mod lab;

use lab::process::alive;
use lab::{ArpWatch, Cluster, Lab, Node, NodeConfig, STEADY, isolated, never_within, secs, wait_until};
use nix::sys::signal::Signal;

/// How long a move may take here: test machines are busy, and figures are the benchmark's business.
const MOVE: std::time::Duration = secs(20);

fn watch(cluster: &Cluster) -> ArpWatch {
    ArpWatch::start(&cluster.client, lab::net::VIP4)
}

#[test]
fn three_nodes_elect_one_holder() {
    isolated("three_nodes_elect_one_holder", || {
        let cluster = Cluster::start(&Lab::new(), 3);
        let watch = watch(&cluster);
        let (leader, term) = cluster.wait_settled();
        watch.wait_answer_by(&cluster.nodes[leader].host, MOVE);
        assert!(term > 0);
        for (i, node) in cluster.nodes.iter().enumerate() {
            let status = node.wait_status();
            assert_eq!(status.role, if i == leader { "leader" } else { "follower" }, "{}", node.id());
            assert_eq!((status.held, status.hold_left_ms.is_some()), (i == leader, i == leader), "{}", node.id());
            assert_eq!(status.peers.len(), 2);
            assert!(status.disk_ok);
        }
        watch.assert_one_holder();
    });
}

/// Stops the leader four times, each time another way, and lets it come back.
#[test]
fn a_stop_signal_to_either_process_hands_over() {
    isolated("a_stop_signal_to_either_process_hands_over", || {
        let cluster = Cluster::start(&Lab::new(), 3);
        let watch = watch(&cluster);
        for (signal, to_daemon) in
            [(Signal::SIGTERM, false), (Signal::SIGINT, false), (Signal::SIGTERM, true), (Signal::SIGINT, true)]
        {
            let what = format!("{signal} to the {}", if to_daemon { "daemon" } else { "keeper" });
            let (old, _) = cluster.wait_settled();
            let node = &cluster.nodes[old];
            let daemon = node.daemon_pid();
            if to_daemon {
                node.signal_daemon(signal)
            } else {
                node.signal(signal)
            }
            let status = node.wait_exit(MOVE);
            assert!(status.success(), "{what}: exit 0 expected, not {status}");
            assert!(!node.has_vip(), "{what}: the VIP stayed behind");
            wait_until("the daemon ends with its keeper", secs(5), || !alive(daemon));
            let new = cluster.wait_holder_other_than(old);
            watch.wait_answer_by(&cluster.nodes[new].host, MOVE);
            node.restart();
        }
        cluster.wait_settled();
        watch.assert_one_holder();
    });
}

#[test]
fn a_killed_daemon_loses_the_vip_to_another_node() {
    isolated("a_killed_daemon_loses_the_vip_to_another_node", || {
        let cluster = Cluster::start(&Lab::new(), 3);
        let watch = watch(&cluster);
        let (old, _) = cluster.wait_settled();
        cluster.nodes[old].signal_daemon(Signal::SIGKILL);
        // The keeper is the one that is left: it removes the VIP, then ends.
        cluster.nodes[old].wait_exit(MOVE);
        assert!(!cluster.nodes[old].has_vip(), "the keeper ended before the VIP was gone");
        let new = cluster.wait_holder_other_than(old);
        watch.wait_answer_by(&cluster.nodes[new].host, MOVE);
        cluster.nodes[old].restart();
        cluster.wait_settled();
        watch.assert_one_holder();
    });
}

#[test]
fn a_killed_keeper_loses_the_vip_to_another_node() {
    isolated("a_killed_keeper_loses_the_vip_to_another_node", || {
        let cluster = Cluster::start(&Lab::new(), 3);
        let watch = watch(&cluster);
        let (old, _) = cluster.wait_settled();
        let daemon = cluster.nodes[old].daemon_pid();
        cluster.nodes[old].signal(Signal::SIGKILL);
        let new = cluster.wait_holder_other_than(old);
        watch.wait_answer_by(&cluster.nodes[new].host, MOVE);
        wait_until("the daemon without a keeper ends", MOVE, || !alive(daemon));
        cluster.nodes[old].wait_exit(secs(5));
        cluster.nodes[old].restart();
        cluster.wait_settled();
        watch.assert_one_holder();
    });
}

/// What a service manager does when the keeper dies: the rest is told to stop. It must not hand over what the kernel still has.
#[test]
fn a_stop_after_the_keepers_death_waits_for_the_kernel() {
    isolated("a_stop_after_the_keepers_death_waits_for_the_kernel", || {
        let cluster = Cluster::start(&Lab::new(), 3);
        let watch = watch(&cluster);
        let (old, _) = cluster.wait_settled();
        let daemon = cluster.nodes[old].daemon_pid();
        cluster.nodes[old].signal(Signal::SIGKILL);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), Signal::SIGTERM).expect("the daemon outlives its keeper");
        let new = cluster.wait_holder_other_than(old);
        watch.wait_answer_by(&cluster.nodes[new].host, MOVE);
        wait_until("the daemon without a keeper ends", MOVE, || !alive(daemon));
        watch.assert_one_holder();
    });
}

#[test]
fn a_frozen_keeper_loses_the_vip_to_another_node() {
    isolated("a_frozen_keeper_loses_the_vip_to_another_node", || {
        let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| c.timing = STEADY.into());
        let watch = watch(&cluster);
        let (old, _) = cluster.wait_settled();
        cluster.nodes[old].signal(Signal::SIGSTOP);
        let new = cluster.wait_holder_other_than(old);
        watch.wait_answer_by(&cluster.nodes[new].host, MOVE);
        assert!(!cluster.nodes[old].held(), "the daemon knows that its keeper did not keep the VIP");
        cluster.nodes[old].signal(Signal::SIGCONT);
        cluster.nodes[old].wait_for_log("the keeper answers again", MOVE);
        let (holder, _) = cluster.wait_settled();
        assert_eq!(holder, new, "the thawed keeper took the VIP back");
        watch.assert_one_holder();
    });
}

#[test]
fn a_frozen_daemon_loses_the_vip_and_cannot_take_it_back() {
    isolated("a_frozen_daemon_loses_the_vip_and_cannot_take_it_back", || {
        let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| c.timing = STEADY.into());
        let watch = watch(&cluster);
        let (old, term) = cluster.wait_settled();
        cluster.nodes[old].signal_daemon(Signal::SIGSTOP);
        let new = cluster.wait_holder_other_than(old);
        watch.wait_answer_by(&cluster.nodes[new].host, MOVE);
        cluster.nodes[old].signal_daemon(Signal::SIGCONT);
        let (holder, newer) = cluster.wait_settled();
        assert!(newer > term, "term {newer} after term {term}");
        assert_eq!(holder, new, "the thawed daemon deposed its successor");
        watch.assert_one_holder();
    });
}

#[test]
fn a_leader_without_a_cable_is_replaced() {
    isolated("a_leader_without_a_cable_is_replaced", || silent_leader(lab::Host::unplug, lab::Host::plug));
}

/// As above, but the leader's own carrier stays: nothing tells it but the missing acknowledgements.
#[test]
fn a_leader_behind_a_dead_switch_port_is_replaced() {
    isolated("a_leader_behind_a_dead_switch_port_is_replaced", || silent_leader(lab::Host::detach, lab::Host::attach));
}

fn silent_leader(silence: fn(&lab::Host), restore: fn(&lab::Host)) {
    let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| c.timing = STEADY.into());
    let watch = watch(&cluster);
    let (old, _) = cluster.wait_settled();
    silence(&cluster.nodes[old].host);
    wait_until("the cut-off leader drops the VIP by itself", MOVE, || !cluster.nodes[old].has_vip());
    let new = cluster.wait_holder_other_than(old);
    watch.wait_answer_by(&cluster.nodes[new].host, MOVE);
    let term = cluster.nodes[new].term();
    restore(&cluster.nodes[old].host);
    let (leader, same) = cluster.wait_settled();
    assert_eq!((leader, same), (new, term), "the returning node disturbed its successor");
    watch.assert_one_holder();
}

#[test]
fn a_followers_death_and_return_disturbs_nobody() {
    isolated("a_followers_death_and_return_disturbs_nobody", || {
        let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| c.timing = STEADY.into());
        let watch = watch(&cluster);
        let before = cluster.wait_settled();
        let follower = &cluster.nodes[(before.0 + 1) % 3];
        for _ in 0..2 {
            follower.kill_both();
            never_within("the leader changed while a follower was dead", secs(3), || {
                let holders = cluster.holders();
                (holders != [before.0]).then_some(holders)
            });
            follower.restart();
            let after = cluster.wait_settled();
            assert_eq!(after, before, "(leader, term) changed by a follower's return");
        }
        assert_eq!(cluster.nodes[before.0].wait_status().gains, 1, "the VIP was dropped and taken again");
        watch.assert_one_holder();
    });
}

#[test]
fn without_a_majority_nobody_holds() {
    isolated("without_a_majority_nobody_holds", || {
        let cluster = Cluster::start(&Lab::new(), 3);
        let watch = watch(&cluster);
        let (old, _) = cluster.wait_settled();
        let others = [(old + 1) % 3, (old + 2) % 3];
        others.iter().for_each(|&i| cluster.nodes[i].kill_both());
        wait_until("the lone leader drops the VIP", secs(5), || !cluster.nodes[old].has_vip());
        watch.wait_silence(20, secs(5));
        never_within("a lone node held the VIP", secs(4), || (!cluster.holders().is_empty()).then_some(()));
        cluster.nodes[others[0]].restart();
        let holder = cluster.wait_holder();
        watch.wait_answer_by(&cluster.nodes[holder].host, MOVE);
        cluster.nodes[others[1]].restart();
        cluster.wait_settled();
        watch.assert_one_holder();
    });
}

#[test]
fn all_restarted_at_once_elect_again() {
    isolated("all_restarted_at_once_elect_again", || {
        let cluster = Cluster::start(&Lab::new(), 3);
        let watch = watch(&cluster);
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let (_, term) = cluster.wait_settled();
            for node in &cluster.nodes {
                if signal == Signal::SIGTERM { node.signal(signal) } else { node.kill_both() }
            }
            for node in &cluster.nodes {
                node.wait_exit(MOVE);
            }
            for node in &cluster.nodes {
                node.restart();
            }
            let (leader, newer) = cluster.wait_settled();
            watch.wait_answer_by(&cluster.nodes[leader].host, MOVE);
            assert!(newer > term, "{signal}: term {newer} after {term}: terms must survive a restart");
        }
        // The LAN may see two for a moment after SIGKILL of every process of a node: only the address lifetime ends that VIP.
    });
}

#[test]
fn a_node_without_its_state_comes_back_as_a_follower() {
    isolated("a_node_without_its_state_comes_back_as_a_follower", || {
        let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| c.timing = STEADY.into());
        let watch = watch(&cluster);
        let before = cluster.wait_settled();
        let follower = &cluster.nodes[(before.0 + 1) % 3];
        assert!(follower.stop(Signal::SIGTERM).success());
        std::fs::remove_dir_all(follower.state_dir()).expect("the node kept its state where the documentation says");
        follower.restart();
        assert_eq!(cluster.wait_settled(), before, "(leader, term) changed by an amnesiac's return");
        // The leader itself loses its memory too.
        let leader = &cluster.nodes[before.0];
        assert!(leader.stop(Signal::SIGTERM).success());
        std::fs::remove_dir_all(leader.state_dir()).expect("the node kept its state where the documentation says");
        cluster.wait_holder_other_than(before.0);
        leader.restart();
        let (_, term) = cluster.wait_settled();
        assert!(term > before.1);
        watch.assert_one_holder();
    });
}

#[test]
fn a_stop_during_the_quiet_start_is_clean() {
    isolated("a_stop_during_the_quiet_start_is_clean", || {
        let cluster = Cluster::start(&Lab::new(), 3);
        for node in &cluster.nodes {
            node.wait_status();
            let status = node.stop(Signal::SIGTERM);
            assert!(status.success() && !node.has_vip(), "{}: {status}", node.id());
        }
    });
}

#[test]
fn five_nodes_survive_two_deaths() {
    isolated("five_nodes_survive_two_deaths", || {
        let cluster = Cluster::start(&Lab::new(), 5);
        let watch = watch(&cluster);
        let (first, _) = cluster.wait_settled();
        assert!(cluster.nodes[first].stop(Signal::SIGTERM).success());
        let second = cluster.wait_holder_other_than(first);
        assert!(cluster.nodes[second].stop(Signal::SIGTERM).success());
        let third = cluster.wait_holder_other_than(second);
        watch.wait_answer_by(&cluster.nodes[third].host, MOVE);
        assert_ne!(third, first);
        watch.assert_one_holder();
    });
}

/// The way of the README: `sample config`, its flags, `check`, `start`.
#[test]
fn sample_configurations_start_as_printed() {
    isolated("sample_configurations_start_as_printed", || {
        let lab = Lab::new();
        let hosts = ["n1", "n2", "n3"].map(|n| lab.host(n));
        let client = lab.host("client");
        let peer = |h: &lab::Host| format!("{}:{}:10000", h.name(), h.ip4());
        let nodes: Vec<Node> = hosts
            .iter()
            .map(|host| {
                let others: Vec<String> = hosts.iter().filter(|h| h.name() != host.name()).map(peer).collect();
                let vip = lab::net::VIP4.to_string();
                let mut sample = lab::node::kube_vip();
                sample.args(["sample", "config", "--interface", "eth0", "--vip", &vip, "--arp", "--localPeer", &peer(host)]);
                sample.args(["--remotePeers", &others.join(","), "--lbBindToVip", "--lbPort", "80", "--lbName", "web"]);
                sample.args(["--lbBackends", &format!("{}:8080", client.ip4())]);
                let out = host.run(&sample);
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
                let yaml = String::from_utf8(out.stdout).expect("YAML is text");
                let file = lab::node::write_config(&format!("sample-{}", host.name()), &yaml);
                let check = host.run(lab::node::kube_vip().arg("check").arg("-c").arg(&file));
                assert!(check.status.success(), "{yaml}\n{}", String::from_utf8_lossy(&check.stderr));
                Node::start_file(host, &NodeConfig::member(host, &hosts, false), &file)
            })
            .collect();
        let cluster = Cluster { nodes, client, vip: lab::net::VIP4.into() };
        let watch = watch(&cluster);
        let (leader, _) = cluster.wait_settled();
        watch.wait_answer_by(&cluster.nodes[leader].host, MOVE);
    });
}

/// Tells a node, which must agree, and returns its words.
#[track_caller]
fn told(node: &Node, words: &[&str]) -> String {
    let (ok, out, error) = node.tell(words);
    assert!(ok && error.is_empty(), "{words:?} to {}: {out}{error}\n{}", node.id(), node.log());
    out
}

/// What a node says where it can't do it.
#[track_caller]
fn refused(node: &Node, words: &[&str]) -> String {
    let (ok, out, error) = node.tell(words);
    assert!(!ok && out.is_empty(), "{words:?} to {}: {out}{error}", node.id());
    error
}

#[test]
fn a_hand_over_by_command_moves_the_vip_to_the_node_named_or_the_best() {
    isolated("a_hand_over_by_command_moves_the_vip_to_the_node_named_or_the_best", || {
        let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| c.timing = STEADY.into());
        let watch = watch(&cluster);
        let (old, _) = cluster.wait_settled();
        let named = (old + 1) % 3;
        let words = told(&cluster.nodes[old], &["handover", "--to", cluster.nodes[named].id()]);
        assert!(words.starts_with(cluster.nodes[named].id()) && words.contains(" ms"), "{words}");
        assert_eq!(cluster.wait_holder_other_than(old), named);
        watch.wait_answer_by(&cluster.nodes[named].host, MOVE);
        let (leader, _) = cluster.wait_settled();
        assert_eq!(leader, named);
        told(&cluster.nodes[named], &["handover"]);
        let best = cluster.wait_holder_other_than(named);
        watch.wait_answer_by(&cluster.nodes[best].host, MOVE);
        cluster.wait_settled();
        assert!(cluster.nodes.iter().all(|n| !n.ended()), "a hand-over ends nobody");
        watch.assert_one_holder();
    });
}

#[test]
fn a_hand_over_that_cannot_be_says_why_and_changes_nothing() {
    isolated("a_hand_over_that_cannot_be_says_why_and_changes_nothing", || {
        let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| c.timing = STEADY.into());
        let (leader, term) = cluster.wait_settled();
        let (holder, follower) = (&cluster.nodes[leader], &cluster.nodes[(leader + 1) % 3]);
        let error = refused(holder, &["handover", "--to", "n9"]);
        assert!(error.contains("n9 is no node of this cluster; the others are n"), "{error}");
        let error = refused(holder, &["handover", "--to", holder.id()]);
        assert!(error.contains("is this node"), "{error}");
        let error = refused(follower, &["handover"]);
        assert!(error.contains(&format!("{} leads, not {}", holder.id(), follower.id())), "{error}");
        assert_eq!(cluster.wait_settled(), (leader, term));
    });
}

#[test]
fn a_cordoned_holder_hands_over_and_stays_away_until_uncordoned() {
    isolated("a_cordoned_holder_hands_over_and_stays_away_until_uncordoned", || {
        let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| c.timing = STEADY.into());
        let watch = watch(&cluster);
        let (old, _) = cluster.wait_settled();
        let node = &cluster.nodes[old];
        let words = told(node, &["cordon"]);
        let new = cluster.wait_holder_other_than(old);
        assert!(words.contains(&format!("{} is cordoned; {} leads now", node.id(), cluster.nodes[new].id())), "{words}");
        assert!(node.wait_status().cordoned && node.state_dir().join("cordoned").exists());
        // It votes, and does not take the VIP where another could.
        cluster.wait_settled();
        assert!(cluster.nodes[new].stop(Signal::SIGTERM).success());
        let third = cluster.wait_holder_other_than(new);
        assert_ne!(third, old, "a cordoned node took the VIP");
        cluster.nodes[new].restart();
        cluster.wait_settled();
        // Nor after a restart. (The quiet start is also the time in which all hear that `new` is cordoned now.)
        told(&cluster.nodes[new], &["cordon"]);
        assert!(node.stop(Signal::SIGTERM).success());
        node.restart();
        assert!(node.wait_status().cordoned, "the restart forgot it");
        cluster.wait_settled();
        // Where the others may not either, nobody holds.
        let error = refused(&cluster.nodes[third], &["cordon"]);
        assert!(error.contains("nobody holds 10.99.0.100"), "{error}");
        wait_until("the VIP goes from the last one", MOVE, || cluster.holders().is_empty());
        told(node, &["uncordon"]);
        assert_eq!(cluster.wait_holder(), old);
        assert!(!node.wait_status().cordoned && !node.state_dir().join("cordoned").exists());
        watch.assert_one_holder();
    });
}

#[test]
fn a_node_alone_lets_the_vip_go_while_it_is_cordoned() {
    isolated("a_node_alone_lets_the_vip_go_while_it_is_cordoned", || {
        let host = Lab::new().host("n1");
        let node = Node::start(&host, &NodeConfig::single(&host));
        wait_until("the VIP is held", MOVE, || node.held() && node.has_vip());
        let error = refused(&node, &["handover"]);
        assert!(error.contains("this node is alone"), "{error}");
        told(&node, &["cordon"]);
        assert!(!node.has_vip(), "cordon returned before the VIP was gone");
        assert!(node.stop(Signal::SIGTERM).success());
        node.restart();
        assert!(node.wait_status().cordoned);
        never_within("a cordoned node took the VIP", secs(2), || node.has_vip().then_some(()));
        told(&node, &["uncordon"]);
        wait_until("the VIP is held again", MOVE, || node.held() && node.has_vip());
    });
}

#[test]
fn a_witness_votes_and_never_holds() {
    isolated("a_witness_votes_and_never_holds", || {
        let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| {
            c.timing = STEADY.into();
            // The witness would be the first choice otherwise.
            c.extra.push(if c.id == "n1" { "witness: true".into() } else { "witness: false".into() });
        });
        let watch = watch(&cluster);
        let (first, _) = cluster.wait_settled();
        assert_ne!(first, 0, "the witness holds");
        assert!(cluster.nodes[0].wait_status().witness && !cluster.nodes[1].wait_status().witness);
        // With one of the two gone, its vote makes the majority.
        cluster.nodes[first].kill_both();
        let second = cluster.wait_holder_other_than(first);
        assert_eq!(second, 3 - first);
        watch.wait_answer_by(&cluster.nodes[second].host, MOVE);
        // A hand-over to it is refused, and so it can't hold alone.
        wait_until("the dead node is known as lost", MOVE, || cluster.nodes[second].status().is_some());
        refused(&cluster.nodes[second], &["handover", "--to", "n1"]);
        assert!(!cluster.nodes[0].has_vip());
        assert_eq!(cluster.nodes[0].wait_status().gains, 0);
    });
}

/// The leader alone can't reach the servers: a connection through the VIP would end in a reset there.
#[test]
fn a_leader_that_reaches_no_backend_hands_over_to_one_that_does() {
    isolated("a_leader_that_reaches_no_backend_hands_over_to_one_that_does", || {
        let lab = Lab::new();
        let web = lab.host("web");
        let backend = lab::Backend::start(&web, 8080, lab::Kind::Name);
        let cluster = Cluster::start_with(&lab, 3, false, |c| {
            c.timing = STEADY.into();
            c.balancer("web", 80, true, &[backend.yaml()]);
            c.extra.push("trackBackends: true".into());
        });
        let watch = watch(&cluster);
        let (old, _) = cluster.wait_settled();
        assert_eq!(cluster.nodes[old].wait_status().reaches, Some(true));
        cluster.nodes[old].host.sh(&format!("ip route add unreachable {}", web.ip4()));
        cluster.nodes[old].wait_for_log("none of 1 backend", MOVE);
        let new = cluster.wait_holder_other_than(old);
        watch.wait_answer_by(&cluster.nodes[new].host, MOVE);
        assert_eq!(cluster.nodes[old].wait_status().reaches, Some(false));
        // Where nobody reaches it, nobody is better: the VIP stays. The follower loses it first, or it would be better.
        let (leader, term) = cluster.wait_settled();
        assert_eq!(leader, new);
        for node in [&cluster.nodes[3 - old - new], &cluster.nodes[new]] {
            node.host.sh(&format!("ip route add unreachable {}", web.ip4()));
            node.wait_for_log("none of 1 backend", MOVE);
        }
        never_within("the VIP moves to a node that is no better", secs(3), || (cluster.holders() != [leader]).then_some(()));
        assert_eq!(cluster.wait_settled(), (leader, term));
        cluster.nodes[old].host.sh(&format!("ip route del unreachable {}", web.ip4()));
        cluster.nodes[old].wait_for_log("backends are reached again", MOVE);
        watch.assert_one_holder();
    });
}
