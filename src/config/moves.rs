//! When and how the VIP moves: raw keys → [`Moves`]. What can't work together is an error, what does nothing a warning.

use super::fields;
use super::nodes::Alone;
use super::problem::shown;
use super::raw::{RawConfig, RawPeer};
use super::walk::{Found, Given, Spot};
use std::time::Duration;

const DRAIN: Duration = Duration::from_secs(5);
const MAX_DRAIN: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(10);
const MAX_SETTLE: Duration = Duration::from_secs(3600);

/// The checked values, as [`super::Config`] has them.
pub(crate) struct Moves {
    pub(crate) fence_fast: bool,
    pub(crate) drain: Duration,
    pub(crate) witness: bool,
    pub(crate) preempt: Option<Duration>,
    pub(crate) track_backends: bool,
    pub(crate) realtime: bool,
}

/// Judges them; complete only where `found` has no problem.
pub(crate) fn judge(raw: &RawConfig, alone: Alone, found: &mut Found) -> Moves {
    Moves {
        fence_fast: raw.fence.checked(found, |t| fence(t)).unwrap_or(false),
        drain: raw.drain.checked(found, |t| fields::duration(t).and_then(drain)).unwrap_or(DRAIN),
        witness: witness(raw, alone, found),
        preempt: preempt(raw, alone, found),
        track_backends: track_backends(raw, alone, found),
        realtime: raw.realtime.or(true),
    }
}

fn fence(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "safe" => Ok(false),
        "fast" => Ok(true),
        _ => Err("is no way to fence; write safe (wait until the VIP of a dead node has surely ended) or fast (one lease)"
            .to_owned()),
    }
}

fn drain(time: Duration) -> Result<Duration, String> {
    if time > MAX_DRAIN {
        return Err(
            "is longer than 60s, and so long would a stop take; write 60s or less, 0s to cut connections at once".to_owned()
        );
    }
    Ok(time)
}

/// Whether the file makes its own node a witness. In `peers` each node says it in its own entry: see [`super::Peer::witness`].
fn witness(raw: &RawConfig, alone: Alone, found: &mut Found) -> bool {
    let Some(spot) = is_true(&raw.witness) else { return false };
    if let Some(why) = is_alone(alone) {
        found.at(spot, format!("true, but {why}: nobody would ever hold the VIP. Remove one of the two"));
    } else if !raw.peers.is_absent() {
        found.at(spot, "true, but `peers` makes this file that of all nodes, and nobody would ever hold the VIP; write `witness: true` into the one entry");
    }
    true
}

/// What the entries of the nodes say of witnesses: each of itself, and not all of them.
pub(crate) fn witnesses(own: &[&RawPeer], others: &[RawPeer], alone: Alone, found: &mut Found) {
    for spot in others.iter().filter_map(|peer| is_true(&peer.witness)) {
        found.warn(spot.line, &*spot.key, "true does nothing here; write it into the file of that node");
    }
    let said: Vec<&Spot<bool>> = own.iter().filter_map(|peer| is_true(&peer.witness)).collect();
    if let (Some(spot), Some(why)) = (said.first(), is_alone(alone)) {
        found.at(spot, format!("true, but {why}: nobody would ever hold the VIP. Remove one of the two"));
    } else if let Some(spot) = said.last().filter(|_| own.len() > 1 && said.len() == own.len()) {
        found.at(spot, "true, as for all other nodes: nobody would ever hold the VIP. Leave at least one without, better two");
    }
}

fn preempt(raw: &RawConfig, alone: Alone, found: &mut Found) -> Option<Duration> {
    let delay = raw.preempt_delay.checked(found, |t| fields::duration(t).and_then(settle));
    let wanted = is_true(&raw.preempt);
    if let (Some(spot), Some(why)) = (wanted, is_alone(alone)) {
        found.warn(spot.line, "preempt", format!("true, but {why}; it does nothing"));
    }
    if let (None, Given::Is(spot)) = (wanted, &raw.preempt_delay) {
        found.warn(spot.line, "preemptDelay", format!("{} does nothing without `preempt: true`", shown(&spot.value)));
    }
    wanted.map(|_| delay.unwrap_or(SETTLE))
}

fn settle(time: Duration) -> Result<Duration, String> {
    if time > MAX_SETTLE {
        return Err("is longer than an hour; write 60m or less, 10s is usual".to_owned());
    }
    Ok(time)
}

fn track_backends(raw: &RawConfig, alone: Alone, found: &mut Found) -> bool {
    let Some(spot) = is_true(&raw.track_backends) else { return false };
    if raw.balancers.is_empty() {
        found.at(spot, "true, but there are no loadBalancers whose backends could be tracked; list one, or remove this key");
    } else if let Some(why) = is_alone(alone) {
        found.warn(spot.line, "trackBackends", format!("true, but {why}: no other could take the VIP; it does nothing"));
    }
    true
}

fn is_true(given: &Given<bool>) -> Option<&Spot<bool>> {
    given.good().filter(|spot| spot.value)
}

fn is_alone(alone: Alone) -> Option<&'static str> {
    match alone {
        Alone::No => None,
        Alone::File => Some("singleNode is true"),
        Alone::Flag => Some("the flag --singleNode was given"),
    }
}
