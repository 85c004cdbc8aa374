//! One check: connects, asks, and says how it went.

use super::http::{self, Judge, Verdict};
use super::needle::Needle;
use crate::balancer::MemberView;
use crate::balancer::proxy::Header;
use crate::config::{Ask, HealthCheck, Target};
use crate::reactor::{self, Async};
use crate::sys::tcp;
use nix::errno::Errno;
use smol::future::or;
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Bytes read at once, on the stack: nothing is kept between two reads, so a check that waits owns no buffer.
const PIECE: usize = 4 << 10;
/// Of an answer that is good already: so many bytes are still read, for so long.
const REST: usize = 64 << 10;
const REST_TIME: Duration = Duration::from_millis(200);

/// What is asked of whom: equal questions have equal answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    /// Whom.
    pub(super) to: SocketAddr,
    /// For connect and answer together.
    timeout: Duration,
    /// None: a connect is enough.
    get: Option<Get>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Get {
    /// With the PROXY protocol header that the backend expects.
    request: Vec<u8>,
    status: (u16, u16),
    text: Option<Needle>,
}

/// What a check showed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// It works.
    Good,
    /// It does not, and why.
    Bad(String),
    /// Nothing: this machine is short of something (descriptors, memory, ports), and could not ask.
    Nothing(String),
}

impl Question {
    /// `check` of a member. A port of its own is one for checks, where no PROXY protocol header is expected.
    pub(super) fn new(check: &HealthCheck, member: &MemberView) -> Self {
        let port = check.port.unwrap_or(member.address.port());
        let to = SocketAddr::new(member.address.ip(), port);
        let get = match &check.ask {
            Ask::Tcp => None,
            Ask::Http { path, host, status, text } => {
                let host = host.clone().unwrap_or_else(|| host_of(&member.target, port));
                let version = member.send_proxy.filter(|_| check.port.is_none());
                let header = version.map(|version| Header::new(version, None));
                let begin = header.as_deref().unwrap_or_default();
                let text = text.as_deref().and_then(Needle::new);
                let request = [begin, http::request(path, &host).as_bytes()].concat();
                Some(Get { request, status: *status, text })
            }
        };
        Self { to, timeout: check.timeout, get }
    }

    /// Asks once.
    pub(super) async fn ask(&self) -> Shown {
        let deadline = crate::sys::clock::now() + self.timeout;
        let stage = Cell::new(Stage::Connecting);
        // The answer is looked at first: one that came in time counts, also where this machine was too busy to look before the deadline.
        let answered = or(async { Some(self.attempt(&stage).await) }, async {
            reactor::sleep_until(deadline).await;
            None
        });
        match answered.await {
            Some(Ok((Ok(()), stream))) => {
                let time = deadline.since(crate::sys::clock::now()).min(REST_TIME);
                if self.get.is_some() && !time.is_zero() {
                    or(read_out(&stream), reactor::sleep_until(crate::sys::clock::now() + time)).await;
                }
                Shown::Good
            }
            Some(Ok((Err(why), _))) => Shown::Bad(why),
            Some(Err(e)) if tcp::could_not_ask(self.to, &e) => Shown::Nothing(text_of(&e)),
            Some(Err(e)) => Shown::Bad(format!("{}: {}", stage.get().name(), text_of(&e))),
            None => Shown::Bad(format!("{} within {:?}", stage.get().late(), self.timeout)),
        }
    }

    async fn attempt(&self, stage: &Cell<Stage>) -> io::Result<(Verdict, Async<TcpStream>)> {
        let stream = Async::connect(self.socket()?, self.to).await?;
        let Some(get) = &self.get else { return Ok((Ok(()), stream)) };
        stage.set(Stage::Asking);
        send(&stream, &get.request).await?;
        let mut judge = Judge::new(get.status, get.text.as_ref());
        loop {
            let verdict = stream.read_with(|stream| read(stream, &mut judge)).await?;
            if judge.has_begun() {
                stage.set(Stage::Reading);
            }
            if let Some(verdict) = verdict {
                return Ok((verdict, stream));
            }
        }
    }

    /// A tcp check leaves no trace; an http check ends by FIN once the answer was read, like any client.
    fn socket(&self) -> io::Result<Socket> {
        if self.get.is_none() {
            return tcp::probe(self.to);
        }
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, Some(Protocol::TCP))?;
        let _ = socket.set_tcp_quickack(false); // the request carries the ACK
        let _ = socket.set_tcp_nodelay(true);
        Ok(socket)
    }
}

/// How far a check has come.
#[derive(Clone, Copy)]
enum Stage {
    Connecting,
    Asking,
    Reading,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connect",
            Self::Asking => "no answer",
            Self::Reading => "the answer breaks off",
        }
    }

    const fn late(self) -> &'static str {
        match self {
            Self::Connecting => "connect: no answer",
            Self::Asking => "no answer",
            Self::Reading => "no whole answer",
        }
    }
}

/// The `Host` header for a target: without the port that http has anyway.
fn host_of(target: &Target, port: u16) -> String {
    let host = match target {
        Target::Address(SocketAddr::V4(address)) => address.ip().to_string(),
        Target::Address(SocketAddr::V6(address)) => format!("[{}]", address.ip()),
        Target::Name { host, .. } => host.clone(),
    };
    if port == 80 { host } else { format!("{host}:{port}") }
}

async fn send(stream: &Async<TcpStream>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = stream.write_with(|mut stream| stream.write(bytes)).await?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Reads what is left of an answer, as far as it is worth it: closing with bytes unread would reset the backend's connection.
async fn read_out(stream: &Async<TcpStream>) {
    let mut all = 0;
    while all < REST {
        match stream.read_with(|mut stream| stream.read(&mut [0; PIECE])).await {
            Ok(n @ 1..) => all += n,
            Ok(0) | Err(_) => return,
        }
    }
}

fn read(mut stream: &TcpStream, judge: &mut Judge<'_>) -> io::Result<Option<Verdict>> {
    let mut piece = [0; PIECE];
    Ok(match stream.read(&mut piece)? {
        0 => Some(judge.end()),
        n => judge.push(&piece[..n]),
    })
}

/// `Connection refused`, without the number.
fn text_of(e: &io::Error) -> String {
    e.raw_os_error().map_or_else(|| e.to_string(), |code| Errno::from_raw(code).desc().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProxyVersion;

    #[test]
    fn the_host_header_says_what_a_person_would_type() {
        let address = |text: &str| Target::Address(text.parse().expect("an address"));
        let name = |port| Target::Name { host: "api.lan".into(), port };
        for (target, port, expected) in [
            (address("10.0.0.1:80"), 80, "10.0.0.1"),
            (address("10.0.0.1:80"), 8080, "10.0.0.1:8080"),
            (address("[fd00::1]:8080"), 8080, "[fd00::1]:8080"),
            (address("[fd00::1]:8080"), 80, "[fd00::1]"),
            (name(80), 80, "api.lan"),
            (name(80), 9000, "api.lan:9000"),
        ] {
            assert_eq!(host_of(&target, port), expected);
        }
    }

    #[test]
    fn equal_settings_ask_equal_questions() {
        let http = |host: Option<&str>| HealthCheck {
            ask: Ask::Http { path: "/".into(), host: host.map(Into::into), status: (200, 399), text: Some("ok".into()) },
            port: Some(9000),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        };
        let member = |address: &str| {
            let address: SocketAddr = address.parse().expect("an address");
            let (balancer, target) = (String::new(), Target::Address(address));
            MemberView { balancer, address, target, check: None, send_proxy: Some(ProxyVersion::V1) }
        };
        let ask = |check: &HealthCheck, address: &str| Question::new(check, &member(address));
        assert_eq!(ask(&http(None), "10.0.0.1:80"), ask(&http(None), "10.0.0.1:81"), "only the port asked matters");
        assert_ne!(ask(&http(None), "10.0.0.1:80"), ask(&http(None), "10.0.0.2:80"));
        assert_ne!(ask(&http(None), "10.0.0.1:80"), ask(&http(Some("x")), "10.0.0.1:80"));
        let tcp = HealthCheck { ask: Ask::Tcp, ..http(None) };
        let target = Target::Name { host: "x".into(), port: 80 };
        let named = Question::new(&tcp, &MemberView { target, ..member("10.0.0.1:80") });
        assert_eq!(named, ask(&tcp, "10.0.0.1:80"), "a connect has no host header");
        let request = |check: &HealthCheck| ask(check, "10.0.0.1:80").get.map(|get| get.request).unwrap_or_default();
        assert!(request(&http(None)).starts_with(b"GET / "), "its own port expects no PROXY header");
        assert!(request(&HealthCheck { port: None, ..http(None) }).starts_with(b"PROXY UNKNOWN\r\nGET / "));
    }
}
