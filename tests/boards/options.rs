//! The command line that scripts/boards gives.

use super::machine::Machine;
use std::path::PathBuf;

/// What to run.
#[derive(Debug)]
pub struct Options {
    pub machine: Machine,
    /// Where kernel, initrd, disk.img and, for a Pi, board.dtb are.
    pub dir: PathBuf,
    /// The guests were given nf_tables.
    pub fence: bool,
    /// Not the story: a second board is given the VIP by hand, to see that this is found.
    pub planted: bool,
    /// MiB sent each way over the VIP after each move.
    pub mib: u64,
}

impl Options {
    /// Reads the arguments.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let (mut machine, mut dir, mut fence, mut planted, mut mib) = (Machine::Virt, None, true, false, 8);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--machine" => machine = Machine::named(&value()?)?,
                "--dir" => dir = Some(PathBuf::from(value()?)),
                "--no-fence" => fence = false,
                "--planted" => planted = true,
                "--mib" => mib = value()?.parse().map_err(|e| format!("--mib: {e}"))?,
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        let dir = dir.ok_or("no --dir: start this by scripts/boards")?;
        Ok(Options { machine, dir, fence, planted, mib })
    }
}
