//! The socket pair between keeper and daemon: orders one way, reports the other, each a message of its own (SOCK_SEQPACKET).

use super::renewals::Renewals;
use super::wire::{self, Packet};
use super::{Order, Report, VoteKey, host};
use crate::reactor::Async;
use crate::sys::clock::Instant;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// One end: a socket for orders and reports, and a page of memory for renewals of the running hold.
#[derive(Debug)]
pub struct End {
    pub(super) fd: OwnedFd,
    pub(super) renewals: Rc<Renewals>,
}

/// A connected pair, non-blocking, closed on exec: the keeper's end and the daemon's. Each process must drop the other's end.
pub fn pair() -> io::Result<(End, End)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (keeper, daemon) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    let renewals = Rc::new(Renewals::new()?);
    Ok((End { fd: keeper, renewals: renewals.clone() }, End { fd: daemon, renewals }))
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
    /// The end of the hold as the keeper knew it when it last looked, where it looks by itself; `None`: unknown, or nothing is held.
    fn known_until(&self) -> Option<Instant> {
        None
    }
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

    fn known_until(&self) -> Option<Instant> {
        self.held.get().map(|_| self.renewals.known())
    }

    fn present(&self) -> Option<bool> {
        host::present(self.vip).ok()
    }
}

/// The daemon's end: sends orders without ever waiting, and hears reports.
#[derive(Debug)]
pub struct KeeperLink {
    fd: Async<OwnedFd>,
    renewals: Rc<Renewals>,
    vip: IpAddr,
    pending: Cell<Option<Order>>,
    /// The vote under which the keeper said that it holds, and has not said otherwise: it reads its renewals by itself.
    held: Cell<Option<VoteKey>>,
}

impl KeeperLink {
    /// Over the daemon's end of [`pair`]. Call it in the daemon's process, after the fork.
    pub fn new(End { fd, renewals }: End, vip: IpAddr) -> io::Result<Self> {
        Ok(Self { fd: Async::new(fd)?, renewals, vip, pending: Cell::new(None), held: Cell::new(None) })
    }

    /// Sends an order. Where the socket is full (the keeper doesn't read), the newest `Hold` or `LetGo` waits in one slot and goes out by
    /// the next `send` or [`KeeperLink::next`]; a `Probe` or `Drain` is then dropped. A later end of the hold that the keeper has is no message: it
    /// looks for it in time. Err: the keeper is gone.
    pub fn send(&self, order: Order) -> io::Result<()> {
        match order {
            Order::Hold { vote, until } => {
                self.renewals.write(vote, until);
                if self.held.get() == Some(vote) {
                    return Ok(());
                }
            }
            Order::LetGo { .. } => {
                self.renewals.clear(); // first: the keeper must not find a renewal after this order
                self.held.set(None);
            }
            Order::Probe | Order::Drain { .. } => {}
        }
        let may_wait = matches!(order, Order::Hold { .. } | Order::LetGo { .. });
        if !may_wait && self.pending.get().is_some() {
            return Ok(());
        }
        self.pending.set(may_wait.then_some(order));
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
                self.note(&report);
                return Ok(report); // it always is one: one binary on both ends
            }
        }
    }

    fn note(&self, report: &Report) {
        match report {
            Report::Held { vote, .. } => self.held.set(Some(*vote)),
            Report::Gone { .. } | Report::Refused { .. } => self.held.set(None),
            _ => {}
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
    use super::super::{GoneWhy, RefusedWhy, VoteKey};
    use super::*;
    use crate::reactor::block_on;
    use std::time::Duration;

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
        while let Ok(Some(p)) = get(&keeper.fd) {
            read.push(Order::decode(&p).expect("an order"));
        }
        assert_eq!(read.last(), Some(&hold(sent - 1)));
        put(&keeper.fd, &Report::Link { up: true }.encode()).expect("room for a report");
        let both = smol::future::zip(link.next(), async {
            smol::future::yield_now().await;
        });
        assert_eq!(block_on(both).expect("epoll").0.ok(), Some(Report::Link { up: true }));
        link.send(LET_GO).expect("room again");
        let orders: Vec<_> = std::iter::from_fn(|| get(&keeper.fd).ok().flatten()).filter_map(|p| Order::decode(&p)).collect();
        assert_eq!(orders.last(), Some(&LET_GO));
        assert!(!orders.contains(&hold(sent)), "the older pending order is gone");
    }

    #[test]
    fn renewals_are_messages_only_until_the_keeper_holds() {
        let (keeper, daemon) = pair().expect("a socket pair");
        let link = KeeperLink::new(daemon, VIP).expect("a link");
        let vote = VoteKey { term: 3, node: 1 };
        let renew = |n| link.send(Order::Hold { vote, until: Instant::from_nanos(n) }).expect("room");
        let orders = || std::iter::from_fn(|| get(&keeper.fd).ok().flatten()).filter_map(|p| Order::decode(&p)).count();
        let tell = |report: Report| {
            put(&keeper.fd, &report.encode()).expect("room");
            assert_eq!(block_on(link.next()).expect("epoll").ok(), Some(report));
        };
        (1..4).for_each(renew);
        assert_eq!(orders(), 3, "the first one may have come too late");
        tell(Report::Held { vote, took: Duration::ZERO });
        (4..9).for_each(renew);
        assert_eq!((orders(), keeper.renewals.read()), (0, Some((vote, Instant::from_nanos(8)))));
        link.send(hold(9)).expect("room");
        assert_eq!(orders(), 1, "another vote's hold is a message");
        tell(Report::Gone { vote, why: GoneWhy::Deadline, took: Duration::ZERO });
        renew(10);
        assert_eq!(orders(), 1, "a vote whose hold ended gets its refusal");
        link.send(LET_GO).expect("room");
        assert_eq!((orders(), keeper.renewals.read()), (1, None), "the end is a message, and nothing is renewed after it");
    }

    #[test]
    fn the_end_is_an_error_and_garbage_is_skipped() {
        let (keeper, daemon) = pair().expect("a socket pair");
        let link = KeeperLink::new(daemon, VIP).expect("a link");
        put(&keeper.fd, &[0xee; wire::LEN]).expect("room");
        let report = Report::Refused { vote: VoteKey::default(), why: RefusedWhy::Spent };
        put(&keeper.fd, &report.encode()).expect("room");
        drop(keeper);
        assert_eq!(block_on(link.next()).expect("epoll").ok(), Some(report));
        assert_eq!(block_on(link.next()).expect("epoll").map_err(|e| e.kind()), Err(io::ErrorKind::UnexpectedEof));
        assert!(link.send(LET_GO).is_err());
    }
}
