//! AF_PACKET sockets: one that only sends, one that hears what a classic BPF filter lets through (packet(7)).

use socket2::{Domain, SockAddr, SockFilter, Socket, Type};
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

/// Sends whole Ethernet frames; never woken by traffic (protocol 0).
#[derive(Debug)]
pub struct Sender(Socket);

impl Sender {
    /// Needs CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Sends one frame, headers included, on the interface. ENETDOWN where it is down.
    pub fn send(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        let protocol = frame.get(12..14).map_or(0, |p| u16::from_be_bytes([p[0], p[1]]));
        self.0.send_to(frame, &address(index, protocol)).map(drop)
    }
}

/// Hears ARP packets and neighbour advertisements about one address that others send.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    protocol: u16,
}

impl Listener {
    /// Opens it on an interface, for claims of `vip` from any Ethernet address but `own`. Needs CAP_NET_RAW.
    pub fn open(index: u32, vip: IpAddr, own: [u8; 6]) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        let listener = Self { socket, protocol: if vip.is_ipv4() { ARP } else { IPV6 } };
        listener.aim(index, vip, own)?;
        Ok(listener)
    }

    /// Points it at another interface or own address (an interface that came back has a new index).
    pub fn aim(&self, index: u32, vip: IpAddr, own: [u8; 6]) -> io::Result<()> {
        self.socket.attach_filter(&filter(vip, own))?; // before bind: nothing unfiltered ever gets in
        self.socket.bind(&address(index, self.protocol))
    }

    /// The next frame's length. `WouldBlock`: none waits; ENETDOWN once after the interface went down.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: u8 and MaybeUninit<u8> have the same layout, and recv only writes initialised bytes into it.
        let buffer = unsafe { &mut *(std::ptr::from_mut(buffer) as *mut [MaybeUninit<u8>]) };
        self.socket.recv(buffer)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn address(index: u32, protocol: u16) -> SockAddr {
    // SAFETY: the closure fills a whole sockaddr_ll (all fields, the rest zeroed by try_init) and tells its size.
    let made = unsafe {
        SockAddr::try_init(|storage, len| {
            let ll = storage.cast::<libc::sockaddr_ll>();
            (*ll).sll_family = libc::AF_PACKET as libc::sa_family_t;
            (*ll).sll_protocol = protocol.to_be();
            (*ll).sll_ifindex = index as libc::c_int;
            (*ll).sll_halen = 6;
            *len = std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    };
    made.map_or_else(|e: io::Error| unreachable!("the closure always returns Ok: {e}"), |((), address)| address)
}

// Classic BPF: load half word, byte, word at an absolute offset; jump if equal; return.
const LDH: u16 = 0x28;
const LDB: u16 = 0x30;
const LDW: u16 = 0x20;
const JEQ: u16 = 0x15;
const RET: u16 = 0x06;

/// "This field has that value", for each pair; then the sender's address at `sender` is not ours.
fn filter(vip: IpAddr, own: [u8; 6]) -> Vec<SockFilter> {
    let word = |b: &[u8]| b.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
    let (mut equal, sender) = match vip {
        IpAddr::V4(a) => (vec![(LDH, 12, u32::from(ARP)), (LDH, 16, 0x0800), (LDW, 28, word(&a.octets()))], 22),
        IpAddr::V6(a) => {
            let mut checks = vec![(LDH, 12, u32::from(IPV6)), (LDB, 20, 58), (LDB, 54, 136)];
            checks.extend(a.octets().chunks(4).zip([62, 66, 70, 74]).map(|(part, at)| (LDW, at, word(part))));
            (checks, 6)
        }
    };
    let rest = |n: usize| (2 * n) as u8; // instructions up to the final "drop", for n checks still to come
    let total = equal.len();
    let mut code: Vec<SockFilter> = Vec::with_capacity(2 * total + 6);
    for (n, (load, at, value)) in equal.drain(..).enumerate() {
        code.push(SockFilter::new(load, 0, 0, at));
        code.push(SockFilter::new(JEQ, 0, rest(total - n - 1) + 5, value));
    }
    code.push(SockFilter::new(LDW, 0, 0, sender));
    code.push(SockFilter::new(JEQ, 0, 2, word(&own[..4])));
    code.push(SockFilter::new(LDH, 0, 0, sender + 4));
    code.push(SockFilter::new(JEQ, 1, 0, word(&own[4..])));
    code.push(SockFilter::new(RET, 0, 0, 0xffff)); // take the whole frame
    code.push(SockFilter::new(RET, 0, 0, 0)); // drop it
    code
}
