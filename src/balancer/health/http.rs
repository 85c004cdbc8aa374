//! Asking over HTTP: the request, and what an answer is worth. Pure: bytes come in as they arrive, one by one to the judge, so that
//! how they were cut into pieces can't matter.

use super::needle::Needle;

/// Bytes of status line and header, interim answers (1xx) included.
const HEAD: usize = 16 << 10;
/// Bytes of the body that are searched.
const BODY: usize = 64 << 10;
/// Bytes of a chunked body as it travels: of chunks of one byte, five in six are framing.
const CHUNKED: usize = 8 * BODY;
/// Bytes of a line that are kept: enough for a status code, and for the two header fields of interest.
const LINE: usize = 128;
/// A first line is known not to be HTTP by then.
const ENOUGH: usize = 24;

/// Whether an answer is good; otherwise why not.
pub(super) type Verdict = Result<(), String>;

/// The bytes to send. `path` and `host` were checked with the configuration: no spaces, no control characters.
pub(super) fn request(path: &str, host: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kube-vip/{version}\r\nAccept: */*\r\nConnection: close\r\n\r\n")
}

/// Reads one answer, until it is clear what it is worth.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    status: (u16, u16),
    text: Option<&'a Needle>,
    at: At,
    line: Line,
    head: usize,
    /// Body bytes searched, and as they travelled.
    body: usize,
    raw: usize,
    /// Of the text: bytes found at the present end of the body.
    found: usize,
    chunked: bool,
    length: Option<u64>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Status,
    /// Header lines; of an interim answer, whose end is followed by another status line.
    Header {
        interim: bool,
    },
    /// A body that ends with the connection, or after so many more bytes.
    Body {
        left: Option<u64>,
    },
    ChunkSize,
    Chunk {
        left: u64,
    },
    /// The line end after a chunk.
    ChunkEnd,
}

/// The first bytes of a line.
#[derive(Debug)]
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl Line {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    /// Without its end, CRLF or (RFC 9112, 2.2) LF alone.
    fn text(&self) -> &[u8] {
        let bytes = &self.bytes[..self.len];
        bytes.strip_suffix(b"\r").unwrap_or(bytes)
    }
}

impl<'a> Judge<'a> {
    /// Good are the statuses from the first to the second, where the body has `text`.
    pub(super) const fn new(status: (u16, u16), text: Option<&'a Needle>) -> Self {
        let line = Line { bytes: [0; LINE], len: 0 };
        let at = At::Status;
        Self { status, text, at, line, head: 0, body: 0, raw: 0, found: 0, chunked: false, length: None }
    }

    /// Whether anything has arrived.
    pub(super) const fn has_begun(&self) -> bool {
        self.head > 0
    }

    /// The next bytes. Once it has said something it is not to be asked again.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<Verdict> {
        bytes.iter().find_map(|&byte| self.byte(byte))
    }

    /// The connection has ended.
    pub(super) fn end(&self) -> Verdict {
        Err(match self.at {
            At::Status if !self.has_begun() => "closed without an answer".into(),
            At::Status if !might_be_http(self.line.text()) => not_http(self.line.text()),
            At::Status | At::Header { .. } => "the answer ends in its head".into(),
            At::Body { .. } | At::ChunkSize | At::Chunk { .. } | At::ChunkEnd => return self.lacks(""),
        })
    }

    fn byte(&mut self, byte: u8) -> Option<Verdict> {
        match self.at {
            At::Status | At::Header { .. } => {
                self.head += 1;
                self.head_byte(byte).or_else(|| (self.head >= HEAD).then(|| Err("a head longer than 16 KiB".into())))
            }
            At::Body { left } => self.search(byte).or_else(|| {
                let left = left.map(|n| n - 1);
                self.at = At::Body { left };
                (left == Some(0)).then(|| self.lacks(""))
            }),
            At::ChunkSize | At::Chunk { .. } | At::ChunkEnd => {
                self.raw += 1;
                self.chunk_byte(byte).or_else(|| (self.raw >= CHUNKED).then(|| self.lacks(" in its first 64 KiB")))
            }
        }
    }

    fn head_byte(&mut self, byte: u8) -> Option<Verdict> {
        if byte != b'\n' {
            self.line.push(byte);
            let odd = self.at == At::Status && self.line.len >= ENOUGH && !might_be_http(self.line.text());
            return odd.then(|| Err(not_http(self.line.text())));
        }
        let verdict = match self.at {
            At::Status => self.status_line(),
            At::Header { interim } if self.line.text().is_empty() => self.head_ends(interim),
            _ => self.field(),
        };
        self.line.len = 0;
        verdict
    }

    fn status_line(&mut self) -> Option<Verdict> {
        let status = match status_of(self.line.text()) {
            Ok(status) => status,
            Err(why) => return Some(Err(why)),
        };
        // 101 is the end of HTTP here, so there is no other answer to wait for.
        let interim = (100..200).contains(&status) && status != 101;
        self.at = At::Header { interim };
        if interim {
            return None;
        }
        if !(self.status.0..=self.status.1).contains(&status) {
            return Some(Err(format!("status {status}")));
        }
        if matches!(status, 204 | 304) {
            self.length = Some(0);
        }
        self.text.is_none().then_some(Ok(()))
    }

    /// A header field: only how the body ends is of interest.
    fn field(&mut self) -> Option<Verdict> {
        let line = self.line.text();
        let colon = line.iter().position(|&b| b == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let last = value.rsplit(|&b| b == b',').next().unwrap_or_default();
            self.chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case(b"content-length") && self.length != Some(0) {
            match std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
                Some(length) => self.length = Some(length),
                None => return Some(Err("a malformed Content-Length".into())),
            }
        }
        None
    }

    fn head_ends(&mut self, interim: bool) -> Option<Verdict> {
        self.at = match (interim, self.chunked) {
            (true, _) => {
                (self.chunked, self.length) = (false, None);
                At::Status
            }
            (false, true) if self.length != Some(0) => At::ChunkSize,
            (false, _) => At::Body { left: self.length },
        };
        (self.at == At::Body { left: Some(0) }).then(|| self.lacks(""))
    }

    fn chunk_byte(&mut self, byte: u8) -> Option<Verdict> {
        match self.at {
            At::Chunk { left } => {
                self.at = if left > 1 { At::Chunk { left: left - 1 } } else { At::ChunkEnd };
                return self.search(byte);
            }
            _ if byte != b'\n' => {
                self.line.push(byte);
                return None;
            }
            At::ChunkSize => match chunk_size(self.line.text()) {
                Some(0) => return Some(self.lacks("")),
                Some(left) => self.at = At::Chunk { left },
                None => return Some(Err("a malformed chunked body".into())),
            },
            _ if self.line.text().is_empty() => self.at = At::ChunkSize,
            _ => return Some(Err("a malformed chunked body".into())),
        }
        self.line.len = 0;
        None
    }

    fn search(&mut self, byte: u8) -> Option<Verdict> {
        let text = self.text?;
        self.body += 1;
        self.found = text.next(self.found, byte);
        if text.is_whole(self.found) {
            return Some(Ok(()));
        }
        (self.body >= BODY).then(|| self.lacks(" in its first 64 KiB"))
    }

    fn lacks(&self, whither: &str) -> Verdict {
        self.text.map_or(Ok(()), |text| Err(format!("body lacks {text}{whither}")))
    }
}

/// Whether a first line that begins like this can still be one of HTTP/1.
fn might_be_http(line: &[u8]) -> bool {
    const BEGIN: &[u8] = b"HTTP/";
    line.iter().zip(BEGIN).all(|(a, b)| a == b)
}

/// `HTTP/1.1 200 OK` → 200; otherwise what it is instead.
fn status_of(line: &[u8]) -> Result<u16, String> {
    if !might_be_http(line) {
        return Err(not_http(line));
    }
    let malformed = || format!("a malformed status line {}", shown(line));
    let (version, rest) = line.split_at_checked(8).ok_or_else(malformed)?;
    if !matches!(version, b"HTTP/1.0" | b"HTTP/1.1") {
        return Err(format!("not HTTP/1.0 or 1.1: {}", shown(line)));
    }
    let (code, after) = rest.strip_prefix(b" ").and_then(|rest| rest.split_at_checked(3)).ok_or_else(malformed)?;
    let sound = code[0] != b'0' && code.iter().all(u8::is_ascii_digit) && matches!(after, [] | [b' ', ..]);
    sound.then(|| code.iter().fold(0, |n, b| n * 10 + u16::from(b - b'0'))).ok_or_else(malformed)
}

/// The number at the start of `1a;name=value`; `None` where there is none, or one that no body has.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    if !matches!(rest.trim_ascii_start(), [] | [b';', ..]) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

fn not_http(line: &[u8]) -> String {
    format!("not HTTP: {}", shown(line))
}

/// In quotes, cut off, and fit for a log line.
fn shown(line: &[u8]) -> String {
    format!("\"{}\"", line[..line.len().min(ENOUGH)].escape_ascii())
}

#[cfg(test)]
mod tests;
