//! How many frames a quiet cluster costs the leader's wire.

use super::lab::Host;
use super::lab::node::RAFT_PORT;
use super::lab::packet::{Arp, PacketSocket};
use std::time::{Duration, Instant};

/// Frames per second, in and out, of the program's own protocols: raft, VRRP, ARP.
pub fn frames_per_second(host: &Host, span: Duration) -> f64 {
    let count = host.enter(|| {
        let socket = PacketSocket::open();
        let (end, mut buffer, mut count) = (Instant::now() + span, [0u8; 2048], 0u32);
        while let Some(length) = socket.receive(&mut buffer, end) {
            count += u32::from(is_ours(&buffer[..length]));
            if Instant::now() >= end {
                break;
            }
        }
        count
    });
    f64::from(count) / span.as_secs_f64()
}

fn is_ours(frame: &[u8]) -> bool {
    if Arp::parse(frame).is_some() {
        return true;
    }
    let Some(packet) = frame.get(14..).filter(|p| frame[12..14] == [8, 0] && p.len() >= 20) else { return false };
    let header = usize::from(packet[0] & 15) * 4;
    let port = |at: usize| packet.get(header + at..header + at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    match packet[9] {
        112 => true, // VRRP
        6 | 17 => [port(0), port(2)].contains(&Some(RAFT_PORT)),
        _ => false,
    }
}
