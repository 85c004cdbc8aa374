//! `trackBackends`: whether this node reaches any backend. Rounds of connects (effect), and what follows of them (pure).

use crate::balancer::Control;
use crate::cluster::{Cluster, runtime};
use crate::config::Config;
use crate::reactor::Async;
use crate::sys::tcp;
use log::{info, warn};
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Between two rounds, and a random part of [`JITTER`].
const PAUSE: Duration = Duration::from_secs(2);
const JITTER: Duration = Duration::from_millis(500);
/// For a backend to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Backends asked in one round at most.
const MOST: usize = 64;
/// So many rounds without an answer mean that none is reached: one may be a lost packet.
const ROUNDS: u32 = 2;

/// What the rounds so far say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Rounds without an answer since the last one with.
    failed: u32,
}

impl Reach {
    /// Whether a backend is reached.
    pub const fn reaches(self) -> bool {
        self.failed < ROUNDS
    }

    /// After one more round; `None`: it could not ask, and says nothing.
    pub const fn after(self, answered: Option<bool>) -> Self {
        match answered {
            Some(true) => Self { failed: 0 },
            Some(false) => Self { failed: self.failed.saturating_add(1) },
            None => self,
        }
    }
}

/// Asks the backends for ever.
pub struct Tracker {
    control: Control,
    reach: Cell<Reach>,
    stopped: Cell<bool>,
    /// Whom to ask first: who answered last.
    first: Cell<usize>,
}

impl Tracker {
    /// Starts asking, where the configuration wants it and the cluster could act on it.
    pub fn start(config: &Config, control: &Control, cluster: Option<&Cluster>) -> Option<Rc<Self>> {
        let cluster = cluster.filter(|_| config.track_backends)?.clone();
        // One more round without an answer, the first, tells: a node that has just started must not be preferred for nothing.
        // One whose program was replaced goes on as it was.
        let reach = Cell::new(Reach { failed: if cluster.reaches() { ROUNDS - 1 } else { ROUNDS } });
        let tracker = Rc::new(Self { control: control.clone(), reach, stopped: Cell::new(false), first: Cell::new(0) });
        runtime::spawn(tracker.clone().run(cluster));
        Some(tracker)
    }

    /// Asks no more, and takes back what it said.
    pub fn stop(&self, cluster: &Cluster) {
        self.stopped.set(true);
        cluster.set_reaches(true);
    }

    /// Whether a backend is reached.
    pub fn reaches(&self) -> bool {
        self.reach.get().reaches()
    }

    async fn run(self: Rc<Self>, cluster: Cluster) {
        loop {
            let (before, answered) = (self.reach.get(), self.round().await);
            if self.stopped.get() {
                return;
            }
            let after = before.after(answered);
            self.reach.set(after);
            if before.reaches() != after.reaches() {
                tell(after.reaches(), self.backends().len());
                cluster.set_reaches(after.reaches());
            }
            runtime::sleep(PAUSE + runtime::jitter(JITTER)).await;
        }
    }

    /// Those that get connections now, whatever a reload, a name's new address or an operator made of the file's.
    fn backends(&self) -> Vec<SocketAddr> {
        let mut backends: Vec<SocketAddr> = self.control.members().into_iter().map(|member| member.address).collect();
        backends.sort_unstable();
        backends.dedup();
        backends
    }

    /// Asks the one that answered last, and where it does not, others at once. Whether any answered.
    async fn round(&self) -> Option<bool> {
        let backends = self.backends();
        let n = backends.len();
        if n == 0 {
            return None; // no name has an address yet, or all are in maintenance
        }
        let at = |i: usize| (self.first.get() + i) % n;
        let ask = |i: usize| -> Pin<Box<dyn Future<Output = (usize, Option<bool>)>>> {
            let address = backends[i];
            Box::pin(async move { (i, answers(address).await) })
        };
        let mut said = Some(false);
        for range in [0..1, 1..n.min(MOST)] {
            let asked = range.map(|i| ask(at(i))).collect();
            match first_yes(asked).await {
                Ok(i) => {
                    self.first.set(i);
                    return Some(true);
                }
                Err(all_knew) => said = said.filter(|_| all_knew),
            }
        }
        // With more than can be asked at once, the next round asks others.
        self.first.set(at(MOST.min(n)));
        said
    }
}

fn tell(reaches: bool, backends: usize) {
    match reaches {
        true => info!("backends are reached again"),
        false => warn!("none of {backends} backend(s) is reached from here: a node that reaches one should hold"),
    }
}

/// Whether it accepts a connection; `None` where this machine is short of something and can't ask.
async fn answers(address: SocketAddr) -> Option<bool> {
    match runtime::timeout(PATIENCE, connect(address)).await {
        Ok(Ok(_)) => Some(true),
        Ok(Err(e)) if tcp::could_not_ask(address, &e) => None,
        Ok(Err(_)) | Err(_) => Some(false),
    }
}

async fn connect(to: SocketAddr) -> io::Result<()> {
    Async::connect(tcp::probe(to)?, to).await.map(drop)
}

/// The first of these that says yes; otherwise whether each of them knew.
async fn first_yes<F>(mut asked: Vec<Pin<Box<F>>>) -> Result<usize, bool>
where
    F: Future<Output = (usize, Option<bool>)> + ?Sized,
{
    let mut all_knew = true;
    poll_fn(|cx| {
        let mut yes = None;
        asked.retain_mut(|one| match one.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready((i, said)) => {
                all_knew &= said.is_some();
                yes = yes.or((said == Some(true)).then_some(i));
                false
            }
        });
        match yes {
            Some(i) => Poll::Ready(Ok(i)),
            None if asked.is_empty() => Poll::Ready(Err(all_knew)),
            None => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::ready;

    #[test]
    fn two_failing_rounds_lose_the_backends_and_one_answer_brings_them_back() {
        let (yes, no, unknown) = (Some(true), Some(false), None);
        for (rounds, reaches) in [
            (&[][..], true),
            (&[no], true),
            (&[no, no], false),
            (&[no, yes, no], true),
            (&[no, unknown], true),
            (&[no, unknown, no], false),
            (&[unknown, unknown, unknown], true),
            (&[no, no, unknown], false),
            (&[no, no, no, yes], true),
        ] {
            let reach = rounds.iter().fold(Reach::default(), |reach, round| reach.after(*round));
            assert_eq!(reach.reaches(), reaches, "{rounds:?}");
        }
    }

    #[test]
    fn one_yes_is_enough_and_ignorance_is_no_no() {
        let ask = |said: &[Option<bool>]| {
            let asked = said.iter().enumerate().map(|(i, said)| Box::pin(ready((i, *said)))).collect();
            smol::block_on(first_yes(asked))
        };
        assert_eq!(ask(&[Some(false), Some(true), None]), Ok(1));
        assert_eq!(ask(&[Some(false), Some(false)]), Err(true));
        assert_eq!(ask(&[Some(false), None]), Err(false));
        assert_eq!(ask(&[]), Err(true));
        let never: Pin<Box<dyn Future<Output = _>>> = Box::pin(std::future::pending());
        let yes: Pin<Box<dyn Future<Output = _>>> = Box::pin(ready((7, Some(true))));
        assert_eq!(smol::block_on(first_yes(vec![never, yes])), Ok(7), "nobody waits for the others");
    }
}
