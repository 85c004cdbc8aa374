//! The contestants: found, configured alike, started and ended one after the other.

use super::cost::family;
use super::figures::Who;
use super::lab::node::kube_vip;
use super::lab::process::alive;
use super::lab::{Host, LAB_DIR, Process, secs};
use super::load::{Load, Work};
use super::pattern::{Pattern, RESPONSE};
use super::pin;
use super::scene::{FORWARDER, SERVER, Scene, VIP, until};
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All listen there, one at a time.
const PORT: u16 = 8000;
/// Connections that may wait, for each of them.
const BACKLOG: u32 = 4096;
/// Connections that may be open, for each of them; beyond what is ever opened.
const CONNECTIONS: u32 = 9500;

/// What is measured.
pub struct Subject {
    pub who: Who,
    pub target: SocketAddr,
    /// Its processes; none for the kernel.
    pub pids: Vec<i32>,
}

/// Pipes, for each that splices: as many as ours has, and few enough that they and the connections fit into the limit of open files.
const PIPES: u32 = 64;

/// A contestant that runs.
pub struct Running {
    pub subject: Subject,
    process: Option<Process>,
    forwarder: Host,
}

/// Whether it can take part; why not.
pub fn missing(who: Who) -> Option<String> {
    let (program, word) = match who {
        Who::Ours => return None,
        Who::Copy | Who::Splice | Who::BigPipes => ("haproxy", "-v"),
        Who::Nginx => ("nginx", "-v"),
        Who::Dnat => ("nft", "--version"),
    };
    let found = foreign(program).arg(word).output().is_ok_and(|out| out.status.success());
    if !found {
        return Some(format!("{program} is not installed and could not be unpacked"));
    }
    (who == Who::Nginx && stream_module().is_none()).then(|| "nginx's stream module is missing".to_owned())
}

/// What HAProxy and nginx say of themselves, one line.
pub fn versions() -> String {
    let first_line = |program: &str| {
        let out = foreign(program).arg("-v").output().ok()?;
        let text = [out.stdout, out.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().map(str::to_owned)
    };
    let all: Vec<String> = ["haproxy", "nginx"].into_iter().filter_map(first_line).collect();
    all.join("; ")
}

/// A program that is installed, or unpacked in `$BESIDE` with its libraries (scripts/bench).
fn foreign(name: &str) -> Command {
    let unpacked = beside().map(|dir| dir.join("usr/sbin").join(name)).filter(|file| file.exists());
    let Some(file) = unpacked else { return Command::new(name) };
    let mut command = Command::new(file);
    command.env("LD_LIBRARY_PATH", std::env::var_os("BESIDE_LIBS").unwrap_or_default());
    command
}

fn beside() -> Option<PathBuf> {
    std::env::var_os("BESIDE").map(PathBuf::from)
}

fn stream_module() -> Option<PathBuf> {
    let roots = [beside().unwrap_or_default(), PathBuf::from("/")];
    let files = roots.iter().flat_map(|root| ["usr/lib/nginx/modules", "usr/lib64/nginx/modules"].map(|dir| root.join(dir)));
    files.map(|dir| dir.join("ngx_stream_module.so")).find(|file| file.exists())
}

/// Starts it on the forwarder, pinned to `cpu`, and waits until it forwards.
pub fn start(who: Who, scene: &Scene, cpu: Option<usize>, pattern: &Pattern) -> Result<Running, String> {
    let target = SocketAddr::new(if who == Who::Ours { VIP } else { FORWARDER }.into(), PORT);
    let subject = Subject { who, target, pids: Vec::new() };
    let mut running = Running { subject, process: None, forwarder: scene.forwarder.clone() };
    if who == Who::Dnat {
        scene.forwarder.sh(&format!("{} -f {}", nft(), write("dnat.nft", &dnat()).display()));
    } else {
        let command = command(who)?;
        let process = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                pin(cpu); // what it starts inherits that
                scene.forwarder.spawn(who.name(), &command)
            });
            thread.join().map_err(|_| format!("{} can't be started", who.title()))
        })?;
        running.process = Some(process);
    }
    let ended = || running.process.as_ref().filter(|p| p.exited().is_some()).map(|p| last_line(&p.output()));
    running.subject.wait_ready(scene, pattern, ended)?;
    if let Some(process) = &running.process {
        running.subject.pids = family(process.pid());
    }
    Ok(running)
}

fn last_line(log: &str) -> String {
    format!("it has ended: {}", log.lines().last().unwrap_or("without a word"))
}

impl Subject {
    /// `ended`: the last words of a process that is no more.
    fn wait_ready(&self, scene: &Scene, pattern: &Pattern, ended: impl Fn() -> Option<String>) -> Result<(), String> {
        let one = Work { requests: 1, length: RESPONSE, fresh: true };
        let answers = || scene.client.enter(|| Load::new(self.target, 1, pattern).run(one)).ok();
        let state = || answers().map(|_| Ok(())).or_else(|| ended().map(Err));
        until(&format!("{} forwards", self.who.title()), secs(15), state)?
    }
}

impl Running {
    /// Ends it, and waits until it is gone.
    pub fn end(self) -> Result<(), String> {
        let Subject { who, pids, .. } = &self.subject;
        if *who == Who::Dnat {
            self.forwarder.sh(&format!("{} delete table ip bench", nft()));
            return Ok(());
        }
        let Some(process) = &self.process else { return Ok(()) };
        let signal = if *who == Who::Ours { Signal::SIGTERM } else { Signal::SIGKILL };
        process.signal(signal);
        let gone = || process.exited().is_some() && !pids.iter().any(|pid| alive(*pid));
        until(&format!("{} is gone", who.title()), secs(15), || gone().then_some(()))
    }
}

fn nft() -> String {
    let library_path = std::env::var("BESIDE_LIBS").unwrap_or_default();
    format!("LD_LIBRARY_PATH='{library_path}' '{}'", foreign("nft").get_program().to_string_lossy())
}

fn write(name: &str, text: &str) -> PathBuf {
    let file = Path::new(LAB_DIR).join(name);
    std::fs::write(&file, text).expect("the lab's directory is writable");
    file
}

fn command(who: Who) -> Result<Command, String> {
    let mut command = match who {
        Who::Ours => {
            let mut command = kube_vip();
            command.args(["start", "-c"]).arg(write("ours.yaml", &ours()));
            command
        }
        Who::Nginx => {
            let module = stream_module().ok_or("nginx's stream module is missing")?;
            let mut command = foreign("nginx");
            command.args(["-p", LAB_DIR, "-e", "stderr", "-c"]).arg(write("nginx.conf", &nginx(&module)));
            command
        }
        _ => {
            let mut command = foreign("haproxy");
            command.args(["-db", "-f"]).arg(write(&format!("{}.cfg", who.name()), &haproxy(who)));
            command
        }
    };
    command.env_remove("NOTIFY_SOCKET");
    Ok(command)
}

/// One configuration for all columns.
fn ours() -> String {
    format!(
        "localPeer: {{id: n1, address: {FORWARDER}, port: 10000}}\nvip: {VIP}\ninterface: eth0\ngratuitousARP: true\nsingleNode: true\n\
         loadBalancers:\n- {{name: bench, type: tcp, port: {PORT}, bindToVip: true, backends: [{{address: {}, port: {}}}]}}\n",
        SERVER.ip(),
        SERVER.port()
    )
}

/// No log, no checks, one thread; timeouts long enough that none is ever reached.
fn haproxy(who: Who) -> String {
    let pipes = if who == Who::BigPipes { "  tune.pipesize 1048576\n" } else { "" };
    let splice = if who == Who::Copy { "" } else { "  option splice-request\n  option splice-response\n" };
    format!(
        "global\n  nbthread 1\n  maxconn {CONNECTIONS}\n  maxpipes {PIPES}\n{pipes}\
         defaults\n  mode tcp\n  maxconn {CONNECTIONS}\n  backlog {BACKLOG}\n{splice}  timeout connect 2s\n  timeout client 1h\n  timeout server 1h\n\
         listen bench\n  bind {FORWARDER}:{PORT}\n  server s {SERVER}\n"
    )
}

/// Its worker alone, without a master: inside a user namespace it could not become another user.
fn nginx(module: &Path) -> String {
    format!(
        "load_module {};\nworker_processes 1;\nmaster_process off;\ndaemon off;\npid {LAB_DIR}/nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections {}; }}\n\
         stream {{\n  access_log off;\n  tcp_nodelay on;\n  proxy_timeout 1h;\n  proxy_connect_timeout 2s;\n\
         server {{ listen {FORWARDER}:{PORT} backlog={BACKLOG}; proxy_pass {SERVER}; }}\n}}\n",
        module.display(),
        2 * CONNECTIONS
    )
}

fn dnat() -> String {
    format!(
        "table ip bench {{\n chain pre {{\n  type nat hook prerouting priority dstnat;\n  ip daddr {FORWARDER} tcp dport {PORT} dnat to {SERVER}\n }}\n}}\n"
    )
}
