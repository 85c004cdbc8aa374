//! A lease ends by the proof that its leader holds nothing any more, and by nothing else. Whole cluster parts, each on a thread of its
//! own with real sockets; the tests play their keepers.
mod lab;

use kube_vip::cluster::disk::Disk;
use kube_vip::cluster::vote::VoteId;
use kube_vip::cluster::{self, Cluster, Event, Member, NodeId, Spec, runtime};
use kube_vip::reactor;
use kube_vip::release::{Key, Notice, VoteKey};
use lab::{isolated, ms, never_within, secs, wait_for, wait_until};
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::FutureExt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PORT: u16 = 10000;
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 100));

/// What a test does to a node.
enum Do {
    Die,
    Fenced(bool),
    Fit(bool),
    Reaches(bool),
    HandOver(Option<String>, std::sync::mpsc::Sender<Result<String, String>>),
}

/// What a node says.
#[derive(Clone, Debug, Default)]
struct Says {
    /// The term it holds under.
    holds: Option<u64>,
    leader: Option<String>,
    term: u64,
    role: &'static str,
    connected: usize,
    /// The peers that could hold, as it knows them.
    fit: Vec<String>,
}

struct Node {
    commands: Sender<Do>,
    says: Arc<Mutex<Says>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What all nodes of a test have in common.
#[derive(Clone, Copy)]
struct Plan {
    count: u8,
    lease: Duration,
    /// How long the VIP lingers where there is neither keeper nor fence.
    lingers: Duration,
    fenced: bool,
    /// Each node's priority is 100 and this times its number.
    priority_step: u32,
    preempt: Option<Duration>,
}

struct Nodes {
    plan: Plan,
    nodes: Vec<Node>,
}

fn name(index: usize) -> String {
    format!("n{}", index + 1)
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, u8::try_from(index + 1).expect("few nodes")], PORT))
}

fn key(index: usize) -> Key {
    Key::from_bytes([u8::try_from(index).expect("few nodes"); 32])
}

fn state_dir(index: usize) -> PathBuf {
    PathBuf::from(format!("/run/lab/state-{}", name(index)))
}

fn spec(plan: Plan, index: usize) -> Spec {
    let id = |i: usize| NodeId::new(&name(i)).expect("a short name");
    Spec {
        id: id(index),
        members: (0..plan.count.into())
            .map(|i| Member { id: id(i), address: address(i), priority: 100 + plan.priority_step * i as u32 })
            .collect(),
        vip: VIP,
        heartbeat: plan.lease / 10,
        lease: plan.lease,
        state_dir: state_dir(index),
        start_as_leader: false,
        drop_margin: plan.lingers,
        fit: true,
        fence_fast: false,
        preempt: plan.preempt,
        key: key(index),
    }
}

/// One node's life.
async fn live(plan: Plan, index: usize, commands: Receiver<Do>, says: Arc<Mutex<Says>>) {
    let (cluster, events) = Cluster::start(spec(plan, index), None).await.expect("the node starts");
    cluster.set_fenced(plan.fenced);
    let keeper = async {
        while let Ok(event) = events.recv().await {
            match event {
                Event::Hold { vote, .. } => says.lock().expect("no panic").holds = Some(vote.term),
                Event::LetGo { vote } => {
                    says.lock().expect("no panic").holds = None;
                    // As a keeper does: the peers hear of it before its own daemon.
                    let notice = notice(plan, index, vote.term).encode();
                    (0..plan.count.into()).filter(|i| *i != index).for_each(|i| send(address(index).ip(), address(i), &notice));
                    cluster.vip_gone(vote.key());
                }
                Event::Failed(why) => panic!("{}: {why}", name(index)),
            }
        }
    };
    let looks = async {
        loop {
            let view = cluster.view();
            {
                let mut says = says.lock().expect("no panic");
                (says.leader, says.term, says.role) = (view.leader, view.term, view.role);
                says.connected = view.peers.iter().filter(|p| p.problem.is_none()).count();
                let fit = view.peers.iter().filter(|p| p.says.is_some_and(|s| s.fit));
                says.fit = fit.map(|p| p.id.clone()).collect();
            }
            runtime::sleep(ms(5)).await;
        }
    };
    let obeys = async {
        while let Ok(command) = commands.recv().await {
            match command {
                Do::Die => return,
                Do::Fenced(fenced) => cluster.set_fenced(fenced),
                Do::Fit(fit) => cluster.set_fit(fit),
                Do::Reaches(reaches) => cluster.set_reaches(reaches),
                Do::HandOver(to, answer) => {
                    let to = to.map(|to| NodeId::new(&to).expect("a short name"));
                    let cluster = cluster.clone();
                    runtime::spawn(async move {
                        let led = cluster.hand_over(to).await.map(|id| id.to_string());
                        answer.send(led).expect("the test waits");
                    });
                }
            }
        }
    };
    obeys.or(keeper).or(looks).await;
}

fn start(plan: Plan, index: usize) -> Node {
    let (commands, to_do) = bounded(16);
    let says = Arc::new(Mutex::new(Says::default()));
    let told = says.clone();
    let thread = std::thread::spawn(move || {
        let executor = Rc::new(LocalExecutor::new());
        let _entered = runtime::enter(runtime::real(executor.clone()));
        reactor::block_on(executor.run(live(plan, index, to_do, told))).expect("epoll works");
    });
    Node { commands, says, thread: Some(thread) }
}

/// As if an earlier run had recorded its lease: the quiet start is no longer than that.
fn known_here_before(plan: Plan, index: usize) {
    let executor = Rc::new(LocalExecutor::new());
    let _entered = runtime::enter(runtime::real(executor.clone()));
    let id = NodeId::new(&name(index)).expect("a short name");
    let disk = Disk::open(&state_dir(index), &id).expect("the lab's directory is writable");
    reactor::block_on(executor.run(disk.record_lease(plan.lease))).expect("epoll works");
}

impl Nodes {
    fn start(plan: Plan) -> Nodes {
        lab::sh("ip link set lo up");
        let _ = simple_log();
        let all = 0..usize::from(plan.count);
        all.clone().for_each(|i| known_here_before(plan, i));
        Nodes { plan, nodes: all.map(|i| start(plan, i)).collect() }
    }

    fn says(&self, index: usize) -> Says {
        self.nodes[index].says.lock().expect("no panic").clone()
    }

    fn tell(&self, index: usize, command: Do) {
        self.nodes[index].commands.send_blocking(command).expect("the node lives");
    }

    fn lives(&self, index: usize) -> bool {
        self.nodes[index].thread.is_some()
    }

    /// As after SIGKILL: its sockets are closed, nothing is said. Its keeper (the test) lives.
    fn kill(&mut self, index: usize) {
        self.tell(index, Do::Die);
        self.nodes[index].thread.take().expect("it lived").join().expect("no panic");
        *self.nodes[index].says.lock().expect("no panic") = Says::default();
    }

    fn restart(&mut self, index: usize) {
        self.nodes[index] = start(self.plan, index);
    }

    fn holders(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&i| self.says(i).holds.is_some()).collect()
    }

    /// All that live are connected, name the same leader, and it holds: its index and term.
    #[track_caller]
    fn wait_settled(&self) -> (usize, u64) {
        wait_for("all nodes agree on a leader that holds", secs(40), || {
            let living: Vec<usize> = (0..self.nodes.len()).filter(|&i| self.lives(i)).collect();
            let [holder] = self.holders()[..] else { return None };
            let term = self.says(holder).term;
            let agree = |&i: &usize| {
                let says = self.says(i);
                let leads = says.leader == Some(name(holder)) && says.term == term;
                leads && says.role != "quiet" && says.connected + 1 == living.len()
            };
            living.iter().all(agree).then_some((holder, term))
        })
    }

    fn notice(&self, holder: usize, term: u64) -> Notice {
        notice(self.plan, holder, term)
    }

    fn hand_over(&self, from: usize, to: Option<usize>) -> Result<String, String> {
        self.hand_over_to(from, to.map(name))
    }

    fn hand_over_to(&self, from: usize, to: Option<String>) -> Result<String, String> {
        let (answer, answers) = std::sync::mpsc::channel();
        self.tell(from, Do::HandOver(to, answer));
        answers.recv_timeout(secs(60)).expect("a hand-over is answered")
    }
}

/// The nodes' log, for whoever reads a failure.
fn simple_log() -> Result<(), log::SetLoggerError> {
    struct Stderr;
    impl log::Log for Stderr {
        fn enabled(&self, m: &log::Metadata) -> bool {
            m.target().starts_with("kube_vip")
        }
        fn log(&self, record: &log::Record) {
            if self.enabled(record.metadata()) {
                eprintln!("{:?} {} {}", std::thread::current().id(), record.level(), record.args());
            }
        }
        fn flush(&self) {}
    }
    log::set_max_level(log::LevelFilter::Debug);
    log::set_boxed_logger(Box::new(Stderr))
}

/// The notice that the keeper of `holder` sends.
fn notice(plan: Plan, holder: usize, term: u64) -> Notice {
    let vote = VoteId::new(term, NodeId::new(&name(holder)).expect("a short name")).key();
    let ids: Vec<String> = (0..plan.count.into()).map(name).collect();
    Notice { cluster: cluster::hash_of(ids.iter().map(String::as_str), VIP), vote, secret: key(holder).secret(vote) }
}

fn send(from: IpAddr, to: SocketAddr, bytes: &[u8]) {
    let socket = UdpSocket::bind((from, 0)).expect("a loopback address can be bound");
    socket.send_to(bytes, to).expect("loopback takes it");
}

/// A lease in which much can happen.
const LONG: Plan = Plan { count: 3, lease: secs(6), lingers: ms(10), fenced: true, priority_step: 0, preempt: None };

#[test]
fn only_the_right_secret_from_a_peer_ends_a_lease_and_then_at_once() {
    isolated("only_the_right_secret_from_a_peer_ends_a_lease_and_then_at_once", || {
        let mut nodes = Nodes::start(LONG);
        let (old, term) = nodes.wait_settled();
        let right = nodes.notice(old, term);
        let later = VoteKey { term: term + 1, ..right.vote };
        let others: Vec<usize> = (0..3).filter(|i| *i != old).collect();
        let cases: [(&str, IpAddr, Vec<u8>); 6] = [
            ("forged", address(old).ip(), Notice { secret: key(9).secret(right.vote), ..right }.encode().into()),
            ("early", address(old).ip(), Notice { vote: later, secret: key(old).secret(later), ..right }.encode().into()),
            ("for another cluster", address(old).ip(), Notice { cluster: right.cluster + 1, ..right }.encode().into()),
            ("of another node's vote", address(old).ip(), nodes.notice(others[0], term).encode().into()),
            ("from a stranger", [127, 0, 0, 99].into(), right.encode().into()),
            ("cut", address(old).ip(), right.encode()[..63].into()),
        ];
        for (what, from, bytes) in &cases {
            others.iter().for_each(|&i| send(*from, address(i), bytes));
            never_within(&format!("a notice that is {what} changed something"), ms(400), || {
                (nodes.holders() != [old] || nodes.says(others[0]).term != term).then(|| nodes.holders())
            });
        }
        // The genuine one, to the node that does not stand first: it passes the word on.
        nodes.kill(old);
        send(address(old).ip(), address(others[1]), &right.encode());
        let within_the_lease = LONG.lease * 2 / 3;
        wait_until("another holds while the lease would still run", within_the_lease, || nodes.holders() == [others[0]]);
        let (new, newer) = nodes.wait_settled();
        assert!(newer > term);
        // Shown again, it is about the past.
        others.iter().for_each(|&i| send(address(old).ip(), address(i), &right.encode()));
        nodes.restart(old);
        assert_eq!(nodes.wait_settled(), (new, newer), "a replayed notice, or a node that returned, changed something");
    });
}

#[test]
fn a_notice_that_one_of_five_nodes_got_is_enough() {
    isolated("a_notice_that_one_of_five_nodes_got_is_enough", || {
        let mut nodes = Nodes::start(Plan { count: 5, ..LONG });
        let (old, term) = nodes.wait_settled();
        let right = nodes.notice(old, term);
        let others: Vec<usize> = (0..5).filter(|i| *i != old).collect();
        nodes.kill(old);
        nodes.kill(others[3]);
        send(address(old).ip(), address(others[0]), &right.encode());
        wait_until("another holds while the lease would still run", LONG.lease * 2 / 3, || nodes.holders().len() == 1);
        nodes.wait_settled();
    });
}

/// 1 s of lease, about 6 s for a VIP that nobody removes.
const UNFENCED: Plan = Plan { count: 3, lease: secs(1), lingers: secs(4), fenced: false, ..LONG };

#[test]
fn an_unfenced_leaders_lifetime_is_waited_out_also_by_voters_that_restarted() {
    isolated("an_unfenced_leaders_lifetime_is_waited_out_also_by_voters_that_restarted", || {
        let mut nodes = Nodes::start(UNFENCED);
        let (old, _) = nodes.wait_settled();
        nodes.kill(old);
        let others: Vec<usize> = (0..3).filter(|i| *i != old).collect();
        for &other in &others {
            nodes.kill(other);
            nodes.restart(other);
        }
        never_within("somebody holds what may still be at the last leader", secs(4), || {
            let holders = nodes.holders();
            (!holders.is_empty()).then_some(holders)
        });
        wait_until("another holds in the end", secs(20), || nodes.holders().len() == 1);
        let (old, term) = nodes.wait_settled();
        nodes.restart(3 - others.iter().sum::<usize>());
        nodes.wait_settled();
        // With proof nobody waits.
        let right = nodes.notice(old, term);
        nodes.kill(old);
        (0..3).filter(|i| *i != old).for_each(|i| send(address(old).ip(), address(i), &right.encode()));
        wait_until("another holds at once", secs(4), || nodes.holders().len() == 1);
    });
}

#[test]
fn a_fenced_leader_is_replaced_after_its_lease() {
    isolated("a_fenced_leader_is_replaced_after_its_lease", || {
        let plan = Plan { fenced: true, lingers: secs(60), ..UNFENCED };
        let mut nodes = Nodes::start(plan);
        let (old, _) = nodes.wait_settled();
        nodes.kill(old);
        wait_until("another holds long before a lifetime would end", secs(30), || nodes.holders().iter().any(|&i| i != old));
    });
}

#[test]
fn a_leader_hands_over_to_whom_it_is_told_and_says_why_it_can_not() {
    isolated("a_leader_hands_over_to_whom_it_is_told_and_says_why_it_can_not", || {
        let mut nodes = Nodes::start(LONG);
        let (first, term) = nodes.wait_settled();
        let [second, third] = [(first + 1) % 3, (first + 2) % 3];
        let refusals = [
            (second, Some(name(third)), format!("{} does not lead: ask {}", name(second), name(first))),
            (first, Some(name(first)), "leads already".to_string()),
            (first, Some("n9".to_string()), "no member".to_string()),
        ];
        for (from, to, words) in refusals {
            let why = nodes.hand_over_to(from, to).expect_err("refused");
            assert!(why.contains(&words), "{why:?}, expected {words:?}");
        }
        nodes.tell(second, Do::Fit(false));
        wait_until("the leader hears that it is not fit", secs(20), || !nodes.says(first).fit.contains(&name(second)));
        let why = nodes.hand_over(first, Some(second)).expect_err("refused");
        assert!(why.contains("could not hold"), "{why}");
        assert_eq!((nodes.holders(), nodes.says(first).term), (vec![first], term), "a refusal moves nothing");
        assert_eq!(nodes.hand_over(first, None), Ok(name(third)), "the only one that could hold");
        wait_until("the third holds", secs(4), || nodes.holders() == [third]);
        assert_eq!(nodes.wait_settled(), (third, term + 1), "the last leader campaigned into the hand-over");
        nodes.tell(second, Do::Fit(true));
        wait_until("the leader hears that it is fit again", secs(20), || nodes.says(third).fit.contains(&name(second)));
        assert_eq!(nodes.hand_over(third, Some(second)), Ok(name(second)));
        wait_until("the second holds", secs(4), || nodes.holders() == [second]);
        let settled = nodes.wait_settled();
        never_within("somebody took it back", secs(2), || (nodes.says(first).term != settled.1).then(|| nodes.holders()));
        nodes.kill(first);
        nodes.kill(third);
        let why = nodes.hand_over(second, None).expect_err("nobody is there");
        assert!(why.contains("no node is ready"), "{why}");
    });
}

#[test]
fn a_leader_without_backends_moves_to_one_with_some_and_stays_where_nobody_has() {
    isolated("a_leader_without_backends_moves_to_one_with_some_and_stays_where_nobody_has", || {
        let nodes = Nodes::start(LONG);
        let (first, _) = nodes.wait_settled();
        let [second, third] = [(first + 1) % 3, (first + 2) % 3];
        nodes.tell(second, Do::Reaches(false));
        nodes.tell(third, Do::Fenced(false)); // it makes no difference
        never_within("a follower's backends moved the leader", secs(1), || {
            (nodes.holders() != [first]).then(|| nodes.holders())
        });
        nodes.tell(first, Do::Reaches(false));
        wait_until("the one that reaches a backend holds", secs(10), || nodes.holders() == [third]);
        let (_, term) = nodes.wait_settled();
        nodes.tell(third, Do::Reaches(false));
        never_within("the leader moved to one that is no better", secs(2), || {
            (nodes.holders() != [third] || nodes.says(third).term != term).then(|| nodes.holders())
        });
    });
}

#[test]
fn a_leader_whose_chosen_peer_refuses_asks_the_next() {
    isolated("a_leader_whose_chosen_peer_refuses_asks_the_next", || {
        let nodes = Nodes::start(LONG);
        let (first, _) = nodes.wait_settled();
        let [second, third] = [(first + 1) % 3, (first + 2) % 3];
        wait_until("the leader knows both", secs(20), || nodes.says(first).fit.len() == 2);
        nodes.tell(second, Do::Fit(false)); // its next frame would tell, so the leader asks before or is told: either way it is the third
        let led = wait_for("the leader judges the peer by its word, not by a late heartbeat", secs(20), || {
            let led = nodes.hand_over(first, Some(second)).expect_err("it does not lead");
            (!led.contains("has not acknowledged")).then_some(led)
        });
        assert!(led.contains("could not hold") || led.contains(&format!("{} leads now", name(third))), "{led}");
        if led.contains("leads now") {
            wait_until("the third holds while the lease would still run", LONG.lease / 2, || nodes.holders() == [third]);
        }
    });
}

/// The old leader is the only voter beside the new one.
#[test]
fn two_nodes_hand_over_to_each_other() {
    isolated("two_nodes_hand_over_to_each_other", || {
        let nodes = Nodes::start(Plan { count: 2, ..LONG });
        let (first, _) = nodes.wait_settled();
        for (from, to) in [(first, 1 - first), (1 - first, first)] {
            wait_until("the leader knows the other", secs(20), || nodes.says(from).fit.len() == 1);
            assert_eq!(nodes.hand_over(from, None), Ok(name(to)));
            wait_until("the other holds while the lease would still run", LONG.lease / 2, || nodes.holders() == [to]);
        }
    });
}

#[test]
fn a_peer_of_higher_priority_takes_over_where_that_is_wanted_and_keeps_it() {
    isolated("a_peer_of_higher_priority_takes_over_where_that_is_wanted_and_keeps_it", || {
        let nodes = Nodes::start(Plan { priority_step: 50, preempt: Some(secs(1)), fenced: true, lingers: ms(10), ..UNFENCED });
        wait_until("the highest priority holds", secs(30), || nodes.holders() == [2]);
        let settled = nodes.wait_settled();
        nodes.tell(2, Do::Fit(false));
        wait_until("the second highest holds", secs(10), || nodes.holders() == [1]);
        never_within("one that can not hold took it back", secs(2), || (nodes.holders() != [1]).then(|| nodes.holders()));
        nodes.tell(2, Do::Fit(true));
        wait_until("the highest priority holds again", secs(10), || nodes.holders() == [2]);
        assert!(nodes.wait_settled().1 > settled.1);
    });
}

/// Nodes that can't hold elect only where nobody else does, but a cluster of them has a leader too.
#[test]
fn nodes_that_can_not_hold_still_elect_a_leader() {
    isolated("nodes_that_can_not_hold_still_elect_a_leader", || {
        let mut nodes = Nodes::start(Plan { fenced: true, lingers: ms(10), ..UNFENCED });
        let (first, term) = nodes.wait_settled();
        (0..3).for_each(|i| nodes.tell(i, Do::Fit(false)));
        let led = |nodes: &Nodes| (0..3).filter(|i| nodes.lives(*i)).find(|&i| nodes.says(i).leader == Some(name(i)));
        wait_until("nobody holds", secs(10), || nodes.holders().is_empty());
        let leader = wait_for("one of them leads", secs(20), || led(&nodes));
        assert!(nodes.says(leader).term >= term);
        nodes.kill(first);
        wait_for("one of the others leads", secs(20), || led(&nodes));
        let fit = (first + 1) % 3;
        nodes.tell(fit, Do::Fit(true));
        wait_until("the only one that can hold does", secs(10), || nodes.holders() == [fit]);
    });
}
