//! What one program of the daemon hands to the next, which takes its place in the same process (see [`upgrade`](super::upgrade)): a file in
//! memory, found by the number of its descriptor in the environment.

use super::holder::KeptHolder;
use crate::balancer::KeptForwarder;
use crate::cluster;
use crate::config::{Balancer, Config, Peer};
use crate::release::Key;
use crate::sys::clock::Instant;
use crate::sys::handed;
use crate::sys::notify::KeptManager;
use crate::vip::KeptLink;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

/// The environment variable with the number.
pub const VARIABLE: &str = "KUBE_VIP_RESUME";
/// Changes whenever anything that is written here does, in form or in meaning.
pub const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"kvbaton\0";
/// Magic, format, checksum.
const HEAD: usize = 16;
/// 65,536 connections with their bytes in memory fit.
const MOST: u64 = 1 << 30;

/// What can't change while a node runs: its keeper knows it, its peers do, or its promises depend on it.
pub type Fixed = BTreeMap<String, String>;

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baton {
    /// The process it is for.
    pub pid: u32,
    /// When the change began.
    pub began: Instant,
    /// When the daemon's first program started.
    pub started: Instant,
    /// The version of that, and so of the keeper.
    pub first: String,
    /// [`fixed`].
    pub fixed: Fixed,
    /// [`Key`].
    pub key: [u8; 32],
    /// The process may not be looked into by others of its user.
    pub guarded: bool,
    /// The control socket.
    pub control: RawFd,
    /// Who waits there for an answer.
    pub client: Option<RawFd>,
    /// The keeper.
    pub link: Option<KeptLink>,
    /// The service manager.
    pub manager: Option<KeptManager>,
    /// The holder's part.
    pub holder: KeptHolder,
    /// Who says how long the VIP may be held.
    pub lead: KeptLead,
    /// Listeners and connections.
    pub forwarder: KeptForwarder,
}

/// See [`Baton::lead`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeptLead {
    /// raft, with the sockets that peers know.
    Cluster {
        /// Its state.
        kept: Box<cluster::Kept>,
        /// For raft.
        tcp: RawFd,
        /// For notices.
        udp: RawFd,
    },
    /// A clock.
    Single {
        /// The running hold's number.
        term: u64,
        /// Its end.
        until: Instant,
    },
}

impl Baton {
    /// As a file in memory.
    ///
    /// # Errors
    /// Out of memory.
    pub fn write(&self) -> io::Result<OwnedFd> {
        handed::write(c"kube-vip-baton", &self.encode()?)
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let body = postcard::to_allocvec(self).map_err(io::Error::other)?;
        let numbers = [FORMAT, crc32fast::hash(&body)].map(u32::to_le_bytes);
        Ok([&MAGIC, numbers.as_flattened(), &body].concat())
    }

    /// Reads what the earlier program left at the descriptor of this number, for the process `pid`.
    ///
    /// # Errors
    /// Text for the log: there is nothing, it is damaged, or not for this program or this process.
    pub fn read(number: &str, pid: u32) -> Result<Self, String> {
        let fd = number.parse().map_err(|_| format!("{VARIABLE}={number:?} is no number of a descriptor"))?;
        let bytes = handed::take(fd).and_then(|file| handed::read(file, MOST));
        Self::decode(&bytes.map_err(|e| format!("can't read what was handed on at {VARIABLE}={number}: {e}"))?, pid)
    }

    fn decode(bytes: &[u8], pid: u32) -> Result<Self, String> {
        let (head, body) = bytes.split_first_chunk::<HEAD>().ok_or("what was handed on is cut off")?;
        let word = |at: usize| head.get(at..at + 4).and_then(|w| w.try_into().ok()).map_or(0, u32::from_le_bytes);
        if head[..8] != MAGIC {
            return Err("what was handed on is something else".to_string());
        }
        if word(8) != FORMAT {
            return Err(format!("what was handed on has format {}, this program reads {FORMAT}", word(8)));
        }
        if word(12) != crc32fast::hash(body) {
            return Err("what was handed on is damaged".to_string());
        }
        let baton: Self = postcard::from_bytes(body).map_err(|e| format!("what was handed on can't be read: {e}"))?;
        match baton.pid == pid {
            true => Ok(baton),
            false => Err(format!("what was handed on is for process {}, this is {pid}", baton.pid)),
        }
    }

    /// The key of this run.
    pub fn key(&self) -> Key {
        Key::from_bytes(self.key)
    }
}

/// See [`Fixed`]: by the names of the file's keys.
pub fn fixed(config: &Config) -> Fixed {
    let peer = |p: &Peer| format!("{} at {}", p.id, p.address);
    let mut peers: Vec<String> = config.remotes.iter().map(peer).collect();
    peers.sort_unstable();
    let port = |b: &Balancer| format!("{}{}", b.port, if b.bind_to_vip { " on the VIP" } else { "" });
    let mut ports: Vec<String> = config.balancers.iter().map(port).collect();
    ports.sort_unstable();
    let all = [
        ("localPeer", peer(&config.local)),
        ("remotePeers", peers.join(", ")),
        ("interface", config.interface.clone()),
        ("vip", config.vip.to_string()),
        ("gratuitousARP", config.announce.to_string()),
        ("singleNode", config.single_node.to_string()),
        ("disableVIP", config.disable_vip.to_string()),
        ("timing", format!("{} ms, {} ms", config.timing.heartbeat.as_millis(), config.timing.lease.as_millis())),
        ("fence", if config.fence_fast { "fast" } else { "safe" }.to_string()),
        ("stateDir", config.state_dir.display().to_string()),
        ("controlSocket", config.control_socket.display().to_string()),
        ("user", config.user.clone().unwrap_or_default()),
        ("group", config.group.clone().unwrap_or_default()),
        // One that can't be opened must be found before the change of programs: by a reload.
        ("set of ports in loadBalancers (`kube-vip reload` first)", ports.join(", ")),
    ];
    all.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// The keys whose values differ, in words; none: they are the same.
pub fn differences(running: &Fixed, file: &Fixed) -> Option<String> {
    let other = |key: &&String| running.get(*key) != file.get(*key);
    let keys: Vec<&str> =
        running.keys().chain(file.keys().filter(|k| !running.contains_key(*k))).filter(other).map(String::as_str).collect();
    (!keys.is_empty()).then(|| keys.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baton() -> Baton {
        Baton {
            pid: 7,
            began: Instant::from_nanos(5),
            started: Instant::from_nanos(3),
            first: "0.1.0".to_string(),
            fixed: Fixed::from([("vip".to_string(), "10.0.0.1".to_string())]),
            key: [9; 32],
            guarded: true,
            control: 11,
            client: Some(12),
            link: None,
            manager: None,
            holder: KeptHolder::default(),
            lead: KeptLead::Single { term: 4, until: Instant::from_nanos(99) },
            forwarder: KeptForwarder::default(),
        }
    }

    #[test]
    fn it_reads_back_in_its_own_process_only() {
        let bytes = baton().encode().expect("it can be written");
        assert_eq!(Baton::decode(&bytes, 7), Ok(baton()));
        assert!(Baton::decode(&bytes, 8).expect_err("another process").contains("for process 7, this is 8"));
    }

    #[test]
    fn damage_of_any_kind_is_told_and_never_more() {
        let bytes = baton().encode().expect("it can be written");
        for cut in 0..bytes.len() {
            Baton::decode(&bytes[..cut], 7).expect_err("cut off");
        }
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0x10;
            Baton::decode(&other, 7).expect_err("damaged");
        }
        let mut other = bytes;
        other[8] = 2;
        assert!(Baton::decode(&other, 7).expect_err("a later format").contains("format 2, this program reads 1"));
        let body = postcard::to_allocvec(&u64::MAX).expect("bytes");
        let numbers = [FORMAT, crc32fast::hash(&body)].map(u32::to_le_bytes);
        Baton::decode(&[&MAGIC, numbers.as_flattened(), &body].concat(), 7).expect_err("sound bytes of something else");
    }

    #[test]
    fn a_descriptor_that_was_not_handed_on_is_an_error() {
        for number in ["", "x", "-1", "0", "2", "999999"] {
            Baton::read(number, 7).expect_err(number);
        }
    }

    #[test]
    fn differences_are_named_by_key() {
        let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Fixed>();
        let running = of(&[("timing", "fast"), ("vip", "a")]);
        assert_eq!(differences(&running, &running), None);
        assert_eq!(
            differences(&running, &of(&[("timing", "lan"), ("vip", "a"), ("zone", "1")])).as_deref(),
            Some("timing, zone")
        );
    }
}
