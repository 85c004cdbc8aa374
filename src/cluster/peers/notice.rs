//! The keepers' notices: datagrams to the raft port.

use crate::cluster::answer::noticed;
use crate::cluster::runtime::sleep;
use crate::cluster::shared::Shared;
use crate::release::Notice;
use log::{debug, warn};
use smol::Async;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::Duration;

/// After so many datagrams in a row the others of this thread get their turn.
const BURST: u32 = 16;
/// How long reading rests after a burst, and after an error.
const REST: Duration = Duration::from_millis(1);

/// Reads notices for ever. Anybody can send datagrams, under any address: what comes costs little and proves nothing by its sender.
pub async fn read_notices(shared: Rc<Shared>, socket: Async<UdpSocket>) {
    let mut bytes = [0; Notice::LEN + 1]; // one more, so that a longer one is seen to be longer
    let (mut burst, mut failing) = (0, false);
    loop {
        match socket.recv_from(&mut bytes).await {
            Ok((len, from)) => read(&shared, from, bytes.get(..len).unwrap_or_default()),
            // An answer of a peer without a listener is no reason to stop.
            Err(e) if !std::mem::replace(&mut failing, true) => warn!("raft port {} (UDP): can't read: {e}", shared.address),
            Err(_) => burst = BURST,
        }
        burst += 1;
        if burst >= BURST {
            burst = 0;
            sleep(REST).await;
        }
    }
}

fn read(shared: &Rc<Shared>, from: SocketAddr, bytes: &[u8]) {
    let ip = from.ip().to_canonical();
    let Some((id, _)) = shared.addresses.iter().find(|(_, known)| known.to_canonical() == ip) else { return };
    match Notice::decode(bytes) {
        Some(notice) => noticed(shared, id, &notice),
        None => debug!("{} bytes from {from} are no notice", bytes.len()),
    }
}
