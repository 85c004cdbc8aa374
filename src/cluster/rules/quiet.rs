//! Quiet start: a node that starts waits before it votes, campaigns, initialises or accepts a transfer.
//!
//! A restarted openraft restores its vote with no lease, so it could vote against a leader it acknowledged a moment ago. Waiting
//! for the longest lease it may have promised makes a restart harmless, also one that lost its disk.

use std::time::Duration;

/// The wait where no lease is recorded: the longest lease of the presets.
pub const UNKNOWN: Duration = Duration::from_secs(3);

/// How long to stay quiet: the longest of the own lease, and the recorded one or 3 s where none is recorded.
pub fn quiet_for(lease: Duration, recorded: Option<Duration>) -> Duration {
    lease.max(recorded.unwrap_or(UNKNOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_all_promises() {
        let ms = Duration::from_millis;
        for (lease, recorded, quiet) in
            [(250, None, 3000), (250, Some(250), 250), (250, Some(60), 250), (60, Some(3000), 3000), (5000, None, 5000)]
        {
            assert_eq!(quiet_for(ms(lease), recorded.map(ms)), ms(quiet), "lease {lease}, recorded {recorded:?}");
        }
    }
}
