//! Backends that can be killed and revived, a thread for each connection.

use super::lab::Host;
use super::words::{Broken, GREETING, HELLO, Pattern, Plan, Way, read_end};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// Small, because there are as many threads as connections.
pub const STACK: usize = 256 << 10;
/// No end of a connection waits longer for the other.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// One server address, dead or alive.
pub struct Server {
    host: Host,
    number: u64,
    address: SocketAddr,
    pattern: Arc<Pattern>,
    /// The present life, if it lives.
    life: Mutex<Option<Arc<Life>>>,
    lives: AtomicU64,
    /// When it was last killed.
    pub killed: Mutex<Option<Instant>>,
    /// What backends saw that must not be: told by the minute.
    pub wrong: Mutex<Vec<String>>,
    /// Connections that broke although this backend lived: wrong, where the client believes that they were whole.
    pub cut: Mutex<Vec<(u64, String)>>,
}

#[derive(Default)]
struct Life {
    number: u64,
    over: AtomicBool,
    open: Mutex<Vec<Weak<TcpStream>>>,
}

impl Server {
    /// A dead one.
    pub fn new(host: Host, number: u64, port: u16, pattern: Arc<Pattern>) -> Arc<Server> {
        let address = SocketAddr::new(host.ip4().into(), port);
        let (life, killed, wrong, cut) = Default::default();
        Arc::new(Server { host, number, address, pattern, life, lives: AtomicU64::new(0), killed, wrong, cut })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether its life `number` is over.
    pub fn died(&self, number: u64) -> bool {
        self.life.lock().expect("not poisoned").as_ref().is_none_or(|life| life.number != number)
    }

    /// Starts a new life.
    pub fn revive(self: &Arc<Self>) -> Result<(), String> {
        let listener = self.host.enter(|| TcpListener::bind(self.address)).map_err(|e| format!("{}: {e}", self.address))?;
        let number = self.lives.fetch_add(1, SeqCst) + 1;
        let life = Arc::new(Life { number, ..Life::default() });
        *self.life.lock().expect("not poisoned") = Some(life.clone());
        let server = self.clone();
        std::thread::spawn(move || server.accept(&listener, &life));
        Ok(())
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener, life: &Arc<Life>) {
        for stream in listener.incoming() {
            if life.over.load(SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let stream = Arc::new(stream);
            let mut open = life.open.lock().expect("not poisoned");
            open.retain(|s| s.strong_count() > 0);
            open.push(Arc::downgrade(&stream));
            drop(open);
            let (server, life) = (self.clone(), life.clone());
            let thread = move || server.serve(&stream, &life);
            if let Err(e) = std::thread::Builder::new().stack_size(STACK).spawn(thread) {
                eprintln!("backend: no thread: {e}");
            }
        }
    }

    /// Ends its life, as the end of its process would: nobody listens, and what was open ends.
    pub fn kill(&self) {
        let Some(life) = self.life.lock().expect("not poisoned").take() else { return };
        *self.killed.lock().expect("not poisoned") = Some(Instant::now());
        life.over.store(true, SeqCst);
        let _ = self.host.enter(|| TcpStream::connect(self.address)); // the listener's thread looks up and goes
        for stream in life.open.lock().expect("not poisoned").drain(..).filter_map(|s| s.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn serve(&self, stream: &TcpStream, life: &Life) {
        let mut number = None;
        match (self.talk(stream, life, &mut number), number) {
            (Ok(()), _) => {}
            (Err(Broken::Wrong(why)), _) => {
                self.wrong.lock().expect("not poisoned").push(format!("backend {}: {why}", self.number));
            }
            (Err(Broken::Cut(why)), Some(number)) if !life.over.load(SeqCst) => {
                self.cut.lock().expect("not poisoned").push((number, why));
            }
            (Err(Broken::Cut(_)), _) => {}
        }
    }

    fn talk(&self, mut stream: &TcpStream, life: &Life, number: &mut Option<u64>) -> Result<(), Broken> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut hello = [0; HELLO];
        stream.read_exact(&mut hello)?;
        let plan = Plan::parse(&hello).ok_or_else(|| Broken::Wrong(format!("not a hello: {hello:?}")))?;
        *number = Some(plan.number);
        let mut greeting = [0; GREETING];
        greeting[..8].copy_from_slice(&self.number.to_be_bytes());
        greeting[8..].copy_from_slice(&life.number.to_be_bytes());
        stream.write_all(&greeting)?;
        let (up, down) = (plan.up, plan.down);
        let receive = || self.pattern.read(stream, &plan, true, 0, up);
        let send = || {
            self.pattern.write(stream, &plan, false, 0, down)?;
            stream.shutdown(Shutdown::Write).map_err(Broken::from)
        };
        match plan.way {
            Way::HalfClose => {
                receive()?;
                whole_end(stream, life)?;
                send()
            }
            Way::BackendFirst => {
                send()?;
                receive()?;
                whole_end(stream, life)
            }
            Way::Both => std::thread::scope(|scope| {
                let sender = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, send)?;
                receive()?;
                whole_end(stream, life)?;
                sender.join().map_err(|_| Broken::Cut("a thread failed".to_owned()))?
            }),
            Way::Talk => {
                for piece in 0..up {
                    self.pattern.read(stream, &plan, true, piece * down, (piece + 1) * down)?;
                    self.pattern.write(stream, &plan, false, piece * down, (piece + 1) * down)?;
                }
                whole_end(stream, life)
            }
        }
    }
}

/// The client's end, after all of its bytes; a byte too many is wrong unless this backend was killed in between.
fn whole_end(stream: &TcpStream, life: &Life) -> Result<(), Broken> {
    match read_end(stream) {
        Err(Broken::Wrong(_)) if life.over.load(SeqCst) => Err(Broken::Cut("killed".to_owned())),
        other => other,
    }
}
