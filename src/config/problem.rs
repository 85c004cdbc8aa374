//! What is wrong with a configuration, and how it is said: `file:line: key: value: why; way out`.

use std::fmt;
use std::path::{Path, PathBuf};

/// At most so many problems are printed; a file with more is the wrong file.
const MAX_SHOWN: usize = 100;

/// One problem: where, which key, and why with the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; none where something is missing from the file as a whole.
    pub line: Option<u32>,
    /// Column, from 1, where the line alone doesn't tell (syntax).
    pub column: Option<u32>,
    /// The key's path, e.g. `loadBalancers[0].backends[1].port`; empty for syntax.
    pub key: String,
    /// Value, why it can't work, and the way out.
    pub text: String,
    /// Whether privileges are what is missing (exit code 77, not 78).
    pub privilege: bool,
}

impl Problem {
    /// About the key `key` on `line`.
    pub(crate) fn new(line: Option<u32>, key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { line, column: None, key: key.into(), text: text.into(), privilege: false }
    }

    /// About the file's syntax; line 0 means nowhere in particular.
    pub(crate) fn syntax(line: u32, column: u32, text: impl Into<String>) -> Self {
        let some = |n: u32| (n > 0).then_some(n);
        Self { line: some(line), column: some(column), key: String::new(), text: text.into(), privilege: false }
    }

    fn render(&self, f: &mut fmt::Formatter<'_>, file: &Path, severity: &str) -> fmt::Result {
        write!(f, "{}:", file.display())?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, "{number}:")?;
        }
        if !severity.is_empty() {
            write!(f, " {severity}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.text)
    }
}

/// All problems of one file, in file order. Displayed one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    list: Vec<Problem>,
}

impl Problems {
    /// Sorts by line; problems of the file as a whole come last. `list` must not be empty.
    pub(crate) fn new(file: &Path, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|p| (p.line.unwrap_or(u32::MAX), p.column));
        Self { file: file.to_owned(), list }
    }

    /// The problems, sorted.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// Whether privileges are all that is missing.
    pub fn only_privileges(&self) -> bool {
        self.list.iter().all(|p| p.privilege)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.list.iter().take(MAX_SHOWN).enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            problem.render(f, &self.file, "")?;
        }
        match self.list.len().saturating_sub(MAX_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n{}: … and at least {more} more problems", self.file.display()),
        }
    }
}

impl std::error::Error for Problems {}

/// Something that works but is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    file: PathBuf,
    problem: Problem,
}

impl Warning {
    pub(crate) fn new(file: &Path, problem: Problem) -> Self {
        Self { file: file.to_owned(), problem }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.render(f, &self.file, "warning")
    }
}

/// A value from the file as it may stand in a message: short, on one line, nothing that a terminal obeys.
pub(crate) fn shown(value: &str) -> String {
    const MAX: usize = 80;
    let cut: String = value.chars().take(MAX).collect();
    let dots = if cut.len() < value.len() { "…" } else { "" };
    let plain = !cut.is_empty() && cut.chars().all(|c| c.is_alphanumeric() || (c.is_ascii_graphic() && c != '"'));
    if plain { format!("{cut}{dots}") } else { format!("{cut:?}{dots}") }
}

/// The word of `known` nearest to `word`, if it is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let fold =
        |s: &str| s.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).take(64).collect::<Vec<_>>();
    let wanted = fold(word);
    let distances = known.into_iter().map(|k| (distance(&wanted, &fold(k)), k));
    let (far, best) = distances.min_by_key(|(d, _)| *d)?;
    (far <= 1 + wanted.len() / 4).then_some(best)
}

/// Damerau–Levenshtein distance (optimal string alignment): a swap of neighbours counts as one.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_typos_and_rejects_strangers() {
        let known = ["localPeer", "remotePeers", "vip", "interface", "gratuitousARP"];
        for (typo, want) in [
            ("localpeer", Some("localPeer")),
            ("remote_peers", Some("remotePeers")),
            ("vpi", Some("vip")),
            ("inteface", Some("interface")),
            ("gratuitousArp", Some("gratuitousARP")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typo, known), want, "{typo}");
        }
    }

    #[test]
    fn shown_values_stay_on_one_line() {
        assert_eq!(shown("eth0"), "eth0");
        assert_eq!(shown("a\nb\u{1b}[2J"), r#""a\nb\u{1b}[2J""#);
        assert_eq!(shown(""), r#""""#);
        assert!(shown(&"x".repeat(5000)).chars().count() < 90);
    }

    #[test]
    fn sorted_by_line_with_the_whole_file_last() {
        let list = vec![Problem::new(None, "vip", "missing"), Problem::new(Some(3), "a", "x"), Problem::syntax(2, 5, "y")];
        assert_eq!(Problems::new(Path::new("f"), list).to_string(), "f:2:5: y\nf:3: a: x\nf: vip: missing");
    }
}
