//! Results as a Markdown table: pure.

use super::figures::{Cell, Job, Results, Row, Verdict, What, Who, expected, label, more_is_better, rows, short, spread};
use std::fmt::Write as _;

/// All rows of `jobs`, and below them what needs words.
pub fn render(results: &Results, who: &[Who], jobs: &[Job]) -> String {
    let mut text = String::from("| |");
    for who in who {
        let _ = write!(text, " {} |", who.title());
    }
    text += " ours ÷ best HAProxy | expected |\n|---|";
    text += &"---:|".repeat(who.len() + 2);
    text.push('\n');
    for row in jobs.iter().flat_map(|job| rows(*job)) {
        let cells: Vec<String> = who.iter().map(|who| cell(results.cell(*who, row))).collect();
        let _ = writeln!(text, "| {} | {} | {} |", label(row), cells.join(" | "), judged(results, row).join(" | "));
    }
    text.push('\n');
    for row in jobs.iter().flat_map(|job| rows(*job)) {
        if let Some(line) = beside_splice(results, row) {
            text += &line;
        }
    }
    for why in results.failures() {
        let _ = writeln!(text, "FAILED {why}");
    }
    text
}

/// `8.9 ±3 %`: the median, and half of what lies between the least and the most.
fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Failed(_) => "failed".to_owned(),
        Cell::Nothing => "–".to_owned(),
        Cell::Values(values) => {
            let Some(middle) = super::figures::median(values) else { return "–".to_owned() };
            match spread(values).filter(|_| values.len() > 1) {
                Some(spread) => format!("{} ±{:.0} %", short(middle), spread * 50.0),
                None => short(middle),
            }
        }
    }
}

fn judged(results: &Results, row: Row) -> [String; 2] {
    let bound = expected(row).map(|bound| format!("{} {bound}", if more_is_better(row.1) { "≥" } else { "≤" }));
    let Some(Verdict { ratio, least, most, met, .. }) = results.verdict(row).filter(|_| row.1 != What::Harness) else {
        return ["–".to_owned(), bound.unwrap_or_default()];
    };
    let range = if least == most { String::new() } else { format!(" ({}–{})", two(least), two(most)) };
    let mark = match met {
        Some(true) => " ✓",
        Some(false) => " ✗",
        None => "",
    };
    [format!("{}{range}", two(ratio)), bound.map_or(String::new(), |bound| bound + mark)]
}

fn two(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

/// HAProxy's splicing as its documentation shows it: ours is expected to need half of that at most.
fn beside_splice(results: &Results, row: Row) -> Option<String> {
    let (Job::Bulk(_), What::Cpu) = row else { return None };
    let ratio = results.median(Who::Ours, row)? / results.median(Who::Splice, row)?;
    let mark = if ratio <= 0.5 { '✓' } else { '✗' };
    Some(format!("{}: ours ÷ HAProxy's splicing with its default pipes: {} (expected ≤ 0.5 {mark})\n", label(row), two(ratio)))
}
