//! YAML text → a tree in which every key and value knows its line. The only file that names the YAML crate.
//!
//! The tree exists so that all problems can be reported at once: serde's derive stops at the first one. It is built
//! from the parser's events, because a YAML crate for serde adds a quarter to the binary.

use super::problem::Problem;
use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Tag};
use std::collections::{BTreeMap, HashSet};

/// Deepest nesting of maps and lists; the schema needs 5.
const MAX_DEPTH: usize = 16;
/// Most keys, values, lists and maps of one file.
const MAX_NODES: usize = 250_000;
/// Most that aliases may add, and anchors keep: an alias bomb ends here instead of in memory. A list or map counts twice.
const MAX_COPIED: usize = 10_000;

/// What `!!` stands for; tags of other names are for other programs and change nothing.
const YAML_TAGS: &str = "tag:yaml.org,2002:";
const WRONG_TAG: &str = "the `!!` tag of this value has no meaning here, or isn't what the value is; remove the tag";

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

/// Parses one YAML document; `<<` brings in the keys of another map.
///
/// # Errors
/// The one syntax error that ended parsing, with line and column.
pub(crate) fn parse(text: &str) -> Result<Node, Problem> {
    let mut tree = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| not_yaml(text, &e))?;
        tree.take(event, span.start)?;
    }
    Ok(tree.root.unwrap_or(Node { value: Value::Null, line: 1 }))
}

/// A list or map whose end wasn't read yet.
struct Open {
    line: u32,
    /// The parser's number of its anchor, 0 for none.
    anchor: usize,
    parts: Parts,
}

enum Parts {
    Seq(Vec<Node>),
    Map { entries: Vec<(Node, Node)>, key: Option<Key>, merged: Vec<(Node, Node)> },
}

/// A key whose value wasn't read yet.
enum Key {
    Own(Node),
    /// `<<`
    Merge,
}

/// Puts the tree together, event by event.
#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    /// What anchors stand for.
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    kept: usize,
    copied: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: Marker) -> Result<(), Problem> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.room(at, 0)?;
                let plain = style == ScalarStyle::Plain;
                let value = scalar(&text, plain, tag.as_deref()).map_err(|why| problem(at, why))?;
                let merge = plain && tag.is_none() && text == "<<";
                self.add(Node { value, line: line(at) }, anchor, merge, at)
            }
            Event::SequenceStart(_, anchor, tag) => {
                collection_tag(tag.as_deref(), "seq").map_err(|why| problem(at, why))?;
                self.begin(Parts::Seq(Vec::new()), anchor, at)
            }
            Event::MappingStart(_, anchor, tag) => {
                collection_tag(tag.as_deref(), "map").map_err(|why| problem(at, why))?;
                self.begin(Parts::Map { entries: Vec::new(), key: None, merged: Vec::new() }, anchor, at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(at),
            Event::Alias(anchor) => self.alias(anchor, at),
            _ => Ok(()),
        }
    }

    /// Refuses a second document, and one node more than there may be, or one `deep` levels below the open ones.
    fn room(&mut self, at: Marker, deep: usize) -> Result<(), Problem> {
        if self.root.is_some() {
            let why = "a second document starts here; one file configures one node. Remove the `---` line and what follows it";
            return Err(problem(at, why));
        }
        self.nodes += 1;
        if self.nodes > MAX_NODES || self.open.len() + deep > MAX_DEPTH { Err(too_much(at)) } else { Ok(()) }
    }

    fn begin(&mut self, parts: Parts, anchor: usize, at: Marker) -> Result<(), Problem> {
        self.room(at, 1)?;
        self.open.push(Open { line: line(at), anchor, parts });
        Ok(())
    }

    fn end(&mut self, at: Marker) -> Result<(), Problem> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.parts {
            Parts::Seq(items) => Value::Seq(items),
            Parts::Map { entries, merged, .. } => Value::Map(with_merged(entries, merged)),
        };
        self.add(Node { value, line: open.line }, open.anchor, false, at)
    }

    fn alias(&mut self, anchor: usize, at: Marker) -> Result<(), Problem> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(problem(
                at,
                "this alias stands inside what it stands for, which would never end; write the value itself",
            ));
        };
        self.copied += events(node);
        if self.copied > MAX_COPIED {
            return Err(too_much(at));
        }
        let (copy, deep) = (moved(node, line(at)), depth(node));
        self.room(at, deep)?;
        self.add(copy, 0, false, at)
    }

    /// Puts a finished node where it belongs. `merge` says that it is a `<<` if it is a key.
    fn add(&mut self, node: Node, anchor: usize, merge: bool, at: Marker) -> Result<(), Problem> {
        if anchor > 0 {
            self.kept += events(&node);
            if self.kept > MAX_COPIED {
                return Err(too_much(at));
            }
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|o| &mut o.parts) {
            None => self.root = Some(node),
            Some(Parts::Seq(items)) => items.push(node),
            Some(Parts::Map { entries, key, merged }) => match key.take() {
                None => *key = Some(if merge { Key::Merge } else { Key::Own(node) }),
                Some(Key::Own(key)) => entries.push((key, node)),
                Some(Key::Merge) => merge_in(node, merged).map_err(|why| problem(at, why))?,
            },
        }
        Ok(())
    }
}

/// The entries of a map after `<<`, or of a list of maps.
fn merge_in(node: Node, merged: &mut Vec<(Node, Node)>) -> Result<(), &'static str> {
    match node.value {
        Value::Null => Ok(()),
        Value::Map(entries) => {
            merged.extend(entries);
            Ok(())
        }
        Value::Seq(items) => items.into_iter().try_for_each(|item| merge_in(item, merged)),
        Value::Scalar(_) => Err("`<<` takes a map or a list of maps; give it one, mostly as an alias such as `*defaults`"),
    }
}

/// A map with what `<<` brought: its own keys win, then what was brought first.
fn with_merged(mut entries: Vec<(Node, Node)>, merged: Vec<(Node, Node)>) -> Vec<(Node, Node)> {
    let name = |key: &Node| match &key.value {
        Value::Scalar(name) => Some(name.clone()),
        _ => None,
    };
    if !merged.is_empty() {
        let mut known: HashSet<String> = entries.iter().filter_map(|(key, _)| name(key)).collect();
        entries.extend(merged.into_iter().filter(|(key, _)| name(key).is_none_or(|n| known.insert(n))));
    }
    entries
}

/// A scalar by the YAML 1.2 core schema, as far as the text alone doesn't tell: what is nothing, and what a tag asks for.
/// Whether it is a fitting number is for the schema to say.
fn scalar(text: &str, plain: bool, tag: Option<&Tag>) -> Result<Value, &'static str> {
    let trimmed = text.trim();
    let digits = || trimmed.trim_start_matches(['+', '-', '.']);
    let fits = match tag.map(|t| (t.core_suffix(), t)) {
        None => true,
        Some((Some("str"), _)) => return Ok(Value::Scalar(text.to_owned())),
        Some((_, t)) if matches!(t.parts(), ("!", "") | ("", "!")) => return Ok(Value::Scalar(text.to_owned())),
        Some((Some("null"), _)) => return Ok(Value::Null),
        Some((Some("bool"), _)) => ["true", "false", "yes", "no", "on", "off"].iter().any(|b| trimmed.eq_ignore_ascii_case(b)),
        Some((Some("int"), _)) => digits().starts_with(|c: char| c.is_ascii_digit()),
        Some((Some("float"), _)) => {
            digits().starts_with(|c: char| c.is_ascii_digit())
                || ["inf", "nan"].iter().any(|f| digits().eq_ignore_ascii_case(f))
        }
        Some((_, t)) => t.suffix_in_namespace(YAML_TAGS).is_none(),
    };
    if !fits {
        return Err(WRONG_TAG);
    }
    let nothing = plain && matches!(text, "" | "~" | "null" | "Null" | "NULL");
    Ok(if nothing { Value::Null } else { Value::Scalar(text.to_owned()) })
}

/// Refuses a tag that says something else than `kind`.
fn collection_tag(tag: Option<&Tag>, kind: &str) -> Result<(), &'static str> {
    match tag.and_then(|t| t.suffix_in_namespace(YAML_TAGS)) {
        Some(name) if name != kind => Err(WRONG_TAG),
        _ => Ok(()),
    }
}

/// How much a node counts against the bound of copies.
fn events(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Scalar(_) => 1,
        Value::Seq(items) => 2 + items.iter().map(events).sum::<usize>(),
        Value::Map(entries) => 2 + entries.iter().map(|(k, v)| events(k) + events(v)).sum::<usize>(),
    }
}

/// Levels of lists and maps, itself included.
fn depth(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Scalar(_) => 0,
        Value::Seq(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|(k, v)| depth(k).max(depth(v))).max().unwrap_or(0),
    }
}

/// A copy that stands on `line` altogether.
fn moved(node: &Node, line: u32) -> Node {
    let value = match &node.value {
        Value::Seq(items) => Value::Seq(items.iter().map(|n| moved(n, line)).collect()),
        Value::Map(entries) => Value::Map(entries.iter().map(|(k, v)| (moved(k, line), moved(v, line))).collect()),
        flat => flat.clone(),
    };
    Node { value, line }
}

fn line(at: Marker) -> u32 {
    u32::try_from(at.line()).unwrap_or(u32::MAX)
}

fn problem(at: Marker, why: impl Into<String>) -> Problem {
    Problem::syntax(line(at), u32::try_from(at.col()).map_or(u32::MAX, |col| col.saturating_add(1)), why)
}

fn too_much(at: Marker) -> Problem {
    problem(
        at,
        format!(
            "nested deeper than {MAX_DEPTH} levels, or blown up by aliases; no configuration needs that. `kube-vip sample config` prints one"
        ),
    )
}

fn not_yaml(text: &str, error: &ScanError) -> Problem {
    let at = *error.marker();
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => return too_much(at),
        ErrorKind::UnknownAnchor => {
            return problem(
                at,
                "an alias (`*name`) needs its anchor (`&name`) before it; write the value itself, or quote the `*`",
            );
        }
        _ => {}
    }
    let why: String = error.info().chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    let here = text.lines().nth(at.line().saturating_sub(1)).unwrap_or("");
    let blank = &here[..here.len() - here.trim_start().len()];
    let hint = if blank.contains('\t') {
        "indent with spaces, YAML allows no tabs there"
    } else {
        "look at this line and the one before it"
    };
    problem(at, format!("not YAML: {why}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(text: &str) -> Value {
        Value::Scalar(text.to_owned())
    }

    #[test]
    fn scalars_keep_their_text_and_line() {
        let tree = parse("a: 1.10\nb: 010\nc: \"q\"\nd: yes\ne:\nf: !!int \"3\"\ng: 1e999\nh: .nan\n").expect("valid YAML");
        let Value::Map(entries) = tree.value else { panic!("a map") };
        let values: Vec<_> = entries.iter().map(|(_, v)| (v.value.clone(), v.line)).collect();
        let wanted = ["1.10", "010", "q", "yes", "", "3", "1e999", ".nan"];
        for (n, text) in wanted.iter().enumerate() {
            let want = if text.is_empty() { Value::Null } else { is(text) };
            assert_eq!(values[n].0, want);
            assert!(text.is_empty() || values[n].1 == n as u32 + 1);
        }
    }

    #[test]
    fn aliases_take_the_line_where_they_stand() {
        let tree = parse("a: &x 7\nb: *x\n").expect("valid YAML");
        let Value::Map(entries) = tree.value else { panic!("a map") };
        assert_eq!(entries[1].1, Node { value: is("7"), line: 2 });
    }

    #[test]
    fn merged_keys_yield_to_own_ones_and_to_earlier_ones() {
        let tree = parse("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: 0\n").expect("valid YAML");
        let Value::Map(entries) = tree.value else { panic!("a map") };
        let Value::Map(merged) = &entries[2].1.value else { panic!("a map") };
        let pairs: Vec<_> = merged.iter().map(|(k, v)| (k.value.clone(), v.value.clone(), v.line)).collect();
        let wanted = [("x", "0", 5), ("y", "2", 4), ("z", "4", 4)];
        assert_eq!(pairs, wanted.map(|(k, v, line)| (is(k), is(v), line)));
        assert!(parse("\"<<\": 1\n").is_ok(), "quoted, it is a key as any other");
    }

    #[test]
    fn tags_are_held_to_what_they_say() {
        for (text, want) in
            [("!!str null", "null"), ("! ~", "~"), ("!x 1", "1"), ("!!bool yes", "yes"), ("!!float -.inf", "-.inf")]
        {
            assert_eq!(parse(text).expect(text).value, is(want));
        }
        assert_eq!(parse("!!null x").expect("nothing").value, Value::Null);
        for wrong in ["!!int x", "!!bool 3", "!!float x", "!!binary aGk=", "!!str [a]", "!!map [a]", "!!seq {a: 1}"] {
            assert_eq!(parse(wrong).expect_err(wrong).text, WRONG_TAG);
        }
    }

    #[test]
    fn aliases_without_end_or_anchor_are_told() {
        for (text, column, says) in
            [("a: *b\n", 4, "needs its anchor"), ("a: &a [1, *a]\n", 11, "never end"), ("<<: 1\n", 5, "a list of maps")]
        {
            let problem = parse(text).expect_err(text);
            assert!(problem.text.contains(says), "{problem:?}");
            assert_eq!((problem.line, problem.column), (Some(1), Some(column)), "{problem:?}");
        }
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
        let kept = format!("{}x{}", "&a [".repeat(10), ",x".repeat(2_000)) + &"]".repeat(10);
        assert!(
            parse(&kept.replace("&a", "")).is_ok() && parse(&kept).is_err(),
            "anchors in anchors keep everything ten times"
        );
        assert!(parse(&format!("[{}]", "a,".repeat(MAX_NODES))).is_err());
    }
}
