//! argv as people and old scripts write it → argv as argh takes it, and argh's texts → the documented names.
//!
//! Long flags ignore case and dashes (`--disableVIP`, `--disable-vip`); `--flag=value`, `-c=FILE`, `-cFILE` and `-ds` work as
//! they did with the Go program; a switch may say `=true`.

use crate::config::nearest;

/// The commands, for look-up and suggestions.
pub(super) const COMMANDS: [&str; 11] =
    ["sample", "check", "start", "status", "handover", "cordon", "uncordon", "reload", "backend", "cleanup", "version"];
/// Second words of commands that have some.
const SECOND: [(&str, &[&str]); 2] =
    [("sample", &["config", "manifest"]), ("backend", &["list", "drain", "enable", "disable", "weight"])];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Takes a value.
    Value,
    /// On or absent.
    Switch,
    /// On, or given `true` or `false`.
    Bool,
}
use Kind::{Bool, Switch, Value};

struct Flag(&'static str, Option<char>, Kind);

const CONFIG: Flag = Flag("config", Some('c'), Value);
const START: &[Flag] = &[
    CONFIG,
    Flag("disableVIP", Some('d'), Switch),
    Flag("singleNode", Some('s'), Switch),
    Flag("startAsLeader", Some('l'), Switch),
    Flag("log", None, Value),
];
const SAMPLE_CONFIG: &[Flag] = &[
    Flag("interface", None, Value),
    Flag("vip", None, Value),
    Flag("singleNode", None, Bool),
    Flag("startAsLeader", None, Bool),
    Flag("arp", None, Bool),
    Flag("localPeer", None, Value),
    Flag("remotePeers", None, Value),
    Flag("lbBindToVip", None, Bool),
    Flag("lbType", None, Value),
    Flag("lbName", None, Value),
    Flag("lbPort", None, Value),
    Flag("lbBackends", None, Value),
];

fn known(words: &[&str]) -> &'static [Flag] {
    match words {
        ["start"] => START,
        ["check"] => &[CONFIG, Flag("here", None, Switch)],
        ["status"] => &[CONFIG, Flag("json", None, Switch)],
        ["handover"] => &[CONFIG, Flag("to", None, Value)],
        ["cordon" | "uncordon" | "cleanup" | "reload"] => &[CONFIG],
        ["backend", "list"] => &[CONFIG, Flag("balancer", None, Value), Flag("json", None, Switch)],
        ["backend", _] => &[CONFIG, Flag("balancer", None, Value)],
        ["sample", "config"] => SAMPLE_CONFIG,
        ["sample", "manifest"] => &[CONFIG, Flag("image", None, Value)],
        _ => &[],
    }
}

/// How many words stand beside the flags.
fn places(words: &[&str]) -> &'static [&'static str] {
    match words {
        ["backend", "weight"] => &["the backend", "its weight"],
        ["backend", "drain" | "enable" | "disable"] => &["the backend"],
        _ => &[],
    }
}

/// Rewrites argv (without the program's name).
///
/// # Errors
/// What is wrong with it, and what was probably meant.
pub(super) fn normalise(args: &[String]) -> Result<Vec<String>, String> {
    if matches!(args.first().map(String::as_str), Some("--version" | "-v" | "-V")) && args.len() == 1 {
        return Ok(vec!["version".to_owned()]);
    }
    let words = command_words(args)?;
    let flags = known(&words);
    let mut out: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
    let mut rest = args[words.len()..].iter();
    let mut empty = places(&words).iter();
    while let Some(arg) = rest.next() {
        match arg.strip_prefix("--") {
            _ if arg == "help" || arg == "-h" || arg == "--help" => out.push("--help".to_owned()),
            Some(long) => {
                let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v)));
                let flag = flags.iter().find(|f| fold(f.0) == fold(name)).ok_or_else(|| unknown(name, flags))?;
                push(flag, value, &mut rest, &mut out)?;
            }
            None if arg.len() > 1 && arg.starts_with('-') => short(arg, flags, &mut rest, &mut out)?,
            None if empty.next().is_some() => out.push(arg.clone()),
            None => return Err(format!("{arg:?} is one word too many; {}", after(&words))),
        }
    }
    if !out.iter().any(|o| o == "--help") {
        complete(&words, &out, empty.next())?;
    }
    Ok(out)
}

/// What must not be left out.
fn complete(words: &[&str], out: &[String], place: Option<&&str>) -> Result<(), String> {
    let needs = |command: &str| {
        format!(
            "{command} needs a configuration: `kube-vip {command} -c config.yaml` (`kube-vip sample config > config.yaml` prints one)"
        )
    };
    match words {
        ["backend"] => {
            Err("what about backends? `kube-vip backend list -c config.yaml`, or drain, enable, disable, weight".to_owned())
        }
        ["backend", what] => match place {
            _ if !out.iter().any(|o| o == "--config") => Err(needs(&words.join(" "))),
            Some(missing) => Err(format!(
                "{missing} is missing: `kube-vip backend {what} -c config.yaml 10.0.0.7:80{}`; `kube-vip backend list -c config.yaml` shows them",
                if *what == "weight" { " 5" } else { "" }
            )),
            None => Ok(()),
        },
        ["sample"] => {
            Err("sample of what? `kube-vip sample config > config.yaml` or `kube-vip sample manifest > kube-vip.yaml`"
                .to_owned())
        }
        [command] if *command != "version" && !out.iter().any(|o| o == "--config") => Err(needs(command)),
        _ => Ok(()),
    }
}

/// The words that name the command: one, or two after `sample` and `backend`.
fn command_words(args: &[String]) -> Result<Vec<&str>, String> {
    let Some(first) = word(args, 0, &COMMANDS, &[])? else { return Ok(Vec::new()) };
    let Some((_, seconds)) = SECOND.iter().find(|(name, _)| *name == first) else { return Ok(vec![first]) };
    Ok([Some(first), word(args, 1, seconds, &[first])?].into_iter().flatten().collect())
}

/// The word at `at`, if there is one; Err if it isn't one of these.
fn word<'a>(args: &'a [String], at: usize, known: &[&str], before: &[&str]) -> Result<Option<&'a str>, String> {
    let Some(word) = args.get(at).filter(|w| !w.starts_with('-') && *w != "help") else { return Ok(None) };
    if known.contains(&word.as_str()) {
        return Ok(Some(word));
    }
    let hint = match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{}`?", [before, &[near]].concat().join(" ")),
        None => format!("there are {}", known.join(", ")),
    };
    Err(format!("{word:?} is not a command; {hint}"))
}

fn after(words: &[&str]) -> String {
    match words {
        ["sample", "config"] => "to keep the sample, write `kube-vip sample config > config.yaml`".to_owned(),
        ["sample", "manifest"] => "to keep the manifest, write `kube-vip sample manifest > kube-vip.yaml`".to_owned(),
        ["backend", "weight"] => "a backend and its weight are enough".to_owned(),
        ["backend", "drain" | "enable" | "disable"] => "one backend at a time".to_owned(),
        ["version"] => "write `kube-vip version` alone".to_owned(),
        [] => format!("begin with a command: {}", COMMANDS.join(", ")),
        _ => format!("name a file with its flag, as in `kube-vip {} -c config.yaml`", words.join(" ")),
    }
}

fn short(arg: &str, flags: &[Flag], rest: &mut std::slice::Iter<'_, String>, out: &mut Vec<String>) -> Result<(), String> {
    for (at, letter) in arg[1..].char_indices() {
        let tail = &arg[1 + at + letter.len_utf8()..];
        let flag = flags.iter().find(|f| f.1 == Some(letter)).ok_or_else(|| unknown(&arg[1..], flags))?;
        let value = tail.strip_prefix('=').or((flag.2 == Value && !tail.is_empty()).then_some(tail));
        push(flag, value, rest, out)?;
        if value.is_some() {
            break;
        }
    }
    Ok(())
}

fn push(
    flag: &Flag,
    value: Option<&str>,
    rest: &mut std::slice::Iter<'_, String>,
    out: &mut Vec<String>,
) -> Result<(), String> {
    out.push(format!("--{}", fold(flag.0)));
    let Flag(name, _, kind) = flag;
    match (kind, value) {
        (Value, Some(value)) => out.push(value.to_owned()),
        (Value, None) => out.push(rest.next().cloned().ok_or_else(|| format!("--{name} wants a value after it"))?),
        (Bool, Some(value)) => out.push(value.to_owned()),
        (Bool, None) => {
            let next = rest.as_slice().first().filter(|next| *next == "true" || *next == "false");
            out.push(next.cloned().unwrap_or_else(|| "true".to_owned()));
            if next.is_some() {
                rest.next();
            }
        }
        (Switch, None | Some("true")) => {}
        (Switch, Some(_)) => {
            return Err(format!("--{name} takes no value; leave the flag out and set the key in the file instead"));
        }
    }
    Ok(())
}

fn unknown(name: &str, flags: &[Flag]) -> String {
    let dashes = if name.chars().count() == 1 { "-" } else { "--" };
    match nearest(name, flags.iter().map(|f| f.0)) {
        Some(near) => format!("{dashes}{name} is no flag here; did you mean --{near}?"),
        None if flags.is_empty() => format!("{dashes}{name} is no flag here; there is only --help"),
        None => {
            let all: Vec<String> = flags.iter().map(|f| format!("--{}", f.0)).collect();
            format!("{dashes}{name} is no flag here; there are {}", all.join(", "))
        }
    }
}

fn fold(name: &str) -> String {
    name.chars().filter(|c| *c != '-').flat_map(char::to_lowercase).collect()
}

/// Puts the documented spelling into one of argh's texts; lengths are equal, so columns stay.
pub(super) fn documented(text: &str) -> String {
    let mut out = text.to_owned();
    for Flag(name, ..) in START.iter().chain(SAMPLE_CONFIG) {
        for end in [" ", "]", "'", "\n", ":"] {
            out = out.replace(&format!("--{}{end}", fold(name)), &format!("--{name}{end}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<String, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        normalise(&args).map(|out| out.join(" "))
    }

    #[test]
    fn all_spellings_lead_to_one() {
        for (line, want) in [
            ("start -c f --disableVIP", "start --config f --disablevip"),
            ("start -c=f --disable-vip", "start --config f --disablevip"),
            ("start --config=f --DISABLEVIP=true", "start --config f --disablevip"),
            ("start -cf -dsl --log=5", "start --config f --disablevip --singlenode --startasleader --log 5"),
            ("-V", "version"),
            ("--version", "version"),
            ("start --help", "start --help"),
            ("start -dc f", "start --disablevip --config f"),
            ("sample config --arp --lbBindToVip=false", "sample config --arp true --lbbindtovip false"),
            ("sample config --arp false --vip -x", "sample config --arp false --vip -x"),
            ("check -h", "check --help"),
            ("handover -cf --TO=b", "handover --config f --to b"),
            ("help", "--help"),
            ("backend list -cf --JSON", "backend list --config f --json"),
            ("backend drain 10.0.0.7:80 -c f --balancer web", "backend drain 10.0.0.7:80 --config f --balancer web"),
            ("backend weight -c f web.lan 5", "backend weight --config f web.lan 5"),
            ("backend drain --help", "backend drain --help"),
            ("backend --help", "backend --help"),
            ("reload -c f", "reload --config f"),
        ] {
            assert_eq!(run(line).as_deref(), Ok(want), "{line}");
        }
    }

    #[test]
    fn mistakes_name_what_was_meant() {
        for (line, says) in [
            ("strat -c f", "did you mean `start`?"),
            ("sample confg", "did you mean `sample config`?"),
            ("dance", "there are sample, check"),
            ("start --disableVPI", "did you mean --disableVIP?"),
            ("start -x", "-x is no flag here"),
            ("start -s=false", "--singleNode takes no value"),
            ("start -c", "wants a value"),
            ("check config.yaml", "as in `kube-vip check -c config.yaml`"),
            ("version --json", "only --help"),
            ("handovr -c f", "did you mean `handover`?"),
            ("handover n2 -c f", "as in `kube-vip handover -c config.yaml`"),
            ("cordon", "kube-vip cordon -c config.yaml"),
            ("cordon -c f --to b", "--to is no flag here"),
            ("version extra", "write `kube-vip version` alone"),
            ("sample", "kube-vip sample config > config.yaml"),
            ("backend", "kube-vip backend list -c config.yaml"),
            ("backend lst -c f", "did you mean `backend list`?"),
            ("backend drain", "kube-vip backend drain -c config.yaml"),
            ("backend drain -c f", "the backend is missing"),
            ("backend weight a -c f", "its weight is missing: `kube-vip backend weight -c config.yaml 10.0.0.7:80 5`"),
            ("backend drain a b -c f", "one backend at a time"),
            ("backend list a -c f", "as in `kube-vip backend list -c config.yaml`"),
            ("backend drain a -c f --json", "--json is no flag here"),
            ("reload", "kube-vip reload -c config.yaml"),
            ("relod -c f", "did you mean `reload`?"),
            ("start -d", "kube-vip start -c config.yaml"),
            ("cleanup", "kube-vip cleanup -c config.yaml"),
            ("start -c f --", "is no flag"),
            ("start -é", "is no flag"),
        ] {
            let why = run(line).expect_err(line);
            assert!(why.contains(says), "{line}: {why}");
        }
    }
}
