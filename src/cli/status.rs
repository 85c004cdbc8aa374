//! `status`: asks the running node over its control socket.

use super::{Exit, Status};
use crate::config::Overrides;
use crate::status::{socket, table};

/// Runs the command.
pub fn run(args: &Status) -> Exit {
    let config = match super::load(&args.config, &Overrides::default()) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match socket::ask(&config.control_socket) {
        Ok(snapshot) if args.json => match serde_json::to_string_pretty(&snapshot) {
            Ok(text) => super::print(&text),
            Err(e) => failed(&e.to_string()),
        },
        Ok(snapshot) => super::print(table::render(&snapshot).trim_end()),
        Err(why) => failed(&why),
    }
}

/// Says why a command failed.
pub fn failed(why: &str) -> Exit {
    eprintln!("kube-vip: {why}");
    Exit::Failed
}
