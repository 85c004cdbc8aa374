//! Three hosts in a row: client – forwarder – server, joined by veth pairs. They are gone with the namespaces of the run.

use super::lab::{Host, Lab, sh};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Where kube-vip listens.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 98, 1, 100);
/// The forwarder, as the client sees it.
pub const FORWARDER: Ipv4Addr = Ipv4Addr::new(10, 98, 1, 1);
/// The server.
pub const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 98, 2, 2)), 7000);

/// The hosts.
pub struct Scene {
    pub client: Host,
    pub forwarder: Host,
    pub server: Host,
}

impl Scene {
    /// Makes them.
    pub fn new() -> Scene {
        let [client, forwarder, server] = ["client", "forwarder", "server"].map(Lab::apart);
        sh("ip link add eth0 netns client type veth peer name eth0 netns forwarder
            ip link add eth1 netns forwarder type veth peer name eth0 netns server
            ip -n client addr add 10.98.1.2/24 dev eth0
            ip -n forwarder addr add 10.98.1.1/24 dev eth0
            ip -n forwarder addr add 10.98.2.1/24 dev eth1
            ip -n server addr add 10.98.2.2/24 dev eth0
            for link in 'client eth0' 'forwarder eth0' 'forwarder eth1' 'server eth0'; do ip -n ${link% *} link set ${link#* } up; done
            ip -n client route add default via 10.98.1.1
            ip -n server route add default via 10.98.2.1");
        for host in [&client, &forwarder, &server] {
            // Tens of thousands of connections in a row: ports in TIME_WAIT are used again after a second.
            host.sh("cd /proc/sys/net/ipv4; echo '1024 65535' >ip_local_port_range; echo 1 >tcp_tw_reuse; echo 4096 >tcp_max_syn_backlog
                     echo 0 >tcp_slow_start_after_idle");
        }
        forwarder.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
        Scene { client, forwarder, server }
    }
}

/// Asks until there is an answer; an error after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T, String> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if Instant::now() > end {
            return Err(format!("waited {limit:?} in vain until {what}"));
        }
        std::thread::sleep(Duration::from_millis(5)); // the pace of asking
    }
}
