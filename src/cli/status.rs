//! `status`: asks the running node over its control socket.

use super::{Exit, Status};
use crate::config::Overrides;

/// Runs the command.
pub fn run(args: &Status) -> Exit {
    match super::load(&args.config, &Overrides::default()) {
        Err(exit) => exit,
        Ok(config) => {
            eprintln!("kube-vip: status is not built yet; {} is fine", config.file.display());
            Exit::Failed
        }
    }
}
