//! Who may come in to one balancer, how many at once, and how fast. Pure: the caller says what time it is.
//!
//! A client from `acceptProxy` speaks for another, whose address its header tells. `deny` is asked about both, `allow` only about
//! the one who is served: the list of proxies is itself the permission to bring others. A proxy that brings nobody (its own health
//! checks, or a client that it can't name) is judged as a client.

use crate::config::{Balancer, Network};
use crate::sys::clock::Instant;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// The lists and limits of one balancer, and who is in.
#[derive(Debug, Default)]
pub struct Admission {
    allow: Vec<Network>,
    deny: Vec<Network>,
    proxies: Vec<Network>,
    clients: Option<Clients>,
    rate: Option<Rate>,
}

/// How many connections each client has open: only of clients that have any, so that it is no larger than they are many.
///
/// A client is an address, of IPv6 too. A /64 may be one customer with 2^64 addresses, but behind a balancer in a local network it
/// is all its neighbours, and the limit would hit the many for the few. Against the few there are `deny` and `maxConnections`.
#[derive(Debug)]
struct Clients {
    most: u32,
    open: HashMap<IpAddr, u32>,
}

/// A bucket of as many tokens as are let in per second, as the instant when it will be full again.
#[derive(Debug)]
struct Rate {
    per_second: u32,
    /// For one token to come: at least 1 ns.
    token: Duration,
    full: Instant,
}

impl Admission {
    /// What a balancer's configuration says; nobody is in.
    pub fn new(balancer: &Balancer) -> Self {
        let mut new = Self::default();
        new.change(balancer);
        new
    }

    /// Takes over a changed configuration. Who is in stays in, and counts if the limit per client was there before; where it was
    /// taken away and came back, a client may have some more than it says, until those from before have ended.
    pub fn change(&mut self, balancer: &Balancer) {
        self.allow.clone_from(&balancer.allow);
        self.deny.clone_from(&balancer.deny);
        self.proxies.clone_from(&balancer.accept_proxy);
        let clients = self.clients.take().map(|clients| clients.open);
        self.clients = balancer.max_per_client.map(|most| Clients { most, open: clients.unwrap_or_default() });
        let rate = self.rate.take();
        self.rate = balancer.accept_rate.map(|per_second| match rate {
            Some(rate) if rate.per_second == per_second => rate,
            _ => Rate {
                per_second,
                token: Duration::from_nanos((1_000_000_000 / u64::from(per_second.max(1))).max(1)),
                full: Instant::default(),
            },
        });
    }

    /// Whether `ip` is refused whatever it says.
    pub fn denies(&self, ip: IpAddr) -> bool {
        is_in(&self.deny, ip)
    }

    /// Whether a client at `ip` is served.
    pub fn serves(&self, ip: IpAddr) -> bool {
        !self.denies(ip) && (self.allow.is_empty() || is_in(&self.allow, ip))
    }

    /// Whether who connects from `ip` is a proxy, and must say first who its client is.
    pub fn is_proxy(&self, ip: IpAddr) -> bool {
        is_in(&self.proxies, ip)
    }

    /// Whether connections per client are counted, so that each that [`Admission::enter`]ed must [`Admission::leave`].
    pub const fn counts(&self) -> bool {
        self.clients.is_some()
    }

    /// Counts a connection of the client at `ip`, unless it has as many as it may have: then false.
    pub fn enter(&mut self, ip: IpAddr) -> bool {
        let Some(clients) = &mut self.clients else { return true };
        let ip = ip.to_canonical();
        let open = clients.open.get(&ip).copied().unwrap_or(0);
        if open >= clients.most {
            return false;
        }
        clients.open.insert(ip, open + 1);
        true
    }

    /// A connection that was counted for `ip` has ended.
    pub fn leave(&mut self, ip: IpAddr) {
        let Some(clients) = &mut self.clients else { return };
        let ip = ip.to_canonical();
        match clients.open.get_mut(&ip) {
            Some(open) if *open > 1 => *open -= 1,
            _ => drop(clients.open.remove(&ip)),
        }
        // a flood's room is given back
        if clients.open.is_empty() && clients.open.capacity() > 64 {
            clients.open = HashMap::new();
        }
    }

    /// When the next connection may be accepted. None: now.
    pub fn wait(&self, now: Instant) -> Option<Instant> {
        let rate = self.rate.as_ref()?;
        // Empty is a second away from full, and one token less than empty is too far.
        let next = rate.full + rate.token - Duration::from_secs(1);
        (next > now).then_some(next)
    }

    /// A connection was accepted that counts for the rate. Those refused at once don't: they would keep others out.
    pub fn took(&mut self, now: Instant) {
        if let Some(rate) = &mut self.rate {
            rate.full = rate.full.max(now) + rate.token;
        }
    }
}

fn is_in(networks: &[Network], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::from_nanos(10_000_000_000);
    const MS: Duration = Duration::from_millis(1);

    fn balancer(set: impl FnOnce(&mut Balancer)) -> Balancer {
        let mut b = Balancer::new("b".into(), 80, false, Vec::new());
        set(&mut b);
        b
    }

    fn networks(list: &[&str]) -> Vec<Network> {
        list.iter().map(|n| n.parse().expect("a network")).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn lists_decide_and_deny_wins() {
        let a = Admission::new(&balancer(|b| {
            b.allow = networks(&["10.0.0.0/8", "2001:db8::/32"]);
            b.deny = networks(&["10.66.0.0/16"]);
            b.accept_proxy = networks(&["192.0.2.1"]);
        }));
        for (client, serves, denies, is_proxy) in [
            ("10.1.2.3", true, false, false),
            ("::ffff:10.1.2.3", true, false, false),
            ("2001:db8::7", true, false, false),
            ("10.66.1.1", false, true, false),
            ("::ffff:10.66.1.1", false, true, false),
            ("172.16.0.1", false, false, false),
            ("192.0.2.1", false, false, true),
        ] {
            let answers = (a.serves(ip(client)), a.denies(ip(client)), a.is_proxy(ip(client)));
            assert_eq!(answers, (serves, denies, is_proxy), "{client}");
        }
    }

    #[test]
    fn without_lists_and_limits_everybody_is_served_and_nobody_counted() {
        let mut a = Admission::new(&balancer(|_| {}));
        assert!(a.serves(ip("10.0.0.1")) && !a.is_proxy(ip("10.0.0.1")) && !a.counts());
        assert!((0..100_000).all(|_| a.enter(ip("10.0.0.1")) && a.wait(T0).is_none()));
        a.took(T0);
        a.leave(ip("10.0.0.1"));
    }

    #[test]
    fn each_client_has_its_own_count() {
        let mut a = Admission::new(&balancer(|b| b.max_per_client = Some(2)));
        let (one, other) = (ip("2001:db8::1"), ip("2001:db8::2"));
        assert!(a.enter(one) && a.enter(one) && !a.enter(one));
        assert!(a.enter(other), "a neighbour in its /64 is another client");
        a.leave(one);
        assert!(a.enter(one) && !a.enter(one));
        assert!(
            a.enter(ip("10.0.0.1")) && a.enter(ip("::ffff:10.0.0.1")) && !a.enter(ip("10.0.0.1")),
            "one client, said twice"
        );
        for client in [one, one, other, ip("10.0.0.1"), ip("::ffff:10.0.0.1"), other] {
            a.leave(client);
        }
        assert_eq!(a.clients.as_ref().map(|c| c.open.len()), Some(0), "only who is in is kept");
    }

    #[test]
    fn a_changed_file_keeps_the_counts() {
        let mut a = Admission::new(&balancer(|b| b.max_per_client = Some(2)));
        let client = ip("10.0.0.1");
        assert!(a.enter(client) && a.enter(client));
        a.change(&balancer(|b| b.max_per_client = Some(3)));
        assert!(a.enter(client) && !a.enter(client));
        a.change(&balancer(|b| b.max_per_client = Some(1)));
        assert!(!a.enter(client));
        a.change(&balancer(|_| {}));
        assert!(a.enter(client) && !a.counts());
    }

    /// When `n` connections are accepted that are always waiting, from `now` on.
    fn accept(a: &mut Admission, n: usize, mut now: Instant) -> Vec<Duration> {
        let began = now;
        let one = |_| {
            now = a.wait(now).unwrap_or(now);
            assert_eq!(a.wait(now), None, "it may be then");
            a.took(now);
            now - began
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn a_second_s_worth_comes_at_once_and_then_at_the_rate() {
        let mut a = Admission::new(&balancer(|b| b.accept_rate = Some(10)));
        let at = accept(&mut a, 13, T0);
        assert_eq!(at[9], Duration::ZERO);
        assert_eq!(at[10..], [100 * MS, 200 * MS, 300 * MS]);
        assert_eq!(a.wait(T0 + 350 * MS), Some(T0 + 400 * MS));
        // After half a second of quiet there are five more, after a long time no more than ten.
        assert_eq!(accept(&mut a, 6, T0 + 800 * MS)[4..], [Duration::ZERO, 100 * MS]);
        assert_eq!(accept(&mut a, 11, T0 + 3_600_000 * MS)[9..], [Duration::ZERO, 100 * MS]);
    }

    #[test]
    fn any_rate_is_kept() {
        for rate in [1, 2, 3, 7, 1000, 99_999, 1_000_000_000, u32::MAX] {
            let mut a = Admission::new(&balancer(|b| b.accept_rate = Some(rate)));
            let at = accept(&mut a, 3000, T0);
            let waited = at[2999].as_secs_f64();
            let due = (3000.0 - f64::from(rate)).max(0.0) / f64::from(rate);
            assert!((waited - due).abs() <= 0.001 * due + 1e-5, "{rate}: {waited} instead of {due}");
        }
    }

    #[test]
    fn a_changed_file_keeps_what_the_rate_has_given() {
        let with = |rate| balancer(|b| b.accept_rate = rate);
        let mut a = Admission::new(&with(Some(2)));
        accept(&mut a, 2, T0);
        a.change(&with(Some(2)));
        assert_eq!(a.wait(T0), Some(T0 + 500 * MS));
        a.change(&with(Some(4)));
        assert_eq!(a.wait(T0), None, "another rate begins anew");
        a.change(&with(None));
        assert_eq!(a.wait(T0), None);
    }
}
