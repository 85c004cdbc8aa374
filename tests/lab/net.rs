//! A bridge and hosts on it, each a network namespace with one interface `eth0`.

use super::{Process, sh, wait_until};
use nix::sched::{CloneFlags, setns};
use std::cell::Cell;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

/// The IPv4 VIP of every lab: outside the hosts' range.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 100);
/// The IPv6 VIP of every lab.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 0x100);

/// A bridge in the test's own namespace, waiting for hosts.
pub struct Lab {
    hosts: Cell<u8>,
}

/// One machine on the bridge. Cheap to clone; lives as long as the test.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    number: u8,
}

impl Lab {
    /// Makes the bridge. Call once per test, inside `isolated`.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Lab {
        // No snooping: a real unmanaged switch floods multicast too. No IPv6 on the bridge itself: it is a switch, not a host.
        sh("ip link set lo up; ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
            echo 1 > /proc/sys/net/ipv6/conf/br0/disable_ipv6; ip link set br0 up; mkdir -p /run/netns");
        Lab { hosts: Cell::new(0) }
    }

    /// A host without the lab's bridge, interface and addresses: whoever makes it gives it its own.
    pub fn apart(name: &str) -> Host {
        sh(&format!("mkdir -p /run/netns; ip netns add {name}; ip -n {name} link set lo up"));
        Host { inner: Arc::new(Inner { name: name.to_owned(), number: 0 }) }
    }

    /// Plugs a new host in: 10.99.0.N/24, fd00:99::N/64 and MAC 02:99:00:00:00:N, N counting from 1.
    pub fn host(&self, name: &str) -> Host {
        let number = self.hosts.get() + 1;
        assert!(number < 100, "the VIP is host number 100");
        self.hosts.set(number);
        let host = Host { inner: Arc::new(Inner { name: name.to_owned(), number }) };
        // accept_dad before eth0 arrives: addresses are usable at once, link-local ones too.
        sh(&format!(
            "ip netns add {name}
             ip netns exec {name} sh -c 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'
             ip -n {name} link set lo up
             ip link add p{number} type veth peer name eth0 netns {name} address 02:99:00:00:00:{number:02x}
             ip link set p{number} master br0 up
             ip -n {name} addr add {}/24 dev eth0
             ip -n {name} addr add {}/64 dev eth0 nodad
             ip -n {name} link set eth0 up",
            host.ip4(),
            host.ip6()
        ));
        wait_until(&format!("eth0 of {name} is up"), Duration::from_secs(10), || {
            host.sh("ip -o link show eth0; ip -6 -o addr show dev eth0 scope link").contains("state UP")
        });
        host
    }
}

impl Host {
    /// Its name, also of its namespace.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its IPv4 address.
    pub fn ip4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, self.inner.number)
    }

    /// Its IPv6 address.
    pub fn ip6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, self.inner.number.into())
    }

    /// The MAC of its eth0.
    pub fn mac(&self) -> [u8; 6] {
        [2, 0x99, 0, 0, 0, self.inner.number]
    }

    /// Runs a shell line on this host, as [`super::sh`] does.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        let out = self.run(Command::new("sh").args(["-ec", line]));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "`{line}` on {} failed: {}\n{text}{stderr}", self.name(), out.status);
        text
    }

    /// Runs a program to its end on this host, whatever the outcome.
    #[track_caller]
    pub fn run(&self, command: &Command) -> Output {
        let mut command = self.on_host(command);
        command.output().unwrap_or_else(|e| panic!("can't start {command:?}: {e}"))
    }

    /// Starts a program on this host; its process id is the program's own. Output goes to `<name>.log`.
    pub fn spawn(&self, name: &str, command: &Command) -> Process {
        Process::start(self.on_host(command), name)
    }

    /// `ip netns exec` rather than a bare setns: it also mounts the /sys that belongs to the namespace, as a real host has it,
    /// and then executes the program in its own place.
    fn on_host(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("ip");
        wrapped.args(["netns", "exec", self.name()]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            wrapped.current_dir(dir);
        }
        wrapped
    }

    /// Runs `body` on a thread of this host's network namespace. Sockets it opens stay in there and may be returned.
    pub fn enter<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.join_namespace();
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into this host's network namespace for good.
    pub fn join_namespace(&self) {
        let file = File::open(format!("/run/netns/{}", self.name())).expect("the host's namespace exists");
        setns(file, CloneFlags::CLONE_NEWNET).expect("root of the namespace may enter it");
    }

    /// Whether the kernel has `ip` on eth0: the truth, without asking any daemon.
    pub fn has(&self, ip: impl Into<IpAddr>) -> bool {
        !self.show(ip).is_empty()
    }

    /// The kernel's whole story of `ip` on eth0 (lifetimes, flags, protocol); empty where it is absent.
    pub fn show(&self, ip: impl Into<IpAddr>) -> String {
        self.sh(&format!("ip -d -o addr show dev eth0 to {}", ip.into()))
    }

    /// What this host knows as the MAC of `ip`, as the text of `ip neigh`; empty where unknown.
    pub fn neighbour(&self, ip: impl Into<IpAddr>) -> String {
        let text = self.sh(&format!("ip neigh show to {} dev eth0", ip.into()));
        let mut words = text.split_whitespace().skip_while(|w| *w != "lladdr").skip(1);
        words.next().unwrap_or_default().to_owned()
    }

    /// Pulls the cable: the switch's port goes down, the host sees its carrier go.
    pub fn unplug(&self) {
        sh(&format!("ip link set p{} down", self.inner.number));
    }

    /// Puts the cable back.
    pub fn plug(&self) {
        sh(&format!("ip link set p{} up", self.inner.number));
    }

    /// Goes silent: the switch forgets the port, but the host's carrier stays up.
    pub fn detach(&self) {
        sh(&format!("ip link set p{} nomaster", self.inner.number));
    }

    /// Ends [`Self::detach`].
    pub fn attach(&self) {
        sh(&format!("ip link set p{} master br0", self.inner.number));
    }

    /// Loses every frame that comes from `other`; the way back stays open, and so does everybody else's.
    ///
    /// The frames end in a bridge without ports: tc(8)'s own `drop` is missing from some kernels that have `mirred`.
    pub fn stop_hearing(&self, other: &Host) {
        let (port, [a, b, c, d, e, f]) = (self.inner.number, other.mac());
        sh(&format!(
            "ip link show void >/dev/null 2>&1 || ip link add void type bridge; ip link set void up
             tc qdisc show dev p{port} | grep -q clsact || tc qdisc add dev p{port} clsact
             tc filter add dev p{port} egress protocol all u32 match u32 0x{a:02x}{b:02x}{c:02x}{d:02x} 0xffffffff at -8 \\
                match u32 0x{e:02x}{f:02x}0000 0xffff0000 at -4 action mirred egress redirect dev void"
        ));
    }

    /// Ends [`Self::stop_hearing`], whoever it was about.
    pub fn hear_all(&self) {
        sh(&format!("tc qdisc del dev p{} clsact 2>/dev/null || true", self.inner.number));
    }
}

/// A MAC as ip(8) writes it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}
