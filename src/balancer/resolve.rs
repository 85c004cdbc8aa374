//! Host names of backends: looked up again and again, in threads of their own, because the system's resolver blocks.
//!
//! ```text
//!   names ─▶ names.rs (pure): what is due? ─▶ a thread: getaddrinfo(3) ─▶ names.rs: what has changed? ─▶ report
//! ```
//!
//! What the resolver says is used as it is, IPv6 addresses too on a machine that can't reach them: connects and checks find out.
//! A thread lives as long as its look-up, so that between two of them nothing is kept; and it is none of those that sync the vote.

mod names;

use super::beside::Beside;
use crate::reactor::sleep_until;
use crate::sys::clock::now;
use names::{AT_MOST, Names};
use smol::Task;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::or;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::future::pending;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// glibc's resolver takes up to 64 KiB, its modules more; only what is touched counts.
const STACK: usize = 512 << 10;

/// Told of a name's addresses: sorted, each once, at least one.
pub type Report = Box<dyn Fn(&str, &[IpAddr])>;
/// Looks a name up; may block.
pub type LookUp = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

type Answer = (String, Result<Vec<IpAddr>, String>);

/// The names that are looked up. Dropping it ends that; look-ups under way end unheard.
pub struct Resolver {
    shared: Rc<Shared>,
    wanted: Sender<()>,
    _task: Option<Task<()>>,
}

struct Shared {
    names: RefCell<Names>,
    beside: Beside,
    look_up: LookUp,
    report: Report,
    answers: Sender<Answer>,
}

enum Event {
    Answered(Answer),
    /// Others are wanted, or something is due.
    Due,
}

impl Resolver {
    /// Looks nothing up yet. `look_up`: [`system`], unless it is a test.
    pub fn new(beside: Beside, look_up: LookUp, report: Report) -> Self {
        let ((wanted, woken), (answers, answered)) = (bounded(1), bounded(AT_MOST));
        let spawn = beside.spawn.clone();
        let shared = Rc::new(Shared { names: RefCell::default(), beside, look_up, report, answers });
        let task = spawn(Box::pin(shared.clone().run(woken, answered)));
        Self { shared, wanted, _task: task }
    }

    /// From now on these names are looked up, new ones at once and each again every `interval` ± 10 %. What is known of them is
    /// reported again.
    pub fn want(&self, hosts: &BTreeSet<String>, interval: Duration) {
        self.shared.names.borrow_mut().want(hosts, interval, now());
        let known = self.shared.names.borrow().known();
        known.iter().for_each(|(host, addresses)| (self.shared.report)(host, addresses));
        let _ = self.wanted.try_send(()); // full: it will look anyway
    }

    /// Whether an address of this name is known.
    pub fn knows(&self, host: &str) -> bool {
        self.shared.names.borrow().known().iter().any(|(name, _)| name == host)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("names", &self.shared.names.borrow()).finish_non_exhaustive()
    }
}

impl Shared {
    async fn run(self: Rc<Self>, wanted: Receiver<()>, answers: Receiver<Answer>) {
        loop {
            let turn = self.names.borrow_mut().turn(now());
            turn.warnings.iter().for_each(|line| log::warn!("{line}"));
            turn.ask.into_iter().for_each(|host| self.begin(host));
            let answered = async { answers.recv().await.map_or(Event::Due, Event::Answered) };
            let due = async {
                match turn.wake {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
                Event::Due
            };
            let woken = async { wanted.recv().await.map_or(None, |()| Some(Event::Due)) };
            let woken = async {
                match woken.await {
                    Some(event) => event,
                    None => pending().await, // the resolver is being dropped, and this task with it
                }
            };
            if let Event::Answered((host, answer)) = or(answered, or(woken, due)).await {
                self.note(&host, answer);
            }
        }
    }

    /// Starts a look-up.
    fn begin(&self, host: String) {
        let (look_up, answers) = (self.look_up.clone(), self.answers.clone());
        let of_thread = host.clone();
        let work = move || {
            let answer = look_up(&of_thread).map_err(|e| reason(&e));
            let _ = answers.try_send((of_thread, answer)); // there is room for all that may run; closed: nobody wants to know
        };
        if let Err(e) = thread::Builder::new().name("look-up".into()).stack_size(STACK).spawn(work) {
            let _ = self.answers.try_send((host, Err(format!("can't start a thread: {}", reason(&e)))));
        }
    }

    fn note(&self, host: &str, answer: Result<Vec<IpAddr>, String>) {
        let news = self.names.borrow_mut().answered(host, answer, now(), self.beside.fraction());
        let Some(news) = news else { return };
        match news.bad {
            true => log::warn!("{}", news.line),
            false => log::info!("{}", news.line),
        }
        if let Some(addresses) = news.addresses {
            (self.report)(host, &addresses);
        }
    }
}

/// Asks the system: /etc/hosts, DNS, and whatever else it is set up to ask.
///
/// # Errors
/// Those of getaddrinfo(3).
pub fn system(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip().to_canonical()).collect())
}

/// Without what the log line says already.
fn reason(e: &io::Error) -> String {
    let text = e.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_string()
}

#[cfg(test)]
mod tests;
