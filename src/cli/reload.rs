//! `reload`: checks the file, then has the running node put it in place.

use super::args::Reload;
use super::{Exit, print, refuse, status};
use crate::config::Overrides;
use crate::status::question::Command;
use crate::status::socket;

/// Runs the command. A file with problems is refused here, with all of them, as by `check`.
pub fn run(args: &Reload) -> Exit {
    let (config, warnings, mark) = match super::load_marked(&args.config, &Overrides::default()) {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(&problems),
    };
    warnings.iter().for_each(|warning| eprintln!("{warning}"));
    let command = Command::Reload { checked: Some(mark) };
    match socket::tell(&config.control_socket, command, socket::limit(config.timing.lease)) {
        Ok(text) => print(&text),
        Err(why) if !config.control_socket.exists() => {
            status::failed(&format!("{why}; where its id or controlSocket has changed in the file, restart it"))
        }
        Err(why) => status::failed(&why),
    }
}
