//! Peers over plain TCP: one connection per direction, a handshake that knows who may speak, length-prefixed frames.

mod calls;
pub mod hello;
mod io;
mod link;
pub mod message;
mod notice;
mod server;
pub mod wire;
pub mod wires;

pub use calls::Calls;
pub use link::keep_connected;
pub use notice::read_notices;
pub use server::serve;
