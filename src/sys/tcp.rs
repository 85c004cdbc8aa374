//! TCP sockets: listen, accept, connect, receive, send, and the options that a forwarder needs.
//!
//! Options that some kernels or emulators refuse are set by functions that return nothing: without them traffic still flows.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::socket::MsgFlags;
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Binds and listens, non-blocking. `free`: also on an address that this machine doesn't have (yet) (IP_FREEBIND).
/// An IPv6 wildcard takes IPv4 too. Accepted sockets inherit TCP_NODELAY, SO_OOBINLINE, and what [`set_patience`] sets.
pub fn listen(address: SocketAddr, free: bool, backlog: i32) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    match (free, address.is_ipv6()) {
        (false, _) => {}
        (true, false) => socket.set_freebind_v4(true)?,
        (true, true) => socket.set_freebind_v6(true)?,
    }
    let _ = socket.set_tcp_nodelay(true);
    keep_urgent_inline(&socket);
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Keepalive after 60 s of silence, each 10 s, 6 times; and how long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT).
pub fn set_patience(fd: impl AsFd, user_timeout: Duration) {
    let socket = SockRef::from(&fd);
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(user_timeout));
}

/// The address a socket is bound to.
pub fn local_address(fd: impl AsFd) -> Option<SocketAddr> {
    SockRef::from(&fd).local_addr().ok().and_then(|a| a.as_socket())
}

/// Takes one waiting connection, non-blocking and close-on-exec, and says whose it is.
pub fn accept(listener: impl AsFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let fd = listener.as_fd().as_raw_fd();
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes an address of at most `len` bytes into `storage` and its length into `len`; both live meanwhile.
    let (fd, peer) = unsafe {
        SockAddr::try_init(|storage, len| {
            let fd = Errno::result(libc::accept4(fd, storage.cast(), len, flags))?;
            // SAFETY: accept4 has just returned this descriptor, and nobody else knows it.
            Ok(OwnedFd::from_raw_fd(fd))
        })
    }?;
    let peer = peer.as_socket().ok_or(io::ErrorKind::ConnectionAborted)?; // both families have one
    Ok((fd, peer))
}

/// Starts a connect. `Ok` is "under way" or "done"; its end is seen as writable, its failure by [`take_error`].
///
/// Delayed acknowledgement is on from the start, so that the first bytes sent carry the ACK of the handshake; the caller
/// must call [`acknowledge_now`] if it has nothing to send.
pub fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_quickack(false);
    match socket.connect(&SockAddr::from(address)) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(socket.into()),
    }
}

/// Whether a connect to `address` that failed with `e` (EADDRNOTAVAIL) found no source address of its family, as where IPv6 is off,
/// rather than no free port: then UDP, whose ports are others, doesn't get there either.
pub fn lacks_source(address: SocketAddr, e: &io::Error) -> bool {
    const NONE: [i32; 3] = [libc::EADDRNOTAVAIL, libc::ENETUNREACH, libc::EAFNOSUPPORT];
    let by_udp = || Socket::new(Domain::for_address(address), Type::DGRAM.cloexec(), None)?.connect(&address.into());
    e.raw_os_error() == Some(libc::EADDRNOTAVAIL)
        && by_udp().is_err_and(|e| e.raw_os_error().is_some_and(|code| NONE.contains(&code)))
}

/// Whether the machine or this process is out of something (descriptors, memory), rather than one connection being at fault.
pub fn is_local_shortage(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC))
}

/// Whether a connect to `address` failed with `e` for the want of something here, local ports included: it says nothing of the other side.
pub fn could_not_ask(address: SocketAddr, e: &io::Error) -> bool {
    is_local_shortage(e) || e.raw_os_error() == Some(libc::EADDRNOTAVAIL) && !lacks_source(address, e)
}

/// A socket, not connected yet, to see whether `address` accepts connections, and to be closed then. As with HAProxy, the handshake's last
/// ACK is held back, and closing sends a RST in its place: the other kernel drops what was half a connection, so its program is not
/// woken, logs no visitor that says nothing, and does not count one against us (MySQL blocks a host after a hundred such); and no port
/// stays in TIME_WAIT here. The same holds if the ACK has left already, but for the program, which may see a reset.
pub fn probe(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    let _ = socket.set_tcp_quickack(false);
    let _ = socket.set_linger(Some(Duration::ZERO));
    Ok(socket)
}

/// Sends what is kept back for more to follow (setting TCP_NODELAY does, also where it was set: tcp(7)).
pub fn push(fd: impl AsFd) {
    let _ = SockRef::from(&fd).set_tcp_nodelay(true);
}

/// Sends an acknowledgement that is being held back.
pub fn acknowledge_now(fd: impl AsFd) {
    let _ = SockRef::from(&fd).set_tcp_quickack(true);
}

/// Urgent data stays in its place in the stream, instead of being dropped from it (SO_OOBINLINE).
pub fn keep_urgent_inline(fd: impl AsFd) {
    let _ = SockRef::from(&fd).set_out_of_band_inline(true);
}

/// The error that waits on the socket (SO_ERROR), which this call clears.
pub fn take_error(fd: impl AsFd) -> Option<io::Error> {
    SockRef::from(&fd).take_error().unwrap_or_else(Some)
}

/// Receives up to `buf.len()` bytes; 0 is a FIN.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    recv_with(fd, buf, MsgFlags::empty())
}

fn recv_with(fd: BorrowedFd<'_>, buf: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
    loop {
        match nix::sys::socket::recv(fd.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT | flags) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// How many bytes wait to be read, at most 1: 0 is a FIN. `None`: none yet, or the connection is broken. Takes nothing but the
/// error of one that is broken.
pub fn peek(fd: BorrowedFd<'_>) -> Option<usize> {
    peek_into(fd, &mut [0]).ok()
}

/// As [`recv`], but what is returned stays to be received again.
pub fn peek_into(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    recv_with(fd, buf, MsgFlags::MSG_PEEK)
}

/// Sends up to `buf.len()` bytes. `more` (MSG_MORE): the kernel may keep the last segment back, because the caller sends more,
/// shuts the direction down or calls [`push`] right after.
pub fn send(fd: BorrowedFd<'_>, buf: &[u8], more: bool) -> io::Result<usize> {
    let more = if more { MsgFlags::from_bits_retain(libc::MSG_MORE) } else { MsgFlags::empty() };
    loop {
        match nix::sys::socket::send(fd.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL | more) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Sends FIN: nothing more will come from us.
pub fn shut_write(fd: impl AsFd) -> io::Result<()> {
    Ok(nix::sys::socket::shutdown(fd.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Write)?)
}

/// Closes with RST (SO_LINGER 0), so that the peer can't take the end for a complete stream.
pub fn reset(fd: OwnedFd) {
    let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
}

/// Whether the connection has ended in the kernel (TCP_CLOSE): also where its error was already taken by another call.
/// False where the kernel doesn't say.
pub fn is_closed(fd: impl AsFd) -> bool {
    const TCP_CLOSE: u8 = 7; // include/net/tcp_states.h
    let mut state = 0u8;
    let mut len: libc::socklen_t = 1; // tcpi_state is the first byte of struct tcp_info; the kernel copies no more than asked
    // SAFETY: `state` and `len` are valid and writable for the call, and `len` is the size of `state`.
    let ret = unsafe {
        let value = (&raw mut state).cast();
        libc::getsockopt(fd.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, value, &mut len)
    };
    ret == 0 && state == TCP_CLOSE
}

/// Raises the soft limit of open files to the hard one, and returns the limit that holds now.
pub fn raise_fd_limit() -> io::Result<rlim_t> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(hard);
    }
    Ok(soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_has_an_address_and_a_state() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = listen(any, false, 16).expect("listen");
        let bound = local_address(&listener).expect("address");
        assert!(bound.port() != 0 && !is_closed(&listener));
        let err = listen(bound, false, 16).expect_err("the port is taken");
        assert_eq!(err.raw_os_error(), Some(libc::EADDRINUSE));
        assert_eq!(accept(&listener).expect_err("nobody waits").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_reset_is_seen_as_closed_even_after_its_error_was_taken() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), false, 16).expect("listen");
        let client = std::net::TcpStream::connect(local_address(&listener).expect("address")).expect("connect");
        let own = client.local_addr().expect("address");
        let (server, peer) = accept(&listener).expect("accept");
        assert_eq!(peer, own);
        assert!(!is_closed(&server));
        reset(client.into());
        assert_eq!(take_error(&server).and_then(|e| e.raw_os_error()), Some(libc::ECONNRESET));
        assert_eq!(recv(server.as_fd(), &mut [0; 8]).expect("the error is gone"), 0, "and looks like a FIN");
        assert!(is_closed(&server), "but this tells them apart");
    }
}
