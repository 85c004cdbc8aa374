//! `handover`, `cordon`, `uncordon`: tell the running node over its control socket.

use super::args::{Cordon, HandOver, Uncordon};
use super::{Exit, status};
use crate::config::Overrides;
use crate::status::question::Command;
use crate::status::socket;
use std::path::Path;

/// Runs `handover`.
pub fn hand_over(args: &HandOver) -> Exit {
    tell(&args.config, Command::HandOver { to: args.to.clone() })
}

/// Runs `cordon`.
pub fn cordon(args: &Cordon) -> Exit {
    tell(&args.config, Command::Cordon)
}

/// Runs `uncordon`.
pub fn uncordon(args: &Uncordon) -> Exit {
    tell(&args.config, Command::Uncordon)
}

/// Tells the node that runs with this file, and prints how it went.
pub fn tell(file: &Path, command: Command) -> Exit {
    let config = match super::load(file, &Overrides::default()) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match socket::tell(&config.control_socket, command, socket::limit(config.timing.lease)) {
        Ok(text) => super::print(&text),
        Err(why) => status::failed(&why),
    }
}
