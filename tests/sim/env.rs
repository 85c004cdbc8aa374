//! A daemon's surroundings in the simulation: its node's clock, its own executor, seeded randomness, and a slow disk.

use super::clock::Clock;
use super::hub::{Effect, Hub, What};
use super::rng::Rng;
use kube_vip::cluster::runtime::{Env, Job, LocalFuture};
use kube_vip::sys::clock::Instant;
use smol::LocalExecutor;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// One run of one daemon.
pub struct SimEnv {
    pub hub: Rc<Hub>,
    pub node: usize,
    /// Which run of the daemon on this node.
    pub run: u64,
    pub clock: Clock,
    pub executor: Rc<LocalExecutor<'static>>,
    rng: RefCell<Rng>,
}

/// By which tasks act on the world. Without the executor: a task that held it would keep itself alive.
#[derive(Clone)]
pub struct Mouth {
    pub hub: Rc<Hub>,
    pub node: usize,
    run: u64,
}

impl Mouth {
    pub fn effect(&self, effect: Effect) {
        self.hub.effects.borrow_mut().push_back((self.node, self.run, effect));
    }
}

impl SimEnv {
    pub fn mouth(&self) -> Mouth {
        Mouth { hub: self.hub.clone(), node: self.node, run: self.run }
    }

    pub fn new(hub: &Rc<Hub>, node: usize, run: u64, clock: Clock) -> Rc<Self> {
        let rng = RefCell::new(hub.rng().fork());
        Rc::new(Self { hub: hub.clone(), node, run, clock, executor: Rc::new(LocalExecutor::new()), rng })
    }
}

impl Env for SimEnv {
    fn now(&self) -> Instant {
        self.clock.show(self.hub.now())
    }

    fn sleep_until(&self, deadline: Instant) -> LocalFuture<()> {
        Box::pin(Sleep { hub: self.hub.clone(), node: self.node, run: self.run, clock: self.clock, deadline, timer: None })
    }

    fn spawn(&self, task: LocalFuture<()>) {
        self.executor.spawn(task).detach();
    }

    fn random(&self) -> u64 {
        self.rng.borrow_mut().next()
    }

    fn unblock(&self, job: Job) -> LocalFuture<()> {
        let done = Rc::new(Done::default());
        self.mouth().effect(Effect::Disk { job, done: done.clone() });
        Box::pin(Waiting(done))
    }
}

/// A sleep in the queue; without its future nobody listens any more.
pub struct Timer {
    pub node: usize,
    pub run: u64,
    waker: RefCell<Option<Waker>>,
}

impl Timer {
    /// Whether somebody was woken.
    pub fn fire(&self) -> bool {
        self.waker.borrow_mut().take().map(Waker::wake).is_some()
    }
}

struct Sleep {
    hub: Rc<Hub>,
    node: usize,
    run: u64,
    clock: Clock,
    deadline: Instant,
    timer: Option<Rc<Timer>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.show(self.hub.now()) >= self.deadline {
            return Poll::Ready(());
        }
        let waker = Some(cx.waker().clone());
        if let Some(timer) = &self.timer {
            *timer.waker.borrow_mut() = waker;
            return Poll::Pending;
        }
        let timer = Rc::new(Timer { node: self.node, run: self.run, waker: RefCell::new(waker) });
        self.hub.at(self.clock.when(self.deadline), What::Timer(timer.clone()));
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            let waker = timer.waker.borrow_mut().take();
            drop(waker);
        }
    }
}

/// Says that a disk job is done.
#[derive(Default)]
pub struct Done {
    is: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Done {
    pub fn tell(&self) {
        self.is.set(true);
        self.waker.borrow_mut().take().into_iter().for_each(Waker::wake);
    }
}

struct Waiting(Rc<Done>);

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is.get() {
            return Poll::Ready(());
        }
        *self.0.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}
