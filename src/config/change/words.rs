//! How two balancers of one name differ, key by key.

use super::differs;
use crate::config::balancers::POLICIES;
use crate::config::checked::{Ask, Backend, Balancer, HealthCheck, ProxyVersion};
use crate::config::fields::written;
use crate::config::network::Network;

/// Each difference, in the file's own words.
pub(super) fn balancer(old: &Balancer, new: &Balancer) -> Vec<String> {
    let policy = |policy: &_| POLICIES.iter().find(|(_, p)| p == policy).map_or("", |(name, _)| name).to_owned();
    let time = |t: &_| written(*t);
    let (was, is) = (&old.timeouts, &new.timeouts);
    let keys = [
        differs("port", &old.port, &new.port, ToString::to_string),
        differs("bindToVip", &old.bind_to_vip, &new.bind_to_vip, ToString::to_string),
        differs("balance", &old.balance, &new.balance, policy),
        differs("healthCheck", &old.health_check, &new.health_check, check),
        differs("slowStart", &old.slow_start, &new.slow_start, time),
        differs("queue", &old.queue, &new.queue, ToString::to_string),
        differs("queueTimeout", &old.queue_timeout, &new.queue_timeout, time),
        differs("sendProxy", &old.send_proxy, &new.send_proxy, proxy),
        differs("acceptProxy", &old.accept_proxy, &new.accept_proxy, |list| networks(list)),
        differs("allow", &old.allow, &new.allow, |list| networks(list)),
        differs("deny", &old.deny, &new.deny, |list| networks(list)),
        differs("maxConnections", &old.max_connections, &new.max_connections, limit),
        differs("maxConnectionsPerClient", &old.max_per_client, &new.max_per_client, limit),
        differs("acceptRate", &old.accept_rate, &new.accept_rate, limit),
        differs("connectTimeout", &was.connect, &is.connect, time),
        differs("halfCloseTimeout", &was.half_close, &is.half_close, time),
        differs("idleTimeout", &was.idle, &is.idle, time),
    ];
    let mut all: Vec<String> = keys.into_iter().flatten().collect();
    backends(&old.backends, &new.backends, &mut all);
    all
}

fn backends(old: &[Backend], new: &[Backend], all: &mut Vec<String>) {
    let before = all.len();
    for backend in new {
        match old.iter().find(|b| b.target == backend.target) {
            None => all.push(format!("backend {} added", backend.target)),
            Some(other) => all.extend(backend_words(other, backend)),
        }
    }
    let gone = old.iter().filter(|b| !new.iter().any(|other| other.target == b.target));
    all.extend(gone.map(|b| format!("backend {} removed", b.target)));
    if all.len() == before && old != new {
        let what = if old.len() == new.len() { "the order of backends" } else { "how often a backend is listed" };
        all.push(what.to_owned());
    }
}

fn backend_words(old: &Backend, new: &Backend) -> impl Iterator<Item = String> {
    let key = |what: &str| format!("{what} of {}", new.target);
    let all = [
        differs(&key("weight"), &old.weight, &new.weight, ToString::to_string),
        differs(&key("backup"), &old.backup, &new.backup, ToString::to_string),
        differs(&key("maxConnections"), &old.max_connections, &new.max_connections, limit),
    ];
    all.into_iter().flatten()
}

#[allow(clippy::ref_option)] // as `differs` hands it over
fn limit(limit: &Option<u32>) -> String {
    limit.map_or("no limit".to_owned(), |n| n.to_string())
}

#[allow(clippy::ref_option)]
fn proxy(version: &Option<ProxyVersion>) -> String {
    let name = |version| match version {
        ProxyVersion::V1 => "v1",
        ProxyVersion::V2 => "v2",
    };
    version.map_or("none", name).to_owned()
}

fn networks(list: &[Network]) -> String {
    if list.is_empty() {
        return "none".to_owned();
    }
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// `http /healthz`, and what isn't as usual.
#[allow(clippy::ref_option)]
fn check(check: &Option<HealthCheck>) -> String {
    let Some(check) = check else { return "none".to_owned() };
    let mut text = match &check.ask {
        Ask::Tcp => "tcp".to_owned(),
        Ask::Http { path, host, status, text } => {
            let mut words = format!("http {path}");
            if let Some(host) = host {
                words += &format!(" of {host}");
            }
            if *status != (200, 399) {
                words += &format!(" status {}-{}", status.0, status.1);
            }
            if let Some(text) = text {
                words += &format!(" with {}", crate::config::problem::shown(text));
            }
            words
        }
    };
    if let Some(port) = check.port {
        text += &format!(" at port {port}");
    }
    let (interval, timeout) = (written(check.interval), written(check.timeout));
    if (interval.as_str(), timeout.as_str(), check.rise, check.fall) != ("2s", "1s", 2, 3) {
        text += &format!(" each {interval} within {timeout}, rise {}, fall {}", check.rise, check.fall);
    }
    text
}
