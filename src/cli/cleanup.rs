//! `cleanup`: removes a VIP that an earlier run of this program left behind, and nothing else.

use super::start::{exit_of, state_file};
use super::{Cleanup, Exit};
use crate::config::Overrides;
use crate::vip;

/// Runs the command.
pub fn run(args: &Cleanup) -> Exit {
    let config = match super::load(&args.config, &Overrides::default()) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let report = match vip::cleanup(&config.interface, config.vip, &state_file(&config)) {
        Ok(report) => report,
        Err(e) => {
            eprintln!("kube-vip: {e}");
            return exit_of(e.kind);
        }
    };
    let mut lines: Vec<String> = report.removed.iter().map(|found| format!("removed {found}")).collect();
    lines.extend(report.foreign.iter().map(|found| format!("left alone: {found}, not from kube-vip")));
    if lines.is_empty() {
        lines.push(format!("nothing to do: {} is not on this host", config.vip));
    }
    super::print(&lines.join("\n"))
}
