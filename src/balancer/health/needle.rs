//! A text that is looked for in bytes that arrive one by one, without keeping them (Knuth, Morris, Pratt 1977). Pure.

use std::fmt;

/// The text, and where to go on after a byte that doesn't fit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Needle {
    text: Box<str>,
    /// For each place: how many bytes that end there are also the text's first ones.
    back: Box<[u32]>,
}

impl Needle {
    /// `None` for the empty text, which is everywhere.
    pub(super) fn new(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let mut needle = Self { text: text.into(), back: vec![0; text.len()].into() };
        let mut n = 0;
        for i in 1..text.len() {
            n = needle.next(n, text.as_bytes()[i]);
            needle.back[i] = n as u32;
        }
        Some(needle)
    }

    /// How many of its bytes are found at the end of what was searched, after one more `byte`; `found`: before it.
    pub(super) fn next(&self, mut found: usize, byte: u8) -> usize {
        let text = self.text.as_bytes();
        while found > 0 && text.get(found) != Some(&byte) {
            found = self.back[found - 1] as usize;
        }
        found + usize::from(text[found] == byte)
    }

    /// Whether that is all of it.
    pub(super) fn is_whole(&self, found: usize) -> bool {
        found == self.text.len()
    }
}

/// As a log line shows it: in quotes, cut off.
impl fmt::Display for Needle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin: String = self.text.chars().take(40).collect();
        write!(f, "{begin:?}{}", if begin.len() < self.text.len() { "…" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_what_a_plain_search_finds() {
        let letters =
            |mut n: u32, len: u32| -> String { (0..len).map(|_| (char::from(b'a' + (n % 2) as u8), n /= 2).0).collect() };
        for text in (1..=5).flat_map(|len| (0..1 << len).map(move |n| letters(n, len))) {
            let needle = Needle::new(&text).expect("not empty");
            for hay in (0..1 << 10).map(|n| letters(n, 10)) {
                let mut found = 0;
                let end = hay.bytes().position(|b| {
                    found = needle.next(found, b);
                    needle.is_whole(found)
                });
                assert_eq!(end.map(|end| end + 1), hay.find(&text).map(|at| at + text.len()), "{text} in {hay}");
            }
        }
    }

    #[test]
    fn it_is_shown_in_one_short_line() {
        let shown = |text| Needle::new(text).map(|n| n.to_string());
        assert_eq!(shown(""), None);
        assert_eq!(shown("a\n\"b\""), Some(r#""a\n\"b\"""#.into()));
        assert_eq!(shown(&"é".repeat(50)), Some(format!("\"{}\"…", "é".repeat(40))));
    }
}
