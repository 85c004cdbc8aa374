//! Results as a Markdown table: pure.

use super::contest::Setting;
use super::fault::Fault;
use super::timeline::{Trial, spread};
use super::trial::DOUBLE_CAP;
use std::fmt::Write as _;

/// All trials of one contestant under one fault.
#[derive(Clone, Debug)]
pub struct Cell {
    pub setting: Setting,
    pub fault: Fault,
    pub trials: Vec<Trial>,
    /// Why trials failed, one text each.
    pub failed: Vec<String>,
    /// Why it was not tried at all.
    pub skipped: Option<String>,
}

/// The results, one row per fault and contestant.
pub fn render(cells: &[Cell]) -> String {
    let mut text = String::from(
        "| the leader's fault | contestant | no answer: min | median | max | two answers at once | moved | when it is back: no answer, two answers |\n\
         |---|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for fault in Fault::ALL {
        for cell in cells.iter().filter(|c| c.fault == fault) {
            let _ = writeln!(text, "| {} | {} | {} |", fault.title(), cell.setting.title, columns(cell).join(" | "));
        }
    }
    text
}

fn columns(cell: &Cell) -> [String; 6] {
    let dash = || "–".to_owned();
    let Some(outage) = spread(cell.trials.iter().map(Trial::outage)) else {
        let why = cell.skipped.clone().unwrap_or_else(|| format!("{} trials failed", cell.failed.len()));
        return [dash(), dash(), dash(), dash(), why, dash()];
    };
    let [min, median, max] = outage.map(span);
    let moved = cell.trials.iter().filter(|t| t.moved.is_some()).count();
    let failed = if cell.failed.is_empty() { String::new() } else { format!(", {} failed", cell.failed.len()) };
    [min, median, max, two_answers(cell), format!("{moved} of {}{failed}", cell.trials.len()), on_return(cell)]
}

/// `0`, or the longest time and in how many trials.
fn two_answers(cell: &Cell) -> String {
    let seen = cell.trials.iter().filter(|t| t.endless || t.double() > 0.0).count();
    if seen == 0 {
        return "0".to_owned();
    }
    format!("**{}** ({seen} of {})", longest_double(&cell.trials), cell.trials.len())
}

/// The longest time with two answers, in words.
pub fn longest_double(trials: &[Trial]) -> String {
    if trials.iter().any(|t| t.endless) {
        return format!("> {} s", DOUBLE_CAP.as_secs());
    }
    span(trials.iter().map(Trial::double).fold(0.0, f64::max))
}

fn on_return(cell: &Cell) -> String {
    let max = |of: fn(&Trial) -> f64| cell.trials.iter().map(of).fold(0.0, f64::max);
    let (gap, two) = (max(|t| t.return_gap), max(|t| t.return_doubles));
    let two = if two > 0.0 { format!("**{}**", span(two)) } else { "0".to_owned() };
    format!("{}, {two}", span(gap))
}

/// A time in ms as a person writes it; 0 where nothing was lost.
pub fn span(ms: f64) -> String {
    match ms {
        ms if ms <= 0.0 => "0".to_owned(),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1000.0),
    }
}
