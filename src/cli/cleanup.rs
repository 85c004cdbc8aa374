//! `cleanup`: removes a VIP that an earlier run of this program left behind.

use super::{Cleanup, Exit};
use crate::config::Overrides;

/// Runs the command.
pub fn run(args: &Cleanup) -> Exit {
    match super::load(&args.config, &Overrides::default()) {
        Err(exit) => exit,
        Ok(config) => {
            eprintln!("kube-vip: cleanup is not built yet; {} is fine", config.file.display());
            Exit::Failed
        }
    }
}
