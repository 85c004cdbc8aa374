//! `sample config` and `sample manifest`: what a person edits first.

use super::args::{SampleConfig, SampleManifest};
use super::{Exit, print, usage};
use crate::config::{self, Overrides};
use std::path::Path;

/// What the sample says where neither flag nor environment does. The VIP is nobody's own address, so the sample starts as printed
/// once the addresses are those of real machines.
const LOCAL: &str = "server1:192.168.0.1:10000";
const REMOTES: &str = "server2:192.168.0.2:10000,server3:192.168.0.3:10000";
const BACKENDS: &str = "192.168.0.70:8080,192.168.0.71:8080";

/// Prints the configuration; standard error tells what `check` would refuse in the values given.
pub fn config(args: &SampleConfig) -> Exit {
    let env = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let text = match render(args, &env) {
        Ok(text) => text,
        Err(why) => return usage(&why),
    };
    match (print(text.trim_end()), config::judge(Path::new("sample"), &text, &Overrides::default())) {
        (Exit::Fine, Err(problems)) => super::refuse(&problems),
        (exit, _) => exit,
    }
}

/// The sample with the values of flags, else environment, else defaults.
fn render(args: &SampleConfig, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let text = |flag: &Option<String>, name: &str, default: &str| {
        flag.clone().or_else(|| env(name)).unwrap_or_else(|| default.to_owned())
    };
    let flag = |flag: Option<bool>, name: &str, default: bool| flag.map_or_else(|| boolean(env, name, default), Ok);
    let single = flag(args.single_node, "vip_singlenode", false)?;
    let local = peer("--localPeer", &text(&args.local_peer, "vip_localpeer", LOCAL))?;
    let others = text(&args.remote_peers, "vip_peers", if single { "" } else { REMOTES });
    let remotes = items(&others).map(|item| peer("--remotePeers", item)).collect::<Result<Vec<_>, _>>()?;
    let listed = text(&args.lb_backends, "lb_backends", BACKENDS);
    let backends = items(&listed).map(|item| backend("--lbBackends", item)).collect::<Result<Vec<_>, _>>()?;
    let lb_port = args.lb_port.map_or_else(|| port(env, "lb_port", 8080), Ok)?;
    Ok(SAMPLE
        .replace("{LOCAL}", &peer_yaml(&local, "  "))
        .replace("{REMOTES}", &list_yaml("remotePeers", &remotes.iter().map(|p| peer_yaml(p, "    ")).collect::<Vec<_>>(), ""))
        .replace("{INTERFACE}", &quoted(&text(&args.interface, "vip_interface", "eth0")))
        .replace("{VIP}", &quoted(&text(&args.vip, "vip_address", "192.168.0.100")))
        .replace("{ARP}", bool_yaml(flag(args.arp, "vip_arp", true)?))
        .replace("{SINGLE}", bool_yaml(single))
        .replace("{STARTER}", bool_yaml(flag(args.start_as_leader, "vip_startleader", false)?))
        .replace("{ADDPEERS}", bool_yaml(boolean(env, "vip_addpeerstolb", false)?))
        .replace("{LB_NAME}", &quoted(&text(&args.lb_name, "lb_name", "web")))
        .replace("{LB_TYPE}", &quoted(&text(&args.lb_type, "lb_type", "tcp")))
        .replace("{LB_PORT}", &lb_port.to_string())
        .replace("{LB_BIND}", bool_yaml(flag(args.lb_bind_to_vip, "lb_bindtovip", true)?))
        .replace("{LB_BACKENDPORT}", &port(env, "lb_backendport", 0)?.to_string())
        .replace("{BACKENDS}", &list_yaml("backends", &backends.iter().map(backend_yaml).collect::<Vec<_>>(), "    ")))
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// `id:address:port`, where the address may be IPv6, in brackets or not.
fn peer(flag: &str, text: &str) -> Result<[String; 3], String> {
    let parts = text.split_once(':').and_then(|(id, rest)| Some((id, rest.rsplit_once(':')?)));
    let (id, (address, port)) = parts.ok_or_else(|| format!("{flag} {text:?}: write id:address:port, e.g. {LOCAL}"))?;
    Ok([id.to_owned(), bare(address), decimal(flag, port)?])
}

/// `address:port`; without a port, `backendPort` counts.
fn backend(flag: &str, text: &str) -> Result<[String; 2], String> {
    match text.rsplit_once(':') {
        Some((address, port)) if !text.ends_with(']') && text.parse::<std::net::Ipv6Addr>().is_err() => {
            Ok([bare(address), decimal(flag, port)?])
        }
        _ => Ok([bare(text), String::new()]),
    }
}

fn bare(address: &str) -> String {
    address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address).to_owned()
}

fn decimal(name: &str, text: &str) -> Result<String, String> {
    text.parse::<u16>()
        .map(|p| p.to_string())
        .map_err(|_| format!("{name}: {text:?} is not a port; write a number from 1 to 65535"))
}

fn port(env: &dyn Fn(&str) -> Option<String>, name: &str, default: u16) -> Result<u16, String> {
    let Some(text) = env(name) else { return Ok(default) };
    text.trim()
        .parse()
        .map_err(|_| format!("environment variable {name}: {text:?} is not a port; write a number from 1 to 65535"))
}

/// The spellings of Go's strconv.ParseBool, which read these variables in 2020.
fn boolean(env: &dyn Fn(&str) -> Option<String>, name: &str, default: bool) -> Result<bool, String> {
    let Some(text) = env(name) else { return Ok(default) };
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("environment variable {name}: {text:?} is neither true nor false")),
    }
}

fn bool_yaml(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn peer_yaml([id, address, port]: &[String; 3], indent: &str) -> String {
    format!("id: {}\n{indent}address: {}\n{indent}port: {port}", quoted(id), quoted(address))
}

fn backend_yaml([address, port]: &[String; 2]) -> String {
    let port = if port.is_empty() { String::new() } else { format!("\n        port: {port}") };
    format!("address: {}{port}", quoted(address))
}

fn list_yaml(key: &str, entries: &[String], indent: &str) -> String {
    if entries.is_empty() {
        return format!("{key}: []");
    }
    entries.iter().fold(format!("{key}:"), |text, entry| format!("{text}\n{indent}  - {entry}"))
}

/// A YAML scalar that is read back as this text: plain where that is certain, else in double quotes.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let worded = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain);
    let special = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"].iter().any(|s| text.eq_ignore_ascii_case(s));
    if (worded && !special) || text.parse::<std::net::Ipv4Addr>().is_ok() {
        return text.to_owned();
    }
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        // Braces would look like the sample's own placeholders.
        '{' | '}' => format!("\\x{:02x}", c as u32),
        ' '..='~' => c.to_string(),
        _ if c.is_alphanumeric() => c.to_string(),
        _ => format!("\\U{:08x}", c as u32),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

const SAMPLE: &str = include_str!("sample.yaml");

/// Prints the static Pod.
pub fn manifest(args: &SampleManifest) -> Exit {
    let default = format!("kube-vip:{}", env!("CARGO_PKG_VERSION"));
    let image = quoted(args.image.as_deref().unwrap_or(&default));
    let Some(config) = args.config.to_str().filter(|p| p.starts_with('/')) else {
        return usage("--config: the Pod needs an absolute path of the node, e.g. /etc/kube-vip/config.yaml");
    };
    print(MANIFEST.replace("{IMAGE}", &image).replace("{CONFIG}", &quoted(config)).trim_end())
}

const MANIFEST: &str = include_str!("manifest.yaml");
