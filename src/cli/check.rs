//! `check`: every problem of a configuration at once, before anything is touched.

use super::args::Check;
use super::{Exit, print, refuse};
use crate::config::{self, Overrides, Problems};

/// Judges the file alone, or with `--here` also against this machine.
pub fn run(args: &Check) -> Exit {
    match judge(args) {
        Err(problems) => refuse(&problems),
        Ok(gist) => print(&format!("{}: fine: {gist}", args.config.display())),
    }
}

fn judge(args: &Check) -> Result<String, Problems> {
    let draft = config::read(&args.config, &Overrides::default())?;
    for warning in &draft.warnings {
        eprintln!("{warning}");
    }
    if !args.here {
        return Ok(draft.gist());
    }
    let (here, warnings) = config::load_here(&args.config, &Overrides::default())?;
    for warning in warnings.iter().skip(draft.warnings.len()) {
        eprintln!("{warning}");
    }
    Ok(format!("{}; this machine is {} and ready", draft.gist(), here.local.id))
}
