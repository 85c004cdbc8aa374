//! A name server with one answer for every name, which a test changes; and the files by which hosts find it.

use super::{Host, LAB_DIR, sh};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A name server on a host.
pub struct Dns {
    answer: Arc<Mutex<Option<Vec<Ipv4Addr>>>>,
    asked: Arc<AtomicUsize>,
}

impl Dns {
    /// Listens on `host`; from now on it is the name server of all hosts of this test, for programs started after this.
    pub fn start(host: &Host, answer: &[Ipv4Addr]) -> Dns {
        let socket = host.enter(|| UdpSocket::bind((host.ip4(), 53)).expect("a fresh host has no name server"));
        let dns = Dns { answer: Arc::new(Mutex::new(Some(answer.to_vec()))), asked: Arc::default() };
        let (answer, asked) = (dns.answer.clone(), dns.asked.clone());
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut question) {
                asked.fetch_add(1, Ordering::SeqCst);
                let answer = answer.lock().expect("not poisoned").clone();
                answer.iter().for_each(|answer| reply(&socket, from, &question[..len], answer));
            }
        });
        let (file, ip) = (format!("{LAB_DIR}/resolv.conf"), host.ip4());
        std::fs::write(&file, format!("nameserver {ip}\noptions timeout:1 attempts:2\n"))
            .expect("the lab's directory is writable");
        sh(&format!("mount --bind {file} /etc/resolv.conf"));
        dns
    }

    /// What it says from now on; `None`: nothing at all.
    pub fn set(&self, answer: Option<&[Ipv4Addr]>) {
        *self.answer.lock().expect("not poisoned") = answer.map(<[_]>::to_vec);
    }

    /// How many questions came in.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// RFC 1035, 4.1: the question comes back, followed by an A record for each address. Other types have no records.
fn reply(socket: &UdpSocket, to: SocketAddr, question: &[u8], addresses: &[Ipv4Addr]) {
    let name = question[12..].iter().position(|&b| b == 0).expect("a name ends");
    let end = 12 + name + 5;
    let wants_a = question[end - 4..end] == [0, 1, 0, 1];
    let records = if wants_a { addresses } else { &[] };
    let mut reply = question[..end].to_vec();
    reply[2..4].copy_from_slice(&[0x81, 0x80]); // a reply, recursion available, no error
    reply[6..12].copy_from_slice(&[0, records.len() as u8, 0, 0, 0, 0]);
    for address in records {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]); // the name above, A, IN, TTL 0, 4 bytes
        reply.extend(address.octets());
    }
    let _ = socket.send_to(&reply, to); // who asked may be gone
}
