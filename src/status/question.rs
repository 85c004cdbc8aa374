//! What may be asked over the control socket, as one line of text, and what is answered where it is a command.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest question in bytes: a command, an id of 64 bytes, the line's end.
pub const LONGEST: u64 = 128;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// For a [`Snapshot`](super::Snapshot).
    Status,
    /// To do something: answered by an [`Answer`], once it is done.
    Do(Command),
    /// To go on as the program that stands at the running one's path: answered by an [`Answer`], of that program if all is well.
    Upgrade,
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
        let words: Vec<&str> = line.strip_suffix('\n')?.split(' ').collect();
        Some(match words[..] {
            ["status"] => Self::Status,
            ["upgrade"] => Self::Upgrade,
            ["handover"] => Self::Do(Command::HandOver { to: None }),
            ["handover", id] if !id.is_empty() && !id.contains(char::is_control) => {
                Self::Do(Command::HandOver { to: Some(id.to_owned()) })
            }
            ["cordon"] => Self::Do(Command::Cordon),
            ["uncordon"] => Self::Do(Command::Uncordon),
            _ => return None,
        })
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => writeln!(f, "status"),
            Self::Upgrade => writeln!(f, "upgrade"),
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_read_back_and_nothing_else_is_one() {
        let to = |id: &str| Question::Do(Command::HandOver { to: Some(id.to_owned()) });
        let all = [
            Question::Status,
            Question::Upgrade,
            Question::Do(Command::HandOver { to: None }),
            to(&"x".repeat(64)),
            Question::Do(Command::Cordon),
            Question::Do(Command::Uncordon),
        ];
        for question in all {
            let line = question.to_string();
            assert!(line.len() as u64 <= LONGEST);
            assert_eq!(Question::parse(&line), Some(question));
        }
        for bad in
            ["", "\n", "status", "status \n", "handover \n", "handover a b\n", "Cordon\n", "cordon now\n", "handover a\n\n"]
        {
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
