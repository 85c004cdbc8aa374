//! The command line: one file per command.

mod args; // commands and flags, as argh parses them
mod backend; // look at backends, and change what they get
mod check; // judge a configuration
mod cleanup; // remove a VIP left behind
mod exit; // the one table of exit codes
mod flags; // argv of people and of 2020 → argv of argh
mod logger; // the log that neither blocks nor ends the program
mod orders; // tell the running node what to do
mod reload; // put a changed file in place
mod sample; // a configuration or static Pod to edit
mod start; // run the node
mod status; // ask the running node
mod upgrade; // another program in the place of the running one

pub use args::{Cleanup, Start, Status};
pub use exit::Exit;

use crate::config::{self, Config, Overrides, Problems, Warning};
use argh::FromArgs;
use args::{Command, SampleWhat, Top};
use std::path::Path;
use std::process::ExitCode;

/// What to do first, second, third: printed by `kube-vip` alone and by `--help`.
const HELP: &str = "\
kube-vip: one virtual IP (VIP) for a handful of nodes, elected by raft, with a TCP load balancer behind it

First steps, on each node:
  1. kube-vip sample config > config.yaml   then edit localPeer, remotePeers, interface and vip
  2. kube-vip check -c config.yaml --here   tells every problem, with its line; touches nothing
  3. kube-vip start -c config.yaml          runs the node (as root) until SIGTERM or Ctrl-C
  4. kube-vip status -c config.yaml         tells who leads and who holds the VIP

Commands:
  sample config     print a configuration in which every key is explained
  sample manifest   print a Kubernetes static Pod
  check             check a configuration; with --here also against this machine
  start             run this node
  status            ask the running node; --json for machines
  handover          move the VIP to another node; --to ID names it
  cordon, uncordon  this node votes but does not hold the VIP; it may again
  reload            put a changed configuration in place without losing a connection
  reload --exec     go on as the program installed over the running one, without a gap (also: upgrade)
  backend           list, drain, enable, disable backends, or change their weight
  cleanup           remove a VIP that an earlier run left behind
  version           print version, target and revision (also --version, -v, -V)

`kube-vip COMMAND --help` explains the flags of a command.

Exit codes: 0 fine, 64 usage, 77 privileges, 78 configuration, 1 anything else.";

/// Runs the command named in argv.
pub fn main() -> ExitCode {
    run(std::env::args_os().skip(1)).into()
}

fn run(args: impl Iterator<Item = std::ffi::OsString>) -> Exit {
    let args: Result<Vec<String>, _> = args.map(std::ffi::OsString::into_string).collect();
    let Ok(args) = args else { return usage("an argument is not UTF-8") };
    if let Some(start) = upgrade::question(&args) {
        return asked(&start);
    }
    let args = match flags::normalise(&upgrade::spelled_out(args)) {
        Ok(args) => args,
        Err(why) => return usage(&why),
    };
    match args.first().map(String::as_str) {
        None => {
            eprintln!("{HELP}");
            Exit::Usage
        }
        Some("--help") => print(HELP),
        Some(_) => parsed(&args),
    }
}

fn parsed(args: &[String]) -> Exit {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match Top::from_args(&["kube-vip"], &words) {
        Ok(top) => dispatch(&top.command),
        Err(early) if early.status.is_ok() => print(flags::documented(&early.output).trim_end()),
        Err(early) => usage(flags::documented(&early.output).trim_end()),
    }
}

/// By the program that this one is to replace.
fn asked(start: &[String]) -> Exit {
    let args = flags::normalise(start);
    let words: Vec<&str> = args.iter().flatten().map(String::as_str).collect();
    match (&args, Top::from_args(&["kube-vip"], &words)) {
        (Ok(_), Ok(Top { command: Command::Start(args) })) => upgrade::answer(&args),
        (Err(why), _) => usage(why),
        _ => usage("asked with other flags than those of `start`"),
    }
}

fn dispatch(command: &Command) -> Exit {
    match command {
        Command::Start(args) => start::run(args),
        Command::Status(args) => status::run(args),
        Command::HandOver(args) => orders::hand_over(args),
        Command::Cordon(args) => orders::cordon(args),
        Command::Uncordon(args) => orders::uncordon(args),
        Command::Reload(args) => reload::run(args),
        Command::Backend(backend) => backend::run(&backend.what),
        Command::Upgrade(args) => upgrade::run(args),
        Command::Cleanup(args) => cleanup::run(args),
        Command::Check(args) => check::run(args),
        Command::Sample(sample) => match &sample.what {
            SampleWhat::Config(args) => sample::config(args),
            SampleWhat::Manifest(args) => sample::manifest(args),
        },
        Command::Version(_) => print(&version()),
    }
}

/// Reads the configuration for a command that only needs to know the node (`status`, `handover`, `cleanup` …); warnings are left to `start` and
/// `check`.
///
/// # Errors
/// The exit code, after all problems were printed.
pub fn load(file: &Path, overrides: &Overrides) -> Result<Config, Exit> {
    load_marked(file, overrides).map_err(|p| refuse(&p)).map(|(config, ..)| config)
}

/// [`config::load_marked`]; where the file has problems, also as of a node that was started with `-s`, for which it may be sound.
fn load_marked(file: &Path, overrides: &Overrides) -> Result<(Config, Vec<Warning>, u64), Problems> {
    let alone = Overrides { single_node: true, ..*overrides };
    config::load_marked(file, overrides).or_else(|problems| config::load_marked(file, &alone).map_err(|_| problems))
}

/// For a daemon that goes on as another program: with the warnings, and not held against this machine, where it runs already.
///
/// # Errors
/// As [`load`].
pub fn load_all(file: &Path, overrides: &Overrides) -> Result<(Config, Vec<Warning>), Exit> {
    config::load(file, overrides).map_err(|p| refuse(&p))
}

/// As [`load`], and holds it against this machine first: for `start`. The warnings are returned, to be logged.
///
/// # Errors
/// The exit code, after all problems were printed.
pub fn load_here(file: &Path, overrides: &Overrides) -> Result<(Config, Vec<Warning>), Exit> {
    config::load_here(file, overrides).map_err(|p| refuse(&p))
}

/// Prints all problems and says with which code to end.
fn refuse(problems: &Problems) -> Exit {
    eprintln!("{problems}");
    if problems.only_privileges() { Exit::Privileges } else { Exit::Config }
}

fn usage(why: &str) -> Exit {
    eprintln!("kube-vip: {why}\n`kube-vip --help` tells what to run first.");
    Exit::Usage
}

/// Prints to standard output; a closed pipe (`| head`) is no failure worth words.
fn print(text: &str) -> Exit {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Exit::Fine,
        Err(e) => {
            if e.kind() != std::io::ErrorKind::BrokenPipe {
                eprintln!("kube-vip: can't write to standard output: {e}; what was printed is not complete");
            }
            Exit::Failed
        }
    }
}

/// `kube-vip 0.1.0 (1a2b3c4d5e, aarch64-unknown-linux-musl)`; without the commit where the build was not told one by `KUBE_VIP_REVISION`.
pub fn version() -> String {
    let commit = option_env!("KUBE_VIP_REVISION").filter(|r| !r.is_empty()).map(|r| format!("{r}, ")).unwrap_or_default();
    format!("kube-vip {} ({commit}{})", env!("CARGO_PKG_VERSION"), env!("KUBE_VIP_TARGET"))
}
