//! Frames between peers: pure parse and emit, no I/O.
//!
//! A connection starts with the 8-byte preamble `kubevip` + version, then frames: `u32` length of what follows (big endian),
//! `u8` kind, `u8` flags of the sender, `u64` request id (big endian), payload ([postcard](https://postcard.jamesmunns.com/wire-format)).

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// What a connection starts with; the last byte is the version of this protocol.
pub const PREAMBLE: [u8; 8] = *b"kubevip\x02";
/// Bytes before the payload.
pub const HEADER: usize = 14;
/// The longest frame, without its length field. Everything this cluster says fits in a fraction of it.
pub const MAX_FRAME: usize = 64 * 1024;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// First frame of the caller: who it is.
    Hello,
    /// The answer to an accepted Hello.
    Welcome,
    /// The answer to a refused Hello: a text for the caller's log.
    Refused,
    /// A request; the response carries its id.
    Request,
    /// A response.
    Response,
}

impl Kind {
    fn parse(byte: u8) -> Option<Self> {
        [Kind::Hello, Kind::Welcome, Kind::Refused, Kind::Request, Kind::Response].into_iter().find(|k| *k as u8 == byte)
    }
}

/// What every frame tells of its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// It could hold the VIP: no `-d`, link up, not refused, not stopping.
    pub fit: bool,
    /// It has neither vote nor log.
    pub empty: bool,
    /// `startAsLeader`.
    pub starts: bool,
    /// Its quiet start has ended.
    pub awake: bool,
    /// It has a log, and with it the list of members.
    pub log: bool,
    /// Its kernel silences the VIP at the end of a hold, whatever becomes of its processes.
    pub fenced: bool,
    /// It reaches a backend, or does not look (`trackBackends`).
    pub reaches: bool,
    /// It leads, has let the VIP go or is about to, and will name its successor.
    pub moving: bool,
}

impl Flags {
    fn emit(self) -> u8 {
        u8::from(self.fit)
            | u8::from(self.empty) << 1
            | u8::from(self.starts) << 2
            | u8::from(self.awake) << 3
            | u8::from(self.log) << 4
            | u8::from(self.fenced) << 5
            | u8::from(self.reaches) << 6
            | u8::from(self.moving) << 7
    }

    fn parse(byte: u8) -> Self {
        let bit = |n: u8| byte >> n & 1 == 1;
        Self {
            fit: bit(0),
            empty: bit(1),
            starts: bit(2),
            awake: bit(3),
            log: bit(4),
            fenced: bit(5),
            reaches: bit(6),
            moving: bit(7),
        }
    }
}

/// A parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the payload in bytes.
    pub payload: usize,
    /// What the frame is.
    pub kind: Kind,
    /// Of its sender.
    pub flags: Flags,
    /// Pairs a response with its request.
    pub id: u64,
}

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bad {
    /// The first bytes are not the preamble.
    Preamble([u8; 8]),
    /// Another version of the protocol.
    Version(u8),
    /// The length field is out of range.
    Length(u32),
    /// No such kind.
    Kind(u8),
    /// The payload does not parse as what its kind promises.
    Payload,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bad::Preamble(bytes) => write!(f, "not a kube-vip peer (it began with \"{}\")", bytes.escape_ascii()),
            Bad::Version(v) => {
                write!(
                    f,
                    "speaks version {v} of the peer protocol, this node version {}: run the same release on all nodes",
                    PREAMBLE[7]
                )
            }
            Bad::Length(n) => write!(f, "frame of {n} bytes (allowed: {} to {MAX_FRAME})", HEADER - 4),
            Bad::Kind(k) => write!(f, "frame of unknown kind {k}"),
            Bad::Payload => write!(f, "garbled frame"),
        }
    }
}

/// Checks the first 8 bytes of a connection.
pub fn check_preamble(bytes: &[u8; 8]) -> Result<(), Bad> {
    if bytes[..7] != PREAMBLE[..7] {
        return Err(Bad::Preamble(*bytes));
    }
    if bytes[7] != PREAMBLE[7] {
        return Err(Bad::Version(bytes[7]));
    }
    Ok(())
}

/// Parses a header.
pub fn parse_header(bytes: &[u8; HEADER]) -> Result<Header, Bad> {
    let length = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let length_ok = (HEADER - 4..=MAX_FRAME).contains(&(length as usize));
    if !length_ok {
        return Err(Bad::Length(length));
    }
    let mut id = [0; 8];
    id.copy_from_slice(&bytes[6..]);
    Ok(Header {
        payload: length as usize - (HEADER - 4),
        kind: Kind::parse(bytes[4]).ok_or(Bad::Kind(bytes[4]))?,
        flags: Flags::parse(bytes[5]),
        id: u64::from_be_bytes(id),
    })
}

/// Emits a frame. None: it would be longer than [`MAX_FRAME`], or does not serialise.
pub fn emit<T: Serialize>(kind: Kind, flags: Flags, id: u64, payload: &T) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4];
    frame.push(kind as u8);
    frame.push(flags.emit());
    frame.extend_from_slice(&id.to_be_bytes());
    let mut frame = postcard::to_extend(payload, frame).ok()?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return None;
    }
    frame[..4].copy_from_slice(&u32::try_from(length).ok()?.to_be_bytes());
    Some(frame)
}

/// Parses a payload; all of it must be used.
pub fn parse_payload<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Bad> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Bad::Payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(frame: &[u8]) -> Result<Header, Bad> {
        parse_header(frame[..HEADER].try_into().unwrap())
    }

    #[test]
    fn a_frame_byte_for_byte() {
        let flags = Flags { fit: true, starts: true, log: true, reaches: true, ..Flags::default() };
        let frame = emit(Kind::Request, flags, 0x0102, &"hi").unwrap();
        assert_eq!(frame, [0, 0, 0, 13, 3, 0b101_0101, 0, 0, 0, 0, 0, 0, 1, 2, 2, b'h', b'i']);
        assert_eq!(header(&frame), Ok(Header { payload: 3, kind: Kind::Request, flags, id: 0x0102 }));
        assert_eq!(parse_payload::<String>(&frame[HEADER..]).unwrap(), "hi");
    }

    #[test]
    fn every_flag_survives() {
        for byte in 0..=u8::MAX {
            assert_eq!(Flags::parse(byte).emit(), byte);
        }
    }

    #[test]
    fn bad_headers_are_named() {
        let good = emit(Kind::Hello, Flags::default(), 1, &()).unwrap();
        for (at, value, bad) in [(4, 9, Bad::Kind(9)), (3, 9, Bad::Length(9)), (0, 1, Bad::Length(0x0100_000a))] {
            let mut frame = good.clone();
            frame[at] = value;
            assert_eq!(header(&frame), Err(bad));
        }
    }

    #[test]
    fn other_programs_and_other_versions_are_told_apart() {
        assert_eq!(check_preamble(&PREAMBLE), Ok(()));
        assert_eq!(check_preamble(b"kubevip\x01"), Err(Bad::Version(1)));
        let bad = check_preamble(b"GET / HT").unwrap_err();
        assert_eq!(bad.to_string(), "not a kube-vip peer (it began with \"GET / HT\")");
    }

    #[test]
    fn trailing_bytes_and_cut_payloads_are_garbled() {
        assert_eq!(parse_payload::<u8>(&[1, 2]), Err(Bad::Payload));
        assert_eq!(parse_payload::<String>(&[5, b'x']), Err(Bad::Payload));
    }

    #[test]
    fn too_long_is_not_emitted() {
        assert!(emit(Kind::Response, Flags::default(), 1, &vec![0u8; MAX_FRAME]).is_none());
    }
}
