//! The only `unsafe` of the program: small wrappers over `OwnedFd` and system calls, each with a SAFETY line per block.
#![allow(unsafe_code)]

pub mod caps;
pub mod clock;
pub mod epoll;
pub mod handed;
pub mod ioctl;
pub mod netlink;
pub mod notify;
pub mod packet;
pub mod poll;
pub mod process;
pub mod shared;
pub mod signal;
pub mod splice;
pub mod tcp;
pub mod timer;
