//! The keepers' notices: datagrams to the raft port.

use crate::cluster::Ports;
use crate::cluster::answer::noticed;
use crate::cluster::runtime::sleep;
use crate::cluster::shared::Shared;
use crate::cluster::types::NodeId;
use crate::release::Notice;
use log::{debug, warn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// After so many datagrams in a row the others of this thread get their turn.
const BURST: u32 = 16;
/// How long reading rests after a burst, and after an error.
const REST: Duration = Duration::from_millis(1);

/// Reads notices for ever. Anybody can send datagrams, under any address: what comes costs little and proves nothing by its sender.
pub async fn read_notices(shared: Rc<Shared>, ports: Rc<Ports>) {
    let socket = &ports.udp;
    let mut bytes = [0; Notice::LEN + 1]; // one more, so that a longer one is seen to be longer
    let (mut burst, mut failing) = (0, false);
    loop {
        match socket.read_with(|socket| socket.recv_from(&mut bytes)).await {
            Ok((len, from)) => {
                if let Some(id) = sender(&shared, from) {
                    read(&shared, id, bytes.get(..len).unwrap_or_default());
                }
            }
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

fn sender(shared: &Shared, from: SocketAddr) -> Option<&NodeId> {
    let ip = from.ip().to_canonical();
    shared.addresses.iter().find(|(_, known)| known.to_canonical() == ip).map(|(id, _)| id)
}

/// Reads what came from the address of this peer.
pub(super) fn read(shared: &Rc<Shared>, id: &NodeId, bytes: &[u8]) {
    match Notice::decode(bytes) {
        Some(notice) => noticed(shared, id, &notice),
        None => debug!("{} bytes from the address of {id} are no notice", bytes.len()),
    }
}
