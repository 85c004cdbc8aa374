//! A changed configuration, put in place while running: all of what may change, or nothing.

use super::Daemon;
use super::commands::Turn;
use super::reach::Tracker;
use crate::cluster::runtime;
use crate::config::{self, Config, Overrides, Problems, Warning, change};
use crate::status::socket;
use crate::vip::Order;
use log::{error, info, warn};
use nix::unistd::{getegid, geteuid};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often SIGHUP looks whether the command before it is done.
const LOOK: Duration = Duration::from_millis(20);
/// Problems in one line of the log.
const SHOWN: usize = 5;

type Loaded = Result<(Config, Vec<Warning>, u64), String>;

impl Daemon {
    /// Does for each SIGHUP what `kube-vip reload` does. Several at once are one: the keeper passes its own on.
    pub(super) async fn reload_when_hung_up(&self) {
        loop {
            self.hung_up.wait().await;
            let _turn = loop {
                match Turn::take(&self.commanded) {
                    Some(turn) => break turn,
                    None => runtime::sleep(LOOK).await,
                }
            };
            if self.stopping.get() {
                return;
            }
            let limit = socket::limit(self.config.timing.lease);
            let late =
                || Err(format!("nothing has changed: {} is not read within {} s", self.config.file.display(), limit.as_secs()));
            match runtime::timeout(limit, self.reload(None)).await.unwrap_or_else(|_| late()) {
                Ok(text) => info!("{text}"),
                Err(why) => error!("{}", one_line(&why)),
            }
        }
    }

    /// Reads the file again, and puts it in place. `checked`: which text somebody else found to be sound there.
    ///
    /// # Errors
    /// Why nothing has changed, and the way out.
    pub(super) async fn reload(&self, checked: Option<u64>) -> Result<String, String> {
        let _told = self.service.reloading();
        let running = self.running.borrow().clone();
        let file = running.file.display();
        let (path, overrides, reading) = (running.file.clone(), running.overrides, self.reading.clone());
        if reading.swap(true, Ordering::Relaxed) {
            // Votes go to the disk by way of the same few threads: not all of them may wait for a file.
            return Err(format!("nothing has changed: an earlier reload still waits for the disk of {file}"));
        }
        let read = runtime::unblock(move || {
            let read = read(&path, &overrides);
            reading.store(false, Ordering::Relaxed);
            read
        })
        .await;
        let loaded = read.unwrap_or_else(|lost| {
            self.reading.store(false, Ordering::Relaxed);
            Err(format!("can't read {file}: {lost}"))
        });
        let (new, warnings, mark) = loaded.map_err(|why| format!("nothing has changed: {why}"))?;
        if checked.is_some_and(|checked| checked != mark) {
            return Err(format!("nothing has changed: {}", other_text(&running.file)));
        }
        let changes = change::between(&running, &new).map_err(|e| format!("nothing has changed: {file}: {e}"))?;
        self.backends.look_ahead(&running, &new).await;
        if let Err(why) = self.put_in_place(&running, new) {
            self.backends.configured(&running);
            return Err(format!("nothing has changed: {file}: {why}"));
        }
        warnings.iter().for_each(|warning| warn!("{warning}"));
        Ok(if changes.is_empty() { format!("{file}: nothing has changed") } else { format!("{file} is in place: {changes}") })
    }

    /// What can fail comes first, and does all or nothing by itself.
    fn put_in_place(&self, old: &Config, new: Config) -> Result<(), String> {
        self.control.apply(new.balancers.clone()).map_err(|e| one_line(&e.to_string()))?;
        self.control.limit_connections(super::most_connections(&new));
        let tracked = old.track_backends != new.track_backends;
        self.backends.configured(&new);
        *self.running.borrow_mut() = Rc::new(new);
        self.tell_drain();
        if tracked {
            self.track();
        }
        Ok(())
    }

    /// Tells the keeper how long a stop may take.
    pub(super) fn tell_drain(&self) {
        let time = self.running.borrow().drain;
        self.holder.send(Order::Drain { time });
    }

    fn track(&self) {
        let running = self.running.borrow().clone();
        let mut tracker = self.tracker.borrow_mut();
        if let (Some(old), Some(cluster)) = (tracker.take(), &self.cluster) {
            old.stop(cluster);
        }
        *tracker = Tracker::start(&running, &self.control, self.cluster.as_ref());
    }
}

/// Reads and judges the file; on a thread that may block.
fn read(path: &Path, overrides: &Overrides) -> Loaded {
    if let Err(e) = File::open(path)
        && e.kind() == ErrorKind::PermissionDenied
    {
        return Err(forbidden(path));
    }
    config::load_marked(path, overrides).map_err(|problems: Problems| problems.to_string())
}

/// The daemon gave up root, and can't read what `start` could.
fn forbidden(path: &Path) -> String {
    let (uid, gid) = (geteuid(), getegid());
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // Where something can be asked about the file but not about what is in it, that is the directory with no way in.
    let found = whole.ancestors().find_map(|place| std::fs::metadata(place).ok().map(|meta| (place.display(), meta)));
    let mend = found.map(|(place, meta)| {
        let right = if meta.is_dir() { 'x' } else { 'r' };
        let (mode, owner, group) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
        format!(
            "{place} has mode {mode:o}, uid {owner}, gid {group}; `chgrp {gid} {place} && chmod g+{right} {place}` lets it. Or "
        )
    });
    format!(
        "the daemon runs as uid {uid}, gid {gid} and may not read {}: {}restart kube-vip, which reads the file before it becomes that user",
        path.display(),
        mend.unwrap_or_default()
    )
}

fn other_text(path: &Path) -> String {
    format!(
        "the running node reads {}, and finds another text there than the one just checked: name that file, or, where it is mounted \
         into a container and was replaced, start the container again",
        path.display()
    )
}

/// For the log: the first few lines as one.
pub(super) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines.iter().take(SHOWN).copied().collect::<Vec<_>>().join("; ");
    match lines.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more, which `kube-vip check` tells"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_problems_make_one_line() {
        assert_eq!(one_line("a\nb"), "a; b");
        assert_eq!(one_line("1\n2\n3\n4\n5\n6\n7"), "1; 2; 3; 4; 5; and 2 more, which `kube-vip check` tells");
    }
}
