//! Quiet start: a node that starts waits before it votes, campaigns, initialises or accepts a transfer.
//!
//! A restarted openraft restores its vote with no lease, so it could vote against a leader it acknowledged a moment ago. Waiting
//! for the longest promise it may have made makes a restart harmless, also one that lost its disk.

use super::planted::{Planted, is_planted};
use std::time::Duration;

/// The wait where no lease is recorded: the longest lease of the presets.
pub const UNKNOWN: Duration = Duration::from_secs(3);

/// How long to stay quiet: the longest of the own lease, and the recorded promise. Where none is recorded the disk may have been lost,
/// and with it the promise to a leader without kernel fence: 3 s, or as long as such a promise lasts (`unfenced`).
///
/// The same is to be recorded until the quiet start has ended: a run that follows sooner has the same promises to keep.
pub fn quiet_for(lease: Duration, unfenced: Duration, recorded: Option<Duration>) -> Duration {
    if is_planted(Planted::NoQuietStart) {
        return Duration::ZERO;
    }
    lease.max(recorded.unwrap_or(UNKNOWN.max(unfenced)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_all_promises() {
        let ms = Duration::from_millis;
        for (lease, unfenced, recorded, quiet) in [
            (250, 4612, None, 4612),
            (250, 250, None, 3000),
            (250, 4612, Some(250), 250),
            (250, 4612, Some(4613), 4613),
            (250, 4612, Some(60), 250),
            (60, 4422, Some(3000), 3000),
            (5000, 8000, None, 8000),
        ] {
            let got = quiet_for(ms(lease), ms(unfenced), recorded.map(ms));
            assert_eq!(got, ms(quiet), "lease {lease}, unfenced {unfenced}, recorded {recorded:?}");
        }
    }
}
