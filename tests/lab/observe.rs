//! What a LAN sees: who answers ARP for the VIP, for how long nobody answers a ping, and which frames announce a move.
//! Each observer is a thread in a host's namespace; it stops when dropped.

use super::net::mac_text;
use super::packet::{Arp, BROADCAST, PacketSocket, icmp6_type, wait_readable};
use super::{Host, ms, process, wait_for};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread in a host's namespace that shares `T` with the test.
struct Watcher<T> {
    shared: Arc<Mutex<T>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Default + Send + 'static> Watcher<T> {
    /// Starts `body(shared, stop)`; returns once `ready` was called by it.
    fn start(host: &Host, body: impl FnOnce(&Mutex<T>, &AtomicBool, &dyn Fn()) + Send + 'static) -> Watcher<T> {
        let (shared, stop) = (Arc::new(Mutex::new(T::default())), Arc::new(AtomicBool::new(false)));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (host, s, st) = (host.clone(), shared.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            host.join_namespace();
            body(&s, &st, &|| ready.send(()).unwrap_or_default());
        });
        is_ready.recv().expect("the observer opens its sockets");
        Watcher { shared, stop, thread: Some(thread) }
    }

    fn get(&self) -> MutexGuard<'_, T> {
        self.shared.lock().expect("an observer doesn't panic while it writes")
    }
}

impl<T> Drop for Watcher<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.take().map(JoinHandle::join);
        if matches!(result, Some(Err(_))) && !std::thread::panicking() {
            panic!("an observer failed; see above");
        }
    }
}

/// One ARP answer for the VIP.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub at: Instant,
    /// The question it answers: counts from 1, one question each 10 ms.
    pub round: u32,
    pub mac: [u8; 6],
}

/// Asks "who has VIP" every 10 ms and writes down every answer. Two MACs for one question are two holders.
pub struct ArpWatch {
    watcher: Watcher<ArpLog>,
}

#[derive(Default)]
struct ArpLog {
    asked: Vec<Instant>,
    answers: Vec<Answer>,
}

impl ArpLog {
    fn rounds(&self) -> u32 {
        u32::try_from(self.asked.len()).expect("a test is short")
    }
}

impl ArpWatch {
    /// Watches `vip` from `host`.
    pub fn start(host: &Host, vip: Ipv4Addr) -> ArpWatch {
        ArpWatch::start_every(host, vip, ms(10))
    }

    /// [`ArpWatch::start`] with another time between two questions, for hosts that are slow.
    pub fn start_every(host: &Host, vip: Ipv4Addr, every: Duration) -> ArpWatch {
        ArpWatch { watcher: Watcher::start(host, move |log, stop, ready| watch_arp(vip, every, log, stop, ready)) }
    }

    /// How many questions were asked so far.
    pub fn rounds(&self) -> u32 {
        self.watcher.get().rounds()
    }

    /// When each question was asked; round 1 is the first.
    pub fn asked(&self) -> Vec<Instant> {
        self.watcher.get().asked.clone()
    }

    /// All answers so far.
    pub fn answers(&self) -> Vec<Answer> {
        self.watcher.get().answers.clone()
    }

    /// The newest answer.
    pub fn last(&self) -> Option<Answer> {
        self.watcher.get().answers.last().copied()
    }

    /// Questions that were answered by more than one MAC.
    pub fn doubles(&self) -> Vec<(u32, BTreeSet<[u8; 6]>)> {
        let log = self.watcher.get();
        let mut by_round = std::collections::BTreeMap::<u32, BTreeSet<[u8; 6]>>::new();
        for answer in &log.answers {
            by_round.entry(answer.round).or_default().insert(answer.mac);
        }
        by_round.retain(|_, macs| macs.len() > 1);
        by_round.into_iter().collect()
    }

    /// Fails the test if two hosts ever answered the same question.
    #[track_caller]
    pub fn assert_one_holder(&self) {
        let doubles = self.doubles();
        if !doubles.is_empty() {
            process::print_logs();
            panic!(
                "two holders: {} of {} questions answered twice, the first {:?}\n{}",
                doubles.len(),
                self.rounds(),
                doubles.first(),
                self.story()
            );
        }
    }

    /// Waits until `host` answers a question asked from now on.
    #[track_caller]
    pub fn wait_answer_by(&self, host: &Host, limit: Duration) {
        let since = self.rounds();
        wait_for(&format!("{} answers ARP for the VIP", host.name()), limit, || {
            self.last().filter(|a| a.round > since && a.mac == host.mac()).map(|_| ())
        });
    }

    /// Waits until somebody answers a question asked from now on, and returns who.
    #[track_caller]
    pub fn wait_answer(&self, limit: Duration) -> [u8; 6] {
        let since = self.rounds();
        wait_for("somebody answers ARP for the VIP", limit, || self.last().filter(|a| a.round > since).map(|a| a.mac))
    }

    /// Waits until nobody has answered the last `questions` questions.
    #[track_caller]
    pub fn wait_silence(&self, questions: u32, limit: Duration) {
        let since = self.rounds();
        wait_for("nobody answers ARP for the VIP", limit, || {
            let log = self.watcher.get();
            let last = log.answers.last().map_or(0, |a| a.round);
            (log.rounds() >= since + questions && log.rounds() - last > questions).then_some(())
        });
    }

    /// Who held the VIP when: one line per stretch of answers from one MAC.
    pub fn story(&self) -> String {
        let answers = self.answers();
        let Some(first) = answers.first() else { return "nobody ever answered".to_owned() };
        let mut lines = Vec::new();
        for stretch in answers.chunk_by(|a, b| a.mac == b.mac && b.round <= a.round + 2) {
            let (a, z) = (stretch[0], stretch[stretch.len() - 1]);
            let at = |t: Instant| t.duration_since(first.at).as_millis();
            lines.push(format!("{:>7} … {:>7} ms  {}", at(a.at), at(z.at), mac_text(a.mac)));
        }
        lines.join("\n")
    }
}

/// The question's number is the sender MAC of an ARP probe (RFC 5227: sender IP 0), so an answer names the question it belongs
/// to, however late it comes, and no host learns anything about us from it.
fn watch_arp(vip: Ipv4Addr, every: Duration, log: &Mutex<ArpLog>, stop: &AtomicBool, ready: &dyn Fn()) {
    let socket = PacketSocket::open();
    ready();
    let mut next = Instant::now();
    let mut buffer = [0u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        let round = {
            let mut log = log.lock().expect("not poisoned");
            log.asked.push(Instant::now());
            log.rounds()
        };
        let n = round.to_be_bytes();
        let asker = [0x0a, 0x51, n[0], n[1], n[2], n[3]];
        let question = Arp { op: 1, sha: asker, spa: Ipv4Addr::UNSPECIFIED, tha: [0; 6], tpa: vip };
        socket.send(&question.frame(BROADCAST, socket.mac));
        next = (next + every).max(Instant::now());
        while let Some(length) = socket.receive(&mut buffer, next) {
            let Some(arp) = Arp::parse(&buffer[..length]) else { continue };
            if arp.op == 2 && arp.spa == vip && arp.tha[..2] == [0x0a, 0x51] {
                let round = u32::from_be_bytes([arp.tha[2], arp.tha[3], arp.tha[4], arp.tha[5]]);
                log.lock().expect("not poisoned").answers.push(Answer { at: Instant::now(), round, mac: arp.sha });
            }
        }
    }
}

/// Pings an address every 2 ms and knows afterwards when nobody answered.
pub struct Prober {
    watcher: Watcher<Vec<Probe>>,
}

/// One echo request.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub sent: Instant,
    pub answered: Option<Instant>,
}

/// A stretch of unanswered probes between two answered ones.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// When the last answered probe before it was sent.
    pub from: Instant,
    /// Until the first answered probe after it was sent.
    pub length: Duration,
}

impl Prober {
    /// Interval between two probes.
    pub const EVERY: Duration = Duration::from_millis(2);

    /// Probes `target` (IPv4 or IPv6) from `host`.
    pub fn start(host: &Host, target: impl Into<IpAddr>) -> Prober {
        Prober::start_every(host, target, Prober::EVERY)
    }

    /// [`Prober::start`] with another time between two probes, for hosts that are slow.
    pub fn start_every(host: &Host, target: impl Into<IpAddr>, every: Duration) -> Prober {
        let target = target.into();
        Prober { watcher: Watcher::start(host, move |log, stop, ready| probe(target, every, log, stop, ready)) }
    }

    /// Everything sent so far.
    pub fn probes(&self) -> Vec<Probe> {
        self.watcher.get().clone()
    }

    /// Waits until a probe sent from now on is answered.
    #[track_caller]
    pub fn wait_answer(&self, limit: Duration) {
        let since = Instant::now();
        wait_for("a ping of the VIP is answered", limit, || self.first_answer_after(since));
    }

    /// When the first answered probe sent at or after `since` was sent.
    pub fn first_answer_after(&self, since: Instant) -> Option<Instant> {
        let log = self.watcher.get();
        let tail = &log[log.partition_point(|p| p.sent < since)..];
        tail.iter().find(|p| p.answered.is_some()).map(|p| p.sent)
    }

    /// Every stretch in which at least one probe was lost, between two answered ones.
    pub fn outages(&self) -> Vec<Outage> {
        let log = self.watcher.get();
        let answered: Vec<usize> = (0..log.len()).filter(|&i| log[i].answered.is_some()).collect();
        let gaps = answered.windows(2).filter(|w| w[1] - w[0] > 1);
        gaps.map(|w| Outage { from: log[w[0]].sent, length: log[w[1]].sent - log[w[0]].sent }).collect()
    }

    /// The longest outage; zero where every probe was answered.
    pub fn longest_outage(&self) -> Duration {
        self.outages().iter().map(|o| o.length).max().unwrap_or_default()
    }
}

fn probe(target: IpAddr, every: Duration, log: &Mutex<Vec<Probe>>, stop: &AtomicBool, ready: &dyn Fn()) {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol)).expect("root opens raw sockets");
    socket.set_nonblocking(true).expect("a socket can be non-blocking");
    ready();
    let to = SockAddr::from(SocketAddr::new(target, 0));
    let mut next = Instant::now();
    let mut buffer = [0u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        let number = {
            let mut log = log.lock().expect("not poisoned");
            log.push(Probe { sent: Instant::now(), answered: None });
            u32::try_from(log.len() - 1).expect("a test is short")
        };
        // Unreachable, queue full, link down: not answered, which is what is measured.
        let _ = socket.send_to(&echo_request(target, number), &to);
        next = (next + every).max(Instant::now());
        while wait_readable(&socket, next) {
            let Ok(length) = socket.read(&mut buffer) else { continue };
            let Some(number) = echo_reply(target, &buffer[..length]) else { continue };
            if let Some(p) = log.lock().expect("not poisoned").get_mut(number as usize) {
                p.answered.get_or_insert_with(Instant::now);
            }
        }
    }
}

const ECHO_MARK: [u8; 4] = *b"kvip";

/// ICMP echo request with the probe's number in its payload; ICMPv6's checksum is filled in by the kernel.
fn echo_request(target: IpAddr, number: u32) -> Vec<u8> {
    let kind = if target.is_ipv4() { 8 } else { 128 };
    let [_, _, hi, lo] = number.to_be_bytes();
    let mut message = [&[kind, 0, 0, 0, 0x4b, 0x56, hi, lo][..], &ECHO_MARK, &number.to_be_bytes()].concat();
    if target.is_ipv4() {
        let mut sum: u32 = message.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    message
}

/// The probe's number, if this is the answer to one of ours. Raw IPv4 sockets deliver the IP header too, IPv6 ones don't.
fn echo_reply(target: IpAddr, packet: &[u8]) -> Option<u32> {
    let (icmp, kind) = match target {
        IpAddr::V4(_) => (packet.get(usize::from(packet.first()? & 15) * 4..)?, 0),
        IpAddr::V6(_) => (packet, 129),
    };
    (*icmp.first()? == kind && icmp.get(8..12)? == ECHO_MARK).then_some(())?;
    Some(u32::from_be_bytes(icmp.get(12..16)?.try_into().ok()?))
}

/// Keeps every ARP and neighbour advertisement frame that reaches (or leaves) a host, byte for byte.
pub struct Capture {
    watcher: Watcher<Vec<Frame>>,
}

/// One captured frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub at: Instant,
    pub bytes: Vec<u8>,
}

impl Capture {
    /// Captures on eth0 of `host`.
    pub fn start(host: &Host) -> Capture {
        Capture {
            watcher: Watcher::start(host, |log: &Mutex<Vec<Frame>>, stop, ready| {
                let socket = PacketSocket::open();
                ready();
                let mut buffer = [0u8; 2048];
                while !stop.load(Ordering::Relaxed) {
                    let Some(length) = socket.receive(&mut buffer, Instant::now() + Duration::from_millis(20)) else {
                        continue;
                    };
                    let bytes = &buffer[..length];
                    if Arp::parse(bytes).is_some() || icmp6_type(bytes) == Some(136) {
                        log.lock().expect("not poisoned").push(Frame { at: Instant::now(), bytes: bytes.to_vec() });
                    }
                }
            }),
        }
    }

    /// Everything captured so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.watcher.get().clone()
    }

    /// Waits until a frame with exactly these bytes was captured.
    #[track_caller]
    pub fn wait_frame(&self, what: &str, bytes: &[u8], limit: Duration) -> Frame {
        let end = Instant::now() + limit;
        loop {
            if let Some(frame) = self.frames().into_iter().find(|f| f.bytes == bytes) {
                return frame;
            }
            if Instant::now() > end {
                let near: Vec<String> =
                    self.frames().iter().filter(|f| f.bytes.len() == bytes.len()).map(|f| hex(&f.bytes)).collect();
                process::print_logs();
                panic!("no {what} within {limit:?}; wanted\n  {}\nseen of that length:\n  {}", hex(bytes), near.join("\n  "));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Bytes as hex, for failure messages.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}
