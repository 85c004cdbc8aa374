//! The control socket: `kube-vip status` asks the running daemon over a unix socket. One line of question, one JSON document.

use super::Snapshot;
use crate::reactor::{self, Async};
use smol::future::FutureExt;
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// The question for a snapshot.
const STATUS: &str = "status\n";
/// A client has this long to ask and to read.
const PATIENCE: Duration = Duration::from_secs(1);
/// A question is not longer than this.
const QUESTION: u64 = 64;

/// Binds the control socket, replacing one that no daemon answers on any more.
pub fn bind(path: &Path) -> Result<Async<UnixListener>, String> {
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
    Async::new(listener).map_err(what)
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

/// Answers clients for ever, one after the other: each has a second.
pub async fn serve(listener: Async<UnixListener>, snapshot: impl Fn() -> Snapshot) {
    loop {
        let Ok(stream) = listener.accept().await else {
            reactor::sleep(PATIENCE).await;
            continue;
        };
        let late = async {
            reactor::sleep(PATIENCE).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        if let Err(e) = answer(stream, &snapshot).or(late).await {
            log::debug!("control socket: {e}");
        }
    }
}

async fn answer(stream: Async<UnixStream>, snapshot: &impl Fn() -> Snapshot) -> io::Result<()> {
    let mut question = String::new();
    BufReader::new((&stream).take(QUESTION)).read_line(&mut question).await?;
    let text = match question.as_str() {
        STATUS => serde_json::to_string(&snapshot()).map_err(io::Error::other)?,
        _ => r#"{"error":"unknown question"}"#.to_string(),
    };
    (&stream).write_all(text.as_bytes()).await
}

/// Asks a running daemon (blocking; for the command line).
pub fn ask(path: &Path) -> Result<Snapshot, String> {
    let asked = || -> io::Result<String> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE * 2))?;
        stream.set_write_timeout(Some(PATIENCE * 2))?;
        stream.write_all(STATUS.as_bytes())?;
        let mut text = String::new();
        stream.take(4 << 20).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = asked().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!(
                "kube-vip is not running with this configuration (nothing answers on {}): start it with `kube-vip start -c FILE`",
                path.display()
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("may not ask {}: {e} (run as the daemon's user, or as root)", path.display())
        }
        _ => format!("can't ask {}: {e}", path.display()),
    })?;
    serde_json::from_str(&text).map_err(|e| format!("what answers on {} is not this version of kube-vip: {e}", path.display()))
}
