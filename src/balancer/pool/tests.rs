//! The rules of choosing, each measured.

use super::*;
use crate::config::{self, Backend, Balancer, HealthCheck, Target};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const T0: Instant = Instant::from_nanos(1_000_000_000_000);
pub const SECOND: Duration = Duration::from_secs(1);

fn address(i: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, i as u8], 8000 + (i / 256) as u16))
}

pub fn client(i: u32) -> Client {
    SocketAddr::from(([198, 51, (i >> 8) as u8, i as u8], (i * 7) as u16)).into()
}

pub fn backend(i: usize, weight: u16) -> Backend {
    Backend { weight, ..address(i).into() }
}

fn check() -> HealthCheck {
    let (ask, interval, timeout) = (config::Ask::Tcp, SECOND, SECOND);
    HealthCheck { ask, port: None, interval, timeout, rise: 1, fall: 1 }
}

fn balancer(backends: Vec<Backend>) -> Balancer {
    Balancer::new("b".into(), 80, false, backends)
}

/// A pool, and what it is asked with.
pub struct Rig {
    pub pool: Pool,
    pub balancer: Balancer,
    pub random: Random,
    pub now: Instant,
}

impl Rig {
    pub fn new(balance: Balance, backends: Vec<Backend>) -> Self {
        let balancer = Balancer { balance, ..balancer(backends) };
        let mut pool = Pool::default();
        pool.configure(&balancer, &Hosts::new(), T0);
        Self { pool, balancer, random: Random::new(1), now: T0 }
    }

    fn equal(balance: Balance, n: usize) -> Self {
        Self::new(balance, (0..n).map(|i| backend(i, 1)).collect())
    }

    pub fn again(&mut self, client: Client, tried: &mut Tried) -> Choice {
        self.pool.choose(&mut Ask { now: self.now, client: &client, tried, random: &mut self.random })
    }

    /// A connection of client `i` that is connected at once and stays.
    fn open(&mut self, i: u32) -> Option<u16> {
        let Choice::Member(slot) = self.again(client(i), &mut Tried::default()) else { return None };
        self.pool.connected(slot);
        self.pool.proved(slot, self.now);
        Some(slot)
    }

    fn open_all(&mut self, clients: std::ops::Range<u32>) {
        clients.for_each(|i| assert!(self.open(i).is_some(), "somebody is left"));
    }

    /// One that ends at once.
    fn pass(&mut self, i: u32) -> Option<u16> {
        let slot = self.open(i)?;
        self.pool.release(slot, false);
        Some(slot)
    }

    fn shares(&mut self, n: u32) -> Vec<usize> {
        let mut seen = vec![0; self.pool.slots.len()];
        (0..n).for_each(|i| seen[usize::from(self.pass(i).expect("somebody is left"))] += 1);
        seen
    }

    fn fail(&mut self, slot: u16) -> Option<Change> {
        self.pool.get_mut(slot).expect("a member").connecting += 1; // as a choice does
        self.pool.failed(slot, self.now, || "refused".into())
    }

    pub fn health(&mut self, i: usize, up: bool) -> Vec<Change> {
        self.pool.health(address(i), up, "status 500", self.now)
    }

    pub fn order(&mut self, i: usize, order: Order) -> Vec<Change> {
        self.pool.order(&address(i).to_string(), order, self.now).0
    }

    pub fn configure(&mut self, backends: Vec<Backend>) -> Merged {
        self.balancer.backends = backends;
        self.pool.configure(&self.balancer, &Hosts::new(), self.now)
    }

    fn states(&self) -> Vec<State> {
        self.pool.members().map(Member::state).collect()
    }
}

#[test]
fn everybody_gets_the_same_share_in_turn() {
    let mut rig = Rig::equal(Balance::RoundRobin, 3);
    let seen: Vec<_> = (0..6).filter_map(|i| rig.pass(i)).collect();
    assert_eq!(seen, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn weights_give_exact_shares_evenly_spread() {
    let mut rig = Rig::new(Balance::RoundRobin, vec![backend(0, 5), backend(1, 1), backend(2, 1)]);
    let seen: Vec<_> = (0..7).filter_map(|i| rig.pass(i)).collect();
    let gaps = seen.windows(4).filter(|w| w.iter().all(|&s| s == 0)).count();
    assert_eq!((gaps, rig.shares(700)), (0, vec![500, 100, 100]), "{seen:?}");
    for weights in [vec![1, 2, 3, 4], vec![256, 1], vec![7, 7, 3], vec![2, 2], vec![10, 0, 5]] {
        let mut rig = Rig::new(Balance::RoundRobin, weights.iter().enumerate().map(|(i, &w)| backend(i, w)).collect());
        let sum: u16 = weights.iter().sum();
        let exact: Vec<_> = weights.iter().map(|&w| usize::from(w) * 3).collect();
        assert_eq!(rig.shares(3 * u32::from(sum)), exact);
    }
}

#[test]
fn one_connection_tries_each_member_once() {
    for n in [0, 1, 3, 64] {
        let mut rig = Rig::equal(Balance::RoundRobin, n);
        let mut tried = Tried::default();
        let next = || match rig.again(client(0), &mut tried) {
            Choice::Member(slot) => Some(usize::from(slot)),
            _ => None,
        };
        let mut seen: Vec<_> = std::iter::from_fn(next).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..n).collect::<Vec<_>>());
    }
    let mut rig = Rig::equal(Balance::RoundRobin, 200);
    let mut tried = Tried::default();
    let tries = std::iter::from_fn(|| Some(rig.again(client(0), &mut tried))).take_while(|c| *c != Choice::Nobody);
    assert_eq!(tries.count(), 64);
}

#[test]
fn a_failed_member_rests_and_then_gets_another_chance() {
    let mut rig = Rig::equal(Balance::RoundRobin, 3);
    let change = rig.fail(1).expect("news");
    assert_eq!((change.to, change.why.as_deref(), change.up), (State::Down, Some("refused"), 2));
    assert_eq!(rig.fail(1), None, "told once");
    let seen: Vec<_> = (0..4).filter_map(|i| rig.pass(i)).collect();
    assert_eq!(seen, [0, 2, 0, 2], "and its share goes to the others evenly");
    let mut tried = Tried::default();
    let order: Vec<_> = (0..4).map(|_| rig.again(client(0), &mut tried)).collect();
    assert_eq!(order, [Choice::Member(0), Choice::Member(2), Choice::Member(1), Choice::Nobody], "the last resort");
    rig.now = T0 + member::REST + SECOND;
    let seen: Vec<_> = (0..6).map(|_| rig.again(client(0), &mut Tried::default())).collect();
    assert_eq!(seen.iter().filter(|&&c| c == Choice::Member(1)).count(), 1, "one connection asks it: {seen:?}");
    rig.pool.connected(1);
    assert_eq!(rig.states()[1], State::Down, "an accepted connect may still be reset");
    assert_eq!(rig.pool.proved(1, rig.now).map(|c| c.to), Some(State::Up));
    rig.pool.release(1, false);
    assert_eq!(rig.shares(6), [2; 3]);
}

#[test]
fn one_that_fails_and_works_by_turns_is_told_of_now_and_then() {
    let mut rig = Rig::equal(Balance::RoundRobin, 2);
    let mut lines = Vec::new();
    for _ in 0..250 {
        lines.extend(rig.fail(0));
        assert_eq!(rig.states()[0], State::Down, "the state is exact");
        rig.now += SECOND / 20;
        lines.extend(rig.pool.proved(0, rig.now));
        assert_eq!(rig.states()[0], State::Up);
        rig.now += SECOND / 20;
    }
    let told: Vec<_> = lines.iter().map(|c| c.to).collect();
    assert_eq!(told, [State::Down, State::Up].repeat(3), "25 s");
    rig.fail(0);
    rig.now += member::QUIET;
    assert_eq!(rig.fail(0).map(|c| c.to), Some(State::Down), "one that stays down is told of, late");
    assert_eq!(rig.health(0, false), [], "it is told already");
    assert_eq!(rig.health(0, true).len(), 1);
}

#[test]
fn a_good_check_ends_a_rest_that_is_over() {
    let mut rig = Rig::equal(Balance::RoundRobin, 2);
    rig.fail(0);
    assert_eq!(rig.health(0, true), [], "not yet");
    rig.now += member::REST;
    assert_eq!(rig.health(0, true).iter().map(|c| c.to).collect::<Vec<_>>(), [State::Up], "without any client");
    assert_eq!(rig.pool.get(0).and_then(|m| m.why.clone()), None);
    rig.fail(1);
    rig.order(1, Order::Disable);
    rig.order(1, Order::Enable);
    assert_eq!(rig.states(), [State::Up; 2], "maintenance forgets what connects showed");
    assert_eq!(rig.pool.get(1).and_then(|m| m.why.clone()), None);
}

#[test]
fn all_resting_are_still_tried_and_all_down_by_checks_are_not() {
    let mut rig = Rig::equal(Balance::RoundRobin, 2);
    rig.fail(0);
    assert_eq!(rig.fail(1).map(|c| c.up), Some(0), "the last one up");
    assert_eq!([rig.pass(0), rig.pass(1)].map(|slot| slot.is_some()), [true; 2]);
    let mut rig = Rig::equal(Balance::RoundRobin, 2);
    assert_eq!(rig.health(0, false).len(), 1);
    rig.fail(1);
    let mut tried = Tried::default();
    let order: Vec<_> = (0..2).map(|_| rig.again(client(0), &mut tried)).collect();
    assert_eq!(order, [Choice::Member(1), Choice::Nobody], "down by checks: not even as last resort");
    rig.health(1, false);
    assert_eq!(rig.pass(0), None);
    assert_eq!(
        rig.health(1, true).iter().map(|c| c.to).collect::<Vec<_>>(),
        [State::Up],
        "what connects showed is out of date"
    );
    assert_eq!(rig.health(1, true), [], "told once");
    assert_eq!(rig.pass(0), Some(1));
}

#[test]
fn backups_take_part_only_while_nobody_else_could() {
    let backup = |i| Backend { backup: true, ..backend(i, 1) };
    let capped = |i| Backend { max_connections: Some(1), ..backend(i, 1) };
    let mut rig = Rig::new(Balance::RoundRobin, vec![capped(0), capped(1), backup(2), backup(3)]);
    assert_eq!([rig.open(0), rig.open(1)], [Some(0), Some(1)]);
    assert_eq!(rig.again(client(0), &mut Tried::default()), Choice::Full, "at its cap is not away");
    rig.health(0, false);
    rig.order(1, Order::Drain);
    assert_eq!(rig.shares(6), [0, 0, 3, 3]);
    rig.order(1, Order::Weight(0));
    rig.order(1, Order::Enable);
    assert_eq!(rig.shares(6), [0, 0, 3, 3], "weight 0");
    rig.order(1, Order::Weight(3));
    rig.pool.release(1, false);
    assert_eq!(rig.pass(0), Some(1), "and they give back");
    rig.fail(1);
    assert_eq!(rig.pass(0), Some(2), "also where connects fail");
}

#[test]
fn with_checks_one_failed_connect_does_not_send_everybody_to_the_backup() {
    let backup = Backend { backup: true, ..backend(1, 1) };
    let mut rig = Rig::new(Balance::RoundRobin, vec![backend(0, 1), backup]);
    rig.balancer.health_check = Some(check());
    rig.configure(rig.balancer.backends.clone());
    let mut tried = Tried::default();
    assert_eq!(rig.again(client(0), &mut tried), Choice::Member(0));
    rig.pool.failed(0, rig.now, String::new);
    assert_eq!(rig.again(client(0), &mut tried), Choice::Member(1), "who has tried it goes there");
    assert_eq!(rig.pass(1), Some(0), "others try it");
    rig.health(0, false);
    assert_eq!(rig.pass(1), Some(1));
}

#[test]
fn the_cap_counts_connects_under_way() {
    let backend = Backend { max_connections: Some(2), ..backend(0, 1) };
    let mut rig = Rig::new(Balance::LeastConnections, vec![backend]);
    let mut ask = || rig.again(client(0), &mut Tried::default());
    assert_eq!([ask(), ask(), ask()], [Choice::Member(0), Choice::Member(0), Choice::Full]);
    rig.pool.failed(0, T0, String::new);
    assert!(matches!(rig.again(client(0), &mut Tried::default()), Choice::Member(0)));
}

#[test]
fn the_fewest_connections_for_the_weight_come_next() {
    let mut rig = Rig::new(Balance::LeastConnections, vec![backend(0, 1), backend(1, 3)]);
    rig.open_all(0..400);
    let open: Vec<_> = rig.pool.members().map(|m| m.open).collect();
    assert_eq!(open, [100, 300]);
    let mut rig = Rig::equal(Balance::LeastConnections, 3);
    assert_eq!(rig.shares(9), [3; 3], "ties in turn");
    let busy = rig.open(0).expect("a member");
    assert!((0..9).filter_map(|i| rig.pass(i)).all(|slot| slot != busy));
}

#[test]
fn two_draws_follow_weights_and_avoid_the_busy_one() {
    let mut rig = Rig::new(Balance::Random2, vec![backend(0, 1), backend(1, 1), backend(2, 2)]);
    rig.open_all(0..4000);
    let open: Vec<_> = rig.pool.members().map(|m| m.open).collect();
    assert!(open.iter().zip([1000, 1000, 2000]).all(|(&n, want)| n.abs_diff(want) < 20), "{open:?}");
    let mut twin = Rig::new(Balance::Random2, vec![backend(0, 1), backend(1, 1), backend(2, 2)]);
    twin.open_all(0..4000);
    assert!(twin.pool.members().map(|m| m.open).eq(open), "the same seed draws the same");
}

/// Where each of 10,000 clients goes.
fn homes(rig: &mut Rig) -> BTreeMap<u32, SocketAddr> {
    let mut home = |i| (i, rig.pass(i).and_then(|slot| rig.pool.get(slot)).expect("a member").address);
    (0..10_000).map(&mut home).collect()
}

fn count(homes: &BTreeMap<u32, SocketAddr>, i: usize) -> usize {
    homes.values().filter(|&&a| a == address(i)).count()
}

#[test]
fn a_member_that_goes_moves_its_own_clients_only() {
    let mut rig = Rig::equal(Balance::SourceHash, 10);
    let before = homes(&mut rig);
    let shares: Vec<_> = (0..10).map(|i| count(&before, i)).collect();
    assert!(shares.iter().all(|n| (900..1100).contains(n)), "{shares:?}");
    rig.health(3, false);
    let after = homes(&mut rig);
    assert!(before.iter().all(|(i, home)| *home == address(3) || after[i] == *home), "nobody else moved");
    let moved: Vec<_> = (0..10).map(|i| count(&after, i) - if i == 3 { 0 } else { shares[i] }).collect();
    assert!(moved.iter().enumerate().all(|(i, &n)| i == 3 || (70..160).contains(&n)), "evenly to all others: {moved:?}");
    rig.health(3, true);
    assert_eq!(homes(&mut rig), before, "and they come home");
    let mut reversed = Rig::new(Balance::SourceHash, (0..10).rev().map(|i| backend(i, 1)).collect());
    assert_eq!(homes(&mut reversed), before, "another node, or after a restart");
}

#[test]
fn by_source_weights_give_shares_and_a_new_weight_moves_few() {
    let weigh = |w: u16| Rig::new(Balance::SourceHash, (0..5).map(|i| backend(i, if i == 0 { w } else { 2 })).collect());
    let (equal, heavy) = (homes(&mut weigh(2)), homes(&mut weigh(8)));
    assert!(count(&equal, 0).abs_diff(2000) < 120 && count(&heavy, 0).abs_diff(5000) < 150, "{}", count(&heavy, 0));
    assert!(equal.iter().all(|(i, home)| heavy[i] == *home || heavy[i] == address(0)), "all that moved came to it");
}

#[test]
fn the_port_of_a_client_does_not_matter() {
    let mut rig = Rig::equal(Balance::SourceHash, 10);
    let from = |port| Client::from(SocketAddr::from(([203, 0, 113, 9], port)));
    let homes: Vec<_> = (1..50).map(|port| rig.again(from(port), &mut Tried::default())).collect();
    assert!(homes.iter().all(|home| *home == homes[0]));
}

#[test]
fn one_that_came_back_starts_slowly() {
    let mut rig = Rig::equal(Balance::RoundRobin, 2);
    rig.balancer.slow_start = 10 * SECOND;
    rig.configure(vec![backend(0, 1), backend(1, 1)]);
    assert_eq!(rig.shares(10), [5, 5], "not at the start");
    rig.health(0, false);
    rig.health(0, true);
    assert_eq!(rig.shares(110), [10, 100]);
    rig.now = T0 + 5 * SECOND;
    assert_eq!(rig.shares(155), [55, 100]);
    rig.now = T0 + 10 * SECOND;
    assert_eq!(rig.shares(10), [5, 5]);
    assert!(rig.pool.tiers[0].equal, "and the cheap way is taken again");
    rig.order(1, Order::Disable);
    rig.order(1, Order::Enable);
    assert_eq!(rig.shares(110), [100, 10], "after maintenance too");
    for (checked, away, share) in [(false, member::REST, 1000), (true, member::AWAY, 1000), (false, member::AWAY, 100)] {
        rig.balancer.health_check = checked.then(check);
        rig.configure(vec![backend(0, 1), backend(1, 1)]);
        rig.fail(0);
        rig.now += away;
        let slot = (0..20).find_map(|i| rig.pass(i).filter(|&slot| slot == 0));
        let shown = rig.pool.get(0).map(|m| m.share(rig.now, 10 * SECOND));
        assert_eq!((slot, shown), (Some(0), Some(share)), "and where connects failed for long and nobody checks");
    }
}

#[test]
fn members_keep_their_slot_and_leave_when_they_are_empty() {
    let mut rig = Rig::equal(Balance::RoundRobin, 3);
    let slots: Vec<_> = (0..3).filter_map(|i| rig.open(i)).collect();
    assert_eq!(slots, [0, 1, 2]);
    let merged = rig.configure(vec![backend(7, 1), backend(2, 1), backend(0, 1)]);
    assert_eq!(merged, Merged { joined: vec![address(7)], left: vec![(address(1), 1)] });
    let listed: Vec<_> = rig.pool.members().map(|m| (m.address, m.open)).collect();
    assert_eq!(listed, [(address(7), 0), (address(2), 1), (address(0), 1), (address(1), 1)], "as configured, then who leaves");
    assert_eq!(rig.states()[3], State::Draining);
    assert!((0..9).filter_map(|i| rig.pass(i)).all(|slot| slot != 1));
    rig.pool.release(1, false);
    assert!(rig.pool.get(1).is_none() && rig.pool.members().count() == 3);
    rig.configure(vec![backend(7, 1), backend(8, 1)]);
    assert_eq!(rig.pool.get(1).map(|m| m.address), Some(address(8)), "its slot is used again only then");
    let back = rig.configure(vec![backend(0, 4)]);
    assert_eq!(back.joined, [], "one that comes back before it is empty never went");
    assert_eq!(rig.pool.get(0).map(|m| (m.open, m.weight(), m.leaving)), Some((1, 4, false)));
}

#[test]
fn a_backend_that_is_listed_twice_gets_twice_the_connections() {
    let twice = || vec![backend(0, 1), backend(1, 1), backend(0, 1)];
    let mut rig = Rig::new(Balance::RoundRobin, twice());
    assert_eq!(rig.shares(9), [3; 3]);
    assert_eq!(rig.configure(twice()), Merged::default());
    assert_eq!(rig.health(0, false).len(), 2, "and checks are about both");
    rig.configure(vec![backend(0, 1), backend(1, 1)]);
    assert_eq!(rig.pool.members().count(), 2);
}

#[test]
fn names_stand_for_all_their_addresses() {
    let target = Target::Name { host: "app".into(), port: 81 };
    let named = Backend { target, weight: 2, backup: false, max_connections: None };
    let balancer = balancer(vec![named, backend(9, 1)]);
    let mut pool = Pool::default();
    let at = |n: u8| SocketAddr::from(([203, 0, 113, n], 81));
    let mut look_up = |ips: &[u8]| {
        let hosts = Hosts::from([("app".to_string(), ips.iter().map(|&n| at(n).ip()).collect())]);
        pool.configure(&balancer, &hosts, T0);
        pool.members().map(|m| (m.address, m.weight())).collect::<Vec<_>>()
    };
    assert_eq!(look_up(&[]), [(address(9), 1)]);
    assert_eq!(look_up(&[2, 1, 2]), [(at(1), 2), (at(2), 2), (address(9), 1)]);
    assert_eq!(look_up(&[3]), [(at(3), 2), (address(9), 1)], "what vanished keeps nothing");
}

#[test]
fn an_order_for_a_name_is_for_its_next_addresses_too() {
    let target = Target::Name { host: "app".into(), port: 81 };
    let balancer = balancer(vec![Backend { target, weight: 2, backup: false, max_connections: None }]);
    let mut pool = Pool::default();
    let look_up = |pool: &mut Pool, ips: &[u8]| {
        let ip = |&n: &u8| std::net::IpAddr::from([203, 0, 113, n]);
        pool.configure(&balancer, &Hosts::from([("app".to_string(), ips.iter().map(ip).collect())]), T0);
        pool.members().map(|m| (m.state(), m.weight())).collect::<Vec<_>>()
    };
    look_up(&mut pool, &[1, 2]);
    pool.order("203.0.113.1", Order::Drain, T0);
    assert_eq!(look_up(&mut pool, &[2, 3]), [(State::Up, 2); 2], "that was about one address");
    pool.order("app", Order::Drain, T0);
    pool.order("app", Order::Weight(5), T0);
    assert_eq!(look_up(&mut pool, &[4]), [(State::Draining, 5)]);
    assert_eq!(look_up(&mut pool, &[]), []);
    assert_eq!(look_up(&mut pool, &[5, 6]), [(State::Draining, 5); 2]);
    pool.order("app", Order::Enable, T0);
    assert_eq!(look_up(&mut pool, &[7]), [(State::Up, 5)]);
}

#[test]
fn orders_stay_where_the_address_stays() {
    let mut rig = Rig::equal(Balance::RoundRobin, 3);
    rig.balancer.health_check = Some(check());
    assert_eq!(rig.order(0, Order::Drain).len(), 1);
    assert_eq!(rig.order(0, Order::Drain), [], "told once");
    rig.order(1, Order::Disable);
    assert_eq!(rig.states(), [State::Draining, State::Maintenance, State::Up]);
    rig.health(0, false);
    assert_eq!(rig.states()[0], State::Draining, "what checks find of it is kept for later");
    rig.configure(vec![backend(2, 1), backend(1, 1), backend(0, 1)]);
    assert_eq!(rig.states(), [State::Up, State::Maintenance, State::Draining]);
    assert_eq!(rig.order(0, Order::Enable)[0].to, State::Down);
    rig.balancer.health_check = None;
    rig.configure(vec![backend(0, 1)]);
    assert_eq!(rig.states(), [State::Up], "without checks nobody would ever say that it is up");
}
