//! The mark that keeps a node cordoned over a restart: an empty-handed file in the state directory.

use crate::cluster::runtime;
use log::warn;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Its name in the state directory.
const MARK: &str = "cordoned";
/// For whoever finds it.
const TEXT: &[u8] = b"While this file is here, this node does not hold the VIP. `kube-vip uncordon` removes it.\n";

/// Whether an earlier run was cordoned. Where that can't be read it wasn't: unknown is never a reason to act.
pub fn is_marked(state_dir: &Path) -> bool {
    let mark = state_dir.join(MARK);
    mark.try_exists().unwrap_or_else(|e| {
        warn!("can't look for {}: {e}; if this node was cordoned, say so again", mark.display());
        false
    })
}

/// Sets or removes the mark, on the device when this returns.
///
/// # Errors
/// What failed, on which file.
pub async fn mark(state_dir: &Path, cordoned: bool) -> Result<(), String> {
    let (dir, mark) = (state_dir.to_owned(), state_dir.join(MARK));
    let work = move || if cordoned { set(&dir) } else { remove(&dir) };
    let what = if cordoned { "write" } else { "remove" };
    match runtime::unblock(work).await {
        Ok(result) => result.map_err(|e| format!("can't {what} {}: {e}", mark.display())),
        Err(lost) => Err(lost.to_string()),
    }
}

/// Whole or not at all: written beside, then renamed.
fn set(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?; // with singleNode nothing else is kept there
    let new: PathBuf = dir.join(format!("{MARK}.new"));
    let mut file = File::create(&new)?;
    file.write_all(TEXT)?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join(MARK))?;
    File::open(dir)?.sync_all()
}

fn remove(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(MARK)) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        result => result.and_then(|()| File::open(dir)?.sync_all()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_set_and_removed_any_number_of_times() {
        let base = std::env::temp_dir().join(format!("kube-vip-cordon-{}", std::process::id()));
        let dir = base.join("n1");
        assert!(!is_marked(&dir), "no directory, no mark");
        remove(&dir).expect("nothing to remove is fine");
        for _ in 0..2 {
            set(&dir).expect("it is writable");
            set(&dir).expect("once more");
            assert!(is_marked(&dir));
            assert_eq!(std::fs::read_dir(&dir).expect("a directory").count(), 1, "nothing else is left");
            remove(&dir).expect("removed");
            assert!(!is_marked(&dir));
        }
        std::fs::write(base.join("file"), "").expect("a file");
        set(&base.join("file")).expect_err("a file is no directory");
        std::fs::remove_dir_all(&base).expect("removed");
    }
}
