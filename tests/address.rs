//! The address itself: announced byte for byte, put back when somebody removes it, never taken from anybody, never left behind.
mod lab;

use lab::net::{VIP4, VIP6, mac_text};
use lab::packet::{Arp, BROADCAST, unsolicited_na};
use lab::{
    ArpWatch, Backend, Capture, Cluster, Kind, Lab, Node, NodeConfig, Prober, isolated, ms, never_within, secs, wait_until,
};
use nix::sys::signal::Signal;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const SOON: Duration = secs(15);

fn gratuitous(op: u16, mac: [u8; 6]) -> Vec<u8> {
    // RFC 5944 §4.6: request form with an empty target MAC; reply form with the own one, or Linux ignores it on fresh entries.
    let tha = if op == 1 { [0; 6] } else { mac };
    Arp { op, sha: mac, spa: VIP4, tha, tpa: VIP4 }.frame(BROADCAST, mac)
}

#[test]
fn the_address_is_added_as_documented() {
    isolated("the_address_is_added_as_documented", || {
        let lab = Lab::new();
        let host = lab.host("n1");
        let node = Node::start(&host, &NodeConfig::single(&host));
        wait_until("the VIP is held", SOON, || node.has_vip());
        let shown = host.show(VIP4);
        assert!(shown.contains(&format!("{VIP4}/32")), "{shown}");
        assert!(shown.contains("preferred_lft 0sec"), "source selection could choose the VIP: {shown}");
        assert!(!shown.contains("valid_lft forever"), "nothing ends the VIP if both processes die: {shown}");
        let status = node.wait_status();
        assert_eq!((status.role.as_str(), status.term), ("single", 0));
        wait_until("status says held", SOON, || node.held());
        assert!(node.stop(Signal::SIGTERM).success());
        assert!(!node.has_vip(), "the VIP stayed behind");
    });
}

/// After the holder changes, a third host that has sent nothing meanwhile knows the new MAC.
#[test]
fn gratuitous_arp_moves_a_silent_hosts_entry() {
    isolated("gratuitous_arp_moves_a_silent_hosts_entry", || {
        let lab = Lab::new();
        let cluster = Cluster::start(&lab, 3);
        let third = lab.host("third");
        let (old, _) = cluster.wait_settled();
        let old = &cluster.nodes[old];
        Prober::start(&third, VIP4).wait_answer(SOON);
        assert_eq!(third.neighbour(VIP4), mac_text(old.host.mac()));
        let capture = Capture::start(&third);
        assert!(old.stop(Signal::SIGTERM).success());
        let new = &cluster.nodes[cluster.wait_holder()].host;
        wait_until("the silent host's entry has moved", SOON, || third.neighbour(VIP4) == mac_text(new.mac()));
        capture.wait_frame("gratuitous ARP, request form", &gratuitous(1, new.mac()), SOON);
        capture.wait_frame("gratuitous ARP, reply form", &gratuitous(2, new.mac()), SOON);
    });
}

#[test]
fn neighbour_advertisement_moves_a_silent_hosts_entry() {
    isolated("neighbour_advertisement_moves_a_silent_hosts_entry", || {
        let lab = Lab::new();
        let cluster = Cluster::start_with(&lab, 3, true, |_| {});
        let third = lab.host("third");
        let (old, _) = cluster.wait_settled();
        let old = &cluster.nodes[old];
        Prober::start(&third, VIP6).wait_answer(SOON);
        assert_eq!(third.neighbour(VIP6), mac_text(old.host.mac()));
        let capture = Capture::start(&third);
        assert!(old.stop(Signal::SIGTERM).success());
        let new = &cluster.nodes[cluster.wait_holder()].host;
        wait_until("the silent host's entry has moved", SOON, || third.neighbour(VIP6) == mac_text(new.mac()));
        // RFC 4861 §4.4: the source is an address of the interface; which one is the sender's choice.
        let frame =
            capture.frames().into_iter().map(|f| f.bytes).find(|f| f[..12] == unsolicited_na(new.mac(), VIP6, VIP6)[..12]);
        let frame = frame.expect("an advertisement to all nodes was seen");
        let source = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[22..38]).expect("16 bytes"));
        assert!(source == VIP6 || source.is_unicast_link_local() || source == new.ip6(), "source {source}");
        assert_eq!(lab::observe::hex(&frame), lab::observe::hex(&unsolicited_na(new.mac(), source, VIP6)));
    });
}

#[test]
fn announcing_can_be_turned_off() {
    isolated("announcing_can_be_turned_off", || {
        let lab = Lab::new();
        let (host, third) = (lab.host("n1"), lab.host("third"));
        let capture = Capture::start(&third);
        let node = Node::start(&host, &NodeConfig { announce: false, ..NodeConfig::single(&host) });
        wait_until("the VIP is held", SOON, || node.has_vip());
        never_within("announced in spite of gratuitousARP: false", secs(2), || {
            let frames = capture.frames().into_iter();
            let mut arps = frames.filter_map(|f| Arp::parse(&f.bytes)).filter(|a| a.spa == VIP4 && a.tpa == VIP4);
            arps.next()
        });
    });
}

#[test]
fn a_vip_put_there_by_hand_is_reported_and_left_alone() {
    isolated("a_vip_put_there_by_hand_is_reported_and_left_alone", || {
        let lab = Lab::new();
        let host = lab.host("n1");
        for prefix in [32, 24] {
            host.sh(&format!("ip addr add {VIP4}/{prefix} dev eth0"));
            let before = host.show(VIP4);
            let node = Node::start(&host, &NodeConfig::single(&host));
            let mentioned = || node.log().lines().any(|l| l.contains(&VIP4.to_string()) && says_foreign(l));
            wait_until("the log says that somebody else put the VIP there", SOON, mentioned);
            never_within("the foreign address was touched or claimed", secs(2), || {
                let now = host.show(VIP4);
                (now != before || node.status().is_some_and(|s| s.held)).then_some(now)
            });
            node.stop(Signal::SIGTERM);
            host.run(lab::node::kube_vip().arg("cleanup").arg("-c").arg(node.file()));
            assert_eq!(host.show(VIP4), before, "stopping or cleaning up touched a foreign address");
            host.sh(&format!("ip addr del {VIP4}/{prefix} dev eth0"));
        }
    });
}

fn says_foreign(line: &str) -> bool {
    let line = line.to_lowercase();
    ["already", "by hand", "not ours", "not added by", "not from", "left alone", "foreign", "somebody", "someone", "exists"]
        .iter()
        .any(|w| line.contains(w))
}

#[test]
fn a_vip_removed_by_somebody_comes_back_announced() {
    isolated("a_vip_removed_by_somebody_comes_back_announced", || {
        let lab = Lab::new();
        for (v6, vip) in [(false, IpAddr::V4(VIP4)), (true, IpAddr::V6(VIP6))] {
            let (host, third) = (lab.host(if v6 { "m1" } else { "n1" }), lab.host(if v6 { "t6" } else { "t4" }));
            let node = Node::start(&host, &NodeConfig { vip, ..NodeConfig::single(&host) });
            wait_until("the VIP is held", SOON, || node.has_vip());
            wait_until("status says held", SOON, || node.held());
            // Once the first announcements are over, so that what is seen next is due to the removal.
            let capture = Capture::start(&third);
            let frame = if v6 { unsolicited_na(host.mac(), VIP6, VIP6) } else { gratuitous(1, host.mac()) };
            let heard_since = |since: Instant| capture.frames().iter().any(|f| f.at >= since && f.bytes[..14] == frame[..14]);
            wait_until("the first announcements are over", secs(20), || !heard_since(Instant::now() - secs(2)));
            for round in 0..3 {
                let before = Instant::now();
                host.sh(&format!("ip addr del {} dev eth0", if v6 { format!("{vip}/128") } else { format!("{vip}/32") }));
                let removed = Instant::now();
                wait_until("the VIP is back", secs(5), || node.has_vip());
                println!("{vip} back within {:?} of its removal, ip(8) calls included", removed.elapsed());
                if round == 0 {
                    wait_until("it is announced again", secs(5), || heard_since(before));
                }
            }
            assert_eq!(node.wait_status().gains, 1, "a removal by a third party is not a loss of the hold");
            assert!(node.stop(Signal::SIGTERM).success());
            assert!(!node.has_vip());
        }
    });
}

#[test]
fn an_ipv6_vip_works_end_to_end() {
    isolated("an_ipv6_vip_works_end_to_end", || {
        let lab = Lab::new();
        let web = lab.host("web");
        let backend = Backend::start_on(&web, web.ip6().into(), 8080, Kind::Name);
        let cluster = Cluster::start_with(&lab, 3, true, |c| c.balancer("web", 80, true, &[backend.yaml()]));
        let ask = || -> Option<String> {
            let to = SocketAddr::from((VIP6, 80));
            let mut stream = cluster.client.enter(|| TcpStream::connect_timeout(&to, secs(1))).ok()?;
            stream.set_read_timeout(Some(secs(2))).ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        };
        let (old, _) = cluster.wait_settled();
        assert!(cluster.nodes[old].host.show(VIP6).contains(&format!("{VIP6}/128")));
        wait_until("the backend answers through the VIP", SOON, || ask().as_deref() == Some("web\n"));
        assert!(cluster.nodes[old].stop(Signal::SIGTERM).success());
        cluster.wait_holder_other_than(old);
        wait_until("it answers through the next holder", SOON, || ask().as_deref() == Some("web\n"));
    });
}

/// Both processes of a holder die at once; the address is still there when the program starts again.
#[test]
fn what_an_earlier_run_left_is_swept_at_start() {
    isolated("what_an_earlier_run_left_is_swept_at_start", || {
        // wifi: an address lifetime of seconds, so that it is the sweep that is seen, not the lifetime's end.
        let cluster = Cluster::start_with(&Lab::new(), 3, false, |c| c.timing = "wifi".into());
        let (old, _) = cluster.wait_settled();
        let node = &cluster.nodes[old];
        node.kill_both();
        assert!(node.has_vip(), "nothing was left to sweep");
        node.restart();
        wait_until("the left-over is swept", ms(1500), || !node.has_vip());
        cluster.wait_settled();
    });
}

#[test]
fn cleanup_removes_ours_only() {
    isolated("cleanup_removes_ours_only", || {
        let lab = Lab::new();
        let host = lab.host("n1");
        let node = Node::start(&host, &NodeConfig { timing: "wifi".into(), ..NodeConfig::single(&host) });
        wait_until("the VIP is held", SOON, || node.has_vip());
        host.sh("ip addr add 10.99.0.200/32 dev eth0");
        node.kill_both();
        assert!(node.has_vip(), "nothing was left to clean");
        let out = host.run(lab::node::kube_vip().arg("cleanup").arg("-c").arg(node.file()));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(!node.has_vip(), "cleanup left the VIP");
        assert!(host.has([10, 99, 0, 200]) && host.has(host.ip4()), "cleanup took a foreign address");
        let again = host.run(lab::node::kube_vip().arg("cleanup").arg("-c").arg(node.file()));
        assert!(again.status.success(), "cleaning twice is no error");
    });
}

#[test]
fn disable_vip_balances_without_an_address() {
    isolated("disable_vip_balances_without_an_address", || {
        let lab = Lab::new();
        let (host, web, client) = (lab.host("n1"), lab.host("web"), lab.host("client"));
        let backend = Backend::start(&web, 8080, Kind::Name);
        let mut config = NodeConfig::single(&host);
        config.balancer("web", 80, false, &[backend.yaml()]);
        let node = Node::start_with(&host, &config, &["-d"]);
        let ask = || client.enter(|| TcpStream::connect_timeout(&SocketAddr::from((host.ip4(), 80)), secs(1)));
        wait_until("it balances", SOON, || {
            let mut text = String::new();
            ask().is_ok_and(|mut s| s.read_to_string(&mut text).is_ok()) && text == "web\n"
        });
        assert!(!node.has_vip() && !node.held(), "disableVIP took the VIP");
        assert!(node.stop(Signal::SIGTERM).success());
    });
}

#[test]
fn a_second_keeper_of_one_vip_is_refused() {
    isolated("a_second_keeper_of_one_vip_is_refused", || {
        let lab = Lab::new();
        let (host, client) = (lab.host("n1"), lab.host("client"));
        let first = Node::start(&host, &NodeConfig::single(&host));
        wait_until("the VIP is held", SOON, || first.has_vip());
        let watch = ArpWatch::start(&client, VIP4);
        let second = NodeConfig { id: "second".into(), port: 10001, ..NodeConfig::single(&host) };
        let second = Node::start(&host, &second);
        let status = second.wait_exit(SOON);
        assert!(!status.success(), "a second keeper of {VIP4} started");
        assert!(second.log().contains(&VIP4.to_string()), "the refusal doesn't name the VIP:\n{}", second.log());
        assert!(first.has_vip() && first.held() && !first.ended(), "the first was disturbed");
        watch.wait_answer_by(&host, SOON);
    });
}
