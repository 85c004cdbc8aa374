//! Configuration files and the command line, through the real binary and the library.
//!
//! `TEST_RUNNER` is put in front of the binary, e.g. `qemu-arm`. `BLESS=1` rewrites the expected texts: read the difference.

use kube_vip::config::{Ask, Config, Overrides, judge};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// A document of 2020, one block for each top-level key.
const OLD: [&str; 9] = [
    "remotePeers:\n- port: 10000\n  address: 192.168.0.2\n  id: server2\n- id: server3\n  port: \"10000\"\n  address: 192.168.0.3\n",
    "localPeer:\n  id: server1\n  address: 192.168.0.1\n  port: 10000\n",
    "vip: 192.168.0.75\n",
    "gratuitousARP: true\n",
    "singleNode: false\n",
    "startAsLeader: true\n",
    "interface: ens192\n",
    "addPeersAsBackends: false\n",
    "loadBalancers:\n- name: API Server\n  type: TCP\n  port: 6443\n  bindToVip: true\n  backendPort: 0\n  backends:\n  - port: 6444\n    address: 192.168.0.70\n    url: \"\"\n  - address: 192.168.0.71\n    port: 6444\n",
];

/// One more balancer for [`OLD`], with every key that has come since.
const BALANCER: &str = "- name: new
  port: 7000
  balance: leastConnections
  healthCheck: {type: http, path: /healthz, host: web.lan, status: 200-299, text: ok, port: 81, interval: 5s, timeout: 500ms, rise: 1, fall: 5}
  slowStart: 30s
  queue: 50
  queueTimeout: 500ms
  sendProxy: v2
  acceptProxy: 10.1.0.0/16
  allow: [10.0.0.0/8, 192.168.0.0/16]
  deny: [10.9.9.9, \"2001:db8::/32\"]
  maxConnections: 500
  maxConnectionsPerClient: 20
  acceptRate: 100
  connectTimeout: 1s
  halfCloseTimeout: 1m
  idleTimeout: 2h
  backends:
  - {address: 192.168.0.72, port: 80, weight: 3, maxConnections: 7}
  - {address: web1.lan, port: 80, backup: true}
maxConnections: 1000
resolveInterval: 30s
";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The binary under test, in an environment without the variables that `sample` reads.
fn kube_vip(args: &[&str]) -> Command {
    let runner = std::env::var("TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace().chain([env!("CARGO_BIN_EXE_kube-vip")]).chain(args.iter().copied());
    let mut command = Command::new(words.next().expect("the binary at least"));
    command.args(words);
    for (name, _) in
        std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("vip_") || n.to_string_lossy().starts_with("lb_"))
    {
        command.env_remove(name);
    }
    command
}

fn run(args: &[&str]) -> (i32, String, String) {
    told(kube_vip(args).output().expect("the binary can be started"))
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Judges a text and places it on a machine with these addresses.
fn load(text: &str, own: &[&str]) -> Result<Config, String> {
    let own: Vec<IpAddr> = own.iter().map(|a| a.parse().expect("an address")).collect();
    let draft = judge(Path::new("f"), text, &Overrides::default()).map_err(|p| p.to_string())?;
    draft.resolve(&own, None).map(|placed| placed.config).map_err(|p| p.to_string())
}

#[test]
fn version_names_the_target_and_the_commit_that_the_build_was_told() {
    let commit = option_env!("KUBE_VIP_REVISION").filter(|r| !r.is_empty()).map(|r| format!("{r}, ")).unwrap_or_default();
    let expected = format!("kube-vip {} ({commit}{})\n", env!("CARGO_PKG_VERSION"), env!("KUBE_VIP_TARGET"));
    for word in ["version", "--version", "-V"] {
        assert_eq!(run(&[word]), (0, expected.clone(), String::new()));
    }
    assert!(env!("KUBE_VIP_TARGET").contains("-linux-"), "the whole triple: {expected}");
}

#[test]
fn bad_files_tell_all_their_problems() {
    let dir = root().join("tests/bad_configs");
    let mut seen = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&dir).expect("the table of bad files") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        seen += 1;
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let (code, out, err) = told(kube_vip(&["check", "-c", &name]).current_dir(&dir).output().expect("it starts"));
        let expected = path.with_extension("txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&expected, &err).expect("the expected text can be written");
        }
        let want = std::fs::read_to_string(&expected).unwrap_or_default();
        if code != 78 || !out.is_empty() || err != want || want.is_empty() {
            wrong.push(format!("{name}: exit {code}\n--- wanted\n{want}--- got\n{out}{err}"));
        }
    }
    assert!(seen >= 50, "only {seen} bad files were found in {}", dir.display());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_document_of_2020_loads_in_any_order() {
    let mut rng = Rng(2020);
    let mut blocks = OLD.to_vec();
    let first = load(&blocks.concat(), &[]).expect("the document of 2020 loads");
    assert_eq!((first.local.id.as_str(), first.remotes.len(), first.balancers.len()), ("server1", 2, 1));
    assert_eq!(first.balancers[0].backends[1].target.to_string(), "192.168.0.71:6444");
    assert!(first.announce && first.start_as_leader && !first.single_node && first.balancers[0].bind_to_vip);
    for _ in 0..200 {
        for n in (1..blocks.len()).rev() {
            blocks.swap(n, rng.below(n + 1));
        }
        let text = blocks.concat();
        assert_eq!(load(&text, &[]).as_ref(), Ok(&first), "in this order:\n{text}");
    }
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_change_nothing() {
    let first = load(&OLD.concat(), &[]);
    assert!(first.is_ok());
    assert_eq!(load(&format!("\u{feff}{}", OLD.concat().replace('\n', "\r\n")), &[]), first);
    assert_eq!(load(&format!("---\n{}...\n", OLD.concat()), &[]), first);
}

#[test]
fn the_sample_passes_check_and_reads_back_as_given() {
    let (code, plain, err) = run(&["sample", "config"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let config = load(&plain, &[]).expect("the sample as printed is sound");
    assert_eq!(config.local.address, "192.168.0.1:10000".parse().expect("an address"));
    assert_ne!(config.vip, config.local.address.ip());

    let flags = [
        ["--interface", "br0"],
        ["--vip", "2001:db8::9"],
        ["--localPeer", "a:[2001:db8::1]:7000"],
        ["--remotePeers", "b:[2001:db8::2]:7000,c:10.0.0.3:7001"],
        ["--lbName", "a \"quoted\": #name {VIP}"],
        ["--lbPort", "443"],
        ["--lbType", "TCP"],
        ["--lbBackends", "10.0.0.7:8443,[2001:db8::7]:8443,10.0.0.8"],
    ];
    let words: Vec<&str> =
        ["sample", "config", "--startAsLeader", "--arp=false", "--lbBindToVip"].into_iter().chain(flags.concat()).collect();
    let (code, text, err) = run(&words);
    assert_eq!((code, err.as_str()), (0, ""), "{text}");
    let config = load(&text, &[]).expect("the filled-in sample is sound");
    assert_eq!((config.interface.as_str(), config.vip.to_string().as_str()), ("br0", "2001:db8::9"));
    assert_eq!(config.local.address.to_string(), "[2001:db8::1]:7000");
    assert_eq!(config.remotes[1].address.to_string(), "10.0.0.3:7001");
    assert!(config.start_as_leader && !config.announce);
    let lb = &config.balancers[0];
    assert_eq!((lb.name.as_str(), lb.port, lb.bind_to_vip), ("a \"quoted\": #name {VIP}", 443, true));
    let backends: Vec<String> = lb.backends.iter().map(|b| b.target.to_string()).collect();
    assert_eq!(backends, ["10.0.0.7:8443", "[2001:db8::7]:8443", "10.0.0.8:443"], "without a port of its own: the balancer's");
}

#[test]
fn the_sample_reads_the_environment_of_2020_and_flags_win() {
    let mut command = kube_vip(&["sample", "config", "--lbPort", "81"]);
    command.envs([
        ("vip_interface", "eth7"),
        ("vip_address", "10.1.0.9"),
        ("vip_singlenode", "true"),
        ("vip_startleader", "1"),
        ("vip_arp", "false"),
        ("vip_addpeerstolb", "true"),
        ("vip_localpeer", "n1:10.1.0.1:10010"),
        ("lb_name", "yes"),
        ("lb_type", "tcp"),
        ("lb_bindtovip", "true"),
        ("lb_port", "80"),
        ("lb_backendport", "010080"),
        ("lb_backends", "10.1.0.7"),
    ]);
    let (code, text, err) = told(command.output().expect("it starts"));
    assert_eq!((code, err.as_str()), (0, ""), "{text}");
    let config = load(&text, &[]).expect("sound");
    assert_eq!((config.interface.as_str(), config.local.id.as_str()), ("eth7", "n1"));
    assert!(config.single_node && config.start_as_leader && !config.announce && config.remotes.is_empty());
    let lb = &config.balancers[0];
    assert_eq!((lb.name.as_str(), lb.port), ("yes", 81));
    let backends: Vec<String> = lb.backends.iter().map(|b| b.target.to_string()).collect();
    assert_eq!(backends, ["10.1.0.7:10080", "10.1.0.1:10080"], "ports are decimal, and the node itself is a backend too");
}

#[test]
fn a_sample_with_impossible_values_says_so() {
    let (code, text, err) = run(&["sample", "config", "--vip", "192.168.0.1"]);
    assert_eq!(code, 78);
    assert!(text.contains("vip: 192.168.0.1"), "it is printed all the same");
    assert!(err.contains("is also the own address of localPeer"), "{err}");
    let (code, _, err) = told(kube_vip(&["sample", "config"]).env("lb_port", "http").output().expect("it starts"));
    assert_eq!(code, 64);
    assert!(err.contains("environment variable lb_port: \"http\" is not a port"), "{err}");
}

#[test]
fn every_key_has_a_comment_in_the_sample() {
    let (_, text, _) = run(&["sample", "config"]);
    let lines: Vec<&str> = text.lines().collect();
    for key in
        "localPeer remotePeers peers vip interface gratuitousARP singleNode startAsLeader addPeersAsBackends timing fence drain \
                witness preempt preemptDelay trackBackends realtime stateDir \
                controlSocket user loadBalancers name type port bindToVip backendPort balance healthCheck backends priority"
            .split_whitespace()
    {
        let at = lines.iter().rposition(|l| l.trim_start_matches([' ', '#', '-']).starts_with(&format!("{key}:")));
        let at = at.unwrap_or_else(|| panic!("{key} is in the sample"));
        let above = lines[at - 1].trim_start();
        assert!(above.starts_with("# ") || key == "port", "{key} has no comment above it: {above}");
    }
}

#[test]
fn the_files_in_configs_are_what_the_program_prints_or_accepts() {
    let read = |name: &str| std::fs::read_to_string(root().join("configs").join(name)).expect(name);
    assert_eq!(read("config.yaml"), run(&["sample", "config"]).1, "kube-vip sample config > configs/config.yaml");
    let (code, pod, _) = run(&["sample", "manifest"]);
    assert_eq!((code, &read("static-pod.yaml")), (0, &pod), "kube-vip sample manifest > configs/static-pod.yaml");
    let events: Vec<_> = granit_parser::Parser::new_from_str(&pod).map(|e| e.expect("the manifest is YAML").0).collect();
    let words: Vec<&str> = events.iter().filter_map(|e| e.scalar()).map(|(text, _)| text).collect();
    let args = words.iter().position(|w| *w == "args").expect("the container has args");
    assert_eq!(words[args + 1..args + 4], ["start", "-c", "/etc/kube-vip/config.yaml"]);
    for name in ["config.yaml", "all-nodes.yaml", "single-node.yaml", "balancing.yaml"] {
        let (code, out, err) =
            told(kube_vip(&["check", "-c", name]).current_dir(root().join("configs")).output().expect("it starts"));
        assert_eq!((code, err.as_str()), (0, ""), "{name}: {out}");
        assert!(out.contains("fine"), "{out}");
    }
}

#[test]
fn one_file_for_all_nodes_finds_the_local_one_by_its_address() {
    let text = "vip: 10.0.0.9\ninterface: eth0\npeers:\n- {id: a, address: 10.0.0.1, port: 1}\n- {id: b, address: 10.0.0.2, port: 1, priority: 7}\n- {id: c, address: 10.0.0.3, port: 1}\n";
    let b = load(text, &["127.0.0.1", "10.0.0.2"]).expect("b");
    assert_eq!((b.local.id.as_str(), b.local.priority), ("b", 7));
    let others: Vec<&str> = b.remotes.iter().map(|p| p.id.as_str()).collect();
    assert_eq!(others, ["a", "c"]);
    assert_eq!(
        (b.state_dir.as_path(), b.control_socket.as_path()),
        (Path::new("/var/lib/kube-vip/b"), Path::new("/run/kube-vip/b.sock"))
    );
    assert_eq!(
        load(text, &["127.0.0.1", "10.0.0.4"]),
        Err(
            "f:4: peers: none of them is this machine, which has 127.0.0.1, 10.0.0.4; add its address, or name it in localPeer"
                .into()
        )
    );
    let several = load(text, &["10.0.0.1", "10.0.0.3"]).expect_err("two of them");
    assert!(several.starts_with("f:4: peers: a, c are all this machine"), "{several}");
}

#[test]
fn state_goes_where_systemd_says() {
    let draft = judge(Path::new("f"), &OLD.concat(), &Overrides::default()).expect("sound");
    let dir = |given: Option<&str>| draft.resolve(&[], given.map(Path::new)).expect("placed").config.state_dir;
    assert_eq!(dir(None), Path::new("/var/lib/kube-vip/server1"));
    assert_eq!(dir(Some("/var/lib/kube-vip")), Path::new("/var/lib/kube-vip/server1"));
    assert_eq!(dir(Some("/srv/kube-vip/server1")), Path::new("/srv/kube-vip/server1"));
}

#[test]
fn flags_win_over_the_file() {
    let single = Overrides { single_node: true, disable_vip: true, start_as_leader: true };
    let text = "vip: 10.0.0.9\ninterface: eth0\n";
    assert!(judge(Path::new("f"), text, &Overrides::default()).is_err(), "no nodes named");
    let config = judge(Path::new("f"), text, &single).expect("sound when alone").resolve(&[], None).expect("placed").config;
    assert!(config.single_node && config.disable_vip && config.start_as_leader);
    assert_eq!((config.local.id.as_str(), config.local.address.ip().is_unspecified()), ("single", true));
    let refused = judge(Path::new("f"), &OLD.concat(), &single).expect_err("it has remotePeers").to_string();
    assert!(refused.starts_with("f:2: remotePeers: the flag --singleNode was given"), "{refused}");
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let two = OLD.concat().replace("- id: server3\n  port: \"10000\"\n  address: 192.168.0.3\n", "");
    let same = two.replace("address: 192.168.0.71\n    port: 6444", "address: 192.168.0.70\n    port: 6444");
    let draft = judge(Path::new("f"), &same, &Overrides::default()).expect("sound");
    let warnings: Vec<String> = draft.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("f:2: warning: remotePeers: 2 nodes: when one is lost"), "{warnings:?}");
    assert!(warnings[1].contains("warning: loadBalancers[0].backends[1]: 192.168.0.70:6444 is listed twice"), "{warnings:?}");
}

/// The document of 2020 with further lines.
fn with(more: &str) -> Result<Config, String> {
    load(&(OLD.concat() + more), &[])
}

#[test]
fn how_the_vip_moves_has_defaults_and_each_can_be_changed() {
    let plain = with("").expect("sound");
    assert_eq!((plain.fence_fast, plain.witness, plain.preempt, plain.track_backends), (false, false, None, false));
    assert_eq!((plain.drain, plain.realtime), (Duration::from_secs(5), true));
    let all =
        with("fence: Fast\ndrain: 0s\nwitness: true\npreempt: true\ntrackBackends: true\nrealtime: false\n").expect("sound");
    assert!(all.fence_fast && all.witness && all.track_backends && !all.realtime);
    assert_eq!((all.drain, all.preempt), (Duration::ZERO, Some(Duration::from_secs(10))));
    let settled = with("preempt: true\npreemptDelay: 1m\ndrain: 60s\n").expect("sound");
    assert_eq!((settled.drain, settled.preempt), (Duration::from_secs(60), Some(Duration::from_secs(60))));
}

#[test]
fn a_witness_says_so_in_its_own_entry() {
    let text = |witness| {
        format!(
            "vip: 10.0.0.9\ninterface: eth0\npeers:\n- {{id: a, address: 10.0.0.1, port: 1}}\n- {{id: b, address: 10.0.0.2, port: 1, witness: {witness}}}\n"
        )
    };
    assert!(load(&text(true), &["10.0.0.2"]).expect("sound").witness);
    assert!(!load(&text(true), &["10.0.0.1"]).expect("sound").witness);
    assert!(!load(&text(false), &["10.0.0.2"]).expect("sound").witness);
    let own = OLD.concat().replace("  id: server1\n", "  id: server1\n  witness: true\n");
    assert!(load(&own, &[]).expect("sound").witness);
}

#[test]
fn what_does_nothing_about_the_moves_is_a_warning() {
    let others = OLD.concat().replace("  id: server2\n", "  id: server2\n  witness: true\n") + "preemptDelay: 3s\n";
    let draft = judge(Path::new("f"), &others, &Overrides::default()).expect("sound");
    let warnings: Vec<String> = draft.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("f:5: warning: remotePeers[0].witness: true does nothing here"), "{warnings:?}");
    assert!(warnings[1].contains("preemptDelay: 3s does nothing without `preempt: true`"), "{warnings:?}");
    let alone = "vip: 10.0.0.9\ninterface: eth0\nsingleNode: true\npreempt: true\ntrackBackends: true\nloadBalancers:\n- {port: 80, backends: [{address: 10.0.0.7, port: 1}]}\n";
    let draft = judge(Path::new("f"), alone, &Overrides::default()).expect("sound");
    let keys: Vec<String> =
        draft.warnings.iter().map(|w| w.to_string().split(": ").nth(2).unwrap_or_default().to_owned()).collect();
    assert_eq!(keys, ["preempt", "trackBackends"]);
    let refused = judge(
        Path::new("f"),
        "vip: 10.0.0.9\ninterface: eth0\nwitness: true\n",
        &Overrides { single_node: true, ..Overrides::default() },
    );
    assert!(
        refused
            .expect_err("a witness alone")
            .to_string()
            .starts_with("f:3: witness: true, but the flag --singleNode was given")
    );
}

#[test]
fn peers_as_backends_of_a_node_without_address_are_no_backends() {
    let text = "vip: 10.0.0.9\ninterface: eth0\nsingleNode: true\nlocalPeer: {id: a}\naddPeersAsBackends: true\nloadBalancers:\n- {port: 80, bindToVip: true, backendPort: 81}\n";
    assert!(load(text, &[]).expect_err("no backend").starts_with("f:7: loadBalancers[0].backends: missing"));
    let config = load(&text.replace("{id: a}", "{id: a, address: 10.0.0.1}"), &[]).expect("sound");
    let address: std::net::SocketAddr = "10.0.0.1:81".parse().expect("an address");
    assert_eq!(config.balancers[0].backends, [address.into()]);
}

#[test]
fn check_here_names_what_this_machine_has() {
    let dir = std::env::temp_dir().join(format!("kube-vip-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary directory");
    let file = dir.join("config.yaml");
    let text = OLD.concat().replace("ens192", "nosuch0").replace("192.168.0.1\n", "203.0.113.77\n");
    std::fs::write(&file, text).expect("a file");
    let (code, _, err) = run(&["check", "--here", "-c", file.to_str().expect("UTF-8")]);
    std::fs::remove_dir_all(&dir).expect("removed");
    assert_eq!(code, 78, "{err}");
    assert!(err.contains(": interface: nosuch0 does not exist on this machine, which has ") && err.contains("lo"), "{err}");
    assert!(err.contains(": localPeer.address: 203.0.113.77 is not an address of this machine, which has "), "{err}");
}

/// Nothing of it needs the network: `more` is appended, and the node is alone on the loopback interface.
fn check_here(name: &str, more: &str) -> (i32, String, String) {
    let file = std::env::temp_dir().join(format!("kube-vip-here-{}-{name}.yaml", std::process::id()));
    std::fs::write(&file, format!("vip: 198.51.100.9\ninterface: lo\nsingleNode: true\n{more}")).expect("a file");
    let told = run(&["check", "--here", "-c", file.to_str().expect("UTF-8")]);
    std::fs::remove_file(&file).expect("removed");
    told
}

#[test]
fn check_here_finds_a_taken_port_of_the_vip() {
    let other = std::net::TcpListener::bind(("0.0.0.0", 0)).expect("a listener");
    let port = other.local_addr().expect("bound").port();
    let balancer = format!("loadBalancers:\n- {{port: {port}, bindToVip: true, backends: [{{address: 10.0.0.7, port: 1}}]}}\n");
    let (code, _, err) = check_here("port", &balancer);
    assert_eq!(code, 78, "{err}");
    assert!(err.contains(&format!(".yaml:5: loadBalancers[0].port: {port} is in use")), "{err}");
    drop(other);
    let (_, _, err) = check_here("port", &balancer);
    assert!(!err.contains("in use"), "{err}");
}

#[test]
fn check_here_knows_users_and_groups() {
    let (code, _, err) = check_here("user", "user: no-such-user\ngroup: no-such-group\n");
    assert_eq!(code, 78, "{err}");
    assert!(err.contains(".yaml:4: user: there is no user no-such-user; create it"), "{err}");
    assert!(err.contains(".yaml:5: group: there is no group no-such-group; create it"), "{err}");
    let (code, _, err) = check_here("user", "user: \"4294967295\"\n");
    assert_eq!(code, 78, "{err}");
    assert!(err.contains(".yaml:4: user: 4294967295 is no number of a user or group"), "{err}");
}

#[test]
fn check_here_knows_where_no_socket_can_be_made() {
    let file = std::env::temp_dir().join(format!("kube-vip-file-{}", std::process::id()));
    std::fs::write(&file, "").expect("a file");
    let below = file.join("x.sock").display().to_string();
    for (path, says) in [
        ("/nonexistent/dir/x.sock", "the directory /nonexistent/dir does not exist; `mkdir -p /nonexistent/dir`"),
        ("/proc/x.sock", "/proc shows the kernel's state"),
        (below.as_str(), "is no directory; set controlSocket"),
        (&file.display().to_string(), "exists and is not a socket; remove it"),
        ("/run/", "names a directory"),
        ("/run/x.vip", "ends in .vip"),
    ] {
        let (code, _, err) = check_here("socket", &format!("controlSocket: {path}\n"));
        assert_eq!(code, 78, "{path}: {err}");
        assert!(err.contains(".yaml:4: controlSocket: ") && err.contains(says), "{path}: {err}");
    }
    std::fs::remove_file(&file).expect("removed");
    let good = file.with_extension("sock").display().to_string();
    let (_, _, err) = check_here("socket", &format!("controlSocket: {good}\n"));
    assert!(!err.contains("controlSocket"), "{err}");
}

#[test]
fn a_directory_that_the_daemon_may_not_write_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let dir = std::env::temp_dir().join(format!("kube-vip-mode-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    // Root too: the daemon gives up CAP_DAC_OVERRIDE.
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o555)).expect("its mode");
    let (code, _, err) = check_here("mode", &format!("controlSocket: {}/x.sock\n", dir.display()));
    std::fs::remove_dir(&dir).expect("removed");
    assert!(code == 78 || code == 77, "{code}: {err}");
    let told = err.contains("mode 555, so the daemon") || err.contains("permission denied; start as root");
    assert!(told && err.contains(".yaml:4: controlSocket: "), "{err}");
}

#[test]
fn what_cannot_be_printed_is_told() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let (code, _, err) = told(kube_vip(&["sample", "config"]).stdout(full).output().expect("it starts"));
    assert_eq!(code, 1);
    assert!(err.contains("can't write to standard output: No space left"), "{err}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let (code, _, err) = told(kube_vip(&["sample", "config"]).stdout(writer).output().expect("it starts"));
    assert_eq!((code, err.as_str()), (1, ""), "nobody reads on");
}

#[test]
fn unreadable_files_are_told() {
    let (code, _, err) = run(&["check", "-c", "/nonexistent/c.yaml"]);
    assert_eq!(code, 78);
    assert!(err.starts_with("/nonexistent/c.yaml: can't read it: No such file") && err.contains("sample config"), "{err}");
    let (code, _, err) = run(&["start", "-c", "/"]);
    assert_eq!(code, 78);
    assert!(err.contains("name the file in it"), "{err}");
}

#[test]
fn usage_errors_end_with_64_and_help_with_0() {
    for (line, says) in [
        ("", "kube-vip sample config > config.yaml"),
        ("strat", "did you mean `start`?"),
        ("start", "kube-vip start -c config.yaml"),
        ("start -c f --log many", "write a number"),
        ("start -c f --disbleVIP", "did you mean --disableVIP?"),
        ("start -c f -c g", "duplicate"),
        ("check config.yaml", "check -c config.yaml"),
        ("sample", "manifest"),
        ("sample config --lbPort 70000", "write a number from 1 to 65535"),
        ("version extra", "`kube-vip version` alone"),
        ("sample config --arp=maybe", "arp"),
        ("sample config --localPeer server1", "id:address:port"),
        ("sample config --lbBackends 10.0.0.1:web", "not a port"),
    ] {
        let (code, out, err) = run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!((code, out.as_str()), (64, ""), "{line}: {err}");
        assert!(err.contains(says), "{line}: {err}");
    }
    for (line, says) in [
        ("--help", "First steps"),
        ("-h", "First steps"),
        ("help", "First steps"),
        ("start --help", "-d, --disableVIP"),
        ("sample config --help", "--lbBindToVip"),
        ("version", "kube-vip 0."),
        ("--version", "kube-vip 0."),
        ("-v", "kube-vip 0."),
        ("-V", "kube-vip 0."),
    ] {
        let (code, out, err) = run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!((code, err.as_str()), (0, ""), "{line}: {err}");
        assert!(out.contains(says), "{line}: {out}");
    }
}

/// xorshift64*: the same mutations on every machine.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound.max(1)
    }
}

const WORDS: [&str; 36] = [
    "\n",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "<<: *a\n",
    "!!int ",
    "!!binary ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "#",
    "\t",
    "---\n",
    "...\n",
    "~",
    "null",
    "0",
    "-1",
    "65536",
    "1e999",
    ".nan",
    "0x1F",
    "é",
    "\u{1b}[2J",
    "\u{feff}",
    "\u{85}",
    "? ",
    "%YAML 1.2\n",
    "peers",
    "192.168.0.100",
];

fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(bytes.len() + 1);
    let end = (at + rng.below(12)).min(bytes.len());
    match rng.below(6) {
        0 => drop(bytes.drain(at..end)),
        1 => drop(bytes.splice(at..at, WORDS[rng.below(WORDS.len())].bytes())),
        2 => drop(bytes.splice(at..end, WORDS[rng.below(WORDS.len())].bytes())),
        3 if at < bytes.len() => bytes[at] = rng.below(256) as u8,
        4 => {
            let copy = bytes[at..end].to_vec();
            let to = rng.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
        _ => bytes.truncate(at.max(bytes.len() / 2)),
    }
}

#[test]
fn no_mutation_of_a_configuration_makes_it_panic() {
    let everything = std::fs::read_to_string(root().join("tests/bad_configs/everything_at_once.yaml")).expect("the file");
    let anchors = "a: &a [1]\nb: {<<: *a}\n".to_owned();
    let seeds = [OLD.concat(), run(&["sample", "config"]).1, everything, anchors, OLD.concat() + BALANCER];
    let mut rng = Rng(0x5EED);
    let (mut sound, mut refused) = (0, 0);
    for round in 0..4000 {
        let mut bytes = seeds[round % seeds.len()].clone().into_bytes();
        for _ in 0..=rng.below(6) {
            mutate(&mut bytes, &mut rng);
        }
        let text = String::from_utf8_lossy(&bytes);
        match load(&text, &["192.168.0.1"]) {
            Ok(config) => {
                sound += 1;
                assert_sound(&config, &text);
            }
            Err(told) => {
                refused += 1;
                assert!(!told.is_empty(), "refused without a word:\n{text}");
                let clean = told.chars().all(|c| c == '\n' || !c.is_control());
                assert!(clean, "control characters in the message: {told:?}\n{text}");
            }
        }
    }
    assert!(sound > 100 && refused > 1000, "the mutations should lead both ways: {sound} sound, {refused} refused");
}

/// What every other part relies on without asking again.
fn assert_sound(config: &Config, text: &str) {
    let nodes = || config.remotes.iter().chain([&config.local]);
    assert!(nodes().all(|n| n.address.ip() != config.vip), "{text}");
    assert_eq!(config.remotes.is_empty(), config.single_node, "{text}");
    assert!(nodes().all(|n| (1..=64).contains(&n.id.len()) && n.priority <= 255), "{text}");
    assert!(config.single_node || nodes().all(|n| n.address.port() > 0 && !n.address.ip().is_unspecified()), "{text}");
    assert!((1..=15).contains(&config.interface.len()), "{text}");
    assert!(config.timing.lease >= config.timing.heartbeat * 3 && config.timing.heartbeat.as_millis() >= 5, "{text}");
    assert!(config.state_dir.is_absolute() && config.control_socket.as_os_str().len() <= 107, "{text}");
    for lb in &config.balancers {
        assert!(lb.port > 0 && !lb.backends.is_empty() && lb.backends.iter().all(|b| b.target.port() > 0), "{text}");
        assert!(config.balancers.iter().filter(|o| o.name == lb.name || o.port == lb.port).count() == 1, "{text}");
        assert!(lb.backends.iter().all(|b| b.weight <= 256 && b.max_connections != Some(0)), "{text}");
        let limits = [config.max_connections, lb.max_connections, lb.max_per_client, lb.accept_rate];
        assert!(!limits.contains(&Some(0)) && lb.queue <= 100_000, "{text}");
        let second = Duration::from_secs(1);
        let times = [config.resolve_interval, lb.timeouts.half_close, lb.timeouts.idle];
        assert!(
            times.iter().all(|t| *t >= second) && lb.queue_timeout >= second / 10 && lb.timeouts.connect >= second / 10,
            "{text}"
        );
        let Some(check) = &lb.health_check else { continue };
        assert!(check.timeout <= check.interval && check.timeout >= second / 100 && check.rise > 0 && check.fall > 0, "{text}");
        if let Ask::Http { path, host, status, .. } = &check.ask {
            let line: Vec<&str> = host.iter().map(String::as_str).chain([path.as_str()]).collect();
            assert!(path.starts_with('/') && line.iter().all(|t| t.chars().all(|c| c.is_ascii_graphic())), "{text}");
            assert!(status.0 <= status.1, "{text}");
        }
    }
}

#[test]
fn large_files_end_in_a_word_not_in_a_stall() {
    let start = std::time::Instant::now();
    for line in ["- {}\n", "- {id: a, address: 10.0.0.1, port: 1}\n"] {
        let text = format!("remotePeers:\n{}", line.repeat((1 << 17) / line.len()));
        assert!(load(&text, &[]).expect_err("too many").contains("1000 are the most"));
    }
    let keys: String = (0..10_000).map(|n| format!("k{n}: 1\n")).collect();
    assert!(load(&keys, &[]).is_err());
    assert!(load(&"[".repeat(1 << 20), &[]).is_err());
    assert!(load(&"a: ".repeat(300_000), &[]).is_err());
    let slowness = std::env::var("KUBE_VIP_TEST_SLOW").map_or(1, |n| n.parse().expect("a whole number")); // as `lab::patient`
    assert!(start.elapsed() < Duration::from_secs(60) * slowness, "took {:?}", start.elapsed());
}
