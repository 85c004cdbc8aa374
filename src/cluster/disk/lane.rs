//! Blocking work on one thing, off this thread and in order.

use crate::cluster::runtime::{self, OneshotReceiver, OneshotSender};
use openraft::async_runtime::Oneshot;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

type Work<T> = Box<dyn FnOnce(&mut T) -> io::Result<()> + Send>;
type Answer = OneshotSender<io::Result<()>>;

/// A queue of work on a `T`. Work that was handed in is done also when nobody waits for it.
pub struct Lane<T>(RefCell<State<T>>);

struct State<T> {
    /// Present while nothing is done with it.
    idle: Option<T>,
    queue: VecDeque<(Work<T>, Answer)>,
}

impl<T: Send + 'static> Lane<T> {
    /// A lane for `thing`.
    pub fn new(thing: T) -> Rc<Self> {
        Rc::new(Self(RefCell::new(State { idle: Some(thing), queue: VecDeque::new() })))
    }

    /// Hands in work; the receiver gets its result. Its bound: raft waits for votes and is slow to append anything else.
    pub fn run(
        self: &Rc<Self>,
        work: impl FnOnce(&mut T) -> io::Result<()> + Send + 'static,
    ) -> OneshotReceiver<io::Result<()>> {
        let (tx, rx) = runtime::Oneshot::channel();
        let mut state = self.0.borrow_mut();
        state.queue.push_back((Box::new(work), tx));
        if let Some(thing) = state.idle.take() {
            drop(state);
            runtime::spawn(self.clone().work_off(thing));
        }
        rx
    }

    /// Whether all that was handed in is done.
    pub fn is_idle(&self) -> bool {
        let state = self.0.borrow();
        state.idle.is_some() && state.queue.is_empty()
    }

    async fn work_off(self: Rc<Self>, mut thing: T) {
        loop {
            let next = self.0.borrow_mut().queue.pop_front();
            let Some((work, answer)) = next else {
                self.0.borrow_mut().idle = Some(thing);
                return;
            };
            let done = runtime::unblock(move || {
                let result = work(&mut thing);
                (thing, result)
            });
            // Without its thing the lane is dead, and so is every answer: only a panic of the work can do that.
            let Ok((back, result)) = done.await else { return };
            thing = back;
            let _ = answer.send(result); // nobody has to wait
        }
    }
}
