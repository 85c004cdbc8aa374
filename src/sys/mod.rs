//! The only `unsafe` of the program: small wrappers over `OwnedFd` and system calls, each with a SAFETY line per block.
#![allow(unsafe_code)]

pub mod clock;
pub mod epoll;
pub mod splice;
pub mod tcp;
