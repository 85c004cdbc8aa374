//! The words between load and server: a request asks for a number of bytes from a place of an endless pattern.

/// Bytes of a request.
pub const REQUEST: usize = 128;
/// Bytes of the response to a small request.
pub const RESPONSE: u64 = 512;
/// The pattern repeats after so many bytes: a prime, so that lost, doubled or moved blocks of any usual size are seen.
const PERIOD: u64 = 1_000_003;
/// The longest piece that can be had at once.
pub const PIECE: usize = 256 << 10;

/// Pseudo-random bytes.
pub struct Pattern(Vec<u8>);

impl Pattern {
    pub fn new() -> Self {
        let mut x = 88_172_645_463_325_252_u64;
        let step = |_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        };
        let mut bytes: Vec<u8> = (0..PERIOD).map(step).collect();
        bytes.extend_from_within(..PIECE);
        Pattern(bytes)
    }

    /// At most [`PIECE`] bytes from `offset` on.
    pub fn at(&self, offset: u64, len: u64) -> &[u8] {
        let start = (offset % PERIOD) as usize;
        &self.0[start..start + len.min(PIECE as u64) as usize]
    }
}

/// Where the response to request `number` starts in the pattern.
pub const fn start_of(number: u64) -> u64 {
    (number % PERIOD) * 7919 % PERIOD
}

/// Request `number`, for `len` bytes.
pub fn request(number: u64, len: u64) -> [u8; REQUEST] {
    let mut bytes = [b'.'; REQUEST];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[8..16].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Its number and length; none where it is not one.
pub fn parse(bytes: &[u8; REQUEST]) -> Option<(u64, u64)> {
    let number = u64::from_be_bytes(bytes[..8].try_into().ok()?);
    let len = u64::from_be_bytes(bytes[8..16].try_into().ok()?);
    bytes[16..].iter().all(|b| *b == b'.').then_some((number, len))
}
