//! Look-ups in real threads.

use super::*;
use crate::balancer::beside;
use crate::reactor;
use smol::LocalExecutor;
use std::sync::Mutex;
use std::sync::mpsc;

/// For what must come at last.
const LONG: Duration = Duration::from_secs(60);
/// So that a name is looked up again soon.
const SOON: Duration = Duration::from_millis(5);

type News = (String, Vec<IpAddr>);

fn with_resolver<F: Future<Output = ()>>(look_up: LookUp, test: impl FnOnce(Resolver, Receiver<News>) -> F) {
    let executor = Rc::new(LocalExecutor::new());
    let (tell, told) = smol::channel::unbounded();
    let report: Report = Box::new(move |host, addresses| drop(tell.try_send((host.into(), addresses.into()))));
    let resolver = Resolver::new(beside::of(&executor), look_up, report);
    reactor::block_on(executor.run(test(resolver, told))).expect("epoll works");
}

async fn next(told: &Receiver<News>) -> News {
    let late = async {
        reactor::sleep(LONG).await;
        panic!("no news");
    };
    or(async { told.recv().await.expect("the resolver lives") }, late).await
}

fn set(hosts: &[&str]) -> BTreeSet<String> {
    hosts.iter().map(|host| (*host).to_string()).collect()
}

fn ip(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

#[test]
fn the_system_knows_this_machine() {
    with_resolver(Arc::new(system), async |resolver, told| {
        resolver.want(&set(&["localhost"]), LONG);
        let (host, addresses) = next(&told).await;
        assert!(host == "localhost" && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    });
}

#[test]
fn an_unknown_name_fails_with_the_systems_own_words() {
    let e = system("host.invalid").expect_err("RFC 6761: it never exists");
    assert!(!reason(&e).contains("lookup") && !reason(&e).is_empty(), "{e}");
}

#[test]
fn a_changed_answer_is_reported_and_the_same_is_not() {
    let answers = Arc::new(Mutex::new(vec![ip(7), ip(7), ip(6), ip(6), ip(5)]));
    let look_up = move |_: &str| match answers.lock().expect("not poisoned").pop() {
        Some(address) => Ok(vec![address]),
        None => Err(io::Error::other("gone")),
    };
    with_resolver(Arc::new(look_up), async |resolver, told| {
        resolver.want(&set(&["x"]), SOON);
        for last in [5, 6, 7] {
            assert_eq!(next(&told).await, ("x".into(), vec![ip(last)]));
        }
        resolver.want(&set(&["x"]), SOON);
        assert_eq!(next(&told).await, ("x".into(), vec![ip(7)]), "what is known is told again with the next configuration");
        assert!(told.is_empty());
    });
}

#[test]
fn a_name_that_hangs_leaves_room_for_others() {
    let (release, hangs) = mpsc::channel::<()>();
    let hangs = Mutex::new(hangs);
    let look_up = move |host: &str| {
        if host == "hangs" {
            let _ = hangs.lock().expect("not poisoned").recv();
        }
        Ok(vec![ip(1)])
    };
    with_resolver(Arc::new(look_up), async move |resolver, told| {
        resolver.want(&set(&["a", "b", "c", "hangs"]), LONG);
        let mut first = [next(&told).await.0, next(&told).await.0, next(&told).await.0];
        first.sort();
        assert_eq!(first, ["a", "b", "c"]);
        drop(release);
        assert_eq!(next(&told).await.0, "hangs");
    });
}

#[test]
fn nothing_comes_for_a_name_that_is_not_wanted_any_more() {
    let (release, hangs) = mpsc::channel::<()>();
    let hangs = Mutex::new(hangs);
    let look_up = move |host: &str| {
        if host == "old" {
            let _ = hangs.lock().expect("not poisoned").recv();
        }
        Ok(vec![ip(1)])
    };
    with_resolver(Arc::new(look_up), async move |resolver, told| {
        resolver.want(&set(&["old", "other"]), SOON);
        assert_eq!(next(&told).await.0, "other", "so the look-up of old is under way");
        resolver.want(&set(&["new"]), SOON);
        drop(release);
        assert_eq!(next(&told).await.0, "new");
    });
}
