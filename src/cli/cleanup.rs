//! `cleanup`: removes a VIP that an earlier run of this program left behind, with its kernel fence, and nothing else.

use super::start::{exit_of, state_file};
use super::{Cleanup, Exit};
use crate::config::Overrides;
use crate::vip::{self, FenceFound};
use std::io::Error;

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
    match &report.fence {
        FenceFound::Absent => {}
        FenceFound::Removed(table) => lines.push(format!("removed the nf_tables table netdev {table}")),
        FenceFound::Unknown(errno) => lines.push(format!(
            "can't tell whether an nf_tables table is left: {} (needs CAP_NET_ADMIN)",
            Error::from_raw_os_error(*errno)
        )),
    }
    if lines.is_empty() {
        lines.push(format!("nothing to do: {} is not on this host", config.vip));
    }
    super::print(&lines.join("\n"))
}
