//! The command line of the measuring program.

use super::figures::{Job, Who};
use std::path::PathBuf;

/// What to measure.
#[derive(Debug)]
pub struct Options {
    pub rounds: usize,
    pub who: Vec<Who>,
    pub jobs: Vec<Job>,
    /// Where to write the picture.
    pub svg: Option<PathBuf>,
    /// A tenth of the work: to try the bench itself.
    pub quick: bool,
}

impl Options {
    /// Reads the arguments; an error where they name something unknown.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let (mut rounds, mut only, mut svg, mut quick) = (5, Vec::new(), None, false);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--rounds" => rounds = number(&value()?)?,
                "--only" => only.extend(value()?.split(',').map(str::to_owned)),
                "--svg" => svg = Some(value()?.into()),
                "--quick" => quick = true,
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        let (who_names, job_names) = (Who::ALL.map(|w| w.name().to_owned()), Job::ALL.map(Job::name));
        let all = [&who_names[..], &job_names[..]].concat();
        if let Some(stray) = only.iter().find(|part| !all.iter().any(|name| name.contains(*part))) {
            return Err(format!("nothing is named like {stray:?}; there are: {}", all.join(" ")));
        }
        let who = Who::ALL.into_iter().filter(|who| chosen(&only, &who_names, who.name())).collect();
        let jobs = Job::ALL.into_iter().filter(|job| chosen(&only, &job_names, &job.name())).collect();
        Ok(Options { rounds, who, jobs, svg, quick })
    }
}

/// Whether `name` is asked for: by a part of it, or because nothing of its kind is.
fn chosen(only: &[String], kind: &[String], name: &str) -> bool {
    let mut parts = only.iter().filter(|part| kind.iter().any(|name| name.contains(*part))).peekable();
    parts.peek().is_none() || parts.any(|part| name.contains(part))
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("{text:?} is not a number of rounds"))
}
