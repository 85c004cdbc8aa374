//! YAML text → a tree in which every key and value knows its line. The only file that names the YAML crate.
//!
//! The tree exists so that all problems can be reported at once: serde's derive stops at the first one.

use super::problem::Problem;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Options, Spanned};

/// Deepest nesting of maps and lists; the schema needs 5.
const MAX_DEPTH: usize = 16;
/// Most events that aliases may add: an alias bomb ends here instead of in memory.
const MAX_REPLAYED: usize = 10_000;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// What it is.
    pub(crate) value: Value,
    /// Line, from 1; of an alias, where the alias stands.
    pub(crate) line: u32,
}

/// A YAML value; scalars keep their text as written, so that `1.10` stays an id and `010` can be questioned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Any scalar, unquoted.
    Scalar(String),
    /// A list.
    Seq(Vec<Node>),
    /// A map in file order, repeated keys included.
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// What it is called in messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "empty",
            Value::Scalar(_) => "a single value",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a map of keys",
        }
    }
}

/// Parses one YAML document.
///
/// # Errors
/// The one syntax error that ended parsing, with line and column.
pub(crate) fn parse(text: &str) -> Result<Node, Problem> {
    let spanned: Spanned<Shape> = serde_saphyr::from_str_with_options(text, options()).map_err(|e| syntax_problem(text, &e))?;
    Ok(node(spanned, text))
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_merge_keys: 1_000 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

/// A parsed value before its text is looked up in the source.
enum Shape {
    Null,
    /// A plain scalar that looks like a boolean or number: its text is in the source.
    Plain,
    Text(String),
    Seq(Vec<Spanned<Shape>>),
    Map(Vec<(Spanned<Shape>, Spanned<Shape>)>),
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Plain)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Shape, E> {
        Ok(Shape::Plain)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Shape, E> {
        Ok(Shape::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Plain)
    }

    fn visit_str<E>(self, text: &str) -> Result<Shape, E> {
        Ok(Shape::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Shape, E> {
        Ok(Shape::Text(text))
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Shape, E> {
        Err(E::custom("binary values have no meaning here"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Shape::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Shape::Map(entries))
    }
}

fn node(spanned: Spanned<Shape>, source: &str) -> Node {
    let line = u32::try_from(spanned.referenced.line()).unwrap_or(u32::MAX);
    let value = match spanned.value {
        Shape::Null => Value::Null,
        Shape::Plain => Value::Scalar(written(source, &spanned.defined)),
        Shape::Text(text) => Value::Scalar(text),
        Shape::Seq(items) => Value::Seq(items.into_iter().map(|n| node(n, source)).collect()),
        Shape::Map(entries) => Value::Map(entries.into_iter().map(|(k, v)| (node(k, source), node(v, source))).collect()),
    };
    Node { value, line }
}

/// The source text of a plain scalar. Quotes can be there too, with an explicit tag such as `!!int "3"`.
fn written(source: &str, at: &Location) -> String {
    let span = at.span();
    let start = span.byte_offset().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let len = span.byte_len().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let text = start.checked_add(len).and_then(|end| source.get(start..end)).unwrap_or("").trim();
    let unquoted = ['"', '\''].iter().find_map(|q| text.strip_prefix(*q).and_then(|t| t.strip_suffix(*q)));
    unquoted.unwrap_or(text).to_owned()
}

fn syntax_problem(text: &str, error: &serde_saphyr::Error) -> Problem {
    let (line, column) = error.location().map_or((0, 0), |l| (l.line() as u32, l.column() as u32));
    let mut cause = error.without_snippet();
    while let serde_saphyr::Error::AliasError { error, .. } = cause {
        cause = error.without_snippet();
    }
    let why = match cause {
        serde_saphyr::Error::MultipleDocuments { .. } => {
            "a second document starts here; one file configures one node. Remove the `---` line and what follows it".to_owned()
        }
        serde_saphyr::Error::Budget { .. } | serde_saphyr::Error::AliasReplayLimitExceeded { .. } => {
            format!(
                "nested deeper than {MAX_DEPTH} levels, or blown up by aliases; no configuration needs that. `kube-vip sample config` prints one"
            )
        }
        other => not_yaml(text, line, &other.to_string()),
    };
    Problem::syntax(line, column, why)
}

fn not_yaml(text: &str, line: u32, why: &str) -> String {
    let why = why.split_once(" at line ").map_or(why, |(front, _)| front);
    let why: String = why.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    let here = text.lines().nth((line as usize).saturating_sub(1)).unwrap_or("");
    let blank = &here[..here.len() - here.trim_start().len()];
    let hint = if blank.contains('\t') {
        "indent with spaces, YAML allows no tabs there"
    } else {
        "look at this line and the one before it"
    };
    format!("not YAML: {why}; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str) -> Value {
        Value::Scalar(text.to_owned())
    }

    #[test]
    fn scalars_keep_their_text_and_line() {
        let tree = parse("a: 1.10\nb: 010\nc: \"q\"\nd: yes\ne:\nf: !!int \"3\"\ng: 1e999\nh: .nan\n").expect("valid YAML");
        let Value::Map(entries) = tree.value else { panic!("a map") };
        let values: Vec<_> = entries.iter().map(|(_, v)| (v.value.clone(), v.line)).collect();
        let wanted = ["1.10", "010", "q", "yes", "", "3", "1e999", ".nan"];
        for (n, text) in wanted.iter().enumerate() {
            let want = if text.is_empty() { Value::Null } else { scalar(text) };
            assert_eq!(values[n].0, want);
            assert!(text.is_empty() || values[n].1 == n as u32 + 1);
        }
    }

    #[test]
    fn aliases_take_the_line_where_they_stand() {
        let tree = parse("a: &x 7\nb: *x\n").expect("valid YAML");
        let Value::Map(entries) = tree.value else { panic!("a map") };
        assert_eq!(entries[1].1, Node { value: scalar("7"), line: 2 });
    }

    #[test]
    fn bombs_and_depth_end_in_an_error() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..12 {
            let refs = vec![format!("*a{}", n - 1); 10].join(",");
            bomb.push_str(&format!("a{n}: &a{n} [{refs}]\n"));
        }
        assert!(parse(&bomb).is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&format!("{}1{}", "[".repeat(40), "]".repeat(40))).is_err());
        assert!(parse(&"- ".repeat(5_000)).is_err());
    }
}
