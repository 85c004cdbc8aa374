//! `reload --exec`: the running daemon goes on as the program that stands at its path now; and what that program is asked before.

use super::args::{Start, Upgrade};
use super::{Exit, status};
use crate::config::Overrides;
use crate::daemon::baton::{Baton, VARIABLE};
use crate::daemon::upgrade::{Program, QUESTION, Says};
use crate::status::socket;
use std::time::Duration;

/// Beside three leases: for the new program to be asked and a quiet moment to come.
const LIMIT: Duration = Duration::from_secs(20);

/// `reload --exec …` → `upgrade …`; anything else as it is.
pub fn spelled_out(mut args: Vec<String>) -> Vec<String> {
    let exec = args.iter().position(|arg| arg == "--exec");
    if let (Some("reload"), Some(at)) = (args.first().map(String::as_str), exec) {
        args.remove(at);
        args[0] = "upgrade".to_owned();
    }
    args
}

/// Runs the command.
pub fn run(args: &Upgrade) -> Exit {
    let config = match super::load(&args.config, &Overrides::default()) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match socket::upgrade(&config.control_socket, LIMIT + config.timing.lease * 3) {
        Ok(text) => super::print(&text),
        Err(why) => status::failed(&why),
    }
}

/// `resume-version`, with the flags of `start`: what the program that is to be replaced asks this one. Judges the file, touches nothing.
pub fn answer(args: &Start) -> Exit {
    let config = match crate::config::load(&args.config, &args.overrides()) {
        Ok((config, _)) => config,
        Err(problems) => return super::refuse(&problems),
    };
    match serde_json::to_string(&Says::of_this_program(super::version(), &config)) {
        Ok(text) => super::print(&text),
        Err(e) => status::failed(&e.to_string()),
    }
}

/// Whether argv is that question; it then is `start`'s.
pub fn question(args: &[String]) -> Option<Vec<String>> {
    let (first, rest) = args.split_first()?;
    (first == QUESTION).then(|| [&["start".to_owned()], rest].concat())
}

/// How this process was started.
pub fn program(args: &Start) -> Program {
    let file = std::path::absolute(&args.config).unwrap_or_else(|_| args.config.clone());
    let flags = [("-d", args.disable_vip), ("-s", args.single_node), ("-l", args.start_as_leader)];
    let set = flags.into_iter().filter(|(_, set)| *set).map(|(flag, _)| flag.to_owned());
    Program::of_this_process(["-c".to_owned(), file.display().to_string()].into_iter().chain(set).collect(), super::version())
}

/// What a program before this one left in this process, which forgets it: no program started from here finds it. Call it while there is one
/// thread. Err: what it left can't be used.
pub fn handed_on() -> Option<Result<Baton, String>> {
    let number = std::env::var_os(VARIABLE)?;
    crate::sys::process::forget_variable(VARIABLE);
    Some(Baton::read(&number.to_string_lossy(), std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn reload_with_exec_is_an_upgrade() {
        for (typed, meant) in [
            ("reload --exec -c f", "upgrade -c f"),
            ("reload -c f --exec", "upgrade -c f"),
            ("reload -c f", "reload -c f"),
            ("start --exec", "start --exec"),
        ] {
            assert_eq!(spelled_out(words(typed)), words(meant));
        }
        assert_eq!(question(&words("resume-version -c f -d")), Some(words("start -c f -d")));
        assert_eq!((question(&words("start -c f")), question(&[])), (None, None));
    }
}
