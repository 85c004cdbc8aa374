//! `healthCheck`: raw keys → what a backend is asked, how often, and how many answers decide.

use super::checked::{Ask, HealthCheck};
use super::fields::{self, written};
use super::limits::{FALL, INTERVAL, RISE, TIMEOUT};
use super::problem::{nearest, shown};
use super::raw::{RawCheck, RawOwnCheck};
use super::walk::{Found, Given, Spot};
use std::time::Duration;

const USUAL_INTERVAL: Duration = Duration::from_secs(2);
const USUAL_TIMEOUT: Duration = Duration::from_secs(1);
const USUAL_RISE: u32 = 2;
const USUAL_FALL: u32 = 3;
const GOOD_STATUS: (u16, u16) = (200, 399);
/// Longest path: servers refuse longer ones.
const MAX_PATH: usize = 1024;
const MAX_TEXT: usize = 256;

enum Kind {
    Tcp,
    Http,
}

/// Judges it; complete only where `found` has no problem.
pub(crate) fn judge(raw: &RawCheck, found: &mut Found) -> Option<HealthCheck> {
    match raw {
        RawCheck::Absent | RawCheck::Bad => None,
        RawCheck::Kind(spot) => {
            let ask = match kind(spot, found)? {
                Kind::Tcp => Ask::Tcp,
                Kind::Http => Ask::Http { path: "/".to_owned(), host: None, status: GOOD_STATUS, text: None },
            };
            let (interval, timeout) = (USUAL_INTERVAL, USUAL_TIMEOUT);
            Some(HealthCheck { ask, port: None, interval, timeout, rise: USUAL_RISE, fall: USUAL_FALL })
        }
        RawCheck::Own(own) => judge_own(own, found),
    }
}

fn judge_own(raw: &RawOwnCheck, found: &mut Found) -> Option<HealthCheck> {
    if raw.kind.is_absent() {
        found.on(
            raw.line,
            format!("{}.type", raw.path_in_file),
            "missing; write `type: tcp` (a connect is enough) or `type: http`",
        );
    }
    let kind = raw.kind.good().and_then(|spot| kind(spot, found));
    let http = http(raw, found);
    let port = raw.port.checked(found, |n| fields::port(*n));
    let (interval, timeout) = times(raw, found);
    let rise = raw.rise.checked(found, |n| RISE.read(*n)).unwrap_or(USUAL_RISE);
    let fall = raw.fall.checked(found, |n| FALL.read(*n)).unwrap_or(USUAL_FALL);
    let ask = match kind? {
        Kind::Http => http,
        Kind::Tcp => {
            only_http(raw, found);
            Ask::Tcp
        }
    };
    Some(HealthCheck { ask, port, interval, timeout, rise, fall })
}

fn kind(spot: &Spot<String>, found: &mut Found) -> Option<Kind> {
    match spot.value.to_ascii_lowercase().as_str() {
        "tcp" => return Some(Kind::Tcp),
        "http" => return Some(Kind::Http),
        "https" => found.at(spot, "https is not supported yet; use http on a plain port, or tcp"),
        "none" | "off" | "false" | "no" => {
            found.at(
                spot,
                format!("{} is no health check; leave healthCheck out, then only connects of clients tell", spot.value),
            );
        }
        _ => {
            let way = nearest(&spot.value, ["tcp", "http"])
                .map_or("write tcp or http".to_owned(), |near| format!("did you mean {near}?"));
            found.at(spot, format!("{} is no health check; {way}", shown(&spot.value)));
        }
    }
    None
}

/// What makes sense for http alone.
fn only_http(raw: &RawOwnCheck, found: &mut Found) {
    for spot in [&raw.path, &raw.host, &raw.status, &raw.text].into_iter().filter_map(Given::good) {
        found.at(
            spot,
            format!(
                "{} is for http, but the check only connects (type tcp); write `type: http`, or remove it",
                shown(&spot.value)
            ),
        );
    }
}

fn http(raw: &RawOwnCheck, found: &mut Found) -> Ask {
    Ask::Http {
        path: raw.path.checked(found, |t| path(t)).unwrap_or_else(|| "/".to_owned()),
        host: raw.host.checked(found, |t| host(t)),
        status: raw.status.checked(found, |t| status(t)).unwrap_or(GOOD_STATUS),
        text: raw.text.checked(found, |t| text(t)),
    }
}

/// The interval, and a timeout within.
fn times(raw: &RawOwnCheck, found: &mut Found) -> (Duration, Duration) {
    let read = raw.interval.checked(found, |t| INTERVAL.read(t));
    let interval = read.unwrap_or(USUAL_INTERVAL);
    // Beside an interval that makes no sense, only the timeout itself is judged.
    let bound = if read.is_none() && !raw.interval.is_absent() { Duration::MAX } else { interval };
    let within = |timeout: Duration| match timeout > bound {
        false => Ok(timeout),
        true => Err(format!(
            "is longer than interval ({}): the next check would begin before this one has ended; lower it, or raise interval",
            written(interval)
        )),
    };
    let timeout = raw.timeout.checked(found, |t| TIMEOUT.read(t).and_then(within));
    (interval, timeout.unwrap_or(USUAL_TIMEOUT.min(interval)))
}

/// The path and query of a request's first line (RFC 9112 §3.2.1).
fn path(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err("is a URL; write its path alone, the host under `host` and the port under `port`".to_owned());
    }
    if !text.starts_with('/') {
        return Err("doesn't begin with /; write it like /healthz".to_owned());
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        return Err(format!("has {bad:?} in it, which no request line may have; write it as % and two hex digits"));
    }
    if text.len() > MAX_PATH {
        return Err(format!("has {} bytes; {MAX_PATH} are the most", text.len()));
    }
    Ok(text.to_owned())
}

/// The value of a `Host` header: a name or address, perhaps with a port.
fn host(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if text.is_empty() || text.len() > 260 || !text.chars().all(good) {
        return Err("can't be a Host header; write a name like web.example, or web.example:8080".to_owned());
    }
    Ok(text.to_owned())
}

/// `200` or `200-399`.
fn status(text: &str) -> Result<(u16, u16), String> {
    let code = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|code| digits && (100..=599).contains(code))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (code(first.trim()), code(last.trim())) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        (Some(first), Some(last)) => Err(format!("ends before it begins; write {last}-{first}")),
        _ => Err("is no HTTP status; write one from 100 to 599, or a range like 200-399".to_owned()),
    }
}

fn text(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("is empty, and every answer has that; write what the body must contain, or remove it".to_owned()),
        n if n > MAX_TEXT => Err(format!("has {n} bytes; {MAX_TEXT} are the most. A distinctive part is enough")),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        for (good, range) in [("200", (200, 200)), ("200-399", (200, 399)), ("200 - 204", (200, 204)), ("599", (599, 599))] {
            assert_eq!(status(good), Ok(range));
        }
        for bad in ["", "20", "2000", "099", "600", "200-", "-200", "200-600", "2xx", "200,201", "+20", "200-300-400"] {
            assert!(status(bad).is_err(), "{bad}");
        }
        assert_eq!(status("399-200"), Err("ends before it begins; write 200-399".to_owned()));
    }

    #[test]
    fn nothing_in_a_path_or_host_ends_the_line() {
        for good in ["/", "/healthz?full=1&x=%20", "/a/b;c"] {
            assert!(path(good).is_ok(), "{good}");
        }
        for bad in
            ["", "healthz", "/a b", "/a\r\nX: 1", "/ä", "/a#b", "http://a/b", "/\u{7f}", &format!("/{}", "x".repeat(1024))]
        {
            assert!(path(bad).is_err(), "{bad}");
        }
        for good in ["web", "web.example:80", "[2001:db8::1]:80", "10.0.0.1"] {
            assert!(host(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\r\nX: 1", "a/b", &"x".repeat(261)] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
