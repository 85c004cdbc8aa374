use super::*;

const INTERVAL: Duration = Duration::from_secs(30);
/// Random, for no jitter.
const MIDDLE: f64 = 0.5;

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(1_000_000_000_000) + Duration::from_secs(seconds)
}

fn names(hosts: &[&str]) -> Names {
    let mut names = Names::default();
    names.want(&set(hosts), INTERVAL, at(0));
    names
}

fn set(hosts: &[&str]) -> BTreeSet<String> {
    hosts.iter().map(|host| (*host).to_string()).collect()
}

fn ips(list: &[&str]) -> Result<Vec<IpAddr>, String> {
    Ok(list.iter().map(|text| text.parse().expect("an address")).collect())
}

fn asks(names: &mut Names, now: u64) -> Vec<String> {
    names.turn(at(now)).ask
}

fn line(news: Option<News>) -> String {
    news.map(|news| news.line).unwrap_or_default()
}

#[test]
fn an_answer_is_told_once_in_order_and_each_address_once() {
    let mut names = names(&["api.lan"]);
    assert_eq!(asks(&mut names, 0), ["api.lan"]);
    let news = names.answered("api.lan", ips(&["10.0.0.6", "fd00::5", "10.0.0.5", "10.0.0.6"]), at(1), MIDDLE).expect("news");
    assert_eq!(news.addresses, ips(&["10.0.0.5", "10.0.0.6", "fd00::5"]).ok());
    assert_eq!((&*news.line, news.bad), ("api.lan: 10.0.0.5, 10.0.0.6, fd00::5", false));
    assert_eq!(names.turn(at(1)), Turn { wake: Some(at(31)), ..Turn::default() });
    assert_eq!(asks(&mut names, 31), ["api.lan"]);
    let same = ips(&["fd00::5", "10.0.0.5", "10.0.0.6"]);
    assert_eq!(names.answered("api.lan", same, at(31), MIDDLE), None);
    asks(&mut names, 61);
    let news = names.answered("api.lan", ips(&["10.0.0.7"]), at(61), MIDDLE);
    assert_eq!(line(news), "api.lan: 10.0.0.7 (was 10.0.0.5, 10.0.0.6, fd00::5)");
}

#[test]
fn a_failure_keeps_the_last_addresses_and_is_told_once_and_so_is_its_end() {
    let mut names = names(&["api.lan"]);
    let fails = || Err("Name or service not known".to_string());
    asks(&mut names, 0);
    names.answered("api.lan", ips(&["10.0.0.5"]), at(0), MIDDLE);
    asks(&mut names, 30);
    let news = names.answered("api.lan", fails(), at(30), MIDDLE).expect("news");
    assert_eq!(
        (&*news.line, news.addresses, news.bad),
        ("api.lan can't be looked up: Name or service not known; tried again, its last addresses stay: 10.0.0.5", None, true)
    );
    assert_eq!(names.known(), [("api.lan".to_string(), ips(&["10.0.0.5"]).expect("good"))]);
    asks(&mut names, 31);
    assert_eq!(names.answered("api.lan", Ok(vec![]), at(31), MIDDLE), None, "an empty answer is a failure too");
    asks(&mut names, 33);
    let news = names.answered("api.lan", ips(&["10.0.0.5"]), at(33), MIDDLE);
    assert_eq!(line(news), "api.lan is looked up again: 10.0.0.5");
    asks(&mut names, 63);
    names.answered("api.lan", fails(), at(63), MIDDLE);
    asks(&mut names, 64);
    let news = names.answered("api.lan", ips(&["10.0.0.6"]), at(64), MIDDLE);
    assert_eq!(line(news), "api.lan: 10.0.0.6 (was 10.0.0.5)", "one line says both");
}

#[test]
fn a_name_that_fails_is_retried_after_longer_and_longer_pauses() {
    let mut names = names(&["x"]);
    let (mut now, mut pauses) = (at(0), Vec::new());
    for _ in 0..8 {
        assert_eq!(names.turn(now).ask, ["x"]);
        let news = names.answered("x", Err("no".into()), now, MIDDLE);
        assert_eq!(news.is_some(), pauses.is_empty(), "told once");
        let next = names.turn(now).wake.expect("it is retried");
        pauses.push((next - now).as_secs());
        now = next;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
}

#[test]
fn jitter_is_a_tenth_of_the_interval() {
    for (random, due) in [(0.0, 27), (1.0, 33)] {
        let mut names = names(&["x"]);
        asks(&mut names, 0);
        names.answered("x", ips(&["10.0.0.5"]), at(0), random);
        assert_eq!(names.turn(at(0)).wake, Some(at(due)));
    }
}

#[test]
fn two_at_once_who_waits_longest_first() {
    let mut names = names(&["a", "b", "c", "d"]);
    assert_eq!(asks(&mut names, 0), ["a", "b"]);
    assert_eq!(names.turn(at(1)), Turn { wake: Some(at(30)), ..Turn::default() }, "no room before one is answered or given up");
    names.answered("b", ips(&["10.0.0.5"]), at(1), MIDDLE);
    assert_eq!(asks(&mut names, 1), ["c"]);
    names.answered("a", ips(&["10.0.0.5"]), at(40), MIDDLE);
    assert_eq!(asks(&mut names, 40), ["d", "b"], "d has been due for longer");
}

#[test]
fn who_hangs_does_not_keep_the_others_waiting() {
    let hosts = ["a", "b", "c", "d", "e", "f", "g"];
    let mut names = names(&hosts);
    assert_eq!(asks(&mut names, 0), ["a", "b"]);
    let turn = names.turn(at(30));
    assert_eq!(turn.ask, ["c", "d"]);
    assert_eq!(turn.warnings.len(), 2);
    assert!(turn.warnings[0].starts_with("a can't be looked up: no answer within 30s"), "{turn:?}");
    assert_eq!(asks(&mut names, 60), ["e", "f"]);
    let turn = names.turn(at(90));
    assert_eq!((turn.ask.len(), turn.wake), (0, None), "threads are bounded; only an answer makes room");
    assert_eq!(names.turn(at(1000)).warnings, [""; 0], "told once");
    let news = names.answered("c", ips(&["10.0.0.5"]), at(1000), MIDDLE);
    assert_eq!(line(news), "c: 10.0.0.5", "late, but welcome");
    assert_eq!(asks(&mut names, 1000), ["g"]);
}

#[test]
fn names_come_and_go_and_none_is_looked_up_twice_at_once() {
    let mut names = names(&["a", "b"]);
    asks(&mut names, 0);
    names.answered("b", ips(&["10.0.0.5"]), at(0), MIDDLE);
    names.want(&set(&["c"]), INTERVAL, at(1));
    assert!(names.known().is_empty());
    assert_eq!(asks(&mut names, 1), ["c"]);
    names.want(&set(&["a", "c"]), INTERVAL, at(2));
    assert!(asks(&mut names, 2).is_empty(), "the first look-up of a still runs");
    assert_eq!(line(names.answered("a", ips(&["10.0.0.6"]), at(3), MIDDLE)), "a: 10.0.0.6", "and counts");
    names.want(&set(&[]), INTERVAL, at(4));
    assert_eq!(names.answered("c", ips(&["10.0.0.7"]), at(5), MIDDLE), None);
    assert_eq!(names.answered("z", ips(&["10.0.0.7"]), at(5), MIDDLE), None, "never heard of");
    assert_eq!(names.turn(at(5)), Turn::default(), "nothing left, nothing to wake up for");
}

#[test]
fn a_shorter_interval_counts_at_once() {
    let mut names = names(&["a"]);
    asks(&mut names, 0);
    names.answered("a", ips(&["10.0.0.5"]), at(0), MIDDLE);
    names.want(&set(&["a"]), Duration::from_secs(5), at(1));
    assert_eq!(names.turn(at(1)).wake, Some(at(6)));
}
