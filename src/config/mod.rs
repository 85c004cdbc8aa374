//! The configuration: YAML as written → checked values that nothing re-checks.
//!
//! ```text
//! text ─ tree (serde) ─▶ Node with lines ─ raw ─▶ known keys, types ─ draft, nodes, balancers ─▶ Draft ─ resolve ─▶ Config
//! ```
//!
//! All problems are collected and told at once, each with file, line, key, why and the way out. A [`Draft`] is a file that is
//! sound in itself, on any machine; [`Draft::resolve`] finds out which node this machine is; [`here`] holds it against the machine.

mod backends; // the servers behind a balancer
mod balancers; // raw loadBalancers → checked balancers
pub mod change; // what differs between two configurations, and what of it takes a restart (pure)
mod checked; // the types everybody uses
mod checks; // how backends are asked whether they work
mod clients; // whose connections are taken
mod draft; // raw → a sound file, the order of all checks
mod fields; // single values: ports, durations, names, paths
mod file; // path → text, with every way in which that can fail
pub mod here; // the configuration against this machine (pure)
mod hosts; // addresses and host names
mod lan; // who else of this machine answers for the VIP (pure)
mod limits; // how much and how long, within which bounds
pub mod machine; // facts about this machine (effects)
mod moves; // when and how the VIP moves
mod network; // networks in CIDR notation
mod nodes; // raw peers → checked peers
mod places; // the directories that the daemon writes to (effects)
mod problem; // problems, warnings, nearest words
mod raw; // the shape of the file
mod tree; // YAML → tree with lines
mod walk; // typed reading out of the tree

pub use checked::{Ask, Backend, Balance, Balancer, Config, HealthCheck, Peer, ProxyVersion, Target, Timeouts, Timing};
pub use draft::{Draft, Lines, Overrides, Placed, judge};
pub use network::Network;
pub use places::{Refused, Why};
pub(crate) use problem::nearest;
pub use problem::{Problem, Problems, Warning};

use std::path::Path;

/// Reads `path` and judges it alone, so that it can be checked on any machine.
///
/// # Errors
/// All problems of the file.
pub fn read(path: &Path, overrides: &Overrides) -> Result<Draft, Problems> {
    let text = file::read(path).map_err(|problem| Problems::new(path, vec![problem]))?;
    judge(path, &text, overrides)
}

/// Reads `path` and finds out which of its nodes this machine is. Touches nothing.
///
/// # Errors
/// All problems of the file; with `peers`, also that none or several of them are this machine.
pub fn load(path: &Path, overrides: &Overrides) -> Result<(Config, Vec<Warning>), Problems> {
    let draft = read(path, overrides)?;
    let placed = place(&draft)?;
    Ok((placed.config, draft.warnings))
}

/// As [`load`], and tells which text it was: to compare with what another process read, by another path or another user.
///
/// # Errors
/// As [`load`].
pub fn load_marked(path: &Path, overrides: &Overrides) -> Result<(Config, Vec<Warning>, u64), Problems> {
    let text = file::read(path).map_err(|problem| Problems::new(path, vec![problem]))?;
    let draft = judge(path, &text, overrides)?;
    let placed = place(&draft)?;
    Ok((placed.config, draft.warnings, file::mark(&text)))
}

/// As [`load`], and holds the configuration against this machine: what `start` does before it touches the network. The file's
/// warnings come first, then those about this machine.
///
/// # Errors
/// All problems of the file, or all of the file on this machine; see [`Problems::only_privileges`] for the exit code.
pub fn load_here(path: &Path, overrides: &Overrides) -> Result<(Config, Vec<Warning>), Problems> {
    let draft = read(path, overrides)?;
    let placed = place(&draft)?;
    let facts = machine::gather(&placed.config);
    let problems = here::check(&placed.config, &placed.lines, &facts);
    if !problems.is_empty() {
        return Err(Problems::new(path, problems));
    }
    let mut warnings = draft.warnings;
    warnings.extend(here::warnings(&placed.config, &placed.lines, &facts).into_iter().map(|w| Warning::new(path, w)));
    Ok((placed.config, warnings))
}

fn place(draft: &Draft) -> Result<Placed, Problems> {
    draft.resolve(&machine::addresses(), machine::state_directory().as_deref())
}
