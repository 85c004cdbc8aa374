//! The command line: one file per command.

use std::process::ExitCode;

/// Runs the command named in argv.
pub fn main() -> ExitCode {
    ExitCode::from(64)
}
