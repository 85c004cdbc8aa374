//! The keeper against the real kernel: each test in its own namespaces plays the daemon over the socket pair.

mod lab;

use kube_vip::reactor;
use kube_vip::release::{Key, Notice};
use kube_vip::sys::caps;
use kube_vip::sys::clock;
use kube_vip::sys::ioctl::Interfaces;
use kube_vip::sys::netlink::Netlink;
use kube_vip::vip::{self, GoneWhy, Keeper, KeeperSpec, Notify, OpenErrorKind, Order, RefusedWhy, Report, VoteKey, rtnl};
use lab::kept::{self, HOLD, Kept, ms, wait_for};
use lab::{isolated, patient, sh};
use nix::sys::signal::Signal;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

const VIP: &str = "10.9.0.100";
const VIP6: &str = "fd09::64";
const A: VoteKey = VoteKey { term: 1, node: 7 };
const B: VoteKey = VoteKey { term: 2, node: 7 };

/// Our end of the wire `v0`–`v1`, with addresses of both families, and the other end as the host `lan`.
fn network() {
    sh("mount -t tmpfs none /run; ip link set lo up; ip netns add lan");
    sh("ip link add v0 address 02:00:00:00:00:0a type veth peer name v1 address 02:00:00:00:00:0b netns lan");
    sh("ip addr add 10.9.0.1/24 dev v0; ip addr add fd09::1/64 dev v0 nodad; ip link set v0 up");
    sh("ip -n lan addr add 10.9.0.2/24 dev v1; ip -n lan addr add fd09::2/64 dev v1 nodad; ip -n lan link set v1 up");
    let up = |line: &str| sh(line).contains("state UP");
    wait_for("the wire", || up("ip -o link show v0") && up("ip -n lan -o link show v1"));
}

fn spec(vip: &str) -> KeeperSpec {
    kept::spec("v0", vip.parse().expect("an address"))
}

fn on(vip: &str) -> Kept {
    Kept::up(&spec(vip), || {})
}

fn present(vip: &str) -> bool {
    vip::present(vip.parse().expect("an address")).expect("a dump")
}

#[test]
fn held_renewed_and_let_go() {
    isolated("held_renewed_and_let_go", || {
        network();
        let mut k = on(VIP);
        let took = k.held(A);
        let shown = sh(&format!("ip -d addr show dev v0 to {VIP}/32"));
        println!("add took {took:?}\n{shown}");
        for part in ["10.9.0.100/32", "deprecated", "noprefixroute", "preferred_lft 0sec"] {
            assert!(shown.contains(part), "{part} is missing in {shown}");
        }
        assert!(!shown.contains("forever"), "it has a lifetime: {shown}");
        let start = clock::now();
        while clock::now() - start < Duration::from_secs(5) {
            assert_eq!(k.report(ms(100)), None, "an undisturbed hold has no news");
            assert!(present(VIP), "renewed beyond its lifetime");
        }
        println!("let go took {:?}", k.let_go());
        assert!(!present(VIP));
        k.hold(A, HOLD);
        k.expect("refusal", |r| matches!(r, Report::Refused { vote: A, why: RefusedWhy::Spent }));
        k.held(B);
        k.let_go();
        drop(k.link.take());
        assert_eq!(k.ended(), 1, "a daemon that ends without a signal to the keeper is an error");
    });
}

#[test]
fn the_deadline_ends_it_without_a_message() {
    isolated("the_deadline_ends_it_without_a_message", || {
        network();
        let mut k = on(VIP);
        let mut late = Vec::new();
        for term in 1..=20 {
            let vote = VoteKey { term, node: 7 };
            let until = k.hold(vote, patient(ms(60)));
            k.holding = None;
            k.expect("the hold", |r| matches!(r, Report::Held { .. }));
            let took = k.gone(GoneWhy::Deadline);
            let now = clock::now();
            assert!(now >= until, "dropped before its time");
            assert!(!present(VIP));
            late.push((now - until, took));
        }
        late.sort();
        println!("heard gone after the deadline: {:?} … {:?}; removal itself: {:?}", late[0].0, late[19].0, late[19].1);
        assert!(late[10].0 < patient(ms(100)), "half of them were later than 100 ms: {late:?}");
    });
}

#[test]
fn a_stopped_keeper_removes_at_its_first_turn() {
    isolated("a_stopped_keeper_removes_at_its_first_turn", || {
        network();
        let mut k = on(VIP);
        k.held(A);
        k.holding = None;
        k.signal(Signal::SIGSTOP);
        std::thread::sleep(HOLD + ms(200)); // past the deadline, not past the kernel's lifetime
        assert!(present(VIP), "nobody removed it yet");
        k.signal(Signal::SIGCONT);
        let took = wait_for("the removal", || !present(VIP));
        println!("removed {took:?} after SIGCONT");
        k.gone(GoneWhy::Deadline);
    });
}

#[test]
fn the_kernel_removes_it_when_the_keeper_is_killed() {
    isolated("the_kernel_removes_it_when_the_keeper_is_killed", || {
        network();
        for vip in [VIP, VIP6] {
            let mut k = on(vip);
            k.held(A);
            k.report(ms(1500)); // some renewals
            k.signal(Signal::SIGKILL);
            assert_eq!(k.ended(), 137);
            let took = wait_for("the kernel", || !present(vip));
            println!("{vip}: the kernel removed it {took:?} after SIGKILL; the bound is {:?}", vip::lifetime_bound(HOLD));
            assert!(took < vip::lifetime_bound(HOLD) + ms(500), "{took:?}");
            assert!(
                reactor::block_on(async { k.link.as_ref().expect("a link").next().await }).expect("a reactor").is_err(),
                "the daemon learns of it"
            );
        }
    });
}

#[test]
fn the_end_of_the_daemon_ends_it() {
    isolated("the_end_of_the_daemon_ends_it", || {
        network();
        let mut k = on(VIP);
        k.held(A);
        drop(k.link.take());
        let took = wait_for("the removal", || !present(VIP));
        println!("removed {took:?} after the daemon's end");
        assert_eq!(k.ended(), 1);
    });
}

#[test]
fn a_stop_signal_lets_the_daemon_hand_over_and_ends_one_that_does_not() {
    isolated("a_stop_signal_lets_the_daemon_hand_over_and_ends_one_that_does_not", || {
        network();
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut k = on(VIP);
            k.held(A);
            k.signal(signal);
            k.expect("stopping", |r| *r == Report::Stopping);
            assert!(present(VIP), "it is held until the daemon lets go");
            k.let_go();
            drop(k.link.take());
            assert_eq!((k.ended(), present(VIP)), (0, false), "{signal}");
        }
        let mut k = Kept::start(&spec(VIP), true, || {});
        k.held(A);
        k.signal(Signal::SIGTERM);
        k.expect("stopping", |r| *r == Report::Stopping);
        let start = clock::now();
        while present(VIP) {
            k.link.as_ref().expect("a link").send(Order::Hold { vote: A, until: clock::now() + HOLD }).expect("a keeper");
            std::thread::sleep(ms(20));
            assert!(clock::now() - start < Duration::from_secs(10), "held for ever by a daemon that does not stop");
        }
        println!("a daemon that went on holding lost it after {:?}", clock::now() - start);
        assert_eq!(k.ended(), 137, "it was killed");
    });
}

#[test]
fn a_foreign_address_is_left_alone() {
    isolated("a_foreign_address_is_left_alone", || {
        network();
        for (add, place) in [
            (format!("ip addr add {VIP}/24 dev v0"), "v0"),
            (format!("ip addr add {VIP}/32 dev v0"), "v0"),
            (format!("ip link add d0 type bridge; ip link set d0 up; ip addr add {VIP}/32 dev d0"), "d0"),
        ] {
            sh(&add);
            let shown = || sh(&format!("ip -4 -o addr show dev {place}"));
            let before = shown();
            let mut k = on(VIP);
            k.hold(A, HOLD);
            k.holding = None;
            k.expect("refusal", |r| matches!(r, Report::Refused { vote: A, why: RefusedWhy::Foreign }));
            k.gone(GoneWhy::Refused);
            drop(k.link.take());
            k.ended();
            assert_eq!(shown(), before, "{add}");
            sh(&format!("ip addr flush dev {place} to {VIP}"));
        }
        let mut k = on(VIP);
        k.held(A);
        sh(&format!("ip addr replace {VIP}/32 dev v0"));
        k.gone(GoneWhy::Taken);
        assert!(present(VIP), "now it is somebody else's");
    });
}

#[test]
fn an_address_removed_from_outside_is_back() {
    isolated("an_address_removed_from_outside_is_back", || {
        network();
        for vip in [VIP, VIP6] {
            let mut k = on(vip);
            k.held(A);
            for _ in 0..5 {
                let dev = if vip == VIP { "10.9.0.100/32" } else { "fd09::64/128" };
                k.hold(A, HOLD); // starting a program takes its time on a busy machine
                sh(&format!("ip addr del {dev} dev v0"));
                let Report::Restored { took } = k.expect("restoration", |r| matches!(r, Report::Restored { .. })) else {
                    unreachable!()
                };
                println!("{vip} restored in {took:?}");
                assert!(present(vip));
            }
            k.let_go();
        }
    });
}

#[test]
fn a_second_keeper_is_refused() {
    isolated("a_second_keeper_is_refused", || {
        network();
        let mut k = on(VIP);
        k.held(A);
        let e = Keeper::open(&spec(VIP)).expect_err("one keeper per VIP");
        println!("{e}");
        assert_eq!(e.kind, OpenErrorKind::Taken);
        let e = vip::cleanup("v0", VIP.parse().expect("an address"), &spec(VIP).state_file).expect_err("a keeper runs");
        assert_eq!(e.kind, OpenErrorKind::Taken);
        k.gone(GoneWhy::Deadline); // refusals take a moment, and this test is the first one's daemon
        k.held(B);
        assert!(present(VIP), "the refused ones left the lock alone");
        on(VIP6); // another VIP is another matter
        k.gone(GoneWhy::Deadline);
    });
}

#[test]
fn clear_errors_before_anything_is_touched() {
    isolated("clear_errors_before_anything_is_touched", || {
        network();
        let e = Keeper::open(&KeeperSpec { interface: "eth7".into(), ..spec(VIP) }).expect_err("no such interface");
        assert_eq!(e.kind, OpenErrorKind::Interface);
        assert!(e.to_string().contains("v0") && e.to_string().contains("eth7"), "{e}");
        sh("sysctl -qw net.ipv6.conf.v0.disable_ipv6=1");
        let e = Keeper::open(&spec(VIP6)).expect_err("no IPv6");
        assert!(e.kind == OpenErrorKind::Interface && e.to_string().contains("disable_ipv6"), "{e}");
        caps::keep_only(&[caps::NET_RAW]).expect("dropping is allowed");
        let e = Keeper::open(&spec(VIP)).expect_err("no NET_ADMIN");
        assert!(e.kind == OpenErrorKind::Privileges && e.to_string().contains("CAP_NET_ADMIN"), "{e}");
        caps::keep_only(&[]).expect("dropping is allowed");
        let e = vip::cleanup("v0", VIP.parse().expect("an address"), &spec(VIP).state_file);
        assert!(e.is_ok(), "nothing to remove needs no rights: {e:?}");
    });
}

/// Puts an address there as a keeper that died just now would have left it, but without an end.
fn leave(address: &str, interface: &str) {
    let index = Interfaces::open().and_then(|i| i.get(interface)).expect("an interface").index;
    let address = address.parse().expect("an address");
    let request = rtnl::Request { change: rtnl::Change::Add, index, address, lifetime: rtnl::FOREVER, seq: 1 };
    Netlink::open(0).and_then(|n| n.send(request.encode().as_bytes())).expect("netlink");
    wait_for("the left-over", || present(&address.to_string()));
}

#[test]
fn left_overs_are_swept_and_only_they() {
    isolated("left_overs_are_swept_and_only_they", || {
        network();
        sh(&format!("ip link add d0 type bridge; ip link set d0 up; ip addr add {VIP}/24 dev v0"));
        leave(VIP, "v0");
        leave(VIP, "d0");
        leave("10.9.0.101", "v0");
        let report = vip::cleanup("v0", VIP.parse().expect("an address"), &spec(VIP).state_file).expect("cleanup");
        let text = |found: &[vip::Found]| found.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(&report.removed), ["10.9.0.100/32 on v0", "10.9.0.100/32 on d0"]);
        assert_eq!(text(&report.foreign), ["10.9.0.100/24 on v0"]);
        let left = sh("ip -o -4 addr show | awk '{print $2, $4}' | sort");
        assert_eq!(left, "lo 127.0.0.1/8\nv0 10.9.0.1/24\nv0 10.9.0.100/24\nv0 10.9.0.101/32\n");
        sh("ip addr del 10.9.0.100/24 dev v0");
        leave(VIP, "v0");
        let mut k = on(VIP);
        assert!(!present(VIP), "swept at start");
        k.held(A);
        k.let_go();
    });
}

/// Starts python3 in the host `lan`, which prints each frame of that type from v1 as hexadecimal, and waits until it listens.
/// It ends with the test's PID namespace.
fn capture(ethertype: &str) {
    let script = format!(
        "import socket\ns=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons({ethertype}))\ns.bind(('v1',{ethertype}))\n\
         open('/run/listening','w')\nwhile True: print(s.recv(2000).hex(),flush=True)"
    );
    let file = std::fs::File::create("/run/frames").expect("a file");
    let mut command = std::process::Command::new("ip");
    let mut python = command.args(["netns", "exec", "lan", "python3", "-c", &script]).stdout(file).spawn().expect("python3");
    wait_for("the capture", || {
        assert!(python.try_wait().expect("our child").is_none(), "python3 ended");
        std::path::Path::new("/run/listening").exists()
    });
}

fn frames(prefix: &str) -> Vec<String> {
    let all = std::fs::read_to_string("/run/frames").expect("frames");
    all.lines().filter(|l| l.starts_with(prefix)).map(str::to_owned).collect()
}

fn neighbour(vip: &str) -> String {
    sh(&format!("ip -n lan neigh show {vip} dev v1"))
}

#[test]
fn gratuitous_arp_is_seen_and_believed() {
    isolated("gratuitous_arp_is_seen_and_believed", || {
        network();
        capture("0x0806");
        sh(&format!("ip -n lan neigh replace {VIP} lladdr 02:00:00:00:00:ee nud stale dev v1"));
        let mut k = on(VIP);
        let start = clock::now();
        k.held(A);
        k.keep_until("the neighbour entry", || neighbour(VIP).contains("02:00:00:00:00:0a"));
        println!("neighbour entry changed within {:?} of the order", clock::now() - start);
        let request = "ffffffffffff02000000000a08060001080006040001020000000".to_owned() + "00a0a0900640000000000000a090064";
        let reply = "ffffffffffff02000000000a08060001080006040002020000000".to_owned() + "00a0a09006402000000000a0a090064";
        k.keep_until("three of each form", || frames(&request).len() >= 3 && frames(&reply).len() >= 3);
        let seen = frames("ffffffffffff02000000000a0806");
        assert!(seen.iter().all(|f| *f == request || *f == reply), "nothing else: {seen:?}");
        k.let_go();
        let count = frames("").len();
        std::thread::sleep(ms(1500)); // the next announcement would have been due 1.1 s after the third
        assert_eq!(frames("").len(), count, "silent after the hold");
    });
}

#[test]
fn neighbour_advertisements_are_seen_and_believed() {
    isolated("neighbour_advertisements_are_seen_and_believed", || {
        network();
        capture("0x86dd");
        sh(&format!("ip -n lan neigh replace {VIP6} lladdr 02:00:00:00:00:ee nud stale dev v1"));
        let mut k = on(VIP6);
        let took = k.held(A);
        let shown = sh("ip -6 -o -d addr show dev v0 to fd09::64/128");
        println!("add took {took:?}\n{shown}");
        assert!(shown.contains("fd09::64/128") && !shown.contains("tentative"), "{shown}");
        k.keep_until("the neighbour entry", || neighbour(VIP6).contains("02:00:00:00:00:0a"));
        let body = "fd090000000000000000000000000064ff0200000000000000000000000000018800";
        let want = format!("33330000000102000000000a86dd6000000000203aff{body}");
        k.keep_until("an advertisement", || !frames(&want).is_empty());
        let after = frames(&want)[0][want.len() + 4..].to_owned(); // past the checksum, which the unit tests hold
        assert_eq!(after, "20000000fd0900000000000000000000000000640201".to_owned() + "02000000000a");
        assert_eq!(sh("ip netns exec lan ping -6 -c1 -W2 fd09::64 | grep -c '1 received'").trim(), "1", "it answers at once");
        k.let_go();
    });
}

#[test]
fn foreign_claims_are_told() {
    isolated("foreign_claims_are_told", || {
        network();
        for vip in [VIP, VIP6] {
            sh(&format!("ip -n lan addr add {vip} dev v1 {}", if vip == VIP6 { "nodad" } else { "" }));
            let mut k = on(vip);
            k.send(Order::Probe);
            let claimed = k.expect("an answer to the probe", |r| matches!(r, Report::Claimed { .. }));
            assert_eq!(claimed, Report::Claimed { mac: [2, 0, 0, 0, 0, 0xb] }, "{vip}");
        }
    });
}

/// It only answers who asks; the holder's own question finds it.
#[test]
fn a_silent_stranger_is_found_and_announced_against() {
    isolated("a_silent_stranger_is_found_and_announced_against", || {
        network();
        capture("0x86dd");
        for vip in [VIP, VIP6] {
            sh(&format!("ip -n lan addr add {vip} dev v1 {}", if vip == VIP6 { "nodad" } else { "" }));
            let mut k = on(vip);
            k.held(A);
            let claimed = k.expect("the stranger", |r| matches!(r, Report::Claimed { .. }));
            assert_eq!(claimed, Report::Claimed { mac: [2, 0, 0, 0, 0, 0xb] }, "{vip}");
            if vip == VIP6 {
                let ours = || frames("33330000000102000000000a86dd").len();
                k.keep_until("a fourth announcement, for three are usual", || ours() > 3);
            }
            k.let_go();
        }
    });
}

#[test]
fn peers_get_the_proof_once_the_vip_is_gone_and_not_before() {
    isolated("peers_get_the_proof_once_the_vip_is_gone_and_not_before", || {
        network();
        let key = Key::random().expect("random numbers");
        let peers: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("10.9.0.1:0").expect("a port")).collect();
        let wait = Some(Duration::from_secs(10));
        peers.iter().for_each(|p| p.set_read_timeout(wait).expect("a timeout"));
        let notify = Notify {
            from: "10.9.0.1".parse().expect("an address"),
            peers: peers.iter().map(|p| p.local_addr().expect("bound")).collect(),
            cluster: 4711,
            key: key.clone(),
        };
        let proved = |vote: VoteKey| {
            for peer in &peers {
                for _ in 0..3 {
                    let mut bytes = [0; 100];
                    let (n, from) = peer.recv_from(&mut bytes).expect("a notice");
                    assert!(!present(VIP), "it is still there");
                    assert_eq!(from.ip(), notify.from);
                    // Also that none was sent of a vote that the daemon let go itself: it would have come before.
                    assert_eq!(Notice::decode(&bytes[..n]), Some(Notice { cluster: 4711, vote, secret: key.secret(vote) }));
                }
            }
        };
        let spec = KeeperSpec { notify: Some(notify.clone()), ..spec(VIP) };
        let mut k = Kept::up(&spec, || {});
        k.held(A);
        k.let_go();
        k.held(B);
        k.gone(GoneWhy::Deadline);
        proved(B);
        let c = VoteKey { term: 3, node: 7 };
        k.held(c);
        k.signal(Signal::SIGTERM);
        k.expect("stopping", |r| *r == Report::Stopping);
        let start = clock::now();
        drop(k.link.take());
        proved(c);
        println!("three notices to two peers within {:?} of the daemon's end", clock::now() - start);
        assert_eq!(k.ended(), 0);
    });
}

#[test]
fn links_that_go_and_come_are_told() {
    isolated("links_that_go_and_come_are_told", || {
        network();
        let mut k = on(VIP);
        k.held(A);
        sh("ip -n lan link set v1 down"); // the carrier goes
        k.expect("no carrier", |r| *r == Report::Link { up: false });
        sh("ip -n lan link set v1 up");
        k.expect("carrier", |r| *r == Report::Link { up: true });
        sh("ip link del v0");
        k.gone(GoneWhy::LinkGone);
        k.hold(B, HOLD);
        k.expect("refusal", |r| matches!(r, Report::Refused { vote: B, why: RefusedWhy::LinkGone }));
        k.holding = None;
        sh("ip link add v0 type veth peer name v1 netns lan; ip link set v0 up; ip -n lan link set v1 up");
        k.expect("the new interface", |r| *r == Report::Link { up: true });
        k.held(VoteKey { term: 3, node: 7 });
        assert!(sh("ip addr show dev v0").contains(VIP));
        k.let_go();
    });
}

#[test]
fn the_loopback_can_hold_it_too() {
    isolated("the_loopback_can_hold_it_too", || {
        sh("mount -t tmpfs none /run; ip link set lo up");
        let mut k = Kept::start(&KeeperSpec { interface: "lo".into(), ..spec(VIP) }, false, || {});
        println!("add took {:?}", k.held(A));
        let vip: IpAddr = VIP.parse().expect("an address");
        assert!(std::net::TcpListener::bind((vip, 0)).is_ok());
        k.let_go();
    });
}

#[test]
fn the_keeper_keeps_two_capabilities() {
    isolated("the_keeper_keeps_two_capabilities", || {
        network();
        let mut k = on(VIP);
        k.held(A);
        let status = std::fs::read_to_string(format!("/proc/{}/status", k.pid)).expect("its status");
        let line = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        for (name, want) in [("CapPrm:", "3000"), ("CapEff:", "3000"), ("CapBnd:", "0"), ("CapInh:", "0"), ("CapAmb:", "0")] {
            assert_eq!(line(name).trim_start_matches('0'), want.trim_start_matches('0'), "{name}");
        }
        assert_eq!(line("NoNewPrivs:"), "1");
        println!("RSS {}, locked {}", line("VmRSS:"), line("VmLck:"));
        k.let_go();
    });
}

#[test]
fn the_daemon_keeps_one_capability() {
    isolated("the_daemon_keeps_one_capability", || {
        let e = caps::drop_to_unprivileged(Some("no-such-user"), None).expect_err("no such user");
        assert!(e.to_string().contains("there is no user no-such-user"), "{e}");
        let e = caps::drop_to_unprivileged(Some("65533"), None).expect_err("a user namespace with one user allows no other");
        assert!(e.to_string().contains("supplementary groups"), "{e}");
        caps::drop_to_unprivileged(None, None).expect("dropping is allowed");
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("own status");
        for (name, want) in
            [("CapPrm:", 0x400), ("CapEff:", 0x400), ("CapBnd:", 0x400), ("CapInh:", 0), ("CapAmb:", 0), ("NoNewPrivs:", 1)]
        {
            let value = status.lines().find_map(|l| l.strip_prefix(name)).expect("a line");
            assert_eq!(u64::from_str_radix(value.trim(), 16), Ok(want), "{name}");
        }
    });
}
