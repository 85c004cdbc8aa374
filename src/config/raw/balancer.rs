//! One `loadBalancers` entry as written, with its backends and its health check.

use super::items;
use crate::config::tree::{Node, Value};
use crate::config::walk::{Found, Given, Keys, Spot};

const BALANCER: &[&str] = &[
    "name",
    "type",
    "port",
    "bindToVip",
    "backendPort",
    "backends",
    "balance",
    "healthCheck",
    "slowStart",
    "queue",
    "queueTimeout",
    "sendProxy",
    "acceptProxy",
    "allow",
    "deny",
    "maxConnections",
    "maxConnectionsPerClient",
    "acceptRate",
    "connectTimeout",
    "halfCloseTimeout",
    "idleTimeout",
];
const BACKEND: &[&str] = &["address", "port", "weight", "backup", "maxConnections", "url"];
const CHECK: &[&str] = &["type", "path", "host", "status", "text", "port", "interval", "timeout", "rise", "fall"];

/// Several texts, each with its own key and line.
pub(crate) type Texts = Vec<Spot<String>>;

/// One `loadBalancers` entry as written.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawBalancer {
    pub(crate) path: String,
    pub(crate) line: u32,
    pub(crate) name: Given<String>,
    pub(crate) kind: Given<String>,
    pub(crate) port: Given<i64>,
    pub(crate) bind_to_vip: Given<bool>,
    pub(crate) backend_port: Given<i64>,
    pub(crate) backends: Given<Vec<RawBackend>>,
    pub(crate) balance: Given<String>,
    pub(crate) health_check: RawCheck,
    pub(crate) slow_start: Given<String>,
    pub(crate) queue: Given<i64>,
    pub(crate) queue_timeout: Given<String>,
    pub(crate) send_proxy: Given<String>,
    pub(crate) accept_proxy: Given<Texts>,
    pub(crate) allow: Given<Texts>,
    pub(crate) deny: Given<Texts>,
    pub(crate) max_connections: Given<i64>,
    pub(crate) max_per_client: Given<i64>,
    pub(crate) accept_rate: Given<i64>,
    pub(crate) connect_timeout: Given<String>,
    pub(crate) half_close_timeout: Given<String>,
    pub(crate) idle_timeout: Given<String>,
}

/// One backend as written.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawBackend {
    pub(crate) path: String,
    pub(crate) line: u32,
    pub(crate) address: Given<String>,
    pub(crate) port: Given<i64>,
    pub(crate) weight: Given<i64>,
    pub(crate) backup: Given<bool>,
    pub(crate) max_connections: Given<i64>,
    pub(crate) url: Given<String>,
}

/// `healthCheck` as written.
#[derive(Clone, Debug, Default)]
pub(crate) enum RawCheck {
    #[default]
    Absent,
    Bad,
    /// `healthCheck: tcp`.
    Kind(Spot<String>),
    /// `healthCheck: {type: tcp, …}`.
    Own(Box<RawOwnCheck>),
}

/// A map under `healthCheck`.
#[derive(Clone, Debug)]
pub(crate) struct RawOwnCheck {
    pub(crate) path_in_file: String,
    pub(crate) line: u32,
    pub(crate) kind: Given<String>,
    pub(crate) path: Given<String>,
    pub(crate) host: Given<String>,
    pub(crate) status: Given<String>,
    pub(crate) text: Given<String>,
    pub(crate) port: Given<i64>,
    pub(crate) interval: Given<String>,
    pub(crate) timeout: Given<String>,
    pub(crate) rise: Given<i64>,
    pub(crate) fall: Given<i64>,
}

pub(super) fn balancer(path: String, node: &Node, found: &mut Found) -> Option<RawBalancer> {
    let keys = Keys::open(node, &path, BALANCER, found)?;
    Some(RawBalancer {
        line: node.line,
        name: keys.text("name", found),
        kind: keys.text("type", found),
        port: keys.integer("port", found),
        bind_to_vip: keys.boolean("bindToVip", found),
        backend_port: keys.integer("backendPort", found),
        backends: items(&keys, "backends", found, backend),
        balance: keys.text("balance", found),
        health_check: check(&keys, found),
        slow_start: keys.text("slowStart", found),
        queue: keys.integer("queue", found),
        queue_timeout: keys.text("queueTimeout", found),
        send_proxy: keys.text("sendProxy", found),
        accept_proxy: keys.texts("acceptProxy", found),
        allow: keys.texts("allow", found),
        deny: keys.texts("deny", found),
        max_connections: keys.integer("maxConnections", found),
        max_per_client: keys.integer("maxConnectionsPerClient", found),
        accept_rate: keys.integer("acceptRate", found),
        connect_timeout: keys.text("connectTimeout", found),
        half_close_timeout: keys.text("halfCloseTimeout", found),
        idle_timeout: keys.text("idleTimeout", found),
        path,
    })
}

fn backend(path: String, node: &Node, found: &mut Found) -> Option<RawBackend> {
    let keys = Keys::open(node, &path, BACKEND, found)?;
    Some(RawBackend {
        line: node.line,
        address: keys.text("address", found),
        port: keys.integer("port", found),
        weight: keys.integer("weight", found),
        backup: keys.boolean("backup", found),
        max_connections: keys.integer("maxConnections", found),
        url: keys.text("url", found),
        path,
    })
}

fn check(keys: &Keys<'_>, found: &mut Found) -> RawCheck {
    let Some(node) = keys.node("healthCheck") else {
        return if keys.without::<()>("healthCheck").is_absent() { RawCheck::Absent } else { RawCheck::Bad };
    };
    if !matches!(node.value, Value::Map(_)) {
        return match keys.text("healthCheck", found) {
            Given::Is(spot) => RawCheck::Kind(spot),
            _ => RawCheck::Bad,
        };
    }
    let path_in_file = keys.full("healthCheck");
    let Some(own) = Keys::open(node, &path_in_file, CHECK, found) else { return RawCheck::Bad };
    RawCheck::Own(Box::new(RawOwnCheck {
        line: node.line,
        kind: own.text("type", found),
        path: own.text("path", found),
        host: own.text("host", found),
        status: own.text("status", found),
        text: own.text("text", found),
        port: own.integer("port", found),
        interval: own.text("interval", found),
        timeout: own.text("timeout", found),
        rise: own.integer("rise", found),
        fall: own.integer("fall", found),
        path_in_file,
    }))
}
