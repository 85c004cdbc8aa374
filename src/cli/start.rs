//! `start`: this process becomes the keeper, its child the daemon.
//!
//! Everything that needs privileges is opened first; then one fork, and each process drops what it does not need. A daemon whose program was
//! replaced comes here once more, in the same process, with what its program before left: then nothing is opened, and nothing forked.

use super::{Exit, Start, logger, upgrade};
use crate::config::Config;
use crate::daemon::baton::Baton;
use crate::daemon::upgrade::{Program, Resumed};
use crate::daemon::{self, Origin};
use crate::release::Key;
use crate::sys::notify::{KeptManager, Manager};
use crate::sys::process::Side;
use crate::sys::signal::{Signals, TOLD};
use crate::sys::{caps, process};
use crate::vip::{self, Child, End, Keeper, KeeperLink, KeeperSpec, OpenErrorKind};
use log::{error, info};
use nix::unistd::{Gid, Pid, Uid, getgid, getuid};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Runs the command.
pub fn run(args: &Start) -> Exit {
    let (program, threads) = (upgrade::program(args), process::threads());
    let handed_on = upgrade::handed_on();
    if let Some(Ok(baton)) = &handed_on {
        process::guard(baton.guarded); // first of all: exec has ended it
    }
    let resumed = matches!(handed_on, Some(Ok(_)));
    // Held against this machine only where nothing of it runs here yet.
    let loaded = if resumed {
        super::load_all(&args.config, &args.overrides())
    } else {
        super::load_here(&args.config, &args.overrides())
    };
    let (config, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    logger::start(args.log_filter());
    gist(&config);
    for warning in warnings {
        log::warn!("{warning}");
    }
    let started = match handed_on {
        Some(Ok(baton)) => resume(config, baton, program),
        Some(Err(why)) => {
            error!("can't go on where the program before was: {why}. Starting anew");
            begin(config, threads, program)
        }
        None => begin(config, threads, program),
    };
    started.unwrap_or_else(|(exit, why)| {
        error!("{why}");
        exit
    })
}

fn begin(config: Config, threads: std::io::Result<usize>, program: Program) -> Result<Exit, Failure> {
    let manager = Manager::take().unwrap_or_else(|why| {
        log::warn!("{why}");
        None
    });
    start(config, threads.map_err(failed("count this process's threads"))?, manager, program)
}

/// In the daemon's process, whose privileges are dropped already.
fn resume(config: Config, baton: Baton, program: Program) -> Result<Exit, Failure> {
    let refused = |why: String| (Exit::Failed, format!("{why}. This daemon ends; its keeper removes the VIP"));
    let resumed = Resumed::new(baton, &config).map_err(refused)?;
    let baton = &resumed.baton;
    let link = baton.link.as_ref().map(|kept| kept.resume(config.vip)).transpose().map_err(failed("go on with the keeper"))?;
    let manager = baton.manager.as_ref().map(KeptManager::resume).transpose();
    let manager = manager.map_err(failed("go on with the service manager"))?;
    let key = baton.key();
    // It was raised for this program; its children are to have nothing of it.
    caps::keep_only(&[caps::NET_BIND_SERVICE]).map_err(|e| (Exit::Privileges, format!("can't drop capabilities: {e}")))?;
    let signals = Signals::open(&TOLD).map_err(failed("open a signalfd"))?;
    if config.realtime {
        be_punctual();
    }
    let origin = Origin { link, signals, key, manager, program, resumed: Some(resumed) };
    Ok(if daemon::run(config, origin) { Exit::Fine } else { Exit::Failed })
}

type Failure = (Exit, String);

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> Failure + '_ {
    move |e| (Exit::Failed, format!("can't {what}: {e}"))
}

/// The configuration in one line: what a person looks for first.
fn gist(config: &Config) {
    let peers: Vec<String> = config.remotes.iter().map(|p| format!("{} ({})", p.id, p.address)).collect();
    let peers = if config.single_node { "single node".to_string() } else { format!("peers {}", peers.join(", ")) };
    let timing = config.timing;
    info!(
        "kube-vip {} on {}: VIP {} on {}{}, {peers}, heartbeat {} ms, lease {} ms, {} balancer(s)",
        env!("CARGO_PKG_VERSION"),
        config.local.id,
        config.vip,
        config.interface,
        match (config.disable_vip, config.witness) {
            (true, _) => " (disabled here)",
            (false, true) => " (never here: a witness)",
            (false, false) => "",
        },
        timing.heartbeat.as_millis(),
        timing.lease.as_millis(),
        config.balancers.len()
    );
}

fn start(config: Config, threads: usize, manager: Option<Manager>, program: Program) -> Result<Exit, Failure> {
    make_directories(&config)?;
    let key = Key::random().map_err(failed("read random numbers"))?;
    if config.disable_vip {
        return run_daemon(config, None, key, manager, program);
    }
    let mut keeper = Keeper::open(&keeper_spec(&config, &key)).map_err(|e| (exit_of(e.kind), e.to_string()))?;
    let (ours, theirs) = vip::link::pair().map_err(failed("make a socket pair"))?;
    // The manager listens to the process that it started. The daemon's loop is whose word counts: the keeper says nothing of its own.
    let relayed = manager.map(Manager::relayed).transpose().map_err(failed("make a socket pair"))?;
    let (manager, relay) = relayed.unzip();
    keeper.relay(relay);
    match process::fork(threads).map_err(failed("start the daemon process"))? {
        Side::Child => {
            // The keeper's descriptors hold the VIP's name on this host: they must not live on here.
            drop((keeper, ours));
            run_daemon(config, Some(theirs), key, manager, program)
        }
        Side::Parent(pid) => {
            drop((theirs, manager));
            Ok(keep(keeper, ours, pid, config.user.is_some()))
        }
    }
}

fn keep(keeper: Keeper, link: End, pid: Pid, other_user: bool) -> Exit {
    let exit = keeper.run(link, Some(Child { pid, other_user }));
    if let Some(signal) = exit.daemon.and_then(|code| code.checked_sub(128)).filter(|signal| *signal > 0) {
        let vip = if exit.gone { "the VIP is removed" } else { "the VIP could not be removed" };
        error!("the daemon was killed by signal {signal}: {vip}, stopping");
    }
    if let Some(e) = &exit.error {
        error!("the keeper's loop failed: {e}");
    }
    if !exit.gone {
        error!("the VIP could not be removed: the kernel drops it when its lifetime ends");
    }
    Exit::from_code(exit.exit_code())
}

fn run_daemon(
    config: Config,
    link: Option<End>,
    key: Key,
    manager: Option<Manager>,
    program: Program,
) -> Result<Exit, Failure> {
    let signals = Signals::open(&TOLD).map_err(failed("open a signalfd"))?;
    if config.realtime {
        be_punctual();
    }
    caps::drop_to_unprivileged(config.user.as_deref(), config.group.as_deref())
        .map_err(|e| (Exit::Privileges, e.to_string()))?;
    let link = link.map(|end| KeeperLink::new(end, config.vip)).transpose().map_err(failed("use the socket to the keeper"))?;
    let origin = Origin { link, signals, key, manager, program, resumed: None };
    Ok(if daemon::run(config, origin) { Exit::Fine } else { Exit::Failed })
}

/// Runs before other work of the machine, and never waits for a page from a disk, as far as this machine allows.
fn be_punctual() {
    let scheduled = process::run_first(process::priority::DAEMON).map_err(|e| format!("no real-time scheduling ({e})"));
    let locked = process::lock_growing_memory().map_err(|e| format!("memory is not locked ({e})"));
    let refused: Vec<String> = [scheduled, locked].into_iter().filter_map(Result::err).collect();
    if !refused.is_empty() {
        info!(
            "{}: the daemon may act late on a busy machine. Allow it (CAP_SYS_NICE, CAP_SYS_RESOURCE or their limits), or set realtime: false",
            refused.join(", ")
        );
    }
}

/// The record of ownership lives beside the control socket: like an address, it ends with this boot.
pub fn state_file(config: &Config) -> PathBuf {
    config.control_socket.with_extension("vip")
}

fn keeper_spec(config: &Config, key: &Key) -> KeeperSpec {
    KeeperSpec {
        interface: config.interface.clone(),
        vip: config.vip,
        announce: config.announce,
        hold: daemon::hold_of(config),
        state_file: state_file(config),
        notify: daemon::notify_of(config, key),
        drain: config.drain,
        realtime: config.realtime,
    }
}

/// The exit code for an error of the keeper.
pub fn exit_of(kind: OpenErrorKind) -> Exit {
    match kind {
        OpenErrorKind::Privileges => Exit::Privileges,
        OpenErrorKind::Interface => Exit::Config,
        OpenErrorKind::Taken | OpenErrorKind::Other => Exit::Failed,
    }
}

/// Makes the directories that the unprivileged daemon writes to, and gives them to its user.
fn make_directories(config: &Config) -> Result<(), Failure> {
    let (uid, gid) = caps::ids(config.user.as_deref(), config.group.as_deref()).map_err(|e| (Exit::Config, e.to_string()))?;
    let (uid, gid) = (uid.unwrap_or_else(getuid), gid.unwrap_or_else(getgid));
    let state = (!config.single_node).then_some(config.state_dir.as_path());
    for directory in state.into_iter().chain(config.control_socket.parent()) {
        let existed = directory.is_dir();
        let what = format!("make the directory {}", directory.display());
        std::fs::create_dir_all(directory).map_err(failed(&what))?;
        // /run or /tmp as the socket's directory stay what they are.
        if !existed || is_own(directory, config) {
            give(directory, uid, gid)?;
        }
    }
    for file in STATE_FILES.iter().filter(|_| !config.single_node).map(|name| config.state_dir.join(name)) {
        // An earlier run may have had another user. Only plain files with one name: nothing else of anybody's changes hands.
        let plain = |meta: std::fs::Metadata| meta.is_file() && meta.nlink() == 1;
        if std::fs::symlink_metadata(&file).is_ok_and(plain) {
            give(&file, uid, gid)?;
        }
    }
    Ok(())
}

/// What the daemon keeps in its state directory.
const STATE_FILES: [&str; 4] = ["vote", "log", "snapshot", "meta"];

/// Changes the owner where it has to; links are not followed.
fn give(path: &Path, uid: Uid, gid: Gid) -> Result<(), Failure> {
    let what = format!("give {} to the daemon's user", path.display());
    let meta = std::fs::symlink_metadata(path).map_err(failed(&what))?;
    if (meta.uid(), meta.gid()) == (uid.as_raw(), gid.as_raw()) {
        return Ok(());
    }
    match std::os::unix::fs::lchown(path, Some(uid.as_raw()), Some(gid.as_raw())) {
        // Without CAP_CHOWN, or on a read-only disk, it stays whose it is: whether that will do was judged before.
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => Ok(()),
        result => result.map_err(failed(&what)),
    }
}

fn is_own(directory: &Path, config: &Config) -> bool {
    directory == config.state_dir || directory == Path::new("/run/kube-vip")
}
