//! The forwarder: accepts TCP on the VIP (or everywhere), chooses a backend, copies and splices both ways.
