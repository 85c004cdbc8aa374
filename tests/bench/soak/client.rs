//! Clients: each opens one connection after the other, of random size and kind, and judges how it went.

use super::backend::{PATIENCE, STACK, Server};
use super::tally::{End, Tally};
use super::words::{Broken, GREETING, Pattern, Plan, Way, read_end};
use rng::Rng;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

mod rng {
    //! Small random numbers.

    pub struct Rng(u64);

    impl Rng {
        pub fn new(seed: u64) -> Self {
            Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
        }

        pub fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 >> 11
        }

        /// From 0 to `n` − 1.
        pub fn below(&mut self, n: u64) -> u64 {
            self.next() % n.max(1)
        }

        /// From 1 to `most`, each order of magnitude as likely as another.
        pub fn size(&mut self, most: u64) -> u64 {
            let magnitude = self.below(u64::from(most.ilog2()) + 2);
            (1 + self.below(1 << magnitude)).min(most)
        }
    }
}

/// What all clients share.
pub struct Clients {
    pub target: SocketAddr,
    pub servers: Vec<Arc<Server>>,
    pub pattern: Arc<Pattern>,
    pub tally: Mutex<Tally>,
    /// When the VIP was last seen on another node than before.
    pub moved: Mutex<Option<Instant>>,
    /// The numbers of connections that broke.
    pub broken: Mutex<HashSet<u64>>,
    pub stop: AtomicBool,
    pub next: AtomicU64,
}

impl Clients {
    /// One client's life, until it is told to stop.
    pub fn live(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        while !self.stop.load(SeqCst) {
            let plan = plan(&mut rng, self.next.fetch_add(1, SeqCst));
            let (began, mut who) = (Instant::now(), None);
            let result = self.one(&plan, &mut who);
            let bytes = if plan.way == Way::Talk { 2 * plan.up * plan.down } else { plan.up + plan.down };
            let end = self.judge(&result, began, who);
            if end != End::Whole {
                self.broken.lock().expect("not poisoned").insert(plan.number);
            }
            let words = format!("{plan:?} of backend {who:?}, {:.1} s old: {result:?}", began.elapsed().as_secs_f64());
            let mut tally = self.tally.lock().expect("not poisoned");
            tally.add(end, words);
            tally.bytes += if result.is_ok() { bytes } else { 0 };
            drop(tally);
            std::thread::sleep(Duration::from_millis(rng.below(1500))); // people who think
        }
    }

    fn judge(&self, result: &Result<(), Broken>, began: Instant, who: Option<(u64, u64)>) -> End {
        let since = |at: &Mutex<Option<Instant>>, slack: Duration| {
            at.lock().expect("not poisoned").is_some_and(|at| at + slack >= began)
        };
        match result {
            Ok(()) => End::Whole,
            Err(Broken::Wrong(_)) => End::Wrong,
            Err(Broken::Cut(_)) => {
                // The greeting tells who it was; without one it may have been any that was killed meanwhile.
                let killed = match who {
                    Some((number, life)) => self.servers.get(number as usize).is_some_and(|s| s.died(life)),
                    None => self.servers.iter().any(|s| since(&s.killed, Duration::ZERO)),
                };
                if killed {
                    End::Killed
                } else if since(&self.moved, Duration::from_secs(3)) {
                    End::Moved
                } else {
                    End::Lost
                }
            }
        }
    }

    fn one(&self, plan: &Plan, who: &mut Option<(u64, u64)>) -> Result<(), Broken> {
        let stream = TcpStream::connect_timeout(&self.target, Duration::from_secs(20))
            .map_err(|e| Broken::Cut(format!("connect: {e}")))?;
        let mut s = &stream;
        s.set_nodelay(true)?;
        s.set_read_timeout(Some(PATIENCE))?;
        s.set_write_timeout(Some(PATIENCE))?;
        s.write_all(&plan.hello())?;
        let mut greeting = [0; GREETING];
        s.read_exact(&mut greeting)?;
        let number = |at: usize| greeting[at..at + 8].try_into().map_or(u64::MAX, u64::from_be_bytes);
        *who = Some((number(0), number(8)));
        if number(0) >= self.servers.len() as u64 {
            return Err(Broken::Wrong(format!("not a greeting: {greeting:?}")));
        }
        let send = || {
            self.pattern.write(s, plan, true, 0, plan.up)?;
            s.shutdown(Shutdown::Write).map_err(Broken::from)
        };
        let receive = || {
            self.pattern.read(s, plan, false, 0, plan.down)?;
            read_end(s)
        };
        match plan.way {
            Way::HalfClose => {
                send()?;
                receive()
            }
            Way::BackendFirst => {
                receive()?;
                send()
            }
            Way::Both => std::thread::scope(|scope| {
                let sender = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, send)?;
                receive()?;
                sender.join().map_err(|_| Broken::Cut("a thread failed".to_owned()))?
            }),
            Way::Talk => {
                for piece in 0..plan.up {
                    self.pattern.write(s, plan, true, piece * plan.down, (piece + 1) * plan.down)?;
                    self.pattern.read(s, plan, false, piece * plan.down, (piece + 1) * plan.down)?;
                }
                s.shutdown(Shutdown::Write)?;
                read_end(s)
            }
        }
    }
}

/// A connection as they come: most are small, a few are big, some are slow, some live through several reloads.
fn plan(rng: &mut Rng, number: u64) -> Plan {
    let mut size = || match rng.below(100) {
        0..80 => rng.size(16 << 10),
        80..97 => rng.size(512 << 10),
        _ => rng.size(16 << 20),
    };
    let (up, down) = (size(), size());
    let ways = [Way::HalfClose, Way::Both, Way::BackendFirst];
    let way = ways[rng.below(3) as usize];
    let plan = Plan { number, way, up, down, pause: Duration::ZERO };
    match rng.below(100) {
        0..5 => {
            let pause = Duration::from_millis(200 + rng.below(400));
            Plan { way: Way::Talk, up: 2 + rng.below(250), down: 1 + rng.below(3000), pause, ..plan }
        }
        5..12 => Plan { down: down.min(2 << 20), pause: Duration::from_millis(5 + rng.below(40)), ..plan },
        _ => plan,
    }
}
