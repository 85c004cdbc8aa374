//! The command line of the measuring program.

use std::path::PathBuf;

/// What to measure.
#[derive(Debug, Default)]
pub struct Options {
    pub trials: usize,
    /// Parts of names of faults and contestants; none: all.
    pub only: Vec<String>,
    /// Where to write the picture.
    pub svg: Option<PathBuf>,
    /// Only what the small table of the README has: first holder, SIGTERM, cable with preset `lan`.
    pub quick: bool,
}

impl Options {
    /// Reads the arguments after `failover`, or `quick N`.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options { trials: 20, ..Options::default() };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "quick" => {
                    options.quick = true;
                    options.trials = number(&value()?)?;
                }
                "--trials" => options.trials = number(&value()?)?,
                "--only" => options.only.extend(value()?.split(',').map(str::to_owned)),
                "--svg" => options.svg = Some(value()?.into()),
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        Ok(options)
    }

    /// The parts of `--only` that are in one of `names`; the others are about something else.
    pub fn choice(&self, names: &[String]) -> Vec<&str> {
        self.only.iter().map(String::as_str).filter(|part| names.iter().any(|name| name.contains(part))).collect()
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("{text:?} is not a number of trials"))
}
