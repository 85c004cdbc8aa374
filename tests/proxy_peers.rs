//! PROXY protocol with the programs that people have in front of and behind a balancer: HAProxy and nginx.
//!
//! ```text
//!   client ─▶ forwarder (sendProxy) ─▶ HAProxy or nginx, which answer with the address that they were told
//!   client ─▶ HAProxy or nginx ─▶ forwarder (acceptProxy, sendProxy) ─▶ a server that keeps what it was told
//! ```
mod lab;
#[allow(dead_code)] // made for the forwarder's own tests
#[path = "forwarder/rig.rs"]
mod rig;

use kube_vip::config::{Balancer, ProxyVersion};
use lab::{LAB_DIR, Process, isolated, secs, skip, wait_until};
use rig::*;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

const BOTH: [ProxyVersion; 2] = [ProxyVersion::V1, ProxyVersion::V2];
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A program of this machine; None, and said so, where it isn't installed.
fn program(name: &str, packages: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from); // not in a plain user's PATH on Debian
    let found = std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("{name} is not installed; apt-get install {packages}"));
    }
    found
}

/// nginx with its stream module: the program, and the line that loads the module where it isn't built in.
fn nginx_with_stream() -> Option<(PathBuf, String)> {
    const PACKAGES: &str = "nginx libnginx-mod-stream";
    const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so"; // Debian's
    let program = program("nginx", PACKAGES)?;
    if Path::new(MODULE).exists() {
        return Some((program, format!("load_module {MODULE};")));
    }
    let about = Command::new(&program).arg("-V").output().expect("nginx can be started").stderr;
    if String::from_utf8_lossy(&about).split_whitespace().any(|word| word == "--with-stream") {
        return Some((program, String::new()));
    }
    skip(&format!("nginx has no stream module; apt-get install {PACKAGES}"));
    None
}

fn config(name: &str, text: &str) -> PathBuf {
    let file = Path::new(LAB_DIR).join(name);
    std::fs::write(&file, text).expect("the lab's directory is writable");
    file
}

/// Starts HAProxy with these sections and waits until it listens on `port`.
fn haproxy(program: &Path, port: u16, sections: &str) -> Process {
    let defaults = "defaults\n mode tcp\n timeout connect 20s\n timeout client 60s\n timeout server 60s\n";
    let file = config("haproxy.cfg", &format!("global\n maxconn 100\n log stdout format raw local0\n{defaults}{sections}"));
    let mut command = Command::new(program);
    command.args(["-db", "-f"]).arg(file);
    started(Process::start(command, "haproxy"), port)
}

/// Starts nginx with the contents of a `stream` block and waits until it listens on `port`.
fn nginx((program, load): &(PathBuf, String), port: u16, stream: &str) -> Process {
    let text = format!(
        "{load}\ndaemon off;\nmaster_process off;\npid {LAB_DIR}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 100; }}\nstream {{\n{stream}\n}}\n"
    );
    let mut command = Command::new(program);
    command.args(["-e", "stderr", "-p", LAB_DIR, "-c"]).arg(config("nginx.conf", &text));
    started(Process::start(command, "nginx"), port)
}

fn started(process: Process, port: u16) -> Process {
    wait_until("it listens", secs(20), || {
        assert!(process.exited().is_none(), "it ended:\n{}", process.output());
        lab::sh("ss -Hltn").lines().any(|l| l.contains(&format!(":{port} ")))
    });
    process
}

fn forwarder(backend: SocketAddr, set: impl FnOnce(&mut Balancer)) -> Rig {
    let mut b = balancer(0, false, &[backend]);
    set(&mut b);
    Rig::with(spec(vec![b]))
}

fn connect(ip: IpAddr, port: u16) -> TcpStream {
    patient(TcpStream::connect((ip, port)).expect("it listens"))
}

fn text(c: &mut TcpStream) -> String {
    let mut text = String::new();
    c.read_to_string(&mut text).expect("an answer, and its end");
    text
}

/// A connection's source, destination and their ports, in the order of version 1.
fn told(c: &TcpStream) -> String {
    let (from, to) = (c.local_addr().expect("address"), c.peer_addr().expect("address"));
    format!("{} {} {} {}", from.ip(), to.ip(), from.port(), to.port())
}

const TELLS: &str = "frontend tells\n mode http\n bind 127.0.0.1:8001 accept-proxy\n \
    http-request return status 200 content-type text/plain lf-string \"%[src] %[dst] %[src_port] %[dst_port]\"\n";

#[test]
fn haproxy_believes_what_the_forwarder_tells() {
    isolated("haproxy_believes_what_the_forwarder_tells", || {
        let Some(program) = program("haproxy", "haproxy") else { return };
        lab::sh("ip link set lo up");
        let _haproxy = haproxy(&program, 8001, TELLS);
        for version in BOTH {
            let rig = forwarder(SocketAddr::new(V4, 8001), |b| b.send_proxy = Some(version));
            for ip in [V4, V6] {
                let mut c = connect(ip, rig.ports[0]);
                c.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("write");
                let (wanted, answer) = (told(&c), text(&mut c));
                assert!(answer.starts_with("HTTP/1.") && answer.ends_with(&wanted), "{version:?}: {wanted} in\n{answer}");
            }
        }
    });
}

#[test]
fn nginx_believes_what_the_forwarder_tells() {
    isolated("nginx_believes_what_the_forwarder_tells", || {
        let Some(program) = nginx_with_stream() else { return };
        lab::sh("ip link set lo up");
        // It speaks first: the header must not wait for a byte of the client.
        let tells = "server { listen 127.0.0.1:8001 proxy_protocol; return \"$proxy_protocol_addr $proxy_protocol_server_addr \
            $proxy_protocol_port $proxy_protocol_server_port\"; }";
        let _nginx = nginx(&program, 8001, tells);
        for version in BOTH {
            let rig = forwarder(SocketAddr::new(V4, 8001), |b| b.send_proxy = Some(version));
            for ip in [V4, V6] {
                let mut c = connect(ip, rig.ports[0]);
                let (wanted, answer) = (told(&c), text(&mut c));
                assert_eq!(answer, wanted, "{version:?}");
            }
        }
    });
}

/// A server that hands over the line it was told, then echoes.
fn keeps() -> (SocketAddr, mpsc::Receiver<String>) {
    let (tell, kept) = mpsc::channel();
    let address = backend(move |mut s| {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            match s.read(&mut byte) {
                Ok(1) => line.push(byte[0]),
                _ => return,
            }
        }
        let _ = tell.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        echo(s);
    });
    (address, kept)
}

/// A forwarder behind proxies at both loopback addresses, and what its backend was told.
fn behind() -> (Rig, mpsc::Receiver<String>) {
    let (address, kept) = keeps();
    let rig = forwarder(address, |b| {
        b.accept_proxy = ["127.0.0.1", "::1"].map(|n| n.parse().expect("a network")).to_vec();
        b.send_proxy = Some(ProxyVersion::V1);
    });
    (rig, kept)
}

/// Connects to the proxy in front at `ip`, and sees its client told to the server, and bytes go round.
fn comes_through(ip: IpAddr, port: u16, kept: &mpsc::Receiver<String>) {
    let mut c = connect(ip, port);
    let family = if ip.is_ipv4() { "TCP4" } else { "TCP6" };
    let wanted = format!("PROXY {family} {}", told(&c));
    c.write_all(b"hello").expect("write");
    let mut hello = [0; 5];
    c.read_exact(&mut hello).expect("an echo");
    assert_eq!((kept.recv_timeout(LONG).expect("told"), &hello), (wanted, b"hello"));
    one_echo(&Pattern::new(5), c, 0, 3 << 20);
}

#[test]
fn the_forwarder_believes_what_haproxy_tells() {
    isolated("the_forwarder_believes_what_haproxy_tells", || {
        let Some(program) = program("haproxy", "haproxy") else { return };
        lab::sh("ip link set lo up");
        let (rig, kept) = behind();
        let ways = ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"];
        let section = |(i, way): (usize, &&str)| {
            format!(
                "listen l{i}\n bind 127.0.0.1:810{i}\n bind [::1]:810{i}\n unique-id-format %{{+X}}o%ci%cp\n \
                 server s 127.0.0.1:{} {way}\n",
                rig.ports[0]
            )
        };
        let sections: String = ways.iter().enumerate().map(section).collect();
        let _haproxy = haproxy(&program, 8102, &sections);
        for port in 8100..8103 {
            comes_through(V4, port, &kept);
            comes_through(V6, port, &kept);
        }
        let s = rig.counters();
        assert_eq!((s.proxy_errors, s.refused, s.accepted), (0, 0, 6));
    });
}

#[test]
fn the_forwarder_believes_what_nginx_tells() {
    isolated("the_forwarder_believes_what_nginx_tells", || {
        let Some(program) = nginx_with_stream() else { return };
        lab::sh("ip link set lo up");
        let (rig, kept) = behind();
        let server = format!(
            "server {{ listen 127.0.0.1:8101; listen [::1]:8101; proxy_pass 127.0.0.1:{}; proxy_protocol on; proxy_half_close on; }}",
            rig.ports[0]
        );
        let _nginx = nginx(&program, 8101, &server);
        comes_through(V4, 8101, &kept);
        comes_through(V6, 8101, &kept);
        assert_eq!(rig.counters().proxy_errors, 0);
    });
}

/// Checks of a proxy come with its own address, and mustn't look like errors.
#[test]
fn haproxy_finds_the_forwarder_healthy() {
    isolated("haproxy_finds_the_forwarder_healthy", || {
        let Some(program) = program("haproxy", "haproxy") else { return };
        lab::sh("ip link set lo up");
        let (rig, kept) = behind();
        let check = "check inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions";
        let section = |i: usize, way: &str| {
            format!("listen l{i}\n bind 127.0.0.1:810{i}\n server s 127.0.0.1:{} {way} {check}\n", rig.ports[0])
        };
        let sections =
            section(0, "send-proxy check-send-proxy") + &section(1, "send-proxy-v2 check-send-proxy") + &section(2, "");
        let haproxy = haproxy(&program, 8102, &sections);
        // Those that say so, and those that only see the port open.
        rig.until("it was checked", |s| s.accepted >= 30);
        assert_eq!(rig.counters().proxy_errors, 0);
        assert!(!haproxy.output().contains("is DOWN"), "{}", haproxy.output());
        drop(kept);
    });
}
