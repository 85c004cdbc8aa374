//! What the service manager is told: ready, what this node is, alive, stopping. Only the daemon's own loop tells it, on wake-ups that
//! happen anyway, so that a loop that hangs falls silent.

use crate::cluster::runtime;
use crate::sys::clock::{Instant, monotonic_usec, now};
use crate::sys::notify::Manager;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::Duration;

/// How often to look for news, at most.
const LOOK: Duration = Duration::from_millis(200);
/// A node that finds no leader by then counts as started all the same: its peers may be down, and what waits for it is not to wait for ever.
const READY_BY: Duration = Duration::from_secs(15);
/// The loop wakes by itself this often: a node alone renews its hold, a node of a cluster pings its peers.
const WAKES: Duration = Duration::from_secs(1);

/// This node, as a person who asks the service manager wants to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its id.
    pub id: String,
    /// `singleNode`.
    pub alone: bool,
    /// It has just started and keeps quiet.
    pub quiet: bool,
    /// Who leads, if known.
    pub leader: Option<String>,
    /// It has the VIP.
    pub held: bool,
    /// It could have it.
    pub may_hold: bool,
    /// `kube-vip cordon`.
    pub cordoned: bool,
    /// `10.0.0.100/32 on eth0`.
    pub vip: String,
}

impl Standing {
    /// The first election's result is known, or there is none to wait for.
    fn is_settled(&self) -> bool {
        if self.alone { self.held || !self.may_hold } else { self.leader.is_some() }
    }

    fn text(&self) -> String {
        let role = match &self.leader {
            _ if self.alone => "alone".to_string(),
            Some(leader) if *leader == self.id => "leader".to_string(),
            Some(leader) => format!("follower of {leader}"),
            None if self.quiet => "quiet after the start, no leader heard yet".to_string(),
            None => "no leader: waiting for a majority".to_string(),
        };
        let expected = self.alone || self.leader.as_ref() == Some(&self.id);
        let vip = match self.held {
            true => format!(", holds {}", self.vip),
            false if expected => format!(", does not hold {}", self.vip),
            false => String::new(),
        };
        format!("{role}{vip}{}", if self.cordoned { ", cordoned" } else { "" })
    }
}

/// What was told so far; decides what is to be told next.
#[derive(Debug)]
struct Told {
    started: Instant,
    looked: Option<Instant>,
    fed: Instant,
    ready: bool,
    stopping: bool,
    status: String,
}

impl Told {
    fn new(now: Instant) -> Self {
        Self { started: now, looked: None, fed: now, ready: false, stopping: false, status: String::new() }
    }

    fn is_due(&self, now: Instant, look: Duration, stopping: bool) -> bool {
        stopping != self.stopping || self.looked.is_none_or(|at| now >= at + look)
    }

    /// The lines to tell now; empty where there is no news.
    fn lines(&mut self, now: Instant, feed: Option<Duration>, stopping: bool, standing: &Standing) -> String {
        self.looked = Some(now);
        let mut lines = Vec::new();
        if !self.ready && !stopping && (standing.is_settled() || now >= self.started + READY_BY) {
            self.ready = true;
            lines.push("READY=1".to_string());
        }
        if stopping && !std::mem::replace(&mut self.stopping, true) {
            lines.push("STOPPING=1".to_string());
        }
        let text = if stopping { "stopping".to_string() } else { standing.text() };
        if text != self.status {
            lines.push(format!("STATUS={text}"));
            self.status = text;
        }
        if feed.is_some_and(|feed| now >= self.fed + feed) {
            self.fed = now;
            lines.push("WATCHDOG=1".to_string());
        }
        lines.join("\n")
    }

    /// Its queue was full: all of it is still to be told. (That it was ready twice is no harm.)
    fn was_not_heard(&mut self, before: Self) {
        *self = Self { looked: self.looked, ..before };
    }

    fn copy(&self) -> Self {
        Self { status: self.status.clone(), ..*self }
    }
}

/// The service manager, as the daemon speaks to it.
#[derive(Debug)]
pub struct Service {
    manager: Option<Manager>,
    told: RefCell<Told>,
}

impl Service {
    /// None: nobody wants to know.
    pub fn new(manager: Option<Manager>) -> Self {
        Self { manager, told: RefCell::new(Told::new(now())) }
    }

    /// Does `work`, and tells what is new whenever this thread's tasks were woken.
    pub async fn attend<T>(
        &self,
        work: impl Future<Output = T>,
        stopping: impl Fn() -> bool,
        standing: impl Fn() -> Standing,
    ) -> T {
        let Some(manager) = &self.manager else { return work.await };
        let feed = manager.watchdog().map(|limit| limit / 4);
        feed.filter(|feed| *feed < WAKES).into_iter().for_each(wake_each);
        let look = feed.map_or(LOOK, |feed| feed.min(LOOK));
        let mut work = pin!(work);
        poll_fn(|context| {
            let polled = work.as_mut().poll(context);
            self.look(manager, now(), look, feed, stopping(), &standing);
            polled
        })
        .await
    }

    /// Tells that the configuration is being read again, and when the value goes, that this is done. Not before the first READY=1, which a
    /// node says once it has started.
    pub fn reloading(&self) -> Reloading<'_> {
        let told = self.manager.as_ref().filter(|_| self.told.borrow().ready);
        if let Some(manager) = told {
            manager.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_usec()));
        }
        Reloading(told.map(|manager| (manager, &self.told)))
    }

    fn look(
        &self,
        manager: &Manager,
        now: Instant,
        look: Duration,
        feed: Option<Duration>,
        stopping: bool,
        standing: impl Fn() -> Standing,
    ) {
        let mut told = self.told.borrow_mut();
        if !told.is_due(now, look, stopping) {
            return;
        }
        let before = told.copy();
        let lines = told.lines(now, feed, stopping, &standing());
        if !lines.is_empty() && !manager.tell(&lines) {
            told.was_not_heard(before);
        }
    }
}

/// A reload under way, as the manager sees it.
#[derive(Debug)]
pub struct Reloading<'a>(Option<(&'a Manager, &'a RefCell<Told>)>);

impl Drop for Reloading<'_> {
    fn drop(&mut self) {
        if let Some((manager, told)) = self.0
            && !manager.tell("READY=1")
        {
            told.borrow_mut().ready = false; // its queue was full: said again with the next news
        }
    }
}

/// A watchdog more impatient than what wakes the loop anyway.
fn wake_each(time: Duration) {
    runtime::spawn(async move {
        loop {
            runtime::sleep(time).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor;
    use smol::LocalExecutor;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::rc::Rc;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn node() -> Standing {
        Standing { id: "n1".into(), vip: "10.0.0.100/32 on eth0".into(), may_hold: true, ..Standing::default() }
    }

    fn led_by(id: &str) -> Standing {
        Standing { leader: Some(id.into()), ..node() }
    }

    #[test]
    fn each_standing_has_its_words() {
        let held = Standing { held: true, ..led_by("n1") };
        for (standing, text, settled) in [
            (node(), "no leader: waiting for a majority", false),
            (Standing { quiet: true, ..node() }, "quiet after the start, no leader heard yet", false),
            (led_by("n2"), "follower of n2", true),
            (Standing { cordoned: true, quiet: true, ..led_by("n2") }, "follower of n2, cordoned", true),
            (led_by("n1"), "leader, does not hold 10.0.0.100/32 on eth0", true),
            (held.clone(), "leader, holds 10.0.0.100/32 on eth0", true),
            (Standing { alone: true, leader: None, ..held }, "alone, holds 10.0.0.100/32 on eth0", true),
            (Standing { alone: true, ..node() }, "alone, does not hold 10.0.0.100/32 on eth0", false),
            (Standing { alone: true, may_hold: false, ..node() }, "alone, does not hold 10.0.0.100/32 on eth0", true),
        ] {
            assert_eq!((standing.text().as_str(), standing.is_settled()), (text, settled), "{standing:?}");
        }
    }

    #[test]
    fn ready_comes_with_the_first_leader_and_status_with_changes_only() {
        let mut told = Told::new(at(0));
        assert_eq!(told.lines(at(10), None, false, &node()), "STATUS=no leader: waiting for a majority");
        assert_eq!(told.lines(at(300), None, false, &node()), "");
        assert_eq!(told.lines(at(600), None, false, &led_by("n2")), "READY=1\nSTATUS=follower of n2");
        assert_eq!(told.lines(at(900), None, false, &led_by("n2")), "");
        assert_eq!(told.lines(at(1200), None, false, &node()), "STATUS=no leader: waiting for a majority");
        assert_eq!(told.lines(at(1500), None, false, &led_by("n3")), "STATUS=follower of n3");
        assert_eq!(told.lines(at(1800), None, true, &led_by("n3")), "STOPPING=1\nSTATUS=stopping");
        assert_eq!(told.lines(at(2100), None, true, &node()), "");
    }

    #[test]
    fn a_node_without_peers_is_ready_late_and_one_that_stops_is_not() {
        let mut told = Told::new(at(0));
        told.lines(at(0), None, false, &node());
        assert_eq!(told.lines(at(14_999), None, false, &node()), "");
        assert_eq!(told.lines(at(15_000), None, false, &node()), "READY=1");
        let mut told = Told::new(at(0));
        assert_eq!(told.lines(at(15_000), None, true, &led_by("n2")), "STOPPING=1\nSTATUS=stopping");
    }

    #[test]
    fn the_watchdog_is_fed_in_time_and_again_where_its_queue_was_full() {
        let feed = Some(Duration::from_millis(2500));
        let mut told = Told::new(at(0));
        told.lines(at(0), feed, false, &led_by("n2"));
        assert_eq!(told.lines(at(2400), feed, false, &led_by("n2")), "");
        let before = told.copy();
        assert_eq!(told.lines(at(2600), feed, false, &led_by("n2")), "WATCHDOG=1");
        told.was_not_heard(before);
        assert!(!told.is_due(at(2700), LOOK, false), "no attempt at each wake-up");
        assert!(told.is_due(at(2700), LOOK, true) && told.is_due(at(2800), LOOK, false));
        assert_eq!(told.lines(at(2800), feed, false, &led_by("n3")), "STATUS=follower of n3\nWATCHDOG=1");
        assert_eq!(told.lines(at(5200), feed, false, &led_by("n3")), "");
        assert_eq!(told.lines(at(5300), feed, false, &led_by("n3")), "WATCHDOG=1");
    }

    #[test]
    fn a_reload_is_told_from_its_beginning_to_its_end() {
        let path = std::env::temp_dir().join(format!("kube-vip-reloading-{}", std::process::id()));
        let listener = UnixDatagram::bind(&path).expect("the temporary directory is writable");
        listener.set_nonblocking(true).expect("a socket");
        let next = || {
            let mut buffer = [0; 256];
            listener.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
        };
        let address = SocketAddr::from_pathname(&path).expect("a short path");
        let service = Service::new(Some(Manager::open(address, None).expect("a socket")));
        drop(service.reloading());
        assert_eq!(next(), None, "a node that has not started yet doesn't say that it has");
        service.told.borrow_mut().ready = true;
        let reloading = service.reloading();
        let told = next().expect("it begins");
        let usec = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("with its time");
        assert!(usec.parse::<u64>().is_ok_and(|n| n > 0), "{told}");
        drop(reloading);
        assert_eq!(next().as_deref(), Some("READY=1"));
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_loop_that_hangs_falls_silent() {
        let path = std::env::temp_dir().join(format!("kube-vip-service-{}", std::process::id()));
        let listener = UnixDatagram::bind(&path).expect("the temporary directory is writable");
        listener.set_nonblocking(true).expect("a socket");
        let fed = || {
            let mut buffer = [0; 256];
            let all = std::iter::from_fn(|| listener.recv(&mut buffer).ok().map(|n| buffer[..n].ends_with(b"WATCHDOG=1")));
            all.filter(|fed| *fed).count()
        };
        let address = SocketAddr::from_pathname(&path).expect("a short path");
        let service = Service::new(Some(Manager::open(address, Some(Duration::from_millis(40))).expect("a socket")));
        let work = async {
            for _ in 0..3 {
                while fed() == 0 {
                    runtime::sleep(Duration::from_millis(5)).await;
                }
            }
            fed();
            std::thread::sleep(Duration::from_millis(400)); // the hang: ten times its watchdog
            assert_eq!(fed(), 0, "somebody else feeds it");
            while fed() == 0 {
                runtime::sleep(Duration::from_millis(5)).await;
            }
        };
        let executor = Rc::new(LocalExecutor::new());
        let _entered = runtime::enter(runtime::real(executor.clone()));
        reactor::block_on(executor.run(service.attend(work, || false, node))).expect("a reactor");
        std::fs::remove_file(path).expect("removed");
    }
}
