//! A configuration that changes while the node runs, and orders about backends: what clients notice of it (nothing), and what is refused.
mod lab;

use lab::backend::Kind;
use lab::net::VIP4;
use lab::node::{kube_vip, write_config};
use lab::process::children;
use lab::{Backend, Cluster, Dns, Host, Lab, Node, NodeConfig, STEADY, isolated, never_within, secs, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// One node that holds the VIP, its client, and servers that say their name on port 8080 and echo on 9090.
struct Rig {
    node: Node,
    client: Host,
    names: Vec<Backend>,
    echo: Backend,
}

impl Rig {
    /// `edit` is given the names' addresses as YAML, and the echo's.
    fn start(lab: &Lab, edit: impl Fn(&mut NodeConfig, &[String], &str)) -> Rig {
        let (host, client) = (lab.host("n1"), lab.host("client"));
        let servers: Vec<Host> = ["b1", "b2", "b3"].iter().map(|name| lab.host(name)).collect();
        let names: Vec<Backend> = servers.iter().map(|host| Backend::start(host, 8080, Kind::Name)).collect();
        let echo = Backend::start(&servers[0], 9090, Kind::Echo);
        let mut config = NodeConfig::single(&host);
        edit(&mut config, &names.iter().map(Backend::yaml).collect::<Vec<_>>(), &echo.yaml());
        let rig = Rig { node: Node::start(&host, &config), client, names, echo };
        wait_until("the VIP is held", secs(20), || rig.node.has_vip() && rig.node.status().is_some_and(|s| s.held));
        rig
    }

    fn web(lab: &Lab) -> Rig {
        Rig::start(lab, |c, names, _| c.balancer("web", 80, true, &names[..2]))
    }

    /// Writes another configuration for it: the same node with other balancers and lines.
    fn write(&self, edit: impl Fn(&mut NodeConfig, &[String], &str)) {
        let mut config = NodeConfig { balancers: Vec::new(), ..self.node.config.clone() };
        edit(&mut config, &self.names.iter().map(Backend::yaml).collect::<Vec<_>>(), &self.echo.yaml());
        std::fs::write(self.node.file(), config.yaml()).expect("the lab's directory is writable");
    }

    #[track_caller]
    fn told(&self, words: &[&str]) -> String {
        let (ok, out, error) = self.node.tell(words);
        assert!(ok, "{words:?}: {out}{error}");
        out
    }

    #[track_caller]
    fn refused(&self, words: &[&str]) -> (i32, String) {
        let out = self.node.host.run(kube_vip().args(words).arg("-c").arg(self.node.file()));
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && out.stdout.is_empty(), "{words:?}: {text}");
        (out.status.code().unwrap_or(-1), text)
    }

    /// How often each server is met in `n` connections to VIP:`port`.
    fn met(&self, n: usize, port: u16) -> BTreeMap<String, usize> {
        let mut met = BTreeMap::new();
        for _ in 0..n {
            *met.entry(name(&self.client, port).unwrap_or_else(|e| format!("({})", e.kind()))).or_default() += 1;
        }
        met
    }

    fn address(&self, server: usize) -> String {
        self.names[server].address().to_string()
    }
}

fn connect(from: &Host, to: impl Into<IpAddr>, port: u16) -> std::io::Result<TcpStream> {
    let to = SocketAddr::new(to.into(), port);
    let stream = from.enter(|| TcpStream::connect_timeout(&to, secs(5)))?;
    stream.set_read_timeout(Some(secs(60)))?;
    Ok(stream)
}

fn name(client: &Host, port: u16) -> std::io::Result<String> {
    let mut text = String::new();
    connect(client, VIP4, port)?.read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// Sends a word and reads it back.
fn echoes(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut back = [0; 4];
    stream.write_all(b"word")?;
    stream.read_exact(&mut back)?;
    if &back == b"word" { Ok(()) } else { Err(std::io::Error::other("another word came back")) }
}

/// One connection after the other to VIP:80, until it is ended: who was met how often, and what went wrong.
struct Stream {
    ends: Arc<AtomicBool>,
    met: Arc<Mutex<BTreeMap<String, usize>>>,
    thread: JoinHandle<Vec<String>>,
}

impl Stream {
    fn start(client: &Host) -> Stream {
        let (ends, met) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())));
        let (client, end, seen) = (client.clone(), ends.clone(), met.clone());
        let thread = std::thread::spawn(move || {
            let mut wrong = Vec::new();
            while !end.load(Ordering::SeqCst) {
                match name(&client, 80) {
                    Ok(name) if !name.is_empty() => *seen.lock().expect("not poisoned").entry(name).or_insert(0) += 1,
                    other => wrong.push(format!("{other:?}")),
                }
            }
            wrong
        });
        Stream { ends, met, thread }
    }

    fn count(&self, name: &str) -> usize {
        self.met.lock().expect("not poisoned").get(name).copied().unwrap_or(0)
    }

    /// What went wrong.
    fn end(self) -> Vec<String> {
        self.ends.store(true, Ordering::SeqCst);
        self.thread.join().expect("it doesn't panic")
    }
}

#[test]
fn a_reload_loses_no_connection() {
    isolated("a_reload_loses_no_connection", || {
        let rig = Rig::start(&Lab::new(), |c, names, echo| {
            c.balancer("web", 80, true, &names[..2]);
            c.balancer("old", 82, true, &names[..1]);
            c.balancer("echo", 90, true, &[echo.to_owned()]);
        });
        let open = connect(&rig.client, VIP4, 90).expect("it accepts");
        echoes(&open).expect("it echoes");
        let (keeper, daemon, gains) = (rig.node.keeper_pid(), rig.node.daemon_pid(), rig.node.wait_status().gains);
        let stream = Stream::start(&rig.client);
        wait_until("the first two are met", secs(20), || stream.count("b1") > 5 && stream.count("b2") > 5);

        rig.write(|c, names, echo| {
            c.balancer("web", 80, true, &names[1..]);
            c.balancer("new", 81, true, &names[2..]);
            c.balancer("echo", 90, true, &[echo.to_owned()]);
        });
        let said = rig.told(&["reload"]);
        let [first, third] = [rig.address(0), rig.address(2)];
        for part in [
            "is in place: ",
            "balancer new added",
            "balancer old removed",
            &format!("backend {third} added"),
            &format!("backend {first} removed"),
        ] {
            assert!(said.contains(part), "{said}");
        }
        wait_until("the new one is met", secs(20), || stream.count("b3") > 5);
        let (before, second) = (stream.count("b1"), stream.count("b2"));
        wait_until("it goes on", secs(20), || stream.count("b2") > second + 10);
        assert!(stream.count("b1") <= before, "the one removed is met no more");
        assert_eq!(rig.met(3, 81), BTreeMap::from([("b3".to_owned(), 3)]));
        wait_until("nobody listens for the balancer removed", secs(5), || connect(&rig.client, VIP4, 82).is_err());
        echoes(&open).expect("what was open goes on");

        rig.write(|c, names, _| c.balancer("web", 80, true, names));
        rig.told(&["reload"]);
        wait_until("nobody listens for the echo", secs(5), || connect(&rig.client, VIP4, 90).is_err());
        wait_until("all three are met", secs(20), || stream.count("b1") > before + 5);
        echoes(&open).expect("what was open goes on, also where its balancer is gone");
        assert!(rig.told(&["reload"]).trim().ends_with(": nothing has changed"));

        assert_eq!(stream.end(), [""; 0], "no client noticed");
        assert_eq!((rig.node.keeper_pid(), rig.node.daemon_pid()), (keeper, daemon));
        assert_eq!(rig.node.wait_status().gains, gains, "the VIP stayed");
        assert_eq!(rig.node.log().matches("is in place: ").count(), 2, "a line for each change:\n{}", rig.node.log());
    });
}

#[test]
fn a_reload_that_names_hosts_in_place_of_addresses_loses_none_either() {
    isolated("a_reload_that_names_hosts_in_place_of_addresses_loses_none_either", || {
        let lab = Lab::new();
        let server = lab.host("dns");
        let _dns = Dns::start(&server, &["10.99.0.6".parse().expect("an address")]);
        let rig = Rig::web(&lab);
        assert_eq!(rig.address(2), "10.99.0.6:8080");
        let stream = Stream::start(&rig.client);
        wait_until("the first two are met", secs(20), || stream.count("b1") > 5 && stream.count("b2") > 5);
        rig.write(|c, _, _| c.balancer("web", 80, true, &["{address: web.example, port: 8080}".into()]));
        rig.told(&["reload"]);
        let before = stream.count("b1") + stream.count("b2");
        wait_until("the one that the name stands for is met", secs(20), || stream.count("b3") > 5);
        assert!(stream.count("b1") + stream.count("b2") <= before + 1, "at most the one that was under way");
        assert_eq!(stream.end(), [""; 0], "no client noticed");
        assert!(rig.told(&["backend", "list"]).contains("10.99.0.6:8080 (web.example)"));
    });
}

#[test]
fn health_checks_follow_reloads_and_orders() {
    isolated("health_checks_follow_reloads_and_orders", || {
        let rig = Rig::web(&Lab::new());
        let states = || {
            let list: Vec<kube_vip::status::BalancerStatus> =
                serde_json::from_str(&rig.told(&["backend", "list", "--json"])).expect("JSON");
            list[0].backends.iter().map(|b| b.state.clone()).collect::<Vec<_>>()
        };
        let check = |port: u16| {
            rig.write(|c, names, _| {
                let check = format!("{{type: tcp, port: {port}, interval: 100ms, timeout: 100ms, rise: 1, fall: 1}}");
                let backends = names[..2].join(", ");
                c.balancers
                    .push(format!("{{name: web, port: 80, bindToVip: true, healthCheck: {check}, backends: [{backends}]}}"));
            });
            rig.told(&["reload"])
        };
        assert!(check(1).contains("balancer web: healthCheck: none → tcp at port 1 each 100ms"));
        wait_until("nobody answers there", secs(20), || states() == ["down", "down"]);
        rig.told(&["backend", "disable", &rig.address(0)]);
        assert_eq!(states(), ["maintenance", "down"]);
        check(8080);
        wait_until("the other is up again", secs(20), || states() == ["maintenance", "up"]);
        rig.told(&["backend", "enable", &rig.address(0)]);
        wait_until("both are up", secs(20), || states() == ["up", "up"]);
        check(1);
        wait_until("both are down", secs(20), || states() == ["down", "down"]);
        rig.write(|c, names, _| c.balancer("web", 80, true, &names[..2]));
        rig.told(&["reload"]);
        wait_until("nobody checks any more", secs(20), || states() == ["up", "up"]);
    });
}

#[test]
fn a_file_that_cannot_be_put_in_place_changes_nothing_and_says_why() {
    isolated("a_file_that_cannot_be_put_in_place_changes_nothing_and_says_why", || {
        let rig = Rig::web(&Lab::new());
        let as_before = || assert_eq!(rig.met(4, 80), BTreeMap::from([("b1".to_owned(), 2), ("b2".to_owned(), 2)]));
        as_before();
        // Problems of the file: told by the command itself, as by `check`, and by the daemon to a signal.
        rig.write(|c, names, _| {
            c.balancer("web", 80, true, &names[2..]);
            c.balancers.push("{name: more, port: 0, balance: leastConn, backends: [{address: 10.0.0.300}]}".into());
        });
        let (code, error) = rig.refused(&["reload"]);
        let problems = [
            "n1.yaml:10: loadBalancers[1].port: 0 is not a TCP port",
            "n1.yaml:10: loadBalancers[1].balance: leastConn is no way",
        ];
        assert!(code == 78 && error.lines().count() == 3 && problems.iter().all(|p| error.contains(p)), "{code}: {error}");
        rig.node.signal(Signal::SIGHUP);
        let line = rig.node.wait_for_log("nothing has changed: ", secs(10));
        assert!(line.contains("ERROR") && problems.iter().all(|p| line.contains(p)), "{line}");
        as_before();
        // What takes a restart: all of it is named, and nothing else is applied either.
        let other_vip =
            NodeConfig { vip: "10.99.0.101".parse().expect("an address"), balancers: Vec::new(), ..rig.node.config.clone() };
        std::fs::write(rig.node.file(), other_vip.yaml() + "realtime: false\n").expect("writable");
        let (code, error) = rig.refused(&["reload"]);
        assert_eq!(code, 1, "{error}");
        assert!(
            error.contains("nothing has changed: ")
                && error.contains("these take a restart: vip: 10.99.0.100 → 10.99.0.101; realtime: true → false"),
            "{error}"
        );
        as_before();
        // A port that somebody else has.
        let taken = rig.node.host.enter(|| std::net::TcpListener::bind(("0.0.0.0", 83))).expect("free");
        rig.write(|c, names, _| {
            c.balancer("web", 80, true, &names[2..]);
            c.balancer("taken", 83, false, &names[2..]);
        });
        let (code, error) = rig.refused(&["reload"]);
        assert!(code == 1 && error.contains("nothing has changed: ") && error.contains("83"), "{code}: {error}");
        as_before();
        drop(taken);
        // Another file than the one that it was started with.
        let other =
            write_config("other", &std::fs::read_to_string(rig.node.file()).expect("it is there").replace("taken", "free"));
        let out = rig.node.host.run(kube_vip().args(["reload", "-c"]).arg(other));
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && error.contains("n1.yaml, and finds another text there"), "{error}");
        as_before();
        // One that the daemon may not read: it gave up what root may.
        let mode = |mode: u32| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(rig.node.file(), std::fs::Permissions::from_mode(mode)).expect("its mode");
        };
        mode(0);
        let (_, error) = rig.refused(&["reload"]);
        let says = format!("the daemon runs as uid 0, gid 0 and may not read {}", rig.node.file().display());
        assert!(error.contains(&says) && error.contains("has mode 0, uid 0") && error.contains("chmod g+r"), "{error}");
        as_before();
        mode(0o600);
        assert!(rig.told(&["reload"]).contains("balancer taken added"));
        assert_eq!(rig.met(4, 80), BTreeMap::from([("b3".to_owned(), 4)]));
    });
}

#[test]
fn sighup_reloads_by_way_of_the_keeper_and_without_one() {
    isolated("sighup_reloads_by_way_of_the_keeper_and_without_one", || {
        let lab = Lab::new();
        let rig = Rig::web(&lab);
        let open = connect(&rig.client, VIP4, 80).expect("it accepts");
        rig.write(|c, names, _| {
            c.balancer("web", 80, true, &names[2..]);
            c.extra.push("drain: 7s".into());
        });
        rig.node.signal(Signal::SIGHUP);
        let line = rig.node.wait_for_log("is in place: ", secs(10));
        assert!(line.contains("balancer web: backend") && line.contains("drain: 5s → 7s"), "{line}");
        assert_eq!(rig.met(3, 80), BTreeMap::from([("b3".to_owned(), 3)]));
        drop(open);
        assert!(!rig.node.ended() && rig.node.has_vip());
        assert!(rig.node.stop(Signal::SIGTERM).success());

        let host = lab.host("n2");
        let mut config = NodeConfig::single(&host);
        config.balancer("web", 80, false, &[rig.names[0].yaml()]);
        let node = Node::start_with(&host, &config, &["-d"]);
        node.wait_status();
        config.balancer("more", 81, false, &[rig.names[0].yaml()]);
        std::fs::write(node.file(), config.yaml()).expect("writable");
        node.signal(Signal::SIGHUP);
        node.wait_for_log("is in place: balancer more added", secs(10));
        connect(&rig.client, host.ip4(), 81).expect("it accepts");
    });
}

#[test]
fn a_node_whose_terminal_goes_away_stops() {
    isolated("a_node_whose_terminal_goes_away_stops", || {
        let host = Lab::new().host("n1");
        let config = NodeConfig::single(&host);
        let file = write_config("n1", &config.yaml());
        let program: Vec<String> = std::iter::once(kube_vip().get_program().to_owned())
            .chain(kube_vip().get_args().map(ToOwned::to_owned))
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let line = format!("exec {} start -c {} >/run/lab/inner.log 2>&1", program.join(" "), file.display());
        let terminal = host.spawn("n1", Command::new("script").args(["-qfec", &line, "/dev/null"]));
        wait_until("it holds", secs(20), || host.has(VIP4));
        let keeper = wait_for("the program runs in the terminal", secs(10), || children(terminal.pid()).first().copied());
        kill(Pid::from_raw(keeper), Signal::SIGHUP).expect("it runs");
        let inner = || std::fs::read_to_string("/run/lab/inner.log").unwrap_or_default();
        wait_until("a signal alone is a reload", secs(10), || inner().contains("nothing has changed"));
        assert!(host.has(VIP4));
        terminal.signal(Signal::SIGKILL);
        wait_until("the VIP is gone", secs(10), || !host.has(VIP4));
        wait_until("it says why", secs(10), || inner().contains("the terminal went away"));
    });
}

#[test]
fn a_longer_drain_is_waited_for() {
    isolated("a_longer_drain_is_waited_for", || {
        let rig = Rig::start(&Lab::new(), |c, _, echo| {
            c.balancer("echo", 90, false, &[echo.to_owned()]);
            c.extra.push("drain: 0s".into());
        });
        let open = connect(&rig.client, rig.node.host.ip4(), 90).expect("it accepts");
        echoes(&open).expect("it echoes");
        rig.write(|c, _, echo| {
            c.balancer("echo", 90, false, &[echo.to_owned()]);
            c.extra = vec!["drain: 50s".into()];
        });
        rig.told(&["reload"]);
        rig.node.signal(Signal::SIGTERM);
        wait_until("the VIP is gone", secs(10), || !rig.node.has_vip());
        // The keeper of old would end the daemon 3 s after the signal.
        never_within("it is cut", secs(5), || echoes(&open).err());
        drop(open);
        assert!(rig.node.wait_exit(secs(15)).success());
    });
}

#[test]
fn track_backends_follows_what_is_configured() {
    isolated("track_backends_follows_what_is_configured", || {
        let lab = Lab::new();
        let web = lab.host("web");
        let backend = Backend::start(&web, 8080, Kind::Name);
        let (good, dead) = (backend.yaml(), backend.yaml().replace("8080", "8081"));
        let cluster = Cluster::start_with(&lab, 3, false, |c| {
            c.timing = STEADY.into();
            c.balancer("web", 80, true, std::slice::from_ref(&good));
        });
        let (leader, _) = cluster.wait_settled();
        let node = &cluster.nodes[leader];
        let reload = |target: &str, track: bool| {
            let mut config = NodeConfig { balancers: Vec::new(), ..node.config.clone() };
            config.balancer("web", 80, true, &[target.to_owned()]);
            config.extra.push(format!("trackBackends: {track}"));
            std::fs::write(node.file(), config.yaml()).expect("writable");
            let (ok, _, error) = node.tell(&["reload"]);
            assert!(ok, "{error}");
        };
        assert_eq!(node.wait_status().reaches, None, "it doesn't ask");
        reload(&good, true);
        assert_eq!(node.wait_status().reaches, Some(true));
        reload(&dead, true);
        wait_until("it reaches none, and hands over", secs(30), || {
            node.wait_status().reaches == Some(false) && node.wait_status().leader.as_deref() != Some(node.id())
        });
        reload(&good, true);
        wait_until("it reaches one", secs(30), || node.wait_status().reaches == Some(true));
        reload(&dead, false);
        assert_eq!(node.wait_status().reaches, None);
    });
}

#[test]
fn orders_about_backends_move_connections() {
    isolated("orders_about_backends_move_connections", || {
        let rig = Rig::start(&Lab::new(), |c, names, echo| {
            c.balancer("web", 80, true, &names[..2]);
            c.balancer("API Server", 81, true, &names[..2]);
            c.balancer("echo", 90, true, &[echo.to_owned()]);
        });
        let (first, second) = (rig.address(0), rig.address(1));
        let only = |name: &str, n: usize| BTreeMap::from([(name.to_owned(), n)]);
        let both = |a: usize, b: usize| BTreeMap::from([("b1".to_owned(), a), ("b2".to_owned(), b)]);
        let open = connect(&rig.client, VIP4, 90).expect("it accepts");
        echoes(&open).expect("it echoes");

        rig.told(&["backend", "drain", &first]);
        assert_eq!((rig.met(4, 80), rig.met(4, 81)), (only("b2", 4), only("b2", 4)), "in each balancer that has it");
        rig.told(&["backend", "enable", &first, "--balancer", "API Server"]);
        assert_eq!((rig.met(4, 80), rig.met(4, 81)), (only("b2", 4), both(2, 2)));
        rig.told(&["backend", "enable", &first]);
        rig.told(&["backend", "weight", &first, "3"]);
        assert_eq!(rig.met(8, 80), both(6, 2));
        rig.told(&["backend", "disable", &rig.echo.address().to_string()]);
        echoes(&open).expect("what is open goes on");

        let list = rig.told(&["backend", "list"]);
        let rows: Vec<Vec<&str>> =
            list.lines().map(|l| l.split("  ").map(str::trim).filter(|w| !w.is_empty()).collect()).collect();
        assert_eq!(rows[0], ["BALANCER", "BACKEND", "STATE", "WEIGHT", "OPEN", "NOTE"], "{list}");
        assert_eq!(rows[1], ["web", &first, "up", "3", "0"], "{list}");
        assert_eq!(rows[4], ["API Server", &second, "up", "1", "0"], "{list}");
        assert_eq!(rows[5][2..], ["maintenance", "1", "1"], "{list}");
        let json = rig.told(&["backend", "list", "--json", "--balancer", "API Server"]);
        let told: Vec<kube_vip::status::BalancerStatus> = serde_json::from_str(&json).expect("JSON");
        assert_eq!((told.len(), told[0].backends[0].address.as_str(), told[0].backends[0].weight), (1, first.as_str(), 3));

        // A reload leaves an order alone, unless it changes what was ordered.
        rig.write(|c, names, echo| {
            c.balancer("web", 80, true, names);
            c.balancer("API Server", 81, true, &[names[0].replace('}', ", weight: 2}"), names[1].clone()]);
            c.balancer("echo", 90, true, &[echo.to_owned()]);
        });
        assert!(rig.told(&["reload"]).contains(&format!("weight of {first}: 1 → 2")));
        assert_eq!(rig.met(6, 81), both(4, 2), "the file's weight is newer");
        assert_eq!(rig.met(5, 80), BTreeMap::from([("b1".to_owned(), 3), ("b2".to_owned(), 1), ("b3".to_owned(), 1)]));
        assert!(rig.told(&["backend", "list"]).contains("maintenance"));

        for (words, says) in [
            (&["backend", "drain", "10.99.0.77:1"][..], vec!["10.99.0.77:1", &first, &second]),
            (&["backend", "drain", &first, "--balancer", "wbe"], vec!["wbe", "web", "API Server", "echo"]),
            (&["backend", "drain", &first, "--balancer", "echo"], vec![&first, "9090"]),
            (&["backend", "list", "--balancer", "wbe"], vec!["wbe", "web, API Server, echo"]),
            (&["backend", "weight", &first, "257"], vec!["a number from 0 to 256"]),
            (&["backend", "drain"], vec!["the backend is missing"]),
        ] {
            let (_, error) = rig.refused(words);
            assert!(says.iter().all(|part| error.contains(part)), "{words:?}: {error}");
        }
    });
}
