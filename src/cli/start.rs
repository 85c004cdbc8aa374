//! `start`: keeper and daemon.

use super::{Exit, Start};

/// Runs the command.
pub fn run(args: &Start) -> Exit {
    match super::load_here(&args.config, &args.overrides()) {
        Err(exit) => exit,
        Ok((config, warnings)) => {
            for warning in warnings {
                eprintln!("{warning}");
            }
            eprintln!(
                "kube-vip: start is not built yet; {} is fine, and log level {} was asked for",
                config.file.display(),
                args.log_filter()
            );
            Exit::Failed
        }
    }
}
