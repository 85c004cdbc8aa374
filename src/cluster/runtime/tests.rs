//! openraft's own suite for runtimes, and the edges it leaves out.

use super::{Env, Job, LocalFuture, Mpsc, Mutex, Oneshot, SmolRuntime, Watch};
use super::{enter, now, real, sleep, spawn, timeout, unblock};
use crate::sys::clock::Instant;
use openraft::async_runtime::{
    AsyncRuntime, Mpsc as _, MpscReceiver as _, MpscSender as _, MpscWeakSender as _, Mutex as _, Oneshot as _, TryRecvError,
    Watch as _, WatchReceiver as _, WatchSender as _,
};
use smol::{LocalExecutor, future::poll_once};
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

fn run<T>(future: impl Future<Output = T>) -> T {
    SmolRuntime::run(future)
}

#[test]
fn passes_the_suite_of_openraft() {
    openraft::testing::runtime::Suite::<SmolRuntime>::test_all();
}

#[test]
fn a_task_outlives_its_handle_and_is_lost_with_its_executor() {
    run(async {
        let (tx, rx) = Oneshot::channel();
        drop(spawn(async move { tx.send(7) }));
        assert_eq!(rx.await, Ok(7));
    });
    let executor = Rc::new(LocalExecutor::new());
    let handle = {
        let _entered = enter(real(executor.clone()));
        spawn(std::future::pending::<()>())
    };
    drop(executor);
    assert_eq!(smol::block_on(handle), Err(super::Lost));
}

#[test]
fn a_full_queue_holds_the_sender_until_there_is_room_and_keeps_the_order() {
    run(async {
        let (tx, mut rx) = Mpsc::channel(2);
        for n in 0..2 {
            assert!(poll_once(tx.send(n)).await.is_some(), "there is room for {n}");
        }
        let mut third = Box::pin(tx.send(2));
        assert!(poll_once(third.as_mut()).await.is_none(), "the queue is full");
        let given_up = poll_once(tx.send(99)).await;
        assert!(given_up.is_none(), "and a send that is dropped leaves nothing behind");
        assert_eq!(rx.recv().await, Some(0));
        assert!(poll_once(third.as_mut()).await.is_some_and(|sent| sent.is_ok()));
        drop(third);
        assert_eq!((rx.recv().await, rx.recv().await), (Some(1), Some(2)));
        assert_eq!(rx.try_recv(), Err(TryRecvError::Empty));
        drop(tx);
        assert_eq!((rx.try_recv(), rx.recv().await), (Err(TryRecvError::Disconnected), None));
    });
}

#[test]
fn senders_that_wait_for_room_are_woken_also_when_another_waiter_was_dropped() {
    run(async {
        let (tx, mut rx) = Mpsc::channel(1);
        assert!(tx.send(0).await.is_ok());
        let mut dropped = Box::pin(tx.send(1));
        assert!(poll_once(dropped.as_mut()).await.is_none());
        let waiting = spawn({
            let tx = tx.clone();
            async move { tx.send(2).await.is_ok() }
        });
        smol::future::yield_now().await;
        drop(dropped);
        assert_eq!(rx.recv().await, Some(0));
        assert_eq!(waiting.await, Ok(true));
        assert_eq!(rx.recv().await, Some(2));
    });
}

#[test]
fn a_dropped_receiver_fails_waiting_senders_and_drops_what_was_queued() {
    run(async {
        let (tx, rx) = Mpsc::channel(1);
        let (answer, asked) = Oneshot::channel::<()>();
        assert!(tx.send(Some(answer)).await.is_ok());
        let waiting = spawn({
            let tx = tx.clone();
            async move { tx.send(None).await.is_err() }
        });
        smol::future::yield_now().await;
        drop(rx);
        assert!(asked.await.is_err(), "a queued message is dropped with the queue, so that its asker hears of it");
        assert_eq!(waiting.await, Ok(true));
        assert!(tx.send(None).await.is_err());
    });
}

#[test]
fn a_weak_sender_does_not_keep_the_queue_open() {
    run(async {
        let (tx, mut rx) = Mpsc::channel::<u8>(1);
        let weak = tx.downgrade();
        let again = weak.upgrade().expect("a sender lives");
        drop(tx);
        assert!(again.send(1).await.is_ok());
        drop(again);
        assert!(weak.clone().upgrade().is_none());
        assert_eq!((rx.recv().await, rx.recv().await), (Some(1), None));
    });
}

#[test]
fn the_receiver_is_woken_when_the_last_sender_goes() {
    run(async {
        let (tx, mut rx) = Mpsc::channel::<u8>(1);
        let receiving = spawn(async move { rx.recv().await });
        smol::future::yield_now().await;
        drop(tx);
        assert_eq!(receiving.await, Ok(None));
    });
}

#[test]
fn a_watch_reports_an_unseen_value_before_the_end() {
    run(async {
        let (tx, mut rx) = Watch::channel(0);
        assert!(poll_once(rx.changed()).await.is_none(), "the initial value counts as seen");
        assert!(tx.send(1).is_ok() && tx.send(2).is_ok());
        drop(tx);
        assert!(rx.changed().await.is_ok());
        assert_eq!(*rx.borrow_watched(), 2, "only the newest is kept");
        assert!(rx.changed().await.is_err());
    });
}

#[test]
fn a_watch_counts_seen_per_receiver() {
    run(async {
        let (tx, mut one) = Watch::channel(0);
        assert!(tx.send(1).is_ok());
        let (mut copy, mut late) = (one.clone(), tx.subscribe());
        assert!(poll_once(copy.changed()).await.is_some(), "a copy has seen what its original had");
        assert!(poll_once(late.changed()).await.is_none(), "a subscriber has seen the present value");
        assert_eq!(*one.borrow_and_update(), 1);
        assert!(poll_once(one.changed()).await.is_none());
        assert!(!tx.send_if_modified(|value| {
            *value = 9;
            false
        }));
        assert!(poll_once(one.changed()).await.is_none(), "a silent change wakes nobody");
        assert_eq!(*one.borrow_watched(), 9);
    });
}

#[test]
fn a_watch_without_receivers_refuses_and_keeps_the_value() {
    let (tx, rx) = Watch::channel(1);
    drop(rx);
    assert!(tx.send(2).is_err());
    assert_eq!(*tx.borrow_watched(), 1);
    assert!(tx.send_if_modified(|value| {
        *value = 3;
        true
    }));
    assert_eq!(*tx.subscribe().borrow_watched(), 3);
}

#[test]
fn a_mutex_serves_those_who_wait_although_one_gave_up() {
    run(async {
        let lock = Rc::new(Mutex::new(0));
        let held = lock.lock().await;
        let mut gives_up = Box::pin(lock.lock());
        assert!(poll_once(gives_up.as_mut()).await.is_none());
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let lock = lock.clone();
                spawn(async move { *lock.lock().await += 1 })
            })
            .collect();
        smol::future::yield_now().await;
        drop(gives_up);
        drop(held);
        for task in tasks {
            assert_eq!(task.await, Ok(()));
        }
        assert_eq!(*lock.lock().await, 3);
    });
}

#[test]
fn blocking_work_runs_on_another_thread_also_when_nobody_waits() {
    run(async {
        let here = std::thread::current().id();
        let there = unblock(|| std::thread::current().id()).await.expect("it ran");
        assert_ne!(here, there);
        let (tx, rx) = std::sync::mpsc::channel();
        {
            let mut dropped = pin!(unblock(move || tx.send(())));
            let _ = poll_once(dropped.as_mut()).await;
        }
        unblock(move || rx.recv_timeout(Duration::from_secs(10))).await.expect("it ran").expect("the dropped work ran too");
    });
}

/// A clock that jumps to the next deadline whenever nothing else is to be done.
struct Virtual {
    executor: Rc<LocalExecutor<'static>>,
    now: Cell<Instant>,
    sleepers: RefCell<Vec<(Instant, super::oneshot::OneshotSender<()>)>>,
}

impl Env for Rc<Virtual> {
    fn now(&self) -> Instant {
        self.now.get()
    }
    fn sleep_until(&self, deadline: Instant) -> LocalFuture<()> {
        let me = self.clone();
        Box::pin(async move {
            if deadline > me.now.get() {
                let (tx, rx) = super::oneshot::channel();
                me.sleepers.borrow_mut().push((deadline, tx));
                let _ = rx.await;
            }
        })
    }
    fn spawn(&self, task: LocalFuture<()>) {
        self.executor.spawn(task).detach();
    }
    fn random(&self) -> u64 {
        4
    }
    fn unblock(&self, job: Job) -> LocalFuture<()> {
        job();
        Box::pin(async {})
    }
}

impl Virtual {
    fn advance(&self) -> bool {
        while self.executor.try_tick() {}
        let mut sleepers = self.sleepers.borrow_mut();
        sleepers.sort_by_key(|(deadline, _)| std::cmp::Reverse(*deadline));
        let next = sleepers.pop();
        drop(sleepers);
        next.is_some_and(|(deadline, tx)| {
            self.now.set(deadline);
            let _ = tx.send(());
            true
        })
    }
}

#[test]
fn a_virtual_env_replaces_clock_tasks_and_randomness() {
    let env = Rc::new(Virtual {
        executor: Rc::new(LocalExecutor::new()),
        now: Cell::new(Instant::from_nanos(5)),
        sleepers: RefCell::default(),
    });
    let _entered = enter(Rc::new(env.clone()));
    let log = Rc::new(RefCell::new(Vec::new()));
    for hours in [2u64, 1] {
        let log = log.clone();
        spawn(async move {
            sleep(Duration::from_secs(3600 * hours)).await;
            log.borrow_mut().push((hours, now().as_nanos()));
        });
    }
    let late = log.clone();
    spawn(async move {
        let answer = timeout(Duration::from_secs(10), std::future::pending::<()>()).await;
        assert!(answer.is_err());
        let random = unblock(super::random).await.expect("it ran");
        late.borrow_mut().push((random, now().as_nanos()));
    });
    while env.advance() {}
    let second = 1_000_000_000u64;
    assert_eq!(*log.borrow(), [(4, 10 * second + 5), (1, 3600 * second + 5), (2, 7200 * second + 5)]);
    assert_eq!(<Instant as openraft::async_runtime::Instant>::now(), now());
}
