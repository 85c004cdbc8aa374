//! The kernel fence against the real kernel: who is frozen or killed stops answering on time, and nothing else is touched.
#![allow(unsafe_code)] // seccomp, which plays a kernel without nf_tables

mod lab;

use kube_vip::sys::clock;
use kube_vip::sys::netlink::Netlink;
use kube_vip::vip::fence::{Fence, table_name};
use kube_vip::vip::{self, GoneWhy, KeeperSpec, Order, Report, Task, VoteKey, frames};
use lab::kept::{self, HOLD, Kept, ms};
use lab::net::{VIP4, VIP6};
use lab::packet::{PacketSocket, icmp6_type};
use lab::{ArpWatch, Capture, Cluster, Host, Lab, Prober, isolated, secs, sh, wait_until};
use nix::sys::signal::Signal;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const A: VoteKey = VoteKey { term: 1, node: 7 };
/// What a kernel's tick and a busy machine may add to the last answer.
const SLACK: Duration = ms(15);
/// Long enough to see that nothing is answered any more, and well within the address's own lifetime.
const LOOK: Duration = ms(400);

/// A keeper on a host of the lab.
fn keep(host: &Host, vip: IpAddr) -> Kept {
    keep_with(host, &kept::spec("eth0", vip), || {})
}

fn keep_with(host: &Host, spec: &KeeperSpec, prepare: impl FnOnce()) -> Kept {
    Kept::up(spec, || {
        host.join_namespace();
        prepare();
    })
}

/// Holds for a while like a daemon; the newest deadline.
fn hold_for(k: &mut Kept, span: Duration) -> clock::Instant {
    let start = clock::now();
    let mut until = start;
    while clock::now() - start < span {
        until = k.hold(A, HOLD);
        k.holding = None; // `report` would order again
        assert_eq!(k.report(ms(50)), None, "an undisturbed hold has no news");
    }
    until
}

/// Sleeps: what is looked at afterwards is what happens without anybody doing anything.
fn sleep_until(at: clock::Instant) {
    while clock::now() < at {
        std::thread::sleep(at - clock::now());
    }
}

/// Names of all nf_tables tables of the family netdev on a host, as they come in the kernel's answer.
fn tables(host: &Host) -> String {
    host.enter(|| {
        let netlink = Netlink::netfilter().expect("nf_tables");
        // NFT_MSG_GETTABLE as a dump (REQUEST|DUMP), family netdev.
        let mut ask = [0; 20];
        ask[0] = 20;
        ask[4..6].copy_from_slice(&0x0a01u16.to_ne_bytes());
        ask[6..8].copy_from_slice(&0x0301u16.to_ne_bytes());
        ask[16] = 5;
        netlink.send(&ask).expect("the kernel takes it");
        let (mut all, mut buffer) = (Vec::new(), vec![0; 32 * 1024]);
        while let Ok(n) = netlink.receive(&mut buffer) {
            all.extend_from_slice(&buffer[..n]);
        }
        String::from_utf8_lossy(&all).into_owned()
    })
}

fn has_table(host: &Host, vip: IpAddr) -> bool {
    tables(host).contains(&format!("{}\0", table_name(vip)))
}

/// Asks for the IPv6 VIP every 10 ms for a while, and says whether anybody answered.
fn is_solicited(from: &Host, span: Duration) -> bool {
    from.enter(|| {
        let socket = PacketSocket::open();
        let question = frames::build(frames::Kind::Probe, socket.mac, VIP6.into()).expect("a solicitation");
        let end = Instant::now() + span;
        let mut buffer = [0; 2048];
        while Instant::now() < end {
            socket.send(question.as_bytes());
            let next = Instant::now() + ms(10);
            while let Some(n) = socket.receive(&mut buffer, next) {
                if icmp6_type(&buffer[..n]) == Some(136) && frames::claim(&buffer[..n], VIP6.into(), socket.mac).is_some() {
                    return true;
                }
            }
        }
        false
    })
}

/// Nothing that is asked from then on is answered, although the address is there.
fn assert_silent(host: &Host, client: &Host, vip: IpAddr, watch: Option<&ArpWatch>, pings: &Prober, until: clock::Instant) {
    sleep_until(until + SLACK);
    let (now, round) = (Instant::now(), watch.map(ArpWatch::rounds));
    match watch {
        Some(_) => std::thread::sleep(LOOK),
        None => assert!(!is_solicited(client, LOOK), "a solicitation was answered after the deadline"),
    }
    assert!(host.has(vip), "the address ended by itself: this shows nothing");
    assert_eq!(pings.first_answer_after(now), None, "a ping was answered after the deadline");
    let late = watch.and_then(|w| w.last()).filter(|a| Some(a.round) > round);
    assert!(late.is_none(), "a question asked later than {SLACK:?} after the deadline was answered: {late:?}");
}

#[test]
fn the_last_answer_comes_before_the_deadline_though_nobody_lives() {
    isolated("the_last_answer_comes_before_the_deadline_though_nobody_lives", || {
        if emulator_has_no_fence() {
            return;
        }
        let lab = Lab::new();
        let (host, client, other) = (lab.host("n1"), lab.host("client"), lab.host("other"));
        for vip in [IpAddr::V4(VIP4), IpAddr::V6(VIP6)] {
            for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
                let watch = vip.is_ipv4().then(|| ArpWatch::start(&client, VIP4));
                let (pings, own) = (Prober::start(&client, vip), Prober::start(&other, host.ip4()));
                let mut k = keep(&host, vip);
                k.held(A);
                pings.wait_answer(secs(10));
                own.wait_answer(secs(10));
                let until = hold_for(&mut k, secs(1));
                assert!(pings.outages().is_empty(), "{vip}: silent in the middle of a hold: {:?}", pings.outages());
                k.signal(signal);
                assert_silent(&host, &client, vip, watch.as_ref(), &pings, until);
                own.wait_answer(secs(10));
                assert!(own.outages().is_empty(), "the host's own address was disturbed: {:?}", own.outages());
                if signal == Signal::SIGSTOP {
                    k.signal(Signal::SIGCONT);
                    k.gone(GoneWhy::Deadline);
                    k.hold(VoteKey { term: 2, node: 7 }, HOLD);
                    k.expect("the next hold", |r| matches!(r, Report::Held { .. }));
                    pings.wait_answer(secs(10));
                    drop(k.link.take());
                }
                k.ended();
                wait_until("the address is gone", secs(10), || !host.has(vip));
            }
        }
    });
}

/// Its own neighbours must not lose the next holder, and must not be lied to by it.
#[test]
fn a_guarded_host_hears_the_next_holder_and_can_not_speak_for_the_vip() {
    isolated("a_guarded_host_hears_the_next_holder_and_can_not_speak_for_the_vip", || {
        if emulator_has_no_fence() {
            return;
        }
        let lab = Lab::new();
        let (host, next) = (lab.host("n1"), lab.host("n2"));
        for vip in [IpAddr::V4(VIP4), IpAddr::V6(VIP6)] {
            host.sh(&format!("ip neigh replace {vip} lladdr 02:00:00:00:00:ee nud stale dev eth0"));
            let mut k = keep(&host, vip);
            k.held(A);
            let until = hold_for(&mut k, ms(1100)); // Linux lets a young entry be changed by nobody for 1 s
            k.signal(Signal::SIGSTOP);
            sleep_until(until + SLACK);
            let announce = |from: &Host, vip| {
                from.enter(|| {
                    let socket = PacketSocket::open();
                    let frame = frames::build(frames::Kind::Announce, socket.mac, vip).expect("an announcement");
                    socket.send(frame.as_bytes());
                });
            };
            announce(&next, vip);
            // An advertisement of an address that is its own IPv6 ignores by itself, until the address is gone.
            let believes = || vip.is_ipv6() || host.neighbour(vip) == lab::net::mac_text(next.mac());
            wait_until("the old holder believes the next one", secs(5), believes);
            let heard = Capture::start(&next);
            // What a keeper that was stopped between looking at the clock and sending would still send; then something else of its own.
            announce(&host, vip);
            let own = if vip.is_ipv4() { IpAddr::V4(host.ip4()) } else { host.ip6().into() };
            announce(&host, own);
            let from_host = |f: &lab::observe::Frame, of: IpAddr| frames::claim(&f.bytes, of, next.mac()) == Some(host.mac());
            wait_until("its own address may be announced", secs(5), || heard.frames().iter().any(|f| from_host(f, own)));
            assert!(!heard.frames().iter().any(|f| from_host(f, vip)), "{vip} was announced after its time");
            k.signal(Signal::SIGCONT);
            k.gone(GoneWhy::Deadline);
            drop(k.link.take());
            k.ended();
        }
    });
}

#[test]
fn a_stop_and_cleanup_leave_no_table_and_touch_no_other() {
    isolated("a_stop_and_cleanup_leave_no_table_and_touch_no_other", || {
        if emulator_has_no_fence() {
            return;
        }
        let lab = Lab::new();
        let host = lab.host("n1");
        let other = IpAddr::from([10, 99, 0, 101]);
        host.enter(|| assert_eq!(Fence::open(other, "eth0").install(), 0));
        let state = kept::spec("eth0", VIP4.into()).state_file;
        for vip in [IpAddr::V4(VIP4), IpAddr::V6(VIP6)] {
            let clean = || host.enter(|| vip::cleanup("eth0", vip, &state)).expect("cleanup").fence;
            assert_eq!(clean(), vip::FenceFound::Absent);
            let mut k = keep(&host, vip);
            assert!(has_table(&host, vip), "made at start");
            k.held(A);
            k.let_go();
            drop(k.link.take());
            k.ended();
            assert!(!has_table(&host, vip), "left after a stop");

            let mut k = keep(&host, vip);
            k.held(A);
            k.signal(Signal::SIGKILL);
            k.ended();
            assert!(host.has(vip) && has_table(&host, vip), "it guards what a killed keeper left");
            assert_eq!(clean(), vip::FenceFound::Removed(table_name(vip)));
            assert!(!host.has(vip) && !has_table(&host, vip));

            let mut k = keep(&host, vip);
            k.held(A);
            k.signal(Signal::SIGKILL);
            k.ended();
            let mut k = keep(&host, vip);
            assert!(!host.has(vip) && has_table(&host, vip), "swept, and made anew");
            drop(k.link.take());
            k.ended();
            assert!(has_table(&host, other), "another's table is gone");
        }
    });
}

#[test]
fn a_deleted_table_is_made_again_while_it_is_held() {
    isolated("a_deleted_table_is_made_again_while_it_is_held", || {
        if emulator_has_no_fence() {
            return;
        }
        let lab = Lab::new();
        let (host, client) = (lab.host("n1"), lab.host("client"));
        let mut k = keep(&host, VIP4.into());
        let (watch, pings) = (ArpWatch::start(&client, VIP4), Prober::start(&client, VIP4));
        k.held(A);
        pings.wait_answer(secs(10));
        // All that `nft flush ruleset` does to us.
        host.enter(|| assert_eq!(Fence::open(VIP4.into(), "eth0").remove(), Ok(true)));
        let told = k.expect("one line of it", |r| matches!(r, Report::Trouble { .. }));
        assert_eq!(told, Report::Trouble { task: Task::Fence, errno: libc::ENOENT });
        assert!(has_table(&host, VIP4.into()));
        let until = hold_for(&mut k, ms(500));
        k.signal(Signal::SIGSTOP);
        assert_silent(&host, &client, VIP4.into(), Some(&watch), &pings, until);
        k.signal(Signal::SIGKILL);
    });
}

#[test]
fn a_new_interface_is_fenced_again() {
    isolated("a_new_interface_is_fenced_again", || {
        if emulator_has_no_fence() {
            return;
        }
        let lab = Lab::new();
        let (host, client) = (lab.host("n1"), lab.host("client"));
        let mut k = keep(&host, VIP4.into());
        sh("ip link del p1");
        k.expect("no link", |r| *r == Report::Link { up: false });
        sh("ip link add p1 type veth peer name eth0 netns n1 address 02:99:00:00:00:01; ip link set p1 master br0 up");
        host.sh("ip addr add 10.99.0.1/24 dev eth0; ip link set eth0 up");
        k.expect("the new one", |r| *r == Report::Link { up: true });
        let (watch, pings) = (ArpWatch::start(&client, VIP4), Prober::start(&client, VIP4));
        k.held(A);
        pings.wait_answer(secs(10));
        let until = hold_for(&mut k, ms(300));
        k.signal(Signal::SIGSTOP);
        assert_silent(&host, &client, VIP4.into(), Some(&watch), &pings, until);
        k.signal(Signal::SIGKILL);
    });
}

/// QEMU's user mode has no NETLINK_NETFILTER sockets: what is to be seen here only a real kernel shows.
fn emulator_has_no_fence() -> bool {
    let absent = refuses_netfilter() && lab::process::emulated(std::process::id() as i32);
    if absent {
        lab::skip("the fence: this emulator has no nf_tables");
    }
    absent
}

fn refuses_netfilter() -> bool {
    Netlink::netfilter().is_err_and(|e| e.raw_os_error() == Some(libc::EPROTONOSUPPORT))
}

/// Refuses NETLINK_NETFILTER sockets to this process as a kernel without nf_tables does (EPROTONOSUPPORT).
fn without_netfilter() {
    let jump = |value, otherwise| libc::sock_filter { code: 0x15, jt: 0, jf: otherwise, k: value };
    let load = |at| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: at };
    let answer = |value| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: value };
    let low = |argument: u32| 16 + 8 * argument + if cfg!(target_endian = "big") { 4 } else { 0 }; // struct seccomp_data
    let mut filter = [
        load(0),
        jump(libc::SYS_socket as u32, 5),
        load(low(0)),
        jump(libc::AF_NETLINK as u32, 3),
        load(low(2)),
        jump(libc::NETLINK_NETFILTER as u32, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `program` and what it points to live through the call; prctl copies them.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn without_nf_tables_the_lifetime_still_ends_it() {
    isolated("without_nf_tables_the_lifetime_still_ends_it", || {
        let lab = Lab::new();
        let host = lab.host("n1");
        let spec = kept::spec("eth0", VIP4.into());
        let start = || {
            Kept::start(&spec, false, || {
                host.join_namespace();
                if !refuses_netfilter() {
                    without_netfilter();
                }
            })
        };
        let mut k = start();
        k.expect("the reason", |r| *r == Report::Fence { errno: libc::EPROTONOSUPPORT });
        k.held(A);
        assert!(refuses_netfilter() || !has_table(&host, VIP4.into()));
        k.send(Order::LetGo { vote: A });
        k.gone(GoneWhy::LetGo);
        k.held(VoteKey { term: 2, node: 7 });
        k.signal(Signal::SIGKILL);
        k.ended();
        let (killed, bound) = (clock::now(), vip::lifetime_bound(HOLD));
        wait_until("the kernel drops the address", bound + secs(1), || !host.has(VIP4));
        println!("gone {:?} after the kill; the bound is {bound:?}", clock::now() - killed);
    });
}

/// Everything of a leader at once: killed, or frozen and continued later. No question is ever answered twice.
#[test]
fn a_killed_or_frozen_leader_never_answers_beside_the_next() {
    isolated("a_killed_or_frozen_leader_never_answers_beside_the_next", || {
        let cluster = Cluster::start(&Lab::new(), 3);
        let watch = ArpWatch::start(&cluster.client, VIP4);
        for frozen in [false, true, false] {
            let (old, _) = cluster.wait_settled();
            let node = &cluster.nodes[old];
            watch.wait_answer_by(&node.host, secs(10));
            let daemon = node.daemon_pid();
            let signal = |signal| {
                node.signal(signal);
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), signal).expect("the daemon runs");
            };
            if frozen {
                signal(Signal::SIGSTOP);
            } else {
                node.kill_both();
            }
            let next = lab::wait_for("another node answers", secs(20), || {
                let mac = watch.last().map(|a| a.mac)?;
                cluster.nodes.iter().position(|n| n.host.mac() == mac).filter(|next| *next != old)
            });
            if frozen {
                signal(Signal::SIGCONT);
                watch.wait_answer_by(&cluster.nodes[next].host, secs(10));
            } else {
                node.restart();
            }
            wait_until("the old one has dropped it", secs(10), || cluster.holders().len() == 1);
        }
        println!("{}", watch.story());
        watch.assert_one_holder();
    });
}

/// The address goes with the interface, whatever that is called: it is not gone because its name is.
#[test]
fn a_renamed_interface_takes_the_vip_out_of_service() {
    isolated("a_renamed_interface_takes_the_vip_out_of_service", || {
        let lab = Lab::new();
        let (host, client) = (lab.host("n1"), lab.host("client"));
        let mut k = keep(&host, VIP4.into());
        let watch = ArpWatch::start(&client, VIP4);
        k.held(A);
        watch.wait_answer_by(&host, secs(10));
        host.sh("ip link set eth0 name lan0 || { ip link set eth0 down; ip link set eth0 name lan0; ip link set lan0 up; }");
        k.expect("the end", |r| matches!(r, Report::Gone { why: GoneWhy::LinkGone, .. }));
        assert_eq!(host.sh(&format!("ip -o addr show to {VIP4}")), "", "told gone while it was there");
        let round = watch.rounds();
        wait_until("50 more questions are asked", secs(10), || watch.rounds() > round + 50);
        assert!(watch.last().is_none_or(|a| a.round <= round), "still answered after it was told gone\n{}", watch.story());
        k.signal(Signal::SIGKILL);
    });
}
