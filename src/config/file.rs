//! Path → text: every way in which a file can be no configuration at all.

use super::problem::Problem;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Largest configuration in bytes; a file of this size names thousands of backends.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the file as UTF-8 text.
///
/// # Errors
/// Not there, not readable, a directory, too large, not UTF-8 or with NUL bytes.
pub(crate) fn read(path: &Path) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    let outcome = File::open(path).and_then(|f| f.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    outcome.map_err(|e| unreadable(&e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(whole("larger than 1 MiB, so this is no configuration; `kube-vip sample config` prints one"));
    }
    text(bytes)
}

/// A number that another text has by chance only (the first eight bytes of SHA-256).
pub(crate) fn mark(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte))
}

fn text(bytes: Vec<u8>) -> Result<String, Problem> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(whole("is UTF-16; save it as UTF-8"));
    }
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        return Err(Problem::syntax(line_of(&bytes, at), 0, "has a NUL byte here, so this is no text file; write it anew"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Problem::syntax(line_of(e.as_bytes(), at), 0, "is not UTF-8 here; save the file as UTF-8")
    })
}

fn line_of(bytes: &[u8], at: usize) -> u32 {
    let before = bytes[..at].iter().filter(|b| **b == b'\n').count();
    u32::try_from(before).unwrap_or(u32::MAX - 1) + 1
}

fn unreadable(error: &std::io::Error) -> Problem {
    use std::io::ErrorKind as Kind;
    let mend = match error.kind() {
        Kind::NotFound => "`kube-vip sample config > config.yaml` writes one to edit, `-c FILE` names it",
        Kind::PermissionDenied => "run as a user who may read it, or change its mode",
        Kind::IsADirectory => "name the file in it",
        _ => "is the path right?",
    };
    whole(format!("can't read it: {error}; {mend}"))
}

fn whole(text: impl Into<String>) -> Problem {
    Problem::new(None, "", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text() {
        for (bytes, says) in [(&b"\xFF\xFEv\0"[..], "UTF-16"), (b"a\nb\0", "NUL"), (b"a: \xE4\n", "not UTF-8")] {
            let problem = text(bytes.to_vec()).expect_err(says);
            assert!(problem.text.contains(says), "{problem:?}");
        }
        assert_eq!(text(b"a\nb\0".to_vec()).map_err(|p| p.line), Err(Some(2)));
    }

    #[test]
    fn unreadable_paths_say_what_to_do() {
        let missing = read(Path::new("/nonexistent/config.yaml")).expect_err("missing");
        assert!(missing.text.contains("sample config"), "{missing:?}");
        let directory = read(Path::new("/")).expect_err("a directory");
        assert!(directory.text.contains("name the file in it"), "{directory:?}");
        let endless = read(Path::new("/dev/zero")).expect_err("endless");
        assert!(endless.text.contains("1 MiB"), "{endless:?}");
    }
}
