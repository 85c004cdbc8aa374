//! The daemon's program is replaced by another in place: the same process (execve(2)), its sockets, its hold.
//!
//! ```text
//! kube-vip reload --exec ─▶ this daemon: asks the NEW program (resume-version): format, keeper's wire, the file ── no ─▶ "…": nothing happened
//!                              │ waits for a quiet moment, right after an acknowledged heartbeat
//!                              ▼
//!                           Baton ─▶ memory file ─▶ execve ─▶ cli/start: Baton ─▶ this file: Resumed ─▶ daemon::run
//! ```
//!
//! The keeper sees nothing of it, and nothing is asked of it: its deadline, the kernel's fence and the address's lifetime go on. A new
//! program that does not come in time loses the VIP as one that hangs; one that ends is a daemon that ended. So no part of this has to be
//! quick for the sake of one holder, and a program that can't go on with what it finds ends: what then follows is proven.
//!
//! Why raft may go on is told in `cluster/resume.rs`.

use super::baton::{self, Baton, Fixed, KeptLead};
use super::{Daemon, Lead};
use crate::balancer::KeptForwarder;
use crate::cluster::runtime::{self, now};
use crate::cluster::{self, Ports};
use crate::config::Config;
use crate::status::question::Answer;
use crate::sys::clock::Instant;
use crate::sys::handed::{self, Passed};
use crate::sys::{caps, process};
use crate::vip;
use log::{debug, info, warn};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The hidden command of the new program.
pub const QUESTION: &str = "resume-version";
/// It has this long to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether it has.
const LOOK: Duration = Duration::from_millis(5);
/// A moment in which nothing is under way is waited for as long as this, beside three leases.
const MOMENT: Duration = Duration::from_secs(5);
/// How often to look for one.
const OFTEN: Duration = Duration::from_millis(1);
/// The new program tells how it went when a majority has answered it, or after this time.
const SETTLED: Duration = Duration::from_secs(2);

/// How this program was started, so that another can be in its place.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program's file: what stands there when it is asked for.
    pub path: PathBuf,
    /// The flags of `start`, as [`QUESTION`] takes them too.
    pub flags: Vec<String>,
    /// What `kube-vip version` prints.
    pub version: String,
}

impl Program {
    /// Of this process; call it at the start, before the file is replaced.
    pub fn of_this_process(flags: Vec<String>, version: String) -> Self {
        let current = std::env::current_exe().unwrap_or_default();
        // A link that is turned to another version counts where it was named: the kernel tells where it led to only.
        let named = std::env::args_os().next().map(PathBuf::from).filter(|name| name.components().count() > 1);
        let named = named.and_then(|name| std::path::absolute(name).ok());
        let same = named.filter(|name| name.canonicalize().is_ok_and(|file| file == current));
        Self { path: same.unwrap_or_else(|| without_mark(&current)), flags, version }
    }
}

/// What the kernel adds to the name of a file that is gone.
fn without_mark(path: &Path) -> PathBuf {
    let text = path.to_string_lossy();
    text.strip_suffix(" (deleted)").map_or_else(|| path.to_path_buf(), PathBuf::from)
}

/// What a program says of itself, and of a configuration as it reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Says {
    /// Its version, as `kube-vip version` prints it.
    pub version: String,
    /// [`baton::FORMAT`].
    pub format: u32,
    /// [`vip::WIRE_VERSION`].
    pub wire: u32,
    /// [`baton::fixed`].
    pub fixed: Fixed,
}

impl Says {
    /// What this program says.
    pub fn of_this_program(version: String, config: &Config) -> Self {
        Self { version, format: baton::FORMAT, wire: vip::WIRE_VERSION, fixed: baton::fixed(config) }
    }

    /// Whether it can go on where this program, with these fixed values, stops.
    fn judge(&self, running: &Fixed) -> Result<(), String> {
        if (self.format, self.wire) != (baton::FORMAT, vip::WIRE_VERSION) {
            return Err(format!("{} can't take over in place from this version: stop and start", self.version));
        }
        match baton::differences(running, &self.fixed) {
            None => Ok(()),
            Some(keys) => {
                Err(format!("the file has another {keys} than the running node: stop and start, or put the old value back"))
            }
        }
    }
}

/// Asks a program; blocks for up to [`PATIENCE`].
fn ask(program: &Program) -> Result<Says, String> {
    let path = program.path.display();
    let mut child = Command::new(&program.path)
        .arg(QUESTION)
        .args(&program.flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("can't start {path}: {e}"))?;
    let ended = wait(&mut child);
    if ended.is_none() {
        let _ = child.kill(); // it may have ended just now
        let _ = child.wait();
        return Err(format!("{path} {QUESTION} has not ended within {} s", PATIENCE.as_secs()));
    }
    let out = child.stdout.take().map(said).unwrap_or_default();
    let errors = child.stderr.take().map(said).unwrap_or_default();
    let words = errors.trim();
    match ended.filter(|status| status.success()).and_then(|_| serde_json::from_str(&out).ok()) {
        Some(says) => Ok(says),
        None if words.is_empty() => Err(format!("{path} is not a kube-vip that can take over in place: stop and start")),
        None => Err(format!("{path} says:\n{words}")),
    }
}

/// What a program that has ended left in its pipe; not what others that have it too may still write.
fn said(pipe: impl AsFd + Read) -> String {
    let mut bytes = Vec::new();
    if fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok()
        && let Err(e) = pipe.take(1 << 16).read_to_end(&mut bytes)
        && e.kind() != ErrorKind::WouldBlock
    {
        debug!("can't read what the new program says: {e}");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Which file stands at a path: another one installed there has another number, or was written later.
fn file_at(path: &Path) -> Option<(u64, u64, i64, i64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
}

/// None: it goes on.
fn wait(child: &mut Child) -> Option<std::process::ExitStatus> {
    let begun = std::time::Instant::now();
    while begun.elapsed() < PATIENCE {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(LOOK),
            Ok(status) => return status,
            Err(_) => return None,
        }
    }
    None
}

impl Daemon {
    /// Puts the program that stands at this one's path in its place. Returns only where that can't be; else the next program answers
    /// `client`.
    pub(super) async fn upgrade(&self, client: OwnedFd) -> Answer {
        let Err(why) = self.try_upgrade(&client).await;
        warn!("not upgraded: {why}");
        Answer::Error(format!("nothing has changed: {why}"))
    }

    async fn try_upgrade(&self, client: &OwnedFd) -> Result<std::convert::Infallible, String> {
        let _turn = self.turn().ok_or("another command is under way: try again when it is done")?;
        let program = self.program.clone();
        info!("told over the control socket to go on as {}", program.path.display());
        let stood = file_at(&program.path);
        let asked = runtime::timeout(PATIENCE * 2, runtime::unblock(move || ask(&program))).await;
        let asked = asked.map_err(|_| format!("{} can't be asked: does its disk hang?", self.program.path.display()))?;
        let says = asked.unwrap_or_else(|lost| Err(lost.to_string()))?;
        says.judge(&baton::fixed(&self.running.borrow()))?;
        let limit = now() + MOMENT + self.config.timing.lease * 3;
        let (mut before, mut held_up) = (self.hold_until(), None);
        while now() < limit {
            runtime::sleep(OFTEN).await;
            let until = self.hold_until();
            // A hold that was renewed a moment ago has all of its time before it.
            if until.is_none() || until > before || self.cluster.is_none() {
                if file_at(&self.program.path) != stood {
                    return Err(format!("another file stands at {} by now: try again", self.program.path.display()));
                }
                match self.change(client, &says.version) {
                    Attempt::Later(why) => held_up = Some(why),
                    Attempt::Failed(why) => return Err(why),
                }
            }
            before = until;
        }
        let why = held_up.unwrap_or("no majority acknowledges its heartbeats");
        Err(format!("{why}, for {} ms; try again", (MOMENT + self.config.timing.lease * 3).as_millis()))
    }

    fn hold_until(&self) -> Option<Instant> {
        self.holder.held()
    }

    /// Now, if all parts can be left as they are.
    fn change(&self, client: &OwnedFd, to: &str) -> Attempt {
        let (mut passed, began) = (Passed::default(), now());
        let baton = match self.baton(&mut passed, client, began) {
            Ok(baton) => baton,
            Err(why) => return Attempt::Later(why),
        };
        let Err(why) = self.exec(&baton, &mut passed, to);
        Attempt::Failed(why)
    }

    fn baton(&self, passed: &mut Passed, client: &OwnedFd, began: Instant) -> Result<Baton, &'static str> {
        if self.stopping.get() {
            return Err("it is stopping");
        }
        let holder = self.holder.keep()?;
        let lead = match &self.holder.lead {
            Lead::Cluster(cluster) => {
                let kept = Box::new(cluster.keep()?);
                if kept.until() != holder.running() {
                    return Err("the hold has just changed");
                }
                let (tcp, udp) = cluster.ports().ok_or("it has only just started")?.descriptors();
                KeptLead::Cluster { kept, tcp: passed.add(&tcp), udp: passed.add(&udp) }
            }
            Lead::Single(single) => single.keep(),
        };
        let link = match &self.holder.link {
            Some(link) => Some(link.keep(passed).ok_or("this kernel has no memfd_create(2), without which it can't be done")?),
            None => None,
        };
        Ok(Baton {
            pid: std::process::id(),
            began,
            started: self.started,
            first: self.first.clone(),
            fixed: baton::fixed(&self.running.borrow()),
            key: self.key.to_bytes(),
            guarded: process::is_guarded(),
            control: passed.add(&self.socket),
            client: Some(passed.add(client)),
            manager: self.manager.as_ref().map(|manager| manager.keep(passed)),
            link,
            holder,
            lead,
            forwarder: self.control.keep(passed),
        })
    }

    /// Nothing else happens in this process between the baton and this.
    fn exec(&self, baton: &Baton, passed: &mut Passed, to: &str) -> Result<std::convert::Infallible, String> {
        let failed = |what: &str, e: std::io::Error| format!("can't {what}: {e}");
        let file = baton.write().map_err(|e| failed("write what is to be handed on", e))?;
        let number = passed.add(&file);
        if let Err(e) = caps::keep_over_exec() {
            debug!("the capability to bind low ports is not handed on: {e}");
        }
        info!("going on as {to}: {} descriptors handed on", passed.len());
        let open = passed.open().map_err(|e| failed("hand on descriptors", e))?;
        let why = handed::replace(&self.program.path, baton::VARIABLE, &number.to_string());
        drop(open);
        if let Err(e) = caps::keep_only(&[caps::NET_BIND_SERVICE]) {
            warn!("can't drop what was raised for the next program: {e}");
        }
        Err(failed(&format!("start {}", self.program.path.display()), why))
    }
}

enum Attempt {
    Later(&'static str),
    Failed(String),
}

/// An earlier program's part in this one's start.
pub struct Resumed {
    /// What it left.
    pub baton: Baton,
    client: Option<UnixStream>,
    connections: usize,
}

impl Resumed {
    /// Looks whether it fits the configuration.
    ///
    /// # Errors
    /// Text for the log: this program can't go on with it.
    pub fn new(baton: Baton, config: &Config) -> Result<Self, String> {
        if let Some(keys) = baton::differences(&baton.fixed, &baton::fixed(config)) {
            return Err(format!("{} was changed during the upgrade: it has another {keys}", config.file.display()));
        }
        let client = baton.client.and_then(|fd| handed::take(fd).ok()).map(UnixStream::from);
        let connections = baton.forwarder.connections();
        Ok(Self { baton, client, connections })
    }

    /// The forwarder's part, once.
    pub fn forwarder(&mut self) -> KeptForwarder {
        std::mem::take(&mut self.baton.forwarder)
    }

    /// The clock's part.
    pub fn single(&self) -> Option<(u64, Instant)> {
        match self.baton.lead {
            KeptLead::Single { term, until } => Some((term, until)),
            KeptLead::Cluster { .. } => None,
        }
    }

    /// raft's part.
    ///
    /// # Errors
    /// Text for the log.
    pub fn cluster(&self) -> Result<Option<(cluster::Kept, Ports)>, String> {
        let KeptLead::Cluster { kept, tcp, udp } = &self.baton.lead else { return Ok(None) };
        let ports = handed::take(*tcp).and_then(|tcp| Ports::of(tcp, handed::take(*udp)?));
        Ok(Some((kept.as_ref().clone(), ports.map_err(|e| format!("can't go on with raft's sockets: {e}"))?)))
    }
}

impl Daemon {
    /// After a change of programs: tells who asked for it how it went.
    pub(super) async fn tell_upgraded(&self, resumed: Resumed) {
        let Resumed { baton, client, connections } = resumed;
        let up = now();
        let connections = match connections {
            0 => String::new(),
            n => format!(", {n} connections kept"),
        };
        let settled = runtime::timeout(SETTLED, self.settled(&baton)).await;
        let took = (up - baton.began).as_millis();
        let what = format!("upgraded to {} in {took} ms{connections}", self.program.version);
        let kept = match settled {
            Ok(Some(at)) => {
                format!(", a majority has answered after {} ms; {} is kept", (at - baton.began).as_millis(), self.config.vip)
            }
            Ok(None) => String::new(),
            Err(_) => format!(", but no majority has answered within {} s", SETTLED.as_secs()),
        };
        let keeper = if baton.first == env!("CARGO_PKG_VERSION") {
            String::new()
        } else {
            format!("; its keeper is still {}", baton.first)
        };
        let text = format!("{what}{kept}{keeper}");
        info!("{text}");
        if let Some(client) = client
            && let Err(e) = answer(&client, &Answer::Done(text))
        {
            debug!("who asked for the upgrade has gone: {e}");
        }
    }

    /// When the hold went on under this program; none: there was none to go on with.
    async fn settled(&self, baton: &Baton) -> Option<Instant> {
        let cluster = self.cluster.as_ref()?;
        let KeptLead::Cluster { kept, .. } = &baton.lead else { return None };
        if !kept.leads() {
            return None;
        }
        while cluster.acknowledged().is_none() {
            runtime::sleep(OFTEN).await;
        }
        Some(now())
    }
}

/// A few hundred bytes fit into any socket's queue.
fn answer(mut client: &UnixStream, answer: &Answer) -> std::io::Result<()> {
    let text = serde_json::to_string(answer).map_err(std::io::Error::other)?;
    client.set_nonblocking(true)?;
    client.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says() -> Says {
        let fixed = Fixed::from([("vip".to_string(), "10.0.0.1".to_string())]);
        Says { version: "kube-vip 0.2.0".to_string(), format: baton::FORMAT, wire: vip::WIRE_VERSION, fixed }
    }

    #[test]
    fn only_a_program_of_the_same_formats_with_the_same_fixed_values_may_go_on() {
        let running = says().fixed;
        assert_eq!(says().judge(&running), Ok(()));
        for other in [Says { format: 2, ..says() }, Says { wire: 99, ..says() }] {
            let why = other.judge(&running).expect_err("another format");
            assert_eq!(why, "kube-vip 0.2.0 can't take over in place from this version: stop and start");
        }
        let fixed = Fixed::from([("vip".to_string(), "10.0.0.2".to_string())]);
        assert!(Says { fixed, ..says() }.judge(&running).expect_err("another VIP").contains("another vip than"));
    }

    #[test]
    fn programs_that_are_none_say_why() {
        let program = |path: &str| Program { path: path.into(), flags: Vec::new(), version: String::new() };
        assert!(ask(&program("/nowhere/kube-vip")).expect_err("no file").contains("can't start /nowhere/kube-vip"));
        assert!(ask(&program("/bin/true")).expect_err("it says nothing").contains("is not a kube-vip that can take over"));
        assert!(ask(&program("/bin/ls")).expect_err("no such file").contains("/bin/ls says:\n"));
    }

    #[test]
    fn the_mark_of_a_deleted_file_is_no_part_of_its_name() {
        for (told, name) in
            [("/a/kube-vip (deleted)", "/a/kube-vip"), ("/a/b (deleted) c", "/a/b (deleted) c"), ("/a/b", "/a/b")]
        {
            assert_eq!(without_mark(Path::new(told)), PathBuf::from(name));
        }
    }
}
