//! The ground under raft: the state directory through crashes and failing disks, and three nodes on one executor.
#![allow(clippy::unwrap_used)]
mod lab;

use kube_vip::cluster::disk::{Disk, LogStore, Machine};
use kube_vip::cluster::runtime::{self, SmolRuntime};
use kube_vip::cluster::types::{
    AppendEntriesRequest, AppendEntriesResponse, Entry, LeaderId, LogId, Node, NodeId, RPCError, Raft, RaftMetrics, Snapshot,
    SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, TypeConfig, Vote, VoteRequest, VoteResponse,
};
use openraft::async_runtime::AsyncRuntime;
use openraft::errors::{ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{Config, EntryPayload, RaftNetworkFactory, RaftNetworkV2, ServerState, SnapshotPolicy, StorageError};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A directory of its own, removed with the test.
struct Temp(PathBuf);

impl Temp {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The number of a process is not enough: in namespaces of their own, several tests are process 2.
        let (number, instant) = (COUNT.fetch_add(1, Ordering::Relaxed), runtime::now().as_nanos());
        let path = std::env::temp_dir().join(format!("kube-vip-store-{}-{number}-{instant}", std::process::id()));
        std::fs::create_dir(&path).expect("the directory for temporary files can be written");
        Self(path)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn vote(term: u64, name: &str) -> Vote {
    Vote { leader_id: LeaderId { term, node_id: id(name) }, committed: false }
}

fn blank(term: u64, index: u64) -> Entry {
    Entry { log_id: LogId { leader_id: LeaderId { term, node_id: id("a") }, index }, payload: EntryPayload::Blank }
}

fn open(path: &Path) -> Disk {
    Disk::open(path, &id("a")).unwrap_or_else(|problem| panic!("{problem}"))
}

fn refusal(path: &Path, name: &str) -> String {
    Disk::open(path, &id(name)).err().expect("it is refused").to_string()
}

async fn append(store: &mut LogStore, entries: impl IntoIterator<Item = Entry>) {
    store.append(entries, IOFlushed::noop()).await.unwrap();
}

/// Waits until everything handed to the disk so far is on it: the lease is written after it, and waited for.
async fn settle(disk: &Disk) {
    disk.record_lease(disk.recorded_lease().unwrap_or_default() + Duration::from_millis(1)).await;
}

async fn saved(disk: &Disk) -> (Option<Vote>, Vec<u64>) {
    let mut store = disk.log_store();
    let entries = store.try_get_log_entries(..).await.unwrap();
    (store.read_vote().await.unwrap(), entries.iter().map(|entry| entry.log_id.index).collect())
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, Temp> for Builder {
    async fn build(&self) -> Result<(Temp, LogStore, Machine), StorageError<TypeConfig>> {
        let temp = Temp::new();
        let disk = open(&temp.0);
        Ok((temp, disk.log_store(), disk.machine()))
    }
}

#[test]
fn passes_the_storage_suite_of_openraft() {
    SmolRuntime::run(Suite::<TypeConfig, _, _, _, _>::test_all(Builder)).unwrap();
}

#[test]
fn a_new_directory_is_private_and_empty_and_remembers() {
    let temp = Temp::new();
    let path = temp.0.join("deep/state");
    SmolRuntime::run(async {
        let disk = open(&path);
        assert!(disk.is_empty() && disk.disk_ok());
        assert_eq!((disk.recorded_lease(), disk.recorded_cluster()), (None, None));
        let mut store = disk.log_store();
        store.save_vote(&vote(1, "b")).await.unwrap();
        append(&mut store, (0..3).map(|index| blank(1, index))).await;
        disk.record_lease(Duration::from_millis(250)).await;
        disk.record_cluster(77).await;
    });
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o700);
    SmolRuntime::run(async {
        let disk = open(&path);
        assert!(!disk.is_empty());
        assert_eq!(saved(&disk).await, (Some(vote(1, "b")), vec![0, 1, 2]));
        assert_eq!((disk.recorded_lease(), disk.recorded_cluster()), (Some(Duration::from_millis(250)), Some(77)));
    });
}

#[test]
fn a_directory_that_cannot_be_used_is_refused_with_the_way_out() {
    let temp = Temp::new();
    let state = temp.0.join("state");
    let disk = open(&state);
    let text = refusal(&state, "a");
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
    drop(disk);
    let text = refusal(&state, "b");
    assert!(text.contains("belongs to node a, and this is node b"), "{text}");
    let file = temp.0.join("file");
    std::fs::write(&file, "").unwrap();
    for (path, what) in [(&file, "a file is in the way"), (&file.join("state"), "a file is in the way")] {
        let text = refusal(path, "a");
        assert!(text.contains(what) && text.contains(path.to_str().unwrap()), "{text}");
    }
}

#[test]
fn lost_votes_are_an_error_that_names_the_file_and_the_way_out() {
    let temp = Temp::new();
    drop(open(&temp.0));
    let path = temp.0.join("vote");
    let whole = std::fs::read(&path).unwrap();
    let damages: [(&str, Option<Vec<u8>>); 4] = [
        ("missing", None),
        ("empty", Some(vec![])),
        ("zeros", Some(vec![0; whole.len()])),
        ("cut", Some(whole[..100].to_vec())),
    ];
    for (what, contents) in damages {
        match contents {
            Some(contents) => std::fs::write(&path, contents).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let text = refusal(&temp.0, "a");
        assert!(text.contains(path.to_str().unwrap()) && text.contains("remove the directory"), "{what}: {text}");
        assert!(text.contains("safe while a majority of the others is up to date and keeps theirs"), "{what}: {text}");
    }
    std::fs::write(&path, whole).unwrap();
    std::fs::write(temp.0.join("meta"), "rubbish").unwrap();
    assert!(refusal(&temp.0, "a").contains("meta can't be used"));
}

#[test]
fn a_vote_torn_at_any_byte_leaves_the_vote_before_it() {
    let temp = Temp::new();
    let path = temp.0.join("vote");
    let (old, new, next) = (vote(5, "a"), vote(6, "b"), vote(7, "c"));
    let save = |vote: &Vote| SmolRuntime::run(async { open(&temp.0).log_store().save_vote(vote).await.unwrap() });
    let load = || SmolRuntime::run(async { saved(&open(&temp.0)).await.0 });
    save(&old);
    let before = std::fs::read(&path).unwrap();
    save(&new);
    let after = std::fs::read(&path).unwrap();
    let first = before.iter().zip(&after).position(|(a, b)| a != b).expect("the vote was written");
    let last = before.iter().zip(&after).rposition(|(a, b)| a != b).expect("the vote was written");
    assert!(last - first < 128, "one slot is written at a time");
    for torn in first..=last + 1 {
        let (written, kept) = (&after[..torn], &before[torn..]);
        std::fs::write(&path, [written, kept].concat()).unwrap();
        let expected = if torn > last { &new } else { &old };
        assert_eq!(load().as_ref(), Some(expected), "{torn} bytes written");
        save(&next);
        assert_eq!(load().as_ref(), Some(&next), "saved again after {torn} bytes were written");
    }
}

#[test]
fn a_log_cut_at_any_byte_is_a_shorter_log_that_goes_on() {
    let temp = Temp::new();
    let path = temp.0.join("log");
    SmolRuntime::run(async {
        let disk = open(&temp.0);
        let mut store = disk.log_store();
        for entries in [0..2, 2..5] {
            append(&mut store, entries.map(|index| blank(1, index))).await;
        }
        store.truncate_after(Some(blank(1, 2).log_id)).await.unwrap();
        append(&mut store, [blank(2, 3)]).await;
        settle(&disk).await;
    });
    let whole = std::fs::read(&path).unwrap();
    let mut lengths = BTreeSet::new();
    for len in 0..=whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        let next = SmolRuntime::run(async {
            let disk = open(&temp.0);
            let (_, indexes) = saved(&disk).await;
            assert_eq!(indexes, (0..indexes.len() as u64).collect::<Vec<_>>(), "cut to {len} bytes");
            lengths.insert(indexes.len());
            let next = indexes.len() as u64;
            append(&mut disk.log_store(), [blank(3, next)]).await;
            settle(&disk).await;
            next
        });
        let indexes = SmolRuntime::run(async { saved(&open(&temp.0)).await.1 });
        assert_eq!(indexes.last(), Some(&next), "what is appended after a cut to {len} bytes is read again");
    }
    assert_eq!(lengths, (0..=5).collect());
}

#[test]
fn a_failing_disk_never_stops_the_votes_and_is_written_again_when_it_works() {
    lab::isolated("a_failing_disk_never_stops_the_votes_and_is_written_again_when_it_works", || {
        // A file size limit of 0 makes every write fail with EFBIG; its signal would end the process.
        let mut signal = nix::sys::signal::SigSet::empty();
        signal.add(nix::sys::signal::Signal::SIGXFSZ);
        signal.thread_block().unwrap();
        let limit = |size| lab::sh(&format!("prlimit --pid {} --fsize={size}:unlimited", std::process::id()));
        let temp = Temp::new();
        SmolRuntime::run(async {
            let disk = open(&temp.0);
            let mut store = disk.log_store();
            store.save_vote(&vote(1, "a")).await.unwrap();
            append(&mut store, [blank(1, 0)]).await;
            settle(&disk).await;
            limit("0");
            store.save_vote(&vote(2, "b")).await.unwrap();
            assert!(!disk.disk_ok());
            append(&mut store, [blank(2, 1)]).await;
            settle(&disk).await;
            assert_eq!(saved(&disk).await, (Some(vote(2, "b")), vec![0, 1]), "both count in memory");
            limit("unlimited");
            store.save_vote(&vote(3, "c")).await.unwrap();
            assert!(!disk.disk_ok(), "the log is not yet written");
            append(&mut store, [blank(3, 2)]).await;
            settle(&disk).await;
            assert!(disk.disk_ok());
        });
        assert_eq!(SmolRuntime::run(async { saved(&open(&temp.0)).await }), (Some(vote(3, "c")), vec![0, 1, 2]));
    });
}

#[test]
fn full_and_read_only_file_systems_are_named_at_the_start_and_survived_later() {
    lab::isolated("full_and_read_only_file_systems_are_named_at_the_start_and_survived_later", || {
        let temp = Temp::new();
        let (mount, state) = (temp.0.display(), temp.0.join("state"));
        lab::sh(&format!("mount -t tmpfs -o size=64k none {mount}; cat /dev/zero > {mount}/fill || true"));
        assert!(refusal(&state, "a").contains("make room"));
        lab::sh(&format!("rm -r {mount}/*; mount -o remount,ro {mount}"));
        assert!(refusal(&state, "a").contains("remount"));
        lab::sh(&format!("mount -o remount,rw {mount}"));
        SmolRuntime::run(async {
            let disk = open(&state);
            lab::sh(&format!("cat /dev/zero > {mount}/fill || true"));
            let mut store = disk.log_store();
            store.save_vote(&vote(1, "a")).await.unwrap();
            assert!(disk.disk_ok(), "a vote needs no room");
            disk.record_lease(Duration::from_secs(1)).await;
            assert!(!disk.disk_ok());
            lab::sh(&format!("rm {mount}/fill"));
            disk.record_lease(Duration::from_secs(2)).await;
            assert!(disk.disk_ok());
        });
        SmolRuntime::run(async { assert_eq!(saved(&open(&state)).await.0, Some(vote(1, "a"))) });
        // A card that went read-only: the node starts with what is there, and its votes count in memory until it can be written.
        lab::sh(&format!("mount -o remount,ro {mount}"));
        SmolRuntime::run(async {
            let disk = open(&state);
            let mut store = disk.log_store();
            store.save_vote(&vote(2, "b")).await.unwrap();
            assert!(!disk.disk_ok());
            assert_eq!(saved(&disk).await.0, Some(vote(2, "b")), "in memory");
            lab::sh(&format!("mount -o remount,rw {mount}"));
            store.save_vote(&vote(3, "c")).await.unwrap();
            assert!(disk.disk_ok());
        });
        SmolRuntime::run(async { assert_eq!(saved(&open(&state)).await.0, Some(vote(3, "c"))) });
        lab::sh(&format!("umount -l {mount}"));
    });
}

/// Long, so that a busy machine doesn't lose it.
const LEASE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// Three nodes in one process; requests are calls, unless a node is gone.
#[derive(Clone, Default)]
struct Net(Rc<RefCell<BTreeMap<NodeId, Raft>>>, Rc<RefCell<Vec<Disk>>>);

struct Link {
    net: Net,
    target: NodeId,
}

impl Link {
    async fn raft(&self, option: &RPCOption) -> Result<Raft, RPCError> {
        let raft = self.net.0.borrow().get(&self.target).cloned();
        if raft.is_none() {
            runtime::sleep(option.soft_ttl()).await;
        }
        raft.ok_or_else(|| RPCError::Unreachable(Unreachable::from_string("it is gone")))
    }
}

fn gone(error: impl std::fmt::Display) -> RPCError {
    RPCError::Unreachable(Unreachable::from_string(error.to_string()))
}

impl RaftNetworkFactory<TypeConfig> for Net {
    type Network = Link;
    async fn new_client(&mut self, target: NodeId, _: &Node) -> Link {
        Link { net: self.clone(), target }
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse, RPCError> {
        self.raft(&option).await?.append_entries(rpc).await.map_err(gone)
    }

    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RPCError> {
        self.raft(&option).await?.vote(rpc).await.map_err(gone)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RPCError> {
        self.raft(&option).await?.pre_vote(rpc).await.map_err(gone)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        let raft = self.raft(&option).await.map_err(|error| Unreachable::from_string(error.to_string()))?;
        let answer = raft.install_full_snapshot(vote, snapshot).await;
        Ok(answer.map_err(|error| Unreachable::from_string(error.to_string()))?)
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse, RPCError> {
        self.raft(&option).await?.handle_transfer_leader(req).await.map_err(gone)
    }
}

/// openraft as the daemon runs it: no tick, elections and heartbeats come from outside.
fn config() -> Arc<Config> {
    let lease = LEASE.as_millis() as u64;
    let config = Config {
        heartbeat_interval: lease / 2,
        election_timeout_min: lease * 3 / 4,
        election_timeout_max: lease,
        enable_tick: false,
        quorum_loss_probe_interval: Some(2 * lease),
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(10),
        max_in_snapshot_log_to_keep: 2,
        ..Config::default()
    };
    Arc::new(config.validate().unwrap())
}

impl Net {
    async fn start(&self, temp: &Temp, name: &str) -> Raft {
        let disk = Disk::open(&temp.0.join(name), &id(name)).unwrap_or_else(|problem| panic!("{problem}"));
        let raft = Raft::new(id(name), config(), self.clone(), disk.log_store(), disk.machine()).await.unwrap();
        self.0.borrow_mut().insert(id(name), raft.clone());
        self.1.borrow_mut().push(disk);
        raft
    }

    async fn stop(&self, raft: Raft) {
        self.0.borrow_mut().remove(raft.node_id());
        raft.shutdown().await.unwrap();
    }

    /// Stops all and waits for their last writes: an executor dropped while one is under way may keep its task, and the lock.
    async fn quit(self) {
        for raft in self.0.take().into_values() {
            raft.shutdown().await.unwrap();
        }
        for disk in self.1.take() {
            settle(&disk).await;
        }
    }
}

async fn until(raft: &Raft, what: &str, happened: impl Fn(&RaftMetrics) -> bool) -> RaftMetrics {
    raft.wait(Some(PATIENCE)).metrics(happened, what).await.unwrap_or_else(|error| panic!("{}: {error}", raft.node_id()))
}

async fn until_leader(raft: &Raft) -> RaftMetrics {
    until(raft, "it leads", |m| m.state == ServerState::Leader && m.vote.committed).await
}

/// Asks again and again, as the daemon does, until it leads.
async fn elect(raft: &Raft) -> RaftMetrics {
    let campaign = async {
        loop {
            raft.trigger().elect(true).await.unwrap();
            runtime::sleep(LEASE).await;
        }
    };
    smol::future::or(until_leader(raft), campaign).await
}

/// Heartbeats until a majority has acknowledged one sent from now on.
async fn confirm(raft: &Raft) {
    let from = runtime::now();
    let beats = async {
        loop {
            raft.trigger().heartbeat().await.unwrap();
            runtime::sleep(LEASE / 5).await;
        }
    };
    let acked = until(raft, "a heartbeat is acknowledged", |m| m.last_quorum_acked.is_some_and(|at| at.into_inner() >= from));
    smol::future::or(acked, beats).await;
}

async fn first_leader(net: &Net, temp: &Temp) -> [Raft; 3] {
    let [a, b, c] = [net.start(temp, "a").await, net.start(temp, "b").await, net.start(temp, "c").await];
    a.initialize(["a", "b", "c"].map(|name| (id(name), Node)).into_iter().collect::<BTreeMap<_, _>>()).await.unwrap();
    until_leader(&a).await;
    confirm(&a).await;
    [a, b, c]
}

#[test]
fn three_nodes_elect_hand_over_take_over_and_come_back_from_disk() {
    let temp = Temp::new();
    let (term, index) = SmolRuntime::run(async {
        let net = Net::default();
        let [a, b, c] = first_leader(&net, &temp).await;
        let term = a.metrics_now().current_term;
        b.trigger().elect(true).await.unwrap();
        confirm(&a).await;
        assert_eq!(a.metrics_now().current_term, term, "nobody is elected while the lease runs");

        net.stop(a).await;
        let taken = elect(&b).await;
        assert!(taken.current_term > term);
        confirm(&b).await;

        let last = b.metrics_now().last_log_index;
        until(&c, "it has caught up", |m| m.last_log_index == last).await;
        b.trigger().transfer_leader(id("c")).await.unwrap();
        let handed = until_leader(&c).await;
        assert_eq!(handed.current_term, taken.current_term + 1, "one campaign was enough");
        until(&b, "it follows", |m| m.state == ServerState::Follower && m.current_leader == Some(id("c"))).await;
        confirm(&c).await;
        let metrics = until(&b, "it has the log", |m| m.last_log_index == handed.last_log_index.max(last.map(|i| i + 1))).await;
        net.quit().await;
        (handed.current_term, metrics.last_log_index)
    });
    SmolRuntime::run(async {
        let net = Net::default();
        for name in ["b", "c"] {
            let disk = Disk::open(&temp.0.join(name), &id(name)).unwrap();
            let (vote, log) = saved(&disk).await;
            assert_eq!(vote.map(|v| (v.leader_id.to_string(), v.committed)), Some((format!("T{term}-Nc"), true)), "{name}");
            assert_eq!(log.last().copied(), index, "{name}");
        }
        let [a, b, c] = [net.start(&temp, "a").await, net.start(&temp, "b").await, net.start(&temp, "c").await];
        assert!(a.initialize(BTreeMap::from([(id("a"), Node)])).await.is_err(), "a cluster begins once");
        let again = elect(&c).await;
        assert!(again.current_term > term, "a restart doesn't bring back the leadership");
        confirm(&c).await;
        let last = c.metrics_now().last_log_index;
        for raft in [&a, &b] {
            until(raft, "it catches up", |m| m.last_log_index == last && m.current_leader == Some(id("c"))).await;
        }
    });
}

#[test]
fn a_node_that_lost_its_directory_comes_back_by_a_snapshot() {
    let temp = Temp::new();
    let net = Net::default();
    let mut runtime = SmolRuntime::new(1);
    runtime.block_on(async {
        let [a, _b, c] = first_leader(&net, &temp).await;
        for _ in 0..30 {
            confirm(&a).await;
            a.write_blank().await.unwrap();
        }
        until(&a, "it has purged", |m| m.purged.is_some()).await;
        net.stop(c).await;
    });
    std::fs::rename(temp.0.join("c"), temp.0.join("lost")).unwrap(); // its last writes may still be under way
    runtime.block_on(async {
        let a = net.0.borrow()[&id("a")].clone();
        let c = net.start(&temp, "c").await;
        confirm(&a).await;
        let last = a.metrics_now().last_log_index;
        let beats = async {
            loop {
                confirm(&a).await;
            }
        };
        let back = until(&c, "the purged entries came as a snapshot, the others after it", |m| {
            m.last_log_index == last && m.state == ServerState::Follower && m.snapshot.is_some()
        });
        smol::future::or(back, beats).await;
        assert_eq!(a.metrics_now().state, ServerState::Leader, "the leader is undisturbed");
    });
}

trait Now {
    fn metrics_now(&self) -> RaftMetrics;
}

impl Now for Raft {
    fn metrics_now(&self) -> RaftMetrics {
        openraft::async_runtime::WatchReceiver::borrow_watched(&self.metrics()).clone()
    }
}
