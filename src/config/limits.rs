//! How much and how long: the bounds of every number and duration of the balancers, in one table, each with its reason.

use super::checked::{Balancer, Timeouts};
use super::fields::{self, written};
use super::problem::shown;
use super::raw::{RawBalancer, RawConfig};
use super::walk::{Found, Given};
use std::time::Duration;

/// From `least` to `most`, both included; `short` and `long` say what a value outside would do.
pub(crate) struct Span {
    least: Duration,
    short: &'static str,
    most: Duration,
    long: &'static str,
    usual: &'static str,
}

/// From `least` to `most`, both included; `low` and `high` say what a value outside would do, `way` what to write.
pub(crate) struct Count {
    least: i64,
    low: &'static str,
    most: i64,
    high: &'static str,
    way: &'static str,
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const HOUR: Duration = secs(3600);
const DAY: Duration = secs(86_400);
/// More descriptors than a machine of this kind opens; it catches slips of the finger.
const MOST_CONNECTIONS: i64 = 1_000_000;

pub(crate) const INTERVAL: Span = Span {
    least: ms(100),
    short: "the checks would be a load of their own",
    most: HOUR,
    long: "clients would find a dead backend long before",
    usual: "2s",
};
pub(crate) const TIMEOUT: Span = Span {
    least: ms(10),
    short: "a backend that is only busy would count as dead",
    most: HOUR,
    long: "clients would find a dead backend long before",
    usual: "1s",
};
const SLOW_START: Span = Span { least: Duration::ZERO, short: "", most: HOUR, long: "a backend warms up sooner", usual: "30s" };
const QUEUE_TIMEOUT: Span = Span {
    least: ms(100),
    short: "a place is hardly ever free so soon; queue: 0 lets nobody wait",
    most: HOUR,
    long: "no client waits so long",
    usual: "5s",
};
const CONNECT_TIMEOUT: Span = Span {
    least: ms(100),
    short: "one lost packet takes longer",
    most: secs(300),
    long: "the kernel gives up sooner",
    usual: "2s",
};
const HALF_CLOSE_TIMEOUT: Span = Span {
    least: secs(1),
    short: "answers still under way would be cut",
    most: DAY,
    long: "half-closed connections would pile up",
    usual: "30s",
};
const IDLE_TIMEOUT: Span = Span {
    least: secs(1),
    short: "connections that only pause would be cut",
    most: secs(30 * 86_400),
    long: "keepalive finds a silent peer dead in minutes anyway",
    usual: "1h",
};
const RESOLVE_INTERVAL: Span = Span {
    least: secs(1),
    short: "name servers would be asked without a pause",
    most: DAY,
    long: "a changed address would stay unknown for that long",
    usual: "30s",
};
pub(crate) const WEIGHT: Count = Count {
    least: 0,
    low: "0 already means no new connections",
    most: 256,
    high: "only the ratio of weights counts",
    way: "write 0 to 256, 1 is usual",
};
pub(crate) const RISE: Count = in_a_row("write 1 to 100, 2 is usual");
pub(crate) const FALL: Count = in_a_row("write 1 to 100, 3 is usual");
const QUEUE: Count = Count {
    least: 0,
    low: "0 already means that nobody waits",
    most: 100_000,
    high: "most of them would wait in vain",
    way: "write 0 to 100000, 1000 is usual",
};
pub(crate) const CONNECTIONS: Count = Count {
    least: 1,
    low: "nobody could connect",
    most: MOST_CONNECTIONS,
    high: "this machine can't open as many",
    way: "write 1 to 1000000, or leave it out for no limit of its own",
};
const RATE: Count = Count {
    least: 1,
    low: "nobody could connect",
    most: MOST_CONNECTIONS,
    high: "this machine can't accept as many",
    way: "write 1 to 1000000 a second, or leave it out for no limit",
};

const fn in_a_row(way: &'static str) -> Count {
    Count { least: 1, low: "no answer at all would decide", most: 100, high: "it would take for ever", way }
}

impl Span {
    /// The duration that `text` names, where it is within.
    pub(crate) fn read(&self, text: &str) -> Result<Duration, String> {
        let value = fields::duration(text)?;
        let (bound, than, why) = match value {
            _ if value < self.least => (self.least, "shorter", self.short),
            _ if value > self.most => (self.most, "longer", self.long),
            _ => return Ok(value),
        };
        Err(format!(
            "is {than} than {}: {why}; write {} to {}, {} is usual",
            written(bound),
            written(self.least),
            written(self.most),
            self.usual
        ))
    }
}

impl Count {
    /// `number`, where it is within.
    pub(crate) fn read<T: TryFrom<i64>>(&self, number: i64) -> Result<T, String> {
        let (than, bound, why) = match number {
            _ if number < self.least => ("less", self.least, self.low),
            _ if number > self.most => ("more", self.most, self.high),
            _ => return T::try_from(number).map_err(|_| format!("is out of range; {}", self.way)),
        };
        Err(format!("is {than} than {bound}: {why}; {}", self.way))
    }
}

/// Fills in the limits of one balancer; complete only where `found` has no problem. `top` is the file's own `maxConnections`.
pub(crate) fn fill(balancer: &mut Balancer, raw: &RawBalancer, top: Option<u32>, found: &mut Found) {
    balancer.max_connections = raw.max_connections.checked(found, |n| CONNECTIONS.read(*n));
    balancer.max_per_client = raw.max_per_client.checked(found, |n| CONNECTIONS.read(*n));
    balancer.accept_rate = raw.accept_rate.checked(found, |n| RATE.read(*n));
    set(&mut balancer.slow_start, &raw.slow_start, &SLOW_START, found);
    set(&mut balancer.queue_timeout, &raw.queue_timeout, &QUEUE_TIMEOUT, found);
    set(&mut balancer.timeouts.connect, &raw.connect_timeout, &CONNECT_TIMEOUT, found);
    set(&mut balancer.timeouts.half_close, &raw.half_close_timeout, &HALF_CLOSE_TIMEOUT, found);
    set(&mut balancer.timeouts.idle, &raw.idle_timeout, &IDLE_TIMEOUT, found);
    if let Some(queue) = raw.queue.checked(found, |n| QUEUE.read(*n)) {
        balancer.queue = queue;
    }
    without_effect(balancer, raw, top, found);
}

fn set(value: &mut Duration, given: &Given<String>, span: &Span, found: &mut Found) {
    if let Some(duration) = given.checked(found, |t| span.read(t)) {
        *value = duration;
    }
}

/// What is said, but decides nothing.
fn without_effect(balancer: &Balancer, raw: &RawBalancer, top: Option<u32>, found: &mut Found) {
    let Timeouts { half_close, idle, .. } = balancer.timeouts;
    if let Some(spot) = raw.half_close_timeout.good().filter(|_| half_close > idle) {
        let text =
            format!("{} is longer than idleTimeout ({}), which ends such connections first", shown(&spot.value), written(idle));
        found.warn(spot.line, &*spot.key, text);
    }
    if let (Some(spot), Some(top), Some(own)) = (raw.max_connections.good(), top, balancer.max_connections)
        && own > top
    {
        found.warn(
            spot.line,
            &*spot.key,
            format!("{own} is more than maxConnections of all balancers together ({top}); it does nothing"),
        );
    }
    let limited = raw.backends.good().is_some_and(|list| list.value.iter().any(|b| !b.max_connections.is_absent()));
    for (key, line) in [("queue", raw.queue.line()), ("queueTimeout", raw.queue_timeout.line())] {
        let Some(line) = line else { continue };
        let why = match balancer.queue {
            0 if key == "queueTimeout" => "does nothing with queue: 0, where nobody waits",
            n if n > 0 && !limited => "does nothing: no backend has maxConnections, so nobody ever waits for one",
            _ => continue,
        };
        found.warn(line, format!("{}.{key}", raw.path), why);
    }
}

/// `maxConnections` at the top: of all balancers together.
pub(crate) fn max_connections(raw: &RawConfig, found: &mut Found) -> Option<u32> {
    raw.max_connections.checked(found, |n| CONNECTIONS.read(*n))
}

/// `resolveInterval`.
pub(crate) fn resolve_interval(raw: &RawConfig, found: &mut Found) -> Duration {
    raw.resolve_interval.checked(found, |t| RESOLVE_INTERVAL.read(t)).unwrap_or(secs(30))
}
