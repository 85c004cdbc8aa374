//! Tells the peers that a hold has ended: one datagram each, sent and forgotten. What it says, and when, is decided in `state`.

use super::{Notify, VoteKey};
use crate::release::Notice;
use std::io;
use std::net::UdpSocket;

/// An open socket and everything that a notice is made of.
#[derive(Debug)]
pub(super) struct Teller {
    socket: UdpSocket,
    to: Notify,
}

impl Teller {
    /// From this node's raft address, any port.
    pub(super) fn open(to: &Notify) -> io::Result<Self> {
        let socket = UdpSocket::bind((to.from, 0))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, to: to.clone() })
    }

    /// Shows every peer the secret of a vote. One that can't be sent is like one lost on the way: it is repeated, and peers wait anyway.
    pub(super) fn tell(&self, vote: VoteKey) {
        let notice = Notice { cluster: self.to.cluster, vote, secret: self.to.key.secret(vote) }.encode();
        for peer in &self.to.peers {
            let _ = self.socket.send_to(&notice, peer);
        }
    }
}
