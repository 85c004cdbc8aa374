//! Who is checked, and when: a task for each different question.

use super::ask::{Question, Shown};
use super::count::Count;
use crate::balancer::{Beside, MemberView};
use crate::reactor::sleep_until;
use crate::sys::clock::{Instant, now};
use smol::Task;
use smol::lock::Semaphore;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Checks under way at once, each with a descriptor; the others wait. Where a thousand backends are dead, a round of all takes
/// `timeout` × 16 instead of `interval`.
pub const AT_ONCE: usize = 64;
/// The first checks of members that came together are spread over so much for each, and over so much at most.
const SPREAD: Duration = Duration::from_millis(8);
const SPREAD_MOST: Duration = Duration::from_millis(500);
/// A shortage on this machine is told this often.
const TELL: Duration = Duration::from_secs(60);

/// Told of each change: balancer, address of the member, whether it is up, why. Also of a new reason for being down, and of each good
/// answer of one that is up: clients may have found it down meanwhile.
pub type Report = Box<dyn Fn(&str, SocketAddr, bool, &str)>;

/// The checks that run. Members that are asked the same question, also of several balancers, share one.
///
/// Dropping it ends them all.
pub struct Watch {
    shared: Rc<Shared>,
    checks: RefCell<HashMap<Key, Running>>,
}

/// What all checks share.
struct Shared {
    beside: Beside,
    report: Report,
    gate: Semaphore,
    shortage_told: Cell<Option<Instant>>,
}

/// Members with equal ones share a check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    question: Question,
    interval: Duration,
    rise: u32,
    fall: u32,
}

/// A member, as reports name it: balancer and address.
type Member = (String, SocketAddr);

struct Running {
    check: Rc<Check>,
    _task: Option<Task<()>>,
}

struct Check {
    key: Key,
    count: Cell<Count>,
    /// The reason of the last change.
    why: RefCell<String>,
    members: RefCell<Vec<Member>>,
}

impl Watch {
    /// Watches nobody yet.
    pub fn new(beside: Beside, report: Report) -> Self {
        let (gate, shortage_told) = (Semaphore::new(AT_ONCE), Cell::new(None));
        Self { shared: Rc::new(Shared { beside, report, gate, shortage_told }), checks: RefCell::default() }
    }

    /// From now on these members are checked, and no others. Those that were checked in the same way go on without a break; new
    /// ones are checked at once, or get the known answer where another member shares their question. Members without
    /// a check are left out.
    pub fn reconcile(&self, members: Vec<MemberView>) {
        let mut wanted: HashMap<Key, Vec<Member>> = HashMap::new();
        for member in members {
            let Some(check) = &member.check else { continue };
            let question = Question::new(check, &member);
            let key = Key { question, interval: check.interval, rise: check.rise, fall: check.fall };
            let sharing = wanted.entry(key).or_default();
            let named = (member.balancer, member.address);
            if !sharing.contains(&named) {
                sharing.push(named);
            }
        }
        self.checks.borrow_mut().retain(|key, _| wanted.contains_key(key));
        let (known, new): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(key, _)| self.checks.borrow().contains_key(key));
        self.start(new);
        for (key, members) in known {
            let check = self.checks.borrow().get(&key).map(|running| running.check.clone());
            check.iter().for_each(|check| check.shared_by(&members, &self.shared));
        }
    }

    fn start(&self, new: Vec<(Key, Vec<Member>)>) {
        let spread = SPREAD.saturating_mul(u32::try_from(new.len()).unwrap_or(u32::MAX)).min(SPREAD_MOST);
        for (key, members) in new {
            let first = now() + spread.min(key.interval).mul_f64(self.shared.beside.fraction());
            let (count, why) = Default::default();
            let check = Rc::new(Check { key: key.clone(), count, why, members: RefCell::new(members) });
            let task = (self.shared.beside.spawn)(Box::pin(check.clone().run(self.shared.clone(), first)));
            self.checks.borrow_mut().insert(key, Running { check, _task: task });
        }
    }

    /// How many different questions are asked.
    pub fn checks(&self) -> usize {
        self.checks.borrow().len()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("checks", &self.checks()).finish_non_exhaustive()
    }
}

impl Check {
    /// Asks for ever. Intervals run from start to start; a check that is late or takes long delays the next, so that they never overlap.
    async fn run(self: Rc<Self>, shared: Rc<Shared>, first: Instant) {
        let mut next = first;
        loop {
            sleep_until(next).await;
            let turn = shared.gate.acquire().await;
            next = now() + self.key.interval.mul_f64(0.9 + 0.2 * shared.beside.fraction());
            let shown = self.key.question.ask().await;
            drop(turn);
            self.note(shown, &shared);
        }
    }

    fn note(&self, shown: Shown, shared: &Shared) {
        let (good, why) = match shown {
            Shown::Good => (true, "answers its checks".to_string()),
            Shown::Bad(why) => (false, why),
            Shown::Nothing(why) => return shared.tell_shortage(self.key.question.to, &why),
        };
        log::trace!("check of {}: {why}", self.key.question.to);
        let mut count = self.count.get();
        let news = count.after(good, self.key.rise, self.key.fall);
        self.count.set(count);
        let other_reason = count.up() == Some(false) && !good && *self.why.borrow() != why;
        let still = good && count.up() == Some(true);
        if let Some(up) = news.or(other_reason.then_some(false)).or(still.then_some(true)) {
            self.why.replace(why.clone());
            let members = self.members.borrow().clone(); // the report may lead to another reconcile
            members.iter().for_each(|(balancer, address)| (shared.report)(balancer, *address, up, &why));
        }
    }

    /// Is asked for these members now; tells the new ones what is known.
    fn shared_by(&self, members: &[Member], shared: &Shared) {
        let before = self.members.replace(members.to_vec());
        let Some(up) = self.count.get().up() else { return };
        let why = self.why.borrow().clone();
        let new = members.iter().filter(|member| !before.contains(member));
        new.for_each(|(balancer, address)| (shared.report)(balancer, *address, up, &why));
    }
}

impl Shared {
    fn tell_shortage(&self, to: SocketAddr, why: &str) {
        let now = now();
        if self.shortage_told.get().is_none_or(|told| now.since(told) >= TELL) {
            self.shortage_told.set(Some(now));
            log::warn!(
                "can't check {to} for want of something here: {why}; what is known of backends stays (told once a minute)"
            );
        }
    }
}
