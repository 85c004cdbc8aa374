//! A long random walk: connections, checks, orders and reloads in any order, and what must hold all the time.

use super::tests::*;
use super::*;
use crate::config::Backend;

/// Places that connections of the walk have: slot, who is there, and whether it still connects.
type Held = Vec<(u16, std::net::SocketAddr, bool)>;

#[test]
fn places_are_counted_right_whatever_happens() {
    for seed in 0..40 {
        let balance =
            [Balance::RoundRobin, Balance::LeastConnections, Balance::Random2, Balance::SourceHash][seed as usize % 4];
        let mut rig = Rig::new(balance, some_backends(&mut Random::new(seed)));
        rig.balancer.slow_start = SECOND * (seed as u32 % 3);
        let (mut draw, mut held) = (Random::new(seed), Held::new());
        for step in 0..2000 {
            one_step(&mut rig, &mut draw, &mut held);
            check(&rig, &held, &format!("seed {seed}, step {step}"));
        }
        for (slot, _, connecting) in held.drain(..) {
            rig.pool.release(slot, connecting);
        }
        assert!(rig.pool.members().all(|m| m.load() == 0 && !m.leaving), "seed {seed}: nobody leaves for ever");
    }
}

fn some_backends(draw: &mut Random) -> Vec<Backend> {
    let one = |i: usize, draw: &mut Random| Backend {
        backup: draw.below(4) == 0,
        max_connections: (draw.below(2) == 0).then(|| 1 + draw.below(4) as u32),
        ..backend(i, [0, 1, 1, 1, 5][draw.below(5) as usize])
    };
    let picked: Vec<_> = (0..8).filter(|_| draw.below(2) == 0).collect();
    picked.into_iter().map(|i| one(i, draw)).collect()
}

fn one_step(rig: &mut Rig, draw: &mut Random, held: &mut Held) {
    let any = draw.below(held.len() as u64) as usize;
    let i = draw.below(8) as usize;
    match draw.below(12) {
        0..5 => choose(rig, draw, held),
        5 if !held.is_empty() && held[any].2 => {
            rig.pool.connected(held[any].0);
            if draw.below(2) == 0 {
                rig.pool.proved(held[any].0, rig.now);
            }
            held[any].2 = false;
        }
        6 if !held.is_empty() && held[any].2 => drop(rig.pool.failed(held.remove(any).0, rig.now, String::new)),
        7 if !held.is_empty() => {
            let (slot, _, connecting) = held.remove(any);
            rig.pool.release(slot, connecting);
        }
        8 => drop(rig.health(i, draw.below(2) == 0)),
        9 => {
            let orders = [Order::Drain, Order::Disable, Order::Enable, Order::Enable, Order::Weight(draw.below(3) as u16)];
            rig.order(i, orders[draw.below(5) as usize]);
        }
        10 if draw.below(4) == 0 => drop(rig.configure(some_backends(draw))),
        _ => rig.now += Duration::from_millis(draw.below(700)),
    }
}

fn choose(rig: &mut Rig, draw: &mut Random, held: &mut Held) {
    let mut tried = Tried::default();
    match rig.again(client(draw.below(50) as u32), &mut tried) {
        Choice::Member(slot) => {
            let m = rig.pool.get(slot).expect("a member");
            assert!(m.takes() && m.weight() > 0, "{m:?}");
            let usual = |m: &&Member| !m.backup && m.takes() && !m.rests(rig.now);
            assert!(!m.backup || rig.pool.members().find(usual).is_none(), "a backup, though another could: {m:?}");
            held.push((slot, m.address, true));
        }
        Choice::Full => assert!(rig.pool.members().any(|m| m.takes() && m.full())),
        Choice::Nobody => assert!(!rig.pool.members().any(Member::takes)),
    }
}

fn check(rig: &Rig, held: &Held, when: &str) {
    for (slot, address, _) in held {
        assert_eq!(rig.pool.get(*slot).map(|m| m.address), Some(*address), "{when}: a slot was given away");
    }
    let (open, connecting) = rig.pool.members().fold((0, 0), |sum, m| (sum.0 + m.open, sum.1 + m.connecting));
    let connects = held.iter().filter(|h| h.2).count();
    assert_eq!((open as usize, connecting as usize), (held.len() - connects, connects), "{when}");
    assert!(rig.pool.members().all(|m| !m.leaving || m.load() > 0), "{when}: an empty one is listed");
}
