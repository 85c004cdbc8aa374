//! Facts about this machine, gathered before anything is touched. Effects only: the judging is in `here`.

use super::checked::Config;
use super::here;
use super::lan::Arp;
use super::places::{self, Daemon, Refused};
use crate::sys::{caps, tcp};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// What the machine is like, as far as a configuration cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The network interfaces; none if the kernel didn't tell, and then nothing is said about them.
    pub interfaces: Option<Vec<Interface>>,
    /// Effective capabilities as a bit set (`CapEff` in /proc/self/status); none if unknown.
    pub capabilities: Option<u64>,
    /// Ports below this need CAP_NET_BIND_SERVICE (sysctl net.ipv4.ip_unprivileged_port_start).
    pub privileged_below: u16,
    /// Addresses that could not be bound, with the OS error number.
    pub unbindable: Vec<(SocketAddr, i32)>,
    /// Why `user` and `group` can't be found, each with its key.
    pub unknown_accounts: Vec<(&'static str, String)>,
    /// The daemon is to be another user or group than this process.
    pub changes_user: bool,
    /// What is wrong with the state directory.
    pub state_dir_refused: Option<Refused>,
    /// What is wrong with the control socket's path.
    pub socket_refused: Option<Refused>,
    /// What each interface answers ARP for; empty where unknown.
    pub arp: Vec<Arp>,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// Its IP addresses.
    pub addresses: Vec<IpAddr>,
}

/// Looks at the machine with the eyes of `config`. Binds and closes the ports it names, changes nothing.
pub fn gather(config: &Config) -> Machine {
    let unbindable = here::ports(config).filter_map(|p| Some((p.address, try_bind(&p)?))).collect();
    let capabilities = capabilities();
    let mut unknown_accounts = Vec::new();
    let mut find =
        |key, user, group| caps::ids(user, group).map_err(|e| unknown_accounts.push((key, e.to_string()))).unwrap_or_default();
    let (uid, users_group) = find("user", config.user.as_deref(), None);
    let (_, group) = find("group", None, config.group.as_deref());
    let daemon = Daemon::new(uid, group.or(users_group), capabilities);
    Machine {
        interfaces: interfaces(),
        capabilities,
        privileged_below: privileged_below(),
        unbindable,
        changes_user: daemon.changes(),
        state_dir_refused: if config.single_node { None } else { places::state_dir(config, &daemon).err() },
        socket_refused: places::socket(config, &daemon).err(),
        unknown_accounts,
        arp: arp(),
    }
}

fn arp() -> Vec<Arp> {
    let mut all: BTreeMap<String, Arp> = BTreeMap::new();
    for entry in getifaddrs().into_iter().flatten().filter(|e| e.flags.contains(InterfaceFlags::IFF_UP)) {
        let (name, mask) = (entry.interface_name, entry.netmask);
        let v4 = |a: Option<nix::sys::socket::SockaddrStorage>| a.and_then(|a| Some(a.as_sockaddr_in()?.ip()));
        let Some(network) = v4(entry.address).zip(v4(mask)) else { continue };
        all.entry(name).or_default().networks.push(network);
    }
    let told = |name: &str, key: &str| {
        let value =
            |conf: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{conf}/{key}")).ok()?.trim().parse().ok();
        value("all").max(value(name)).unwrap_or(0u32)
    };
    let finish = |(name, arp): (String, Arp)| Arp {
        proxy: told(&name, "proxy_arp") > 0,
        ignore: told(&name, "arp_ignore"),
        name,
        ..arp
    };
    all.into_iter().map(finish).collect()
}

/// The addresses of all interfaces, loopback included; empty if the kernel didn't tell.
pub fn addresses() -> Vec<IpAddr> {
    interfaces().unwrap_or_default().into_iter().flat_map(|i| i.addresses).collect()
}

/// The first of systemd's `$STATE_DIRECTORY` (systemd.exec(5): several are separated by colons).
pub fn state_directory() -> Option<PathBuf> {
    let value = std::env::var("STATE_DIRECTORY").ok()?;
    value.split(':').next().filter(|dir| dir.starts_with('/')).map(PathBuf::from)
}

fn interfaces() -> Option<Vec<Interface>> {
    let mut all: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in getifaddrs().ok()? {
        let name = entry.interface_name;
        let up = entry.flags.contains(InterfaceFlags::IFF_UP);
        let known = all.entry(name.clone()).or_insert(Interface { name, up, addresses: Vec::new() });
        let Some(address) = entry.address else { continue };
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        known.addresses.extend(v4.or(v6));
    }
    Some(all.into_values().collect())
}

fn capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

fn privileged_below() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}

/// The OS error number that refuses a listener there, if one does.
fn try_bind(port: &here::Port) -> Option<i32> {
    tcp::listen(port.address, port.on_vip, 1).err().map(|e| e.raw_os_error().unwrap_or(libc::EIO))
}
