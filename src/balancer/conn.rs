//! One connection: a client's socket, a backend's, and a direction from each to the other.

use super::client::Client;
use super::flow::{Bench, DEAD, EOF, FIN_SENT, Half, Step, pump};
use super::pool::Tried;
use crate::sys::tcp;
use std::net::SocketAddr;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who connected to us.
    Client = 0,
    /// Whom we connected to.
    Backend = 1,
}

/// The connect to the backend has not ended yet.
pub const CONNECTING: u16 = 1;
/// Is in the queue.
pub const QUEUED: u16 = 1 << 1;
/// To be reset at its next turn: the VIP is gone.
pub const DOOMED: u16 = 1 << 2;
/// A timeout has passed; to be dealt with at its next turn.
pub const EXPIRED: u16 = 1 << 3;
/// Has lived long enough for the options of long connections; to be set at its next turn.
pub const SETTLE: u16 = 1 << 4;
/// Has them.
pub const SETTLED: u16 = 1 << 5;
/// The client came to the VIP: without it nothing reaches the client any more.
pub const ON_VIP: u16 = 1 << 6;
/// Waits for a place on a backend.
pub const WAITING: u16 = 1 << 7;
/// Has waited for one.
pub const WAITED: u16 = 1 << 8;
/// The backend has answered, and no byte was read from either side since.
pub const FRESH: u16 = 1 << 9;
/// A proxy's, which has not said yet for whom it comes; CONNECTING too.
pub const ARRIVING: u16 = 1 << 10;
/// Connections of its client are counted, this one among them.
pub const COUNTED: u16 = 1 << 11;

/// One connection. Small, because there may be very many idle ones: see the size test below.
#[derive(Debug)]
pub struct Conn {
    /// The client's end, and the bytes from it.
    pub client: Half,
    /// The backend's end, and the bytes from it.
    pub backend: Half,
    /// Members tried so far.
    pub tried: Tried,
    /// When it last did something: ms since the forwarder began, wrapping.
    pub touched: u32,
    /// Who the client is, by the proxy's word where one brought it.
    pub peer: Client,
    /// What the client connected to by the proxy's word, where backends are told.
    pub to: Option<Box<SocketAddr>>,
    /// Number of its listener.
    pub listener: u16,
    /// The slot of the member on which it has a place (connecting or open); `pool::NOWHERE`: on none.
    pub target: u16,
    /// Flags of this file.
    pub state: u16,
}

/// What becomes of a connection after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to do until the next event.
    Idle,
    /// Another turn after the others had theirs.
    Again,
    /// Both sides sent everything and FIN: close.
    Complete,
    /// Close with RST to both.
    Reset,
}

impl Conn {
    /// Whether any of `flags` is set.
    pub const fn is(&self, flags: u16) -> bool {
        self.state & flags != 0
    }

    /// One of its ends.
    pub const fn end(&mut self, end: End) -> &mut Half {
        match end {
            End::Client => &mut self.client,
            End::Backend => &mut self.backend,
        }
    }

    /// Whether it can be sent to another backend: this one broke before it said anything, and the client is there and was not
    /// heard either.
    pub fn can_turn_elsewhere(&self) -> bool {
        let said = || self.backend.fd().is_some_and(|fd| tcp::peek(fd).is_some_and(|n| n > 0));
        self.is(FRESH) && self.backend.has(DEAD) && !self.client.has(DEAD | EOF) && !said()
    }

    /// Whether one side has sent FIN, the other not yet.
    pub const fn half_closed(&self) -> bool {
        self.client.has(FIN_SENT) || self.backend.has(FIN_SENT)
    }

    /// Whether it waits for the one direction that is still open to bring something; not while that waits for its reader.
    pub const fn awaits_other_half(&self) -> bool {
        let (client, backend) = (&self.client, &self.backend);
        client.has(FIN_SENT) && !client.blocked_on(backend) || backend.has(FIN_SENT) && !backend.blocked_on(client)
    }

    /// One read in each direction, and what follows from it; and the bytes read, from the client and from the backend.
    pub fn turn(&mut self, bench: &mut Bench) -> (Verdict, [usize; 2]) {
        let (client, backend) = (&mut self.client, &mut self.backend);
        (bench.moved, bench.flushed) = (0, 0);
        let up = pump(client, backend, bench);
        let moved_up = std::mem::take(&mut bench.moved);
        let down = pump(backend, client, bench);
        let verdict = match [up, down] {
            [Step::Broken, _] | [_, Step::Broken] => Verdict::Reset,
            [Step::Idle, Step::Idle] => self.pass_fins(Verdict::Idle),
            _ => self.pass_fins(Verdict::Again),
        };
        (verdict, [moved_up, bench.moved])
    }

    /// Passes FINs on, and finds connections that are complete or broken; `otherwise` for the others.
    fn pass_fins(&mut self, otherwise: Verdict) -> Verdict {
        let (client, backend) = (&mut self.client, &mut self.backend);
        if client.has(DEAD) && client.done() || backend.has(DEAD) && backend.done() {
            return Verdict::Reset;
        }
        if client.done() && backend.done() {
            return Verdict::Complete; // close(2) sends the FINs that are missing
        }
        let broke_backend = client.done() && !backend.has(FIN_SENT) && !backend.finish();
        let broke_client = backend.done() && !client.has(FIN_SENT) && !client.finish();
        if broke_backend || broke_client { Verdict::Again } else { otherwise }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        // 18 of them are the client's address, which policies, limits and PROXY headers ask for without a system call.
        assert!(size_of::<Conn>() <= 96, "{} bytes", size_of::<Conn>());
    }
}
