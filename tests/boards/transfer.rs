//! TCP through the VIP: megabytes down and up, compared with what was sent.

use super::lab::backend::{Pattern, Sum};
use super::lab::net::VIP4;
use super::lab::{Backend, Host, Kind, secs};
use std::io::{BufRead, BufReader, Error, ErrorKind, Result};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A silence of this length ends a transfer as failed.
const SILENCE: Duration = secs(30);

/// The servers behind both balancers of config.yaml.
pub struct Servers {
    bytes: u64,
    _running: Vec<Backend>,
}

/// How long each direction took.
pub struct Times {
    pub down: Duration,
    pub up: Duration,
}

impl Servers {
    /// Starts both kinds on each host.
    pub fn start(hosts: &[Host], bytes: u64) -> Servers {
        let both = |host| [Backend::start(host, 80, Kind::Source(bytes)), Backend::start(host, 81, Kind::Sum)];
        Servers { bytes, _running: hosts.iter().flat_map(both).collect() }
    }

    /// New connections from `client` to the VIP, one in each direction.
    pub fn transfer(&self, client: &Host) -> Result<Times> {
        client.enter(|| {
            let sent = Sum::of(&mut Pattern::new(self.bytes))?;
            let began = Instant::now();
            same("down", sent, Sum::of(&mut connect(80)?)?.text())?;
            let down = began.elapsed();
            let mut stream = connect(81)?;
            std::io::copy(&mut Pattern::new(self.bytes), &mut stream)?;
            stream.shutdown(Shutdown::Write)?;
            let mut counted = String::new();
            BufReader::new(stream).read_line(&mut counted)?;
            same("up", sent, counted)?;
            Ok(Times { down, up: began.elapsed() - down })
        })
    }
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((VIP4, port)), SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}

fn same(way: &str, sent: Sum, arrived: String) -> Result<()> {
    if sent.text() == arrived {
        return Ok(());
    }
    let text = format!("{way}: sent {:?} (bytes, CRC-32), arrived {:?}", sent.text(), arrived);
    Err(Error::new(ErrorKind::InvalidData, text))
}
