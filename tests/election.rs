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
