//! Reads typed values out of the tree and notes every problem on the way instead of stopping at the first.

use super::problem::{Problem, nearest, shown};
use super::tree::{Node, Value};

/// Longest list of nodes, balancers or backends: comparisons of all with all stay quick.
const MAX_ITEMS: usize = 1000;

/// At most so many problems are kept: a file with more is the wrong file.
const MAX_PROBLEMS: usize = 1000;

/// What was found so far: problems forbid a start, warnings don't.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl Found {
    /// Notes a problem of the key that `spot` came from.
    pub(crate) fn at<T>(&mut self, spot: &Spot<T>, text: impl Into<String>) {
        self.note(Problem::new(Some(spot.line), &*spot.key, text));
    }

    fn note(&mut self, problem: Problem) {
        if !self.is_full() {
            self.problems.push(problem);
        }
    }

    /// Whether more problems wouldn't be read by anybody.
    fn is_full(&self) -> bool {
        self.problems.len() >= MAX_PROBLEMS
    }

    /// Notes a problem on a line.
    pub(crate) fn on(&mut self, line: u32, key: impl Into<String>, text: impl Into<String>) {
        self.note(Problem::new(Some(line), key, text));
    }

    /// Notes a problem of the file as a whole.
    pub(crate) fn whole(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.note(Problem::new(None, key, text));
    }

    /// Notes something that works but is probably not meant.
    pub(crate) fn warn(&mut self, line: u32, key: impl Into<String>, text: impl Into<String>) {
        if self.warnings.len() < MAX_PROBLEMS {
            self.warnings.push(Problem::new(Some(line), key, text));
        }
    }
}

/// A value with the key and line it came from.
#[derive(Clone, Debug)]
pub(crate) struct Spot<T> {
    pub(crate) value: T,
    pub(crate) key: String,
    pub(crate) line: u32,
}

impl<T: ToString> Spot<T> {
    /// The value put through a check, which says why it can't work; the message gets the value in front.
    pub(crate) fn checked<U>(&self, found: &mut Found, check: impl FnOnce(&T) -> Result<U, String>) -> Option<U> {
        check(&self.value).map_err(|why| found.at(self, format!("{} {why}", shown(&self.value.to_string())))).ok()
    }
}

/// A key of the schema as it is found in the file. `Bad` was reported already, so nobody calls it missing too.
#[derive(Clone, Debug, Default)]
pub(crate) enum Given<T> {
    #[default]
    Absent,
    Bad,
    Is(Spot<T>),
}

impl<T> Given<T> {
    pub(crate) fn good(&self) -> Option<&Spot<T>> {
        match self {
            Given::Is(spot) => Some(spot),
            _ => None,
        }
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Given::Absent)
    }

    /// The line it stands on, where it is there and readable.
    pub(crate) fn line(&self) -> Option<u32> {
        self.good().map(|s| s.line)
    }

    /// As [`Spot::checked`], where there is one.
    pub(crate) fn checked<U>(&self, found: &mut Found, check: impl FnOnce(&T) -> Result<U, String>) -> Option<U>
    where
        T: ToString,
    {
        self.good()?.checked(found, check)
    }
}

impl<T: Clone> Given<T> {
    /// The value, or `default` where the key is absent or bad.
    pub(crate) fn or(&self, default: T) -> T {
        self.good().map_or(default, |s| s.value.clone())
    }
}

/// One map of the file, its keys known to the schema and given once.
pub(crate) struct Keys<'a> {
    path: String,
    entries: Vec<(&'a str, &'a Node)>,
    /// Known keys that an unknown one was probably meant for: nobody calls them missing too.
    misspelt: Vec<String>,
}

impl<'a> Keys<'a> {
    /// Opens `node` as a map; reports another type, unknown keys (with the nearest known one) and repeated keys.
    pub(crate) fn open(node: &'a Node, path: &str, known: &[&str], found: &mut Found) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            found.on(node.line, path, wrong_type(&node.value, &format!("keys are wanted here: {}", known.join(", "))));
            return None;
        };
        let mut keys = Keys { path: path.to_owned(), entries: Vec::new(), misspelt: Vec::new() };
        let mut lines: Vec<(&str, u32)> = Vec::new();
        for (key, value) in entries {
            let Value::Scalar(name) = &key.value else {
                found.on(
                    key.line,
                    path,
                    format!("a key here is {}; a key is one word: {}", key.value.kind(), known.join(", ")),
                );
                continue;
            };
            if !known.contains(&name.as_str()) {
                let near = if found.is_full() { None } else { nearest(name, known.iter().copied()) };
                keys.misspelt.extend(near.map(str::to_owned));
                found.on(key.line, keys.full(&shown(name)), unknown_key(near, known));
            } else if let Some((_, first)) = lines.iter().find(|(n, _)| n == name) {
                found.on(key.line, keys.full(name), format!("given twice, first on line {first}; keep one of them"));
            } else {
                lines.push((name, key.line));
                keys.entries.push((name, value));
            }
        }
        Some(keys)
    }

    /// The path of `key` from the top of the file.
    pub(crate) fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The node under `key`; an empty value counts as absent, as it did in 2020.
    pub(crate) fn node(&self, key: &str) -> Option<&'a Node> {
        self.entries.iter().find(|(name, n)| *name == key && n.value != Value::Null).map(|(_, node)| *node)
    }

    /// What `key` is if it isn't there.
    pub(crate) fn without<T>(&self, key: &str) -> Given<T> {
        if self.misspelt.iter().any(|k| k == key) { Given::Bad } else { Given::Absent }
    }

    fn given<T>(&self, key: &str, found: &mut Found, read: impl FnOnce(&'a Value) -> Result<T, String>) -> Given<T> {
        let Some(node) = self.node(key) else { return self.without(key) };
        match read(&node.value) {
            Ok(value) => Given::Is(Spot { value, key: self.full(key), line: node.line }),
            Err(why) => {
                found.on(node.line, self.full(key), why);
                Given::Bad
            }
        }
    }

    /// Text; a bare number is text too.
    pub(crate) fn text(&self, key: &str, found: &mut Found) -> Given<String> {
        self.given(key, found, |value| scalar(value, "one value is wanted here").map(str::to_owned))
    }

    /// `true` or `false`, also in the other spellings of YAML 1.1 that were valid in 2020.
    pub(crate) fn boolean(&self, key: &str, found: &mut Found) -> Given<bool> {
        self.given(key, found, |value| {
            let text = scalar(value, "true or false is wanted here")?;
            match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" => Ok(true),
                "false" | "no" | "off" | "n" => Ok(false),
                _ => Err(format!("{} is neither true nor false; write one of them", shown(text))),
            }
        })
    }

    /// A decimal number, quoted or not.
    pub(crate) fn integer(&self, key: &str, found: &mut Found) -> Given<i64> {
        self.given(key, found, |value| {
            let text = scalar(value, "a number is wanted here")?;
            decimal(text).map_err(|why| format!("{} {why}", shown(text)))
        })
    }

    /// A list of texts, or a lone one; each with its own key and line. Where one can't be read, it was reported and the others are there.
    pub(crate) fn texts(&self, key: &str, found: &mut Found) -> Given<Vec<Spot<String>>> {
        const WANTED: &str = "one value is wanted here";
        let Some(node) = self.node(key) else { return self.without(key) };
        if !matches!(node.value, Value::Seq(_)) {
            let alone = self.text(key, found);
            return alone.good().map_or(Given::Bad, |spot| {
                Given::Is(Spot { value: vec![spot.clone()], key: spot.key.clone(), line: spot.line })
            });
        }
        let Given::Is(Spot { value: items, key, line }) = self.list(key, found) else { return Given::Bad };
        let mut texts = Vec::new();
        for (key, item) in items {
            match scalar(&item.value, WANTED) {
                Ok(text) => texts.push(Spot { value: text.to_owned(), key, line: item.line }),
                Err(why) => found.on(item.line, key, why),
            }
        }
        Given::Is(Spot { value: texts, key, line })
    }

    /// A list's items, each with its path.
    pub(crate) fn list(&self, key: &str, found: &mut Found) -> Given<Vec<(String, &'a Node)>> {
        self.given(key, found, |value| match value {
            Value::Seq(items) if items.len() > MAX_ITEMS => {
                Err(format!("has {} entries; {MAX_ITEMS} are the most in one list", items.len()))
            }
            Value::Seq(items) => {
                Ok(items.iter().enumerate().map(|(n, item)| (format!("{}[{n}]", self.full(key)), item)).collect())
            }
            other => Err(wrong_type(other, "a list is wanted here; start each entry with `- `")),
        })
    }
}

/// A plain decimal integer. Not YAML 1.1's `010` (octal there, ten elsewhere) nor `0x1F`: what is ambiguous is refused.
fn decimal(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("is not a whole decimal number; write digits only".to_owned());
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return Err("has a leading zero, which some readers take as octal; write it without".to_owned());
    }
    text.parse().map_err(|_| "is far too large".to_owned())
}

fn scalar<'a>(value: &'a Value, wanted: &str) -> Result<&'a str, String> {
    match value {
        Value::Scalar(text) => Ok(text),
        other => Err(wrong_type(other, wanted)),
    }
}

fn wrong_type(value: &Value, wanted: &str) -> String {
    match value {
        Value::Scalar(text) => format!("{} is a single value; {wanted}", shown(text)),
        other => format!("is {}; {wanted}", other.kind()),
    }
}

fn unknown_key(near: Option<&str>, known: &[&str]) -> String {
    match near {
        Some(near) => format!("unknown key; did you mean `{near}`?"),
        None => format!("unknown key; the keys here are {}. Remove it or see `kube-vip sample config`", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_unambiguous() {
        for (text, want) in [("0", Some(0)), ("10000", Some(10000)), ("-3", Some(-3))] {
            assert_eq!(decimal(text).ok(), want);
        }
        for bad in ["", "-", "010", "0x10", "1e3", "1.0", "1_000", "٣", "99999999999999999999", "+1", " 1"] {
            assert!(decimal(bad).is_err(), "{bad}");
        }
    }
}
