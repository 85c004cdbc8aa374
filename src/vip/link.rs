//! The socket pair between keeper and daemon: orders one way, reports the other, each a message of its own (SOCK_SEQPACKET).

use super::wire::{self, Packet};
use super::{Order, Report, host};
use crate::reactor::Async;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A connected pair, non-blocking, closed on exec: the keeper's end and the daemon's. Each process must close the other's end.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

pub(super) fn put(fd: &impl AsFd, packet: &Packet) -> io::Result<()> {
    let sent = send(fd.as_fd().as_raw_fd(), packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    sent.map(drop).map_err(io::Error::from)
}

/// The next message; `None` at the end (the other side is gone). Interrupted calls are repeated.
pub(super) fn get(fd: &impl AsFd) -> io::Result<Option<Packet>> {
    let mut packet = [0; wire::LEN];
    loop {
        return match recv(fd.as_fd().as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Ok(0) | Err(Errno::ECONNRESET) => Ok(None),
            Ok(n) => {
                packet[n..].fill(0);
                Ok(Some(packet))
            }
            Err(Errno::EINTR) => continue,
            Err(e) => Err(e.into()),
        };
    }
}

/// The keeper as the daemon sees it: a process behind a socket, or a simulator's model of one.
pub trait KeeperSide {
    /// Sends an order, never waits. Err: the keeper is gone.
    fn send(&self, order: Order) -> io::Result<()>;
    /// The next report. Err: the keeper is gone, and nothing more will come.
    fn next(&self) -> Pin<Box<dyn Future<Output = io::Result<Report>> + '_>>;
    /// Whether this host's kernel has the VIP on any interface; `None`: it can't be read now.
    fn present(&self) -> Option<bool>;
}

impl KeeperSide for KeeperLink {
    fn send(&self, order: Order) -> io::Result<()> {
        KeeperLink::send(self, order)
    }

    fn next(&self) -> Pin<Box<dyn Future<Output = io::Result<Report>> + '_>> {
        Box::pin(KeeperLink::next(self))
    }

    fn present(&self) -> Option<bool> {
        host::present(self.vip).ok()
    }
}

/// The daemon's end: sends orders without ever waiting, and hears reports.
#[derive(Debug)]
pub struct KeeperLink {
    fd: Async<OwnedFd>,
    vip: IpAddr,
    pending: Cell<Option<Order>>,
}

impl KeeperLink {
    /// Over the daemon's end of [`pair`]. Call it in the daemon's process, after the fork.
    pub fn new(fd: OwnedFd, vip: IpAddr) -> io::Result<Self> {
        Ok(Self { fd: Async::new(fd)?, vip, pending: Cell::new(None) })
    }

    /// Sends an order. Where the socket is full (the keeper doesn't read), the newest `Hold` or `LetGo` waits in one slot and goes out by
    /// the next `send` or [`KeeperLink::next`]; a `Probe` is then dropped. Err: the keeper is gone.
    pub fn send(&self, order: Order) -> io::Result<()> {
        if order == Order::Probe && self.pending.get().is_some() {
            return Ok(());
        }
        self.pending.set((order != Order::Probe).then_some(order));
        match put(self.fd.get_ref(), &order.encode()) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => {
                self.pending.set(None);
                result
            }
        }
    }

    /// The next report. Err (UnexpectedEof and others): the keeper is gone, and nothing more will come.
    pub async fn next(&self) -> io::Result<Report> {
        loop {
            let packet = poll_fn(|cx| self.poll(cx)).await?;
            let packet = packet.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the keeper has ended"))?;
            if let Some(report) = Report::decode(&packet) {
                return Ok(report); // it always is one: one binary on both ends
            }
        }
    }

    /// The next packet; meanwhile the pending order goes out as soon as there is room.
    fn poll(&self, cx: &Context<'_>) -> Poll<io::Result<Option<Packet>>> {
        let read = self.fd.poll_read_with(cx, get);
        if read.is_pending()
            && self.pending.get().is_some()
            && let Poll::Ready(Err(gone)) = self.fd.poll_write_with(cx, |fd| self.send_pending(fd))
        {
            return Poll::Ready(Err(gone));
        }
        read
    }

    fn send_pending(&self, fd: &OwnedFd) -> io::Result<()> {
        self.pending.get().map_or(Ok(()), |order| put(fd, &order.encode()))?;
        self.pending.set(None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RefusedWhy, VoteKey};
    use super::*;
    use crate::reactor::block_on;
    use crate::sys::clock::Instant;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const LET_GO: Order = Order::LetGo { vote: VoteKey { term: 9, node: 1 } };

    fn hold(n: u64) -> Order {
        Order::Hold { vote: VoteKey { term: n, node: 1 }, until: Instant::from_nanos(n) }
    }

    #[test]
    fn the_newest_order_wins_when_the_keeper_does_not_read() {
        let (keeper, daemon) = pair().expect("a socket pair");
        let link = KeeperLink::new(daemon, VIP).expect("a link");
        let mut sent = 0;
        while link.pending.get().is_none() {
            sent += 1;
            link.send(hold(sent)).expect("sending never fails on a full socket");
            assert!(sent < 1_000_000, "the socket has a bound");
        }
        link.send(hold(sent + 1)).expect("still none");
        link.send(Order::Probe).expect("dropped");
        assert_eq!(link.pending.get(), Some(hold(sent + 1)));
        let mut read = Vec::new();
        while let Ok(Some(p)) = get(&keeper) {
            read.push(Order::decode(&p).expect("an order"));
        }
        assert_eq!(read.last(), Some(&hold(sent - 1)));
        put(&keeper, &Report::Link { up: true }.encode()).expect("room for a report");
        let both = smol::future::zip(link.next(), async {
            smol::future::yield_now().await;
        });
        assert_eq!(block_on(both).expect("epoll").0.ok(), Some(Report::Link { up: true }));
        link.send(LET_GO).expect("room again");
        let orders: Vec<_> = std::iter::from_fn(|| get(&keeper).ok().flatten()).filter_map(|p| Order::decode(&p)).collect();
        assert_eq!(orders.last(), Some(&LET_GO));
        assert!(!orders.contains(&hold(sent)), "the older pending order is gone");
    }

    #[test]
    fn the_end_is_an_error_and_garbage_is_skipped() {
        let (keeper, daemon) = pair().expect("a socket pair");
        let link = KeeperLink::new(daemon, VIP).expect("a link");
        put(&keeper, &[0xee; wire::LEN]).expect("room");
        let report = Report::Refused { vote: VoteKey::default(), why: RefusedWhy::Spent };
        put(&keeper, &report.encode()).expect("room");
        drop(keeper);
        assert_eq!(block_on(link.next()).expect("epoll").ok(), Some(report));
        assert_eq!(block_on(link.next()).expect("epoll").map_err(|e| e.kind()), Err(io::ErrorKind::UnexpectedEof));
        assert!(link.send(LET_GO).is_err());
    }
}
