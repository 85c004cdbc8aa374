//! Backends that die, fail and come back, and backends behind names: what clients notice of it, and what the status says.
mod lab;

use kube_vip::status::BackendStatus;
use lab::net::VIP4;
use lab::{Backend, Cluster, Dns, Host, Kind, Lab, Node, NodeConfig, isolated, never_within, secs, wait_for, wait_until};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const TCP: &str = "{type: tcp, interval: 200ms, timeout: 200ms, rise: 2, fall: 2}";
const HTTP: &str = "{type: http, path: /healthz, interval: 200ms, timeout: 200ms, rise: 2, fall: 2}";

/// A balancer on VIP:80 with a health check; `backends` in YAML.
fn web(config: &mut NodeConfig, backends: &[String], check: &str) {
    let backends = backends.join(", ");
    config
        .balancers
        .push(format!("{{name: web, type: tcp, port: 80, bindToVip: true, healthCheck: {check}, backends: [{backends}]}}"));
}

fn yaml(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(Backend::yaml).collect()
}

/// One node alone that holds the VIP.
fn single(host: &Host, edit: impl Fn(&mut NodeConfig)) -> Node {
    let mut config = NodeConfig::single(host);
    edit(&mut config);
    let node = Node::start(host, &config);
    wait_until("the VIP is held", secs(20), || node.has_vip() && node.status().is_some_and(|s| s.held));
    node
}

fn state_of(node: &Node, backend: impl Display) -> Option<BackendStatus> {
    let wanted = backend.to_string();
    node.status()?.balancers.into_iter().flat_map(|b| b.backends).find(|b| b.address == wanted)
}

/// Waits until the status has this state for a backend.
#[track_caller]
fn wait_state(node: &Node, backend: impl Display, state: &str) -> BackendStatus {
    wait_for(&format!("{} says that {backend} is {state}", node.id()), secs(20), || {
        state_of(node, &backend).filter(|b| b.state == state)
    })
}

/// What one connection to the VIP brings.
fn visit(client: &Host, words: &str) -> std::io::Result<String> {
    let mut stream = client.enter(|| TcpStream::connect_timeout(&SocketAddr::from((VIP4, 80)), secs(5)))?;
    stream.set_read_timeout(Some(secs(20)))?;
    stream.write_all(words.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map(|_| text)
}

/// How often each answer came in `n` connections, errors included.
fn visits(client: &Host, n: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..n {
        let answer = visit(client, "").unwrap_or_else(|e| format!("({})", e.kind()));
        *seen.entry(answer.trim().to_owned()).or_default() += 1;
    }
    seen
}

fn seen(list: &[(&str, usize)]) -> BTreeMap<String, usize> {
    list.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
}

#[test]
fn a_dead_backend_leaves_and_comes_back_without_an_error_in_between() {
    isolated("a_dead_backend_leaves_and_comes_back_without_an_error_in_between", || {
        let lab = Lab::new();
        let (host, client) = (lab.host("n1"), lab.host("client"));
        let hosts = ["b1", "b2", "b3"].map(|name| lab.host(name));
        let mut backends: Vec<Backend> = hosts.iter().map(|host| Backend::start(host, 80, Kind::Name)).collect();
        let node = single(&host, |c| web(c, &yaml(&backends), TCP));
        backends.iter().for_each(|b| drop(wait_state(&node, b.address(), "up")));
        assert_eq!(visits(&client, 9), seen(&[("b1", 3), ("b2", 3), ("b3", 3)]));

        let dying = backends.remove(1);
        let address = dying.address();
        dying.kill(&hosts[1]);
        let down = wait_state(&node, address, "down");
        assert_eq!(down.why.as_deref(), Some("connect: Connection refused"));
        let failed = down.failed;
        assert_eq!(visits(&client, 20), seen(&[("b1", 10), ("b3", 10)]));
        assert_eq!(wait_state(&node, address, "down").failed, failed, "no client's connect was spent on it");

        let (_, table, _) = node.tell(&["status"]);
        assert!(table.contains("down [connect: Connection refused]"), "{table}");

        backends.push(Backend::start(&hosts[1], 80, Kind::Name));
        wait_state(&node, address, "up");
        assert_eq!(visits(&client, 9), seen(&[("b1", 3), ("b2", 3), ("b3", 3)]));
        let told = |what: &str| node.log().lines().filter(|l| l.contains(&address.to_string()) && l.contains(what)).count();
        assert_eq!((told("down"), told("is up")), (1, 1), "{}", node.log());
    });
}

#[test]
fn a_backend_that_fails_its_http_checks_leaves_and_no_client_notices() {
    isolated("a_backend_that_fails_its_http_checks_leaves_and_no_client_notices", || {
        let lab = Lab::new();
        let (host, client) = (lab.host("n1"), lab.host("client"));
        let backends = ["b1", "b2", "b3"].map(|name| Backend::start(&lab.host(name), 8080, Kind::Web));
        let node = single(&host, |c| web(c, &yaml(&backends), HTTP));
        backends.iter().for_each(|b| drop(wait_state(&node, b.address(), "up")));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let visitor = scope.spawn(|| {
                let mut visits = 0;
                while !stop.load(Ordering::SeqCst) {
                    let answer = visit(&client, "GET / HTTP/1.1\r\nHost: web\r\n\r\n").expect("no client notices");
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                    visits += 1;
                }
                visits
            });
            let (all, one) = (|| backends.iter().map(Backend::served).sum::<usize>(), &backends[1]);
            let more = |n: usize| {
                let from = all();
                wait_until("clients come", secs(20), || all() >= from + n);
            };
            one.set_health(503);
            assert_eq!(wait_state(&node, one.address(), "down").why.as_deref(), Some("status 503"));
            more(2); // what was under way when it was marked
            let before = one.served();
            more(30);
            assert_eq!(one.served(), before, "it gets no client any more");
            one.set_health(500);
            wait_until("the status has the new reason", secs(10), || {
                state_of(&node, one.address()).is_some_and(|b| b.why.as_deref() == Some("status 500"))
            });
            one.set_health(204);
            wait_state(&node, one.address(), "up");
            wait_until("it gets clients again", secs(20), || one.served() > before);
            stop.store(true, Ordering::SeqCst);
            assert!(visitor.join().expect("no client noticed") > 30);
        });
    });
}

/// What reloads and orders change about the checks.
#[test]
fn who_is_in_maintenance_is_not_checked_and_a_reload_changes_the_checks() {
    isolated("who_is_in_maintenance_is_not_checked_and_a_reload_changes_the_checks", || {
        let lab = Lab::new();
        let host = lab.host("n1");
        let backends = ["b1", "b2"].map(|name| Backend::start(&lab.host(name), 8080, Kind::Web));
        let node = single(&host, |c| web(c, &yaml(&backends), HTTP));
        let [one, two] = &backends;
        backends.iter().for_each(|b| drop(wait_state(&node, b.address(), "up")));
        let tell = |words: &[&str]| {
            let (ok, _, error) = node.tell(words);
            assert!(ok, "{words:?}: {error}");
        };
        let address = two.address().to_string();
        let rounds = |n: usize| {
            let from = one.accepted();
            wait_until("the other goes on being checked", secs(20), || one.accepted() >= from + n);
        };
        tell(&["backend", "disable", &address]);
        rounds(1); // what was under way
        let asked = two.accepted();
        rounds(4);
        assert_eq!(two.accepted(), asked, "nobody asks it");

        two.set_health(503);
        tell(&["backend", "enable", &address]);
        assert_eq!(wait_state(&node, &address, "down").why.as_deref(), Some("status 503"));
        tell(&["backend", "drain", &address]);
        let asked = two.accepted();
        wait_until("who drains is checked", secs(20), || two.accepted() > asked);
        tell(&["backend", "enable", &address]);

        // Another path is asked, which is answered well; then nobody asks any more.
        let reload = |check: &str| {
            let mut config = node.config.clone();
            config.balancers.clear();
            web(&mut config, &yaml(&backends), check);
            std::fs::write(node.file(), config.yaml()).expect("the lab's directory is writable");
            tell(&["reload"]);
        };
        reload(&HTTP.replace("/healthz", "/"));
        wait_state(&node, &address, "up");
        reload(HTTP);
        wait_state(&node, &address, "down");
        let served = two.served();
        reload("tcp");
        wait_state(&node, &address, "up");
        assert_eq!(two.served(), served, "a connect is enough");
    });
}

#[test]
fn what_this_machine_is_short_of_speaks_against_no_backend() {
    isolated("what_this_machine_is_short_of_speaks_against_no_backend", || {
        let lab = Lab::new();
        let host = lab.host("n1");
        let backend = Backend::start(&lab.host("b1"), 8080, Kind::Web);
        let node = single(&host, |c| web(c, &[backend.yaml()], HTTP));
        wait_state(&node, backend.address(), "up");
        let limit = |soft: u32| lab::sh(&format!("prlimit --pid {} --nofile={soft}:", node.daemon_pid()));
        limit(3);
        node.wait_for_log("can't check", secs(20));
        never_within("a shortage counted as an answer", secs(2), || node.log().contains("is down").then(|| node.log()));
        limit(1024);
        let asked = backend.accepted();
        wait_until("checks go on", secs(20), || backend.accepted() > asked + 2);
        assert_eq!(wait_state(&node, backend.address(), "up").failed, 0);
        assert!(!node.log().contains("is down") && node.log().matches("can't check").count() == 1, "{}", node.log());
    });
}

#[test]
fn a_new_holder_knows_which_backends_are_dead() {
    isolated("a_new_holder_knows_which_backends_are_dead", || {
        let lab = Lab::new();
        let alive = Backend::start(&lab.host("b1"), 80, Kind::Name);
        let dead = lab.host("b2");
        let backends = [alive.yaml(), format!("{{address: {}, port: 80}}", dead.ip4())];
        let cluster = Cluster::start_with(&lab, 3, false, |c| web(c, &backends, TCP));
        let (leader, _) = cluster.wait_settled();
        let address = SocketAddr::from((dead.ip4(), 80));
        for node in &cluster.nodes {
            assert_eq!(wait_state(node, address, "down").why.as_deref(), Some("connect: Connection refused"), "{}", node.id());
            wait_state(node, alive.address(), "up");
        }
        cluster.nodes[leader].kill_both();
        let next = cluster.wait_holder_other_than(leader);
        wait_until("the VIP serves", secs(20), || visit(&cluster.client, "").is_ok());
        assert_eq!(visits(&cluster.client, 10), seen(&[("b1", 10)]));
        let failed = wait_state(&cluster.nodes[next], address, "down").failed;
        assert_eq!(failed, 0, "its clients never had to find out");
    });
}

#[test]
fn a_name_gives_its_addresses_and_a_changed_answer_moves_the_connections() {
    isolated("a_name_gives_its_addresses_and_a_changed_answer_moves_the_connections", || {
        let lab = Lab::new();
        let (host, client, server) = (lab.host("n1"), lab.host("client"), lab.host("dns"));
        let hosts = ["b1", "b2", "b3"].map(|name| lab.host(name));
        let backends = hosts.each_ref().map(|host| Backend::start(host, 80, Kind::Name));
        let [one, two, three] = hosts.each_ref().map(Host::ip4);
        let dns = Dns::start(&server, &[two, one]);
        let node = single(&host, |c| {
            web(c, &["{address: api.lan, port: 80}".into()], TCP);
            c.extra.push("resolveInterval: 1s".into());
        });
        backends[..2].iter().for_each(|b| drop(wait_state(&node, b.address(), "up")));
        assert_eq!(visits(&client, 10), seen(&[("b1", 5), ("b2", 5)]));
        node.wait_for_log(&format!("api.lan: {one}, {two}"), secs(10));

        dns.set(Some(&[three, two]));
        wait_state(&node, backends[2].address(), "up");
        node.wait_for_log(&format!("api.lan: {two}, {three} (was {one}, {two})"), secs(10));
        assert_eq!(visits(&client, 10), seen(&[("b2", 5), ("b3", 5)]));
        wait_until("the first has left", secs(10), || state_of(&node, backends[0].address()).is_none());

        // The name has no address any more, then the server says nothing at all: what was known stays.
        dns.set(Some(&[]));
        node.wait_for_log("api.lan can't be looked up", secs(20));
        dns.set(None);
        let asked = dns.asked();
        wait_until("it is asked again", secs(20), || dns.asked() > asked + 4);
        assert_eq!(visits(&client, 10), seen(&[("b2", 5), ("b3", 5)]));
        dns.set(Some(&[two, three]));
        node.wait_for_log("api.lan is looked up again", secs(30));
        assert_eq!(node.log().matches("can't be looked up").count(), 1, "{}", node.log());

        // The name of the service itself, as one might write it by mistake.
        dns.set(Some(&[two, VIP4]));
        node.wait_for_log("api.lan: 10.99.0.100 is left out, balancer web listens there itself", secs(20));
        wait_until("the third has left", secs(10), || state_of(&node, backends[2].address()).is_none());
        assert_eq!(visits(&client, 5), seen(&[("b2", 5)]));
    });
}

/// The resolver of the system blocks for seconds; a heartbeat can't wait so long.
#[test]
fn a_silent_name_server_keeps_nobody_waiting() {
    isolated("a_silent_name_server_keeps_nobody_waiting", || {
        let lab = Lab::new();
        let server = lab.host("dns");
        let backend = Backend::start(&lab.host("b1"), 80, Kind::Name);
        let dns = Dns::start(&server, &[]);
        dns.set(None);
        let backends = [backend.yaml(), "{address: a.lan, port: 80}".into(), "{address: b.lan, port: 80}".into()];
        let cluster = Cluster::start_with(&lab, 2, false, |c| {
            web(c, &backends, TCP);
            c.extra.push("resolveInterval: 1s".into());
        });
        let (leader, term) = cluster.wait_settled();
        wait_until("names are asked for", secs(20), || dns.asked() > 2);
        never_within("the leader changed", secs(4), || Some(cluster.nodes[leader].term()).filter(|t| *t != term));
        assert_eq!(visits(&cluster.client, 10), seen(&[("b1", 10)]));
        cluster.nodes[leader].wait_for_log("a.lan can't be looked up", secs(20));
        let delay = cluster.nodes[leader].wait_status().loop_delay_ms;
        println!("longest delay of the loop: {delay:?} ms");
    });
}
