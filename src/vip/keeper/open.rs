//! Everything that the keeper needs, opened while it may, and what an earlier run left, swept.

use super::{Keeper, KeeperSpec};
use crate::sys::ioctl::{Interface, Interfaces};
use crate::sys::netlink::{EVENTS, Netlink};
use crate::sys::packet::{Listener, Sender};
use crate::sys::signal::{Signals, TOLD};
use crate::sys::timer::Timer;
use crate::vip::fence::Fence;
use crate::vip::host::{self, Host, OpenError, OpenErrorKind};
use crate::vip::notice::Teller;
use crate::vip::ownership::Identity;
use nix::sys::signal::Signal;
use std::io;

impl Keeper {
    /// Takes the VIP's lock, opens all sockets, sweeps what an earlier run left. Blocks SIGTERM, SIGINT, SIGHUP and SIGCHLD, also for the
    /// process forked next: open [`Signals`] there too. Call it while there is one thread.
    pub fn open(spec: &KeeperSpec) -> Result<Self, OpenError> {
        let interfaces = Interfaces::open().map_err(|e| OpenError::tried("open a socket", "nothing special", &e))?;
        let interface = find_interface(&interfaces, spec)?;
        let lock = host::lock(spec.vip)?;
        let netlink = |e: io::Error| OpenError::tried("open a netlink socket", "nothing special", &e);
        let mut host = Host::open(spec.vip).map_err(netlink)?;
        let events = Netlink::open(EVENTS).map_err(netlink)?;
        if !host.may_change() {
            let text = format!("can't change addresses on {}: Operation not permitted (needs CAP_NET_ADMIN)", spec.interface);
            return Err(OpenError::new(OpenErrorKind::Privileges, text));
        }
        let (sender, listener) = packet_sockets(spec, &interface)?;
        let me = sweep(&mut host, spec, &interface)?;
        // After the sweep: an earlier run's table still guards the address that this run has just removed.
        let mut fence = Fence::open(spec.vip, &spec.interface);
        let fenced = fence.install();
        let other = |what: &'static str| move |e: io::Error| OpenError::tried(what, "nothing special", &e);
        let [term, int, hup] = TOLD;
        let signals = Signals::open(&[term, int, hup, Signal::SIGCHLD]).map_err(other("open a signalfd"))?;
        let timer = Timer::open().map_err(other("open a timerfd"))?;
        let teller = teller(spec);
        let (spec, interface, buffer) = (spec.clone(), Some(interface), vec![0; 32 * 1024].into());
        Ok(Self {
            spec,
            _lock: lock,
            host,
            fence,
            fenced,
            teller,
            events,
            interfaces,
            interface,
            me,
            sender,
            listener,
            signals,
            timer,
            buffer,
            relay: None,
        })
    }
}

fn find_interface(interfaces: &Interfaces, spec: &KeeperSpec) -> Result<Interface, OpenError> {
    let name = &spec.interface;
    let found = interfaces.get(name).map_err(|e| match e.raw_os_error() {
        Some(libc::ENODEV) => {
            let all =
                nix::net::if_::if_nameindex().map(|l| l.iter().map(|i| i.name().to_string_lossy().into_owned()).collect());
            let all: Vec<String> = all.unwrap_or_default();
            OpenError::new(
                OpenErrorKind::Interface,
                format!("there is no interface {name} here; there are: {}", all.join(", ")),
            )
        }
        _ => OpenError::tried(&format!("ask about interface {name}"), "nothing special", &e),
    })?;
    let off = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"));
    if spec.vip.is_ipv6() && off.map_or(true, |t| t.trim() != "0") {
        let text = format!("{name} can't have {}: IPv6 is off there; set net.ipv6.conf.{name}.disable_ipv6=0", spec.vip);
        return Err(OpenError::new(OpenErrorKind::Interface, text));
    }
    Ok(found)
}

/// Where the hardware is not Ethernet there are none. Without `announce` they are only for probes and claims, so a refusal is no error.
fn packet_sockets(spec: &KeeperSpec, interface: &Interface) -> Result<(Option<Sender>, Option<Listener>), OpenError> {
    let Some(mac) = interface.mac else {
        if spec.announce {
            log::info!("{} is not Ethernet: {} is not announced there", spec.interface, spec.vip);
        }
        return Ok((None, None));
    };
    match Sender::open().and_then(|s| Ok((s, Listener::open(interface.index, spec.vip, mac)?))) {
        Ok((sender, listener)) => Ok((Some(sender), Some(listener))),
        Err(_) if !spec.announce => Ok((None, None)),
        Err(e) => Err(OpenError::tried(&format!("open a packet socket on {}", spec.interface), "CAP_NET_RAW", &e)),
    }
}

/// Where there is none the peers wait for the lease; that is worth a line, not a refusal.
fn teller(spec: &KeeperSpec) -> Option<Teller> {
    let to = spec.notify.as_ref()?;
    let failed = |e| log::warn!("can't send from {}: {e}; after a crash the peers wait for the lease to end", to.from);
    Teller::open(to).map_err(failed).ok()
}

fn sweep(host: &mut Host, spec: &KeeperSpec, interface: &Interface) -> Result<Identity, OpenError> {
    let mut me = host::identity(spec.vip, &spec.interface, interface.index, spec.hold, &spec.state_file);
    let swept = host.sweep(&me);
    let report = swept.map_err(|e| OpenError::tried(&format!("remove left-overs of {}", spec.vip), "CAP_NET_ADMIN", &e))?;
    report.removed.iter().for_each(|found| log::info!("removed {found}, left by an earlier run"));
    let foreign =
        |found| log::warn!("this host has {found}, not from kube-vip: it is left alone, and this node can't hold the VIP");
    report.foreign.iter().for_each(foreign);
    me.by_record = !host::keeps_proto();
    if me.by_record
        && let Err(e) = host::write_record(&spec.state_file, &host::record(&spec.interface, spec.vip))
    {
        log::warn!("can't write {}: {e}; this kernel (before 5.18) then can't tell left-overs", spec.state_file.display());
    }
    Ok(me)
}
