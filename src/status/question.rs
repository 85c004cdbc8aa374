//! What may be asked over the control socket, as one line of text, and what is answered where it is a command.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest question in bytes: a command, the names of a balancer and a backend, the line's end.
pub const LONGEST: u64 = 2048;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// For a [`Snapshot`](super::Snapshot).
    Status,
    /// To do something: answered by an [`Answer`], once it is done.
    Do(Command),
}

/// What a person may tell the running node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Move the VIP to this node, or to the best one.
    HandOver {
        /// An id.
        to: Option<String>,
    },
    /// Don't hold the VIP any more, also after a restart.
    Cordon,
    /// End that.
    Uncordon,
    /// Read the configuration again and put in place what may change while running.
    Reload {
        /// Which text was found to be sound; see [`crate::config::load_marked`].
        checked: Option<u64>,
    },
    /// Change what a backend gets.
    Backend(BackendOrder),
}

/// An order about one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendOrder {
    /// Of this balancer; None: of each that has it.
    pub balancer: Option<String>,
    /// `10.0.0.1:80`, `10.0.0.1`, `name` or `name:80`.
    pub target: String,
    /// What to do.
    pub order: Share,
}

/// What a backend is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Share {
    /// No new connections; those open go on.
    Drain,
    /// No new connections and no health checks: maintenance.
    Disable,
    /// What the configuration says again.
    Enable,
    /// This weight, 0–256.
    Weight(u16),
}

/// How a command ended, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// What is so now.
    Done(String),
    /// What went wrong, and the way out.
    Error(String),
}

impl Question {
    /// From a line, its end included; `None` for anything that [`Question`]'s `Display` never writes.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.strip_suffix('\n')?;
        if let Some(order) = line.strip_prefix("backend ") {
            return serde_json::from_str(order).ok().map(|order| Self::Do(Command::Backend(order)));
        }
        let words: Vec<&str> = line.split(' ').collect();
        Some(match words[..] {
            ["status"] => Self::Status,
            ["handover"] => Self::Do(Command::HandOver { to: None }),
            ["handover", id] if !id.is_empty() && !id.contains(char::is_control) => {
                Self::Do(Command::HandOver { to: Some(id.to_owned()) })
            }
            ["cordon"] => Self::Do(Command::Cordon),
            ["uncordon"] => Self::Do(Command::Uncordon),
            ["reload"] => Self::Do(Command::Reload { checked: None }),
            ["reload", mark] => {
                let mark = u64::from_str_radix(mark, 16).ok().filter(|n| format!("{n:016x}") == mark)?;
                Self::Do(Command::Reload { checked: Some(mark) })
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => writeln!(f, "status"),
            Self::Do(command) => writeln!(f, "{command}"),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HandOver { to: None } => f.write_str("handover"),
            Self::HandOver { to: Some(id) } => write!(f, "handover {id}"),
            Self::Cordon => f.write_str("cordon"),
            Self::Uncordon => f.write_str("uncordon"),
            Self::Reload { checked: None } => f.write_str("reload"),
            Self::Reload { checked: Some(mark) } => write!(f, "reload {mark:016x}"),
            // On one line: JSON has no raw line ends.
            Self::Backend(order) => write!(f, "backend {}", serde_json::to_string(order).map_err(|_| fmt::Error)?),
        }
    }
}

impl Command {
    /// As it stands in the log.
    pub fn in_words(&self) -> String {
        match self {
            Self::Reload { .. } => "reload".to_owned(),
            Self::Backend(BackendOrder { balancer, target, order }) => {
                let of = balancer.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
                let what = match order {
                    Share::Drain => "drain".to_owned(),
                    Share::Disable => "disable".to_owned(),
                    Share::Enable => "enable".to_owned(),
                    Share::Weight(weight) => format!("weight {weight}"),
                };
                format!("backend {target}{of}: {what}").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
            }
            other => other.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_read_back_and_nothing_else_is_one() {
        let to = |id: &str| Question::Do(Command::HandOver { to: Some(id.to_owned()) });
        let backend = |balancer: Option<&str>, target: &str, order| {
            Question::Do(Command::Backend(BackendOrder {
                balancer: balancer.map(str::to_owned),
                target: target.to_owned(),
                order,
            }))
        };
        let all = [
            Question::Status,
            Question::Do(Command::HandOver { to: None }),
            to(&"x".repeat(64)),
            Question::Do(Command::Cordon),
            Question::Do(Command::Uncordon),
            Question::Do(Command::Reload { checked: None }),
            Question::Do(Command::Reload { checked: Some(0) }),
            Question::Do(Command::Reload { checked: Some(u64::MAX) }),
            backend(None, "10.0.0.1:80", Share::Drain),
            backend(Some("API \"Server\"\n"), "web1.lan", Share::Weight(256)),
            backend(Some(&"ä".repeat(300)), &"x".repeat(300), Share::Enable),
            backend(None, "", Share::Disable),
        ];
        for question in all {
            let line = question.to_string();
            assert!(line.len() as u64 <= LONGEST);
            assert_eq!(Question::parse(&line), Some(question));
        }
        for bad in [
            "reload \n",
            "reload 1\n",
            "reload 000000000000000g\n",
            "backend\n",
            "backend {}\n",
            "backend {\"target\":\"a\",\"order\":{\"weight\":-1}}\n",
            "",
            "\n",
            "status",
            "status \n",
            "handover \n",
            "handover a b\n",
            "Cordon\n",
            "cordon now\n",
            "handover a\n\n",
        ] {
            assert_eq!(Question::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_answer_of_an_older_daemon_is_an_error() {
        let told: Answer = serde_json::from_str(r#"{"error":"unknown question"}"#).expect("an answer");
        assert_eq!(told, Answer::Error("unknown question".to_owned()));
        assert_eq!(serde_json::to_string(&Answer::Done("moved".to_owned())).expect("JSON"), r#"{"done":"moved"}"#);
    }
}
