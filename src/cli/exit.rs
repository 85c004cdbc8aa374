//! The one table of exit codes.

use std::process::ExitCode;

/// How the program ends; 64, 77 and 78 are those of sysexits.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Fine = 0,
    /// Anything without a code of its own.
    Failed = 1,
    /// The command line makes no sense (EX_USAGE).
    Usage = 64,
    /// A privilege is missing (EX_NOPERM).
    Privileges = 77,
    /// The configuration can't work (EX_CONFIG).
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
