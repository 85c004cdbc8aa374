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

impl Exit {
    /// From another process's exit code; one that is not in the table counts as [`Exit::Failed`].
    pub fn from_code(code: u8) -> Self {
        let known = [Exit::Fine, Exit::Usage, Exit::Privileges, Exit::Config];
        known.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Exit::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
