//! The keys of a balancer and its backends: each as it is read, each bad value with its words.

use kube_vip::config::{Ask, Balance, Balancer, Config, HealthCheck, Overrides, ProxyVersion, Target, Timeouts, judge};
use std::path::Path;
use std::time::Duration;

const BACKENDS: &str = "backends: [{address: 10.0.0.7, port: 1, maxConnections: 9}]";

/// A file with one balancer; `more` are lines of it, `top` lines before it.
fn file(top: &str, more: &str) -> String {
    let lines: String = more.lines().map(|line| format!("  {line}\n")).collect();
    format!("vip: 10.0.0.9\ninterface: eth0\nsingleNode: true\n{top}loadBalancers:\n- port: 80\n  bindToVip: true\n{lines}")
}

fn load(text: &str) -> Result<(Config, Vec<String>), String> {
    let draft = judge(Path::new("f"), text, &Overrides::default()).map_err(|p| p.to_string())?;
    let warnings = draft.warnings.iter().map(ToString::to_string).collect();
    draft.resolve(&[], None).map(|placed| (placed.config, warnings)).map_err(|p| p.to_string())
}

/// The balancer with these lines, which has a backend already unless they say `backends`.
fn with(more: &str) -> Result<(Balancer, Vec<String>), String> {
    let more = if more.contains("backends:") { more.to_owned() } else { format!("{BACKENDS}\n{more}") };
    load(&file("", &more)).map(|(mut config, warnings)| (config.balancers.remove(0), warnings))
}

fn sound(more: &str) -> Balancer {
    let (balancer, warnings) = with(more).unwrap_or_else(|why| panic!("{more}: {why}"));
    assert_eq!(warnings, [""; 0], "{more}");
    balancer
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn what_is_not_said_has_its_default() {
    let plain = sound("");
    let wanted = Balancer::new("port-80".into(), 80, true, plain.backends.clone());
    assert_eq!(plain, wanted);
    let (config, _) = load(&file("", BACKENDS)).expect("sound");
    assert_eq!((config.max_connections, config.resolve_interval), (None, ms(30_000)));
    let (config, _) = load(&file("maxConnections: 1000\nresolveInterval: 1d\n", BACKENDS)).expect("sound");
    assert_eq!((config.max_connections, config.resolve_interval), (Some(1000), ms(86_400_000)));
}

#[test]
fn every_key_of_a_balancer_is_read() {
    let all = sound(
        "name: web
type: TCP
backendPort: 8080
balance: LEASTconnections
slowStart: 30s
queue: 50
queueTimeout: 500ms
sendProxy: V2
acceptProxy: 10.1.0.0/16
allow: [10.0.0.0/8, \"2001:db8::/32\"]
deny:
- 10.9.9.9
maxConnections: 5000
maxConnectionsPerClient: 20
acceptRate: 100
connectTimeout: 1s
halfCloseTimeout: 1m
idleTimeout: 2h
backends:
- {address: 10.0.0.7, weight: 256}
- {address: Web1.LAN, port: 81, backup: true, maxConnections: 7, weight: 0}
healthCheck: {type: http, path: /healthz, host: web.lan, status: 200-299, text: ok, port: 8081, interval: 5s, timeout: 500ms, rise: 1, fall: 5}",
    );
    assert_eq!((all.balance, all.slow_start), (Balance::LeastConnections, ms(30_000)));
    assert_eq!((all.queue, all.queue_timeout), (50, ms(500)));
    let networks = |list: &[kube_vip::config::Network]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(all.send_proxy, Some(ProxyVersion::V2));
    assert_eq!(networks(&all.accept_proxy), ["10.1.0.0/16"]);
    assert_eq!(networks(&all.allow), ["10.0.0.0/8", "2001:db8::/32"]);
    assert_eq!(networks(&all.deny), ["10.9.9.9/32"]);
    assert_eq!((all.max_connections, all.max_per_client, all.accept_rate), (Some(5000), Some(20), Some(100)));
    assert_eq!(all.timeouts, Timeouts { connect: ms(1000), half_close: ms(60_000), idle: ms(7_200_000) });
    let [first, second] = &all.backends[..] else { panic!("two backends") };
    assert_eq!((first.target.to_string().as_str(), first.weight, first.backup), ("10.0.0.7:8080", 256, false));
    assert_eq!(second.target, Target::Name { host: "web1.lan".into(), port: 81 });
    assert_eq!((second.weight, second.backup, second.max_connections), (0, true, Some(7)));
    let ask = Ask::Http { path: "/healthz".into(), host: Some("web.lan".into()), status: (200, 299), text: Some("ok".into()) };
    let check = HealthCheck { ask, port: Some(8081), interval: ms(5000), timeout: ms(500), rise: 1, fall: 5 };
    assert_eq!(all.health_check, Some(check));
}

#[test]
fn a_health_check_may_be_one_word() {
    let usual = HealthCheck { ask: Ask::Tcp, port: None, interval: ms(2000), timeout: ms(1000), rise: 2, fall: 3 };
    assert_eq!(sound("healthCheck: tcp").health_check, Some(usual.clone()));
    assert_eq!(sound("healthCheck: {type: tcp}").health_check, Some(usual.clone()));
    let http = HealthCheck { ask: Ask::Http { path: "/".into(), host: None, status: (200, 399), text: None }, ..usual.clone() };
    assert_eq!(sound("healthCheck: HTTP").health_check, Some(http.clone()));
    assert_eq!(sound("healthCheck: {type: http}").health_check, Some(http));
    let often = sound("healthCheck: {type: tcp, interval: 200ms}").health_check;
    assert_eq!(often, Some(HealthCheck { interval: ms(200), timeout: ms(200), ..usual }), "never longer than the interval");
}

#[test]
fn bounds_themselves_are_good() {
    for more in [
        "balance: roundRobin",
        "balance: random2",
        "balance: sourcehash",
        "queue: 0",
        "queue: 100000\nqueueTimeout: 1h",
        "queueTimeout: 100ms",
        "slowStart: 0s",
        "slowStart: 1h",
        "maxConnections: 1",
        "maxConnectionsPerClient: 1000000",
        "acceptRate: 1",
        "connectTimeout: 100ms",
        "connectTimeout: 5m",
        "halfCloseTimeout: 1s",
        "halfCloseTimeout: 1d\nidleTimeout: 30d",
        "idleTimeout: 30s",
        "healthCheck: {type: tcp, interval: 100ms, timeout: 10ms, rise: 100, fall: 1}",
        "healthCheck: {type: tcp, interval: 1h, timeout: 1h}",
        "healthCheck: {type: http, status: 100-599, path: /?}",
        "sendProxy: v1",
        "acceptProxy: [0.0.0.0/0]",
        "allow: [\"::/0\", 10.0.0.0/8]",
    ] {
        sound(more);
    }
}

/// Line 8 is the first of a balancer's further lines, after its backends on line 7.
#[test]
fn bad_values_say_why_and_the_way_out() {
    for (more, says) in [
        (
            "balance: leastConnection",
            "f:8: loadBalancers[0].balance: leastConnection is no way to balance; did you mean leastConnections?",
        ),
        (
            "balance: maglev",
            "f:8: loadBalancers[0].balance: maglev is no way to balance; write roundRobin, leastConnections, random2, sourceHash",
        ),
        ("balanse: random2", "f:8: loadBalancers[0].balanse: unknown key; did you mean `balance`?"),
        (
            "queue: -1",
            "f:8: loadBalancers[0].queue: -1 is less than 0: 0 already means that nobody waits; write 0 to 100000, 1000 is usual",
        ),
        ("queue: 100001", "is more than 100000: most of them would wait in vain"),
        ("queueTimeout: 5", "f:8: loadBalancers[0].queueTimeout: 5 has no unit; write 5ms or 5s"),
        (
            "queueTimeout: 99ms",
            "99ms is shorter than 100ms: a place is hardly ever free so soon; queue: 0 lets nobody wait; write 100ms to 1h, 5s is usual",
        ),
        ("slowStart: 61m", "61m is longer than 1h: a backend warms up sooner; write 0s to 1h, 30s is usual"),
        (
            "sendProxy: true",
            "f:8: loadBalancers[0].sendProxy: true is no version of the PROXY protocol; write v1 (a line of text) or v2 (binary)",
        ),
        ("acceptProxy: yes", "f:8: loadBalancers[0].acceptProxy: yes is no network; write it like 10.0.0.0/8 or 2001:db8::/32"),
        ("allow: []", "f:8: loadBalancers[0].allow: is empty; name at least one network, or leave it out for everybody"),
        (
            "deny:\n- 10.0.0.0/33\n- [x]\n- 10.0.0.1",
            "f:9: loadBalancers[0].deny[0]: 10.0.0.0/33 has no usable prefix length; after the slash stands a number from 0 to 32\nf:10: loadBalancers[0].deny[1]: is a list; one value is wanted here",
        ),
        (
            "maxConnections: 0",
            "f:8: loadBalancers[0].maxConnections: 0 is less than 1: nobody could connect; write 1 to 1000000, or leave it out for no limit of its own",
        ),
        ("maxConnectionsPerClient: many", "many is not a whole decimal number"),
        ("acceptRate: 0", "0 is less than 1: nobody could connect; write 1 to 1000000 a second, or leave it out for no limit"),
        ("connectTimeout: 301s", "is longer than 5m: the kernel gives up sooner; write 100ms to 5m, 2s is usual"),
        ("halfCloseTimeout: 999ms", "is shorter than 1s: answers still under way would be cut; write 1s to 1d, 30s is usual"),
        ("idleTimeout: 0s", "is shorter than 1s: connections that only pause would be cut; write 1s to 30d, 1h is usual"),
        ("idleTimeout: 31d", "31d is longer than 30 days"),
        (
            "healthCheck: https",
            "f:8: loadBalancers[0].healthCheck: https is not supported yet; use http on a plain port, or tcp",
        ),
        (
            "healthCheck: {type: https}",
            "f:8: loadBalancers[0].healthCheck.type: https is not supported yet; use http on a plain port, or tcp",
        ),
        ("healthCheck: htp", "htp is no health check; did you mean"),
        ("healthCheck: off", "off is no health check; leave healthCheck out, then only connects of clients tell"),
        ("healthCheck: [tcp]", "f:8: loadBalancers[0].healthCheck: is a list; one value is wanted here"),
        (
            "healthCheck: {path: /}",
            "f:8: loadBalancers[0].healthCheck.type: missing; write `type: tcp` (a connect is enough) or `type: http`",
        ),
        ("healthCheck: {typ: http}", "unknown key; did you mean `type`?"),
        (
            "healthCheck: {type: tcp, path: /, host: a, status: 200, text: x}",
            "f:8: loadBalancers[0].healthCheck.path: / is for http, but the check only connects (type tcp); write `type: http`, or remove it\nf:8: loadBalancers[0].healthCheck.host: a is for http",
        ),
        ("healthCheck: {type: http, path: healthz}", "healthz doesn't begin with /; write it like /healthz"),
        (
            "healthCheck: {type: http, path: /a b}",
            "has ' ' in it, which no request line may have; write it as % and two hex digits",
        ),
        ("healthCheck: {type: http, path: \"/a\\r\\nX: 1\"}", "has '\\r' in it"),
        ("healthCheck: {type: http, host: \"a\\r\\nX: 1\"}", "can't be a Host header; write a name like web.example"),
        ("healthCheck: {type: http, status: ok}", "ok is no HTTP status; write one from 100 to 599, or a range like 200-399"),
        ("healthCheck: {type: http, text: \"\"}", "is empty, and every answer has that"),
        ("healthCheck: {type: tcp, port: 0}", "0 is not a TCP port"),
        (
            "healthCheck: {type: tcp, interval: 50ms}",
            "healthCheck.interval: 50ms is shorter than 100ms: the checks would be a load of their own; write 100ms to 1h, 2s is usual",
        ),
        (
            "healthCheck: {type: tcp, timeout: 3s}",
            "healthCheck.timeout: 3s is longer than interval (2s): the next check would begin before this one has ended; lower it, or raise interval",
        ),
        ("healthCheck: {type: tcp, timeout: 5ms}", "5ms is shorter than 10ms: a backend that is only busy would count as dead"),
        ("healthCheck: {type: tcp, rise: 0}", "0 is less than 1: no answer at all would decide; write 1 to 100, 2 is usual"),
        ("healthCheck: {type: tcp, fall: 101}", "101 is more than 100: it would take for ever; write 1 to 100, 3 is usual"),
        (
            "backends: [{address: 10.0.0.300, port: 1}]",
            "f:7: loadBalancers[0].backends[0].address: 10.0.0.300 is not an IP address; write it like 192.168.0.10 (four numbers up to 255, no leading zeros)",
        ),
        ("backends: [{address: 10.0.0, port: 1}]", "10.0.0 is not an IP address"),
        (
            "backends: [{address: web.1, port: 1}]",
            "web.1 ends in a number, as only an IP address does; write a name like web1.lan, or an address like 192.168.0.10",
        ),
        (
            "backends: [{address: web_1, port: 1}]",
            "web_1 has '_' in it; a host name is made of letters a-z, digits, '-' and '.'",
        ),
        ("backends: [{address: web:80}]", "has a port; write web here and 80 under `port`"),
        ("backends: [{address: fe80::1%eth0, port: 1}]", "has a zone, which isn't supported"),
        (
            "backends: [{address: a, weight: 257}]",
            "f:7: loadBalancers[0].backends[0].weight: 257 is more than 256: only the ratio of weights counts; write 0 to 256, 1 is usual",
        ),
        ("backends: [{address: a, weight: -1}]", "-1 is less than 0: 0 already means no new connections"),
        ("backends: [{address: a, maxConnections: 0}]", "backends[0].maxConnections: 0 is less than 1"),
        ("backends: [{address: a, backup: maybe}]", "maybe is neither true nor false"),
        ("backends: [{address: a, weigth: 1}]", "unknown key; did you mean `weight`?"),
    ] {
        let told = with(more).expect_err(more);
        assert!(told.contains(says), "{more}\n{told}\nshould contain\n{says}");
    }
    for (top, says) in [
        ("maxConnections: 0\n", "f:4: maxConnections: 0 is less than 1: nobody could connect"),
        (
            "resolveInterval: 500ms\n",
            "f:4: resolveInterval: 500ms is shorter than 1s: name servers would be asked without a pause; write 1s to 1d, 30s is usual",
        ),
        ("resolveInterval: 25h\n", "is longer than 1d: a changed address would stay unknown for that long"),
    ] {
        let told = load(&file(top, BACKENDS)).expect_err(top);
        assert!(told.contains(says), "{top}\n{told}\nshould contain\n{says}");
    }
}

#[test]
fn all_problems_of_a_balancer_are_told_at_once() {
    let told = with("balance: x1\nqueue: x\nsendProxy: x\nallow: x\nslowStart: x\nhealthCheck: {type: x, rise: x, path: x}\nidleTimeout: x\nbackends: [{address: x.1, weight: x, backup: x, port: x}]")
        .expect_err("all wrong");
    assert_eq!(told.lines().count(), 13, "{told}");
}

#[test]
fn the_machine_itself_is_no_backend_of_what_listens_everywhere() {
    let text = |host: &str| file("", &format!("backends: [{{address: {host}, port: 80}}]")).replace("  bindToVip: true\n", "");
    for host in ["localhost", "LOCALHOST.", "x.localhost"] {
        assert!(load(&text(host)).expect_err(host).contains("is where this balancer listens"), "{host}");
    }
    for host in ["localhost.lan", "web"] {
        assert!(load(&text(host)).is_ok(), "{host}");
    }
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    for (more, says) in [
        (
            "backends: [{address: a, weight: 0}, {address: b, weight: 0}]",
            "f:7: warning: loadBalancers[0].backends: all have weight 0, so no connection is served",
        ),
        ("backends: [{address: a, backup: true}]", "f:7: warning: loadBalancers[0].backends: all are backup"),
        ("backends: [{address: WEB}, {address: web}]", "loadBalancers[0].backends[1]: web:80 is listed twice"),
        (
            "backends: [{address: a}]\nqueue: 5",
            "f:8: warning: loadBalancers[0].queue: does nothing: no backend has maxConnections",
        ),
        ("queue: 0\nqueueTimeout: 5s", "f:9: warning: loadBalancers[0].queueTimeout: does nothing with queue: 0"),
        (
            "deny: 0.0.0.0/0",
            "f:8: warning: loadBalancers[0].deny: 0.0.0.0/0 refuses every IPv4 client; remove it, or name whom to refuse",
        ),
        ("deny: [10.0.0.1, \"::/0\"]", "loadBalancers[0].deny[1]: ::/0 refuses every IPv6 client"),
        (
            "allow: [\"2001:db8::/32\"]",
            "loadBalancers[0].allow: has IPv6 networks only, but clients of 10.0.0.9 come by IPv4: nobody is served",
        ),
        ("allow: 10.0.0.1/8", "loadBalancers[0].allow: 10.0.0.1/8 has bits set beyond its prefix and means 10.0.0.0/8"),
        (
            "idleTimeout: 10s\nhalfCloseTimeout: 20s",
            "f:9: warning: loadBalancers[0].halfCloseTimeout: 20s is longer than idleTimeout (10s), which ends such connections first",
        ),
    ] {
        let (_, warnings) = with(more).unwrap_or_else(|why| panic!("{more}: {why}"));
        assert!(warnings.len() == 1 && warnings[0].contains(says), "{more}\n{warnings:?}\nshould contain\n{says}");
    }
    let (_, warnings) = load(&file("maxConnections: 10\n", &format!("{BACKENDS}\nmaxConnections: 11"))).expect("sound");
    assert!(
        warnings.len() == 1 && warnings[0].contains("11 is more than maxConnections of all balancers together (10)"),
        "{warnings:?}"
    );
}

/// What the program knows and what the sample shows are the same keys.
#[test]
fn the_sample_of_balancing_shows_every_key() {
    let text = "vip: 10.0.0.9\ninterface: eth0\nsingleNode: true\nloadBalancers:\n- {x: 1, port: 80, healthCheck: {x: 1}, backends: [{x: 1}]}\n";
    let told = load(text).expect_err("x is no key");
    let known = told.lines().filter_map(|line| line.split_once("the keys here are ")?.1.split_once(". Remove"));
    let keys: Vec<&str> =
        known.flat_map(|(keys, _)| keys.split(", ")).filter(|key| !["url", "backendPort"].contains(key)).collect();
    assert!(keys.len() > 30, "{told}");
    let sample = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/balancing.yaml")).expect("the sample");
    for key in keys {
        assert!(sample.contains(&format!("{key}:")), "{key} is missing in configs/balancing.yaml");
    }
}
