//! The scripts around the static binaries: which revision they name, and when a size counts as a regression.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs `script` with the scripts' functions at hand, in `dir`, without a git configuration of this machine.
fn bash(dir: &Path, script: &str) -> Output {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib");
    let prelude = "set -euo pipefail; for f in common static size; do . \"$LIB/$f.sh\"; done; ";
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{prelude}{script}")]).current_dir(dir).env("LIB", lib);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CEILING_DIRECTORIES", "/").env_remove("GIT_DIR");
    command.output().expect("bash can be started")
}

#[track_caller]
fn said(dir: &Path, script: &str) -> String {
    let out = bash(dir, script);
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn fresh(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(dir.join("src")).expect("the directory for tests is writable");
    dir
}

#[test]
fn the_revision_is_the_commit_and_marks_what_differs_from_it() {
    let dir = fresh("revision");
    std::fs::write(dir.join("src/main.rs"), "fn main() {}").expect("writable");
    let commit = said(
        &dir,
        "git init -q . && git add src && git -c user.name=t -c user.email=t@example.org commit -qm first && git rev-parse HEAD",
    );
    assert_eq!(said(&dir, "revision"), commit[..10]);
    std::fs::write(dir.join("notes.txt"), "not built").expect("writable");
    assert_eq!(said(&dir, "revision"), commit[..10], "what is not built does not count");
    std::fs::write(dir.join("src/new.rs"), "").expect("writable");
    assert_eq!(said(&dir, "revision"), format!("{}-dirty", &commit[..10]));
    // A tarball unpacked inside another repository is not that repository.
    let inside = dir.join("src");
    assert_eq!(said(&inside, "revision"), "");
    std::fs::remove_dir_all(dir.join(".git")).expect("removable");
    assert_eq!(said(&dir, "revision"), "", "a tarball has no revision");
}

/// Makes a "binary" of so many bytes, and judges it against a table that has 1,000,000.
fn judged(dir: &Path, bytes: u64, target: &str) -> (bool, String) {
    let binary = dir.join(target).join("kube-vip");
    std::fs::create_dir_all(dir.join(target)).expect("writable");
    std::fs::File::create(&binary).and_then(|f| f.set_len(bytes)).expect("writable");
    std::fs::write(dir.join("size.txt"), "# target bytes\nsmall 1000000 1 2\nlarge 1849999 1 2\n").expect("writable");
    let out = bash(dir, &format!("size_check size.txt . {target}"));
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

#[test]
fn more_than_five_percent_over_the_table_is_a_regression() {
    let dir = fresh("size");
    assert!(judged(&dir, 900_000, "small").0);
    let (fine, text) = judged(&dir, 1_050_000, "small");
    assert!(fine, "{text}");
    let (fine, text) = judged(&dir, 1_050_001, "small");
    assert!(!fine && text.contains("1050001 bytes, more than 5 % over the 1000000"), "{text}");
    let (fine, text) = judged(&dir, 1_850_001, "large");
    assert!(!fine && text.contains("over the budget of 1850000"), "{text}");
    let (fine, text) = judged(&dir, 10, "unknown");
    assert!(!fine && text.contains("scripts/bench size --record unknown"), "{text}");
}
