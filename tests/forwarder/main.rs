//! The forwarder over real sockets: what goes in comes out, whole or visibly broken, and nobody waits for anybody.
#[path = "../lab/mod.rs"]
mod lab;

mod admit;
mod brought;
mod bytes;
mod choice;
mod ends;
mod limits;
mod paths;
mod proxied;
mod queue;
mod reload;
mod rig;
mod told;
mod turns;
mod vip;
