//! Frames over a socket.

use super::wire::{self, Bad, HEADER, Header};
use crate::cluster::runtime::sleep;
use crate::reactor::Async;
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, BufReader};
use std::io;
use std::net::TcpStream;
use std::time::Duration;

/// Why nothing more comes from a peer.
#[derive(Debug)]
pub enum Broken {
    /// The connection ended or failed.
    Io(io::Error),
    /// What came is not our protocol.
    Bad(Bad),
    /// Nothing came in time.
    Silent(Duration),
}

impl From<io::Error> for Broken {
    fn from(e: io::Error) -> Self {
        Broken::Io(e)
    }
}

impl From<Bad> for Broken {
    fn from(bad: Bad) -> Self {
        Broken::Bad(bad)
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => f.write_str("the connection was closed"),
            Broken::Io(e) => write!(f, "{e}"),
            Broken::Bad(bad) => write!(f, "{bad}"),
            Broken::Silent(d) => write!(f, "silent for {} ms", d.as_millis()),
        }
    }
}

/// The reading side of a connection.
pub type Reader<'a> = BufReader<&'a Async<TcpStream>>;

/// A reader with a small buffer: frames of this cluster are around 100 bytes.
pub fn reader(stream: &Async<TcpStream>) -> Reader<'_> {
    BufReader::with_capacity(1024, stream)
}

/// Reads and checks the preamble.
pub async fn read_preamble(from: &mut Reader<'_>) -> Result<(), Broken> {
    let mut preamble = [0; 8];
    from.read_exact(&mut preamble).await?;
    Ok(wire::check_preamble(&preamble)?)
}

/// Reads one frame.
pub async fn read_frame(from: &mut Reader<'_>) -> Result<(Header, Vec<u8>), Broken> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header).await?;
    let header = wire::parse_header(&header)?;
    let mut payload = vec![0; header.payload];
    from.read_exact(&mut payload).await?;
    Ok((header, payload))
}

/// Ends `work` after `limit`.
pub async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Broken>>) -> Result<T, Broken> {
    work.or(async {
        sleep(limit).await;
        Err(Broken::Silent(limit))
    })
    .await
}
