//! The control socket: `kube-vip status` and the commands ask the running daemon over a unix socket. One line of question, one JSON
//! document.

use super::Snapshot;
use super::question::{Answer, Command, LONGEST, Question};
use crate::reactor::{self, Async};
use smol::future::FutureExt;
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

/// A client has this long to ask, and as long to read.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a command takes at most beside three leases: letting go, and what follows an election.
const COMMAND: Duration = Duration::from_secs(5);

/// So many clients are answered at a time, one by each [`serve`]; others wait in the socket's backlog.
pub const CLIENTS: usize = 4;

/// The daemon as its control socket sees it.
pub trait Asked {
    /// Everything it knows.
    fn snapshot(&self) -> Snapshot;
    /// Does it, within [`limit`], and tells how it ended.
    fn command(&self, command: Command) -> Pin<Box<dyn Future<Output = Answer> + '_>>;
    /// Goes on as another program, which answers this client; returns only where that can't be.
    fn upgrade(&self, client: OwnedFd) -> Pin<Box<dyn Future<Output = Answer> + '_>>;
}

/// How long a command may take where raft has this lease: a transfer, and where that fails an election.
pub fn limit(lease: Duration) -> Duration {
    COMMAND + lease * 3
}

/// Binds the control socket, replacing one that no daemon answers on any more.
pub fn bind(path: &Path) -> Result<UnixListener, String> {
    let what = |e: io::Error| {
        format!("can't create the control socket {}: {e} (set controlSocket to a path in a writable directory)", path.display())
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(what)?;
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(what)?;
    // Status tells addresses and counters: for the owner and its group.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(what)?;
    Ok(listener)
}

fn remove_stale(path: &Path) -> Result<(), String> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(format!("{} exists and is not a socket: remove it, or set controlSocket to another path", path.display()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(format!("another kube-vip answers on {}: stop it first, or give this one another id", path.display())),
        Err(_) => {
            std::fs::remove_file(path).map_err(|e| format!("can't remove the old control socket {}: {e}", path.display()))
        }
    }
}

/// Answers clients for ever, one after the other. Several at a time (see [`CLIENTS`]), each on a descriptor of its own of one
/// listener, keep a command that takes its time from blocking `status`.
pub async fn serve(listener: UnixListener, asked: &impl Asked) {
    let listener = match Async::new(listener) {
        Ok(listener) => listener,
        Err(e) => return log::error!("can't wait for clients of the control socket: {e}"),
    };
    loop {
        let Ok(stream) = listener.accept().await else {
            reactor::sleep(PATIENCE).await;
            continue;
        };
        if let Err(e) = answer(stream, asked).await {
            log::debug!("control socket: {e}");
        }
    }
}

async fn answer(stream: Async<UnixStream>, asked: &impl Asked) -> io::Result<()> {
    let mut line = String::new();
    let mut reader = BufReader::new((&stream).take(LONGEST));
    soon(reader.read_line(&mut line)).await?;
    let text = match Question::parse(&line) {
        Some(Question::Status) => serde_json::to_string(&asked.snapshot()),
        Some(Question::Do(command)) => serde_json::to_string(&asked.command(command).await),
        Some(Question::Upgrade) => {
            let client = stream.get_ref().as_fd().try_clone_to_owned()?;
            serde_json::to_string(&asked.upgrade(client).await)
        }
        None => serde_json::to_string(&Answer::Error("unknown question".to_string())),
    };
    let text = text.map_err(io::Error::other)?;
    soon((&stream).write_all(text.as_bytes())).await
}

async fn soon<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = async {
        reactor::sleep(PATIENCE).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    work.or(late).await
}

/// Asks a running daemon for its snapshot (blocking; for the command line).
///
/// # Errors
/// Text for the user.
pub fn ask(path: &Path) -> Result<Snapshot, String> {
    read(path, &talk(path, &Question::Status, PATIENCE * 2)?)
}

/// Tells a running daemon to do something and waits until it is done, at most a little longer than `limit` (blocking; for the command
/// line). Returns what is so then.
///
/// # Errors
/// Text for the user.
pub fn tell(path: &Path, command: Command, limit: Duration) -> Result<String, String> {
    match read(path, &talk(path, &Question::Do(command), limit + PATIENCE * 2)?)? {
        Answer::Done(text) => Ok(text),
        Answer::Error(why) => Err(why),
    }
}

/// Tells a running daemon to go on as the program that stands at its own path now, and waits for that one's word (blocking; for the
/// command line). Returns what is so then.
///
/// # Errors
/// Text for the user.
pub fn upgrade(path: &Path, limit: Duration) -> Result<String, String> {
    let text = talk(path, &Question::Upgrade, limit)?;
    if text.is_empty() {
        return Err("the new program ended before it could answer: see the log, and `kube-vip status`".to_string());
    }
    match read(path, &text)? {
        Answer::Done(text) => Ok(text),
        Answer::Error(why) => Err(why),
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|e| format!("what answers on {} is not this version of kube-vip: {e}", path.display()))
}

fn talk(path: &Path, question: &Question, patience: Duration) -> Result<String, String> {
    let talked = || -> io::Result<String> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.write_all(question.to_string().as_bytes())?;
        let mut text = String::new();
        stream.take(4 << 20).read_to_string(&mut text)?;
        Ok(text)
    };
    talked().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!(
                "kube-vip is not running with this configuration (nothing answers on {}): start it with `kube-vip start -c FILE`",
                path.display()
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("may not ask {}: {e} (run as the daemon's user, or as root)", path.display())
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no answer on {} within {} s: the daemon is busy or stopped", path.display(), patience.as_secs())
        }
        _ => format!("can't ask {}: {e}", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::LocalExecutor;
    use smol::channel::{Receiver, Sender, bounded};
    use std::rc::Rc;

    /// Its commands begin, and end when they are told to.
    struct Slow {
        begun: Sender<Command>,
        end: Receiver<Answer>,
    }

    impl Asked for Slow {
        fn snapshot(&self) -> Snapshot {
            Snapshot { id: "n1".to_string(), ..Snapshot::default() }
        }

        fn command(&self, command: Command) -> Pin<Box<dyn Future<Output = Answer> + '_>> {
            Box::pin(async move {
                let _ = self.begun.send(command).await;
                self.end.recv().await.unwrap_or(Answer::Error("the test is over".to_string()))
            })
        }

        fn upgrade(&self, _: OwnedFd) -> Pin<Box<dyn Future<Output = Answer> + '_>> {
            Box::pin(async { Answer::Error("not here".to_string()) })
        }
    }

    #[test]
    fn a_command_under_way_and_a_silent_client_keep_nobody_from_asking() {
        let path = std::env::temp_dir().join(format!("kube-vip-socket-{}.sock", std::process::id()));
        let listener = bind(&path).expect("a socket in the temporary directory");
        let (begun, begins) = bounded(1);
        let (ends, end) = bounded(1);
        let asked = Rc::new(Slow { begun, end });
        let executor = LocalExecutor::new();
        for _ in 0..CLIENTS {
            let (listener, asked) = (listener.try_clone().expect("a descriptor"), asked.clone());
            executor.spawn(async move { serve(listener, &*asked).await }).detach();
        }
        let patience = Duration::from_secs(60);
        let talk = executor.run(async {
            let silent = UnixStream::connect(&path).expect("it listens");
            let other = path.clone();
            let move_it = Command::HandOver { to: Some("n2".to_string()) };
            let told = smol::unblock(move || tell(&other, move_it, patience));
            assert_eq!(begins.recv().await, Ok(Command::HandOver { to: Some("n2".to_string()) }));
            let other = path.clone();
            assert_eq!(smol::unblock(move || ask(&other)).await.map(|s| s.id), Ok("n1".to_string()));
            ends.send(Answer::Error("no peer is ready".to_string())).await.expect("the command waits for it");
            assert_eq!(told.await, Err("no peer is ready".to_string()));
            let other = path.clone();
            let cordoned = smol::unblock(move || tell(&other, Command::Cordon, patience));
            assert_eq!(begins.recv().await, Ok(Command::Cordon));
            ends.send(Answer::Done("cordoned".to_string())).await.expect("the command waits for it");
            assert_eq!(cordoned.await, Ok("cordoned".to_string()));
            drop(silent);
        });
        reactor::block_on(talk).expect("a reactor");
        std::fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn the_limit_grows_with_the_lease() {
        assert_eq!(limit(Duration::from_secs(3)), Duration::from_secs(14));
    }
}
