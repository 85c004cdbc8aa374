//! One end of a connection, as one program hands it to the next: the socket, what is known of it, and what was read and not yet sent.

use super::{Half, Held, MUTED, Rest};
use crate::balancer::pipes::Pipes;
use crate::sys::handed::{self, Passed};
use crate::sys::splice::Pipe;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::RawFd;

/// See [`Half::keep`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptHalf {
    fd: RawFd,
    flags: u16,
    run: u8,
    held: KeptBytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum KeptBytes {
    Nothing,
    Bytes(Vec<u8>),
    Pipe { out: RawFd, inp: RawFd, len: usize },
}

impl Half {
    /// For the next program; `None`: there is no socket yet.
    pub fn keep(&self, passed: &mut Passed) -> Option<KeptHalf> {
        let held = match &self.held {
            Held::Nothing => KeptBytes::Nothing,
            Held::Bytes(rest) => KeptBytes::Bytes(rest.bytes[rest.sent..].to_vec()),
            Held::Pipe(pipe) => {
                let (out, inp) = pipe.descriptors();
                KeptBytes::Pipe { out: passed.add(&out), inp: passed.add(&inp), len: pipe.len }
            }
        };
        // What epoll said goes on to be so until a call says otherwise. That it was told to be silent was told another epoll.
        Some(KeptHalf { fd: passed.add(self.fd.as_ref()?), flags: self.flags & !MUTED, run: self.run, held })
    }
}

impl KeptHalf {
    /// The same end again, to be registered anew. Call it once.
    ///
    /// # Errors
    /// Where the descriptors are not those that were handed on.
    pub fn resume(self, pipes: &mut Pipes) -> io::Result<Half> {
        let fd = handed::take(self.fd)?;
        let held = match self.held {
            KeptBytes::Nothing => Held::Nothing,
            KeptBytes::Bytes(bytes) => Held::Bytes(Box::new(Rest { bytes: bytes.into(), sent: 0 })),
            KeptBytes::Pipe { out, inp, len } => Held::Pipe(pipes.adopt(Pipe::of(handed::take(out)?, handed::take(inp)?, len))),
        };
        Ok(Half { fd: Some(fd), flags: self.flags, run: self.run, held })
    }
}
