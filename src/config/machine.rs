//! Facts about this machine, gathered before anything is touched. Effects only: the judging is in `here`.

use super::checked::Config;
use super::here;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

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
    /// Why the state directory can't be made or written, if so: an OS error number and the directory it is about.
    pub state_dir_refused: Option<(i32, PathBuf)>,
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
    let unbindable = here::ports(config).filter_map(|p| Some((p.address, try_bind(p.address)?))).collect();
    Machine {
        interfaces: interfaces(),
        capabilities: capabilities(),
        privileged_below: privileged_below(),
        unbindable,
        state_dir_refused: if config.single_node { None } else { writable(&config.state_dir).err() },
    }
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
fn try_bind(address: SocketAddr) -> Option<i32> {
    TcpListener::bind(address).err().map(|e| e.raw_os_error().unwrap_or(libc::EIO))
}

/// Whether the directory, or the nearest one above it that exists, can be written.
fn writable(dir: &Path) -> Result<(), (i32, PathBuf)> {
    for place in dir.ancestors() {
        let meta = match std::fs::metadata(place) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err((e.raw_os_error().unwrap_or(libc::EIO), place.to_owned())),
        };
        if !meta.is_dir() {
            return Err((libc::ENOTDIR, place.to_owned()));
        }
        let access = nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK;
        return nix::unistd::access(place, access).map_err(|e| (e as i32, place.to_owned()));
    }
    Ok(())
}
