//! The results as a small picture for the README: who answers when. Pure; its layout depends on nothing but the results.
//!
//! One band per fault and contestant shows the median trial from the fault on, on a logarithmic scale of time.

use super::contest::{Kind, Setting};
use super::fault::Fault;
use super::table::{Cell, longest_double, span};
use super::timeline::{EVERY, Trial, median, spread};
use std::fmt::Write as _;

const WIDTH: f64 = 880.0;
/// Left edge of the bands: the moment of the fault (and everything up to the first millisecond).
const LEFT: f64 = 284.0;
/// Right edge: the end of the watching.
const RIGHT: f64 = 700.0;
/// Right edge of the column of outages.
const OUTAGES: f64 = 790.0;
const TOP: f64 = 74.0;
const BAND: f64 = 11.0;
const LINE: f64 = 14.0;
/// Between two faults.
const SPACE: f64 = 9.0;
/// The scale, ms.
const FIRST: f64 = 1.0;
const LAST: f64 = 5000.0;

/// Mid-tones that stand out from white and from black; text follows the reader's scheme.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}.s{font-size:10.5px}.d{fill:#656d76}.e{text-anchor:end}.m{text-anchor:middle}\
.b{font-weight:600}.o{fill:#7d8fa3}.n{fill:#2f9e60}.g{fill:#fff;stroke:#8b949e;stroke-width:.8}.w{fill:#e5484d}.t{fill:#d63a3f;font-weight:600}.r{stroke:#8b949e;stroke-opacity:.35}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.d{fill:#9198a1}.g{fill:#0d1117}.t{fill:#ff7b72}}";

/// The picture of the contestants that it has room for.
pub fn render(cells: &[Cell], machine: &str) -> String {
    let shown: Vec<&Cell> = cells.iter().filter(|c| c.skipped.is_none() && is_shown(&c.setting)).collect();
    let faults: Vec<Fault> = Fault::ALL.into_iter().filter(|f| shown.iter().any(|c| c.fault == *f)).collect();
    let mut body = String::new();
    let mut y = TOP;
    for fault in faults {
        let bands: Vec<&&Cell> = shown.iter().filter(|c| c.fault == fault).collect();
        let middle = y + LINE * bands.len() as f64 / 2.0 + 3.0;
        text(&mut body, 8.0, middle, "b", fault.title());
        for cell in bands {
            band(&mut body, y, cell);
            y += LINE;
        }
        y += SPACE;
    }
    let height = y + 22.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         aria-label=\"Who answers for the virtual IP after each fault\"><style>{STYLE}</style>\n"
    );
    legend(&mut svg);
    scale(&mut svg, y - SPACE);
    svg += &body;
    text(
        &mut svg,
        8.0,
        height - 8.0,
        "s d",
        &format!("bars and “no answer”: the median trial; “two answers”: the longest; logarithmic time; {machine}"),
    );
    svg + "</svg>\n"
}

fn is_shown(setting: &Setting) -> bool {
    match setting.kind {
        Kind::Ours => setting.name == "lan",
        Kind::Keepalived => [1000, 100].contains(&setting.period.as_millis()),
    }
}

fn legend(svg: &mut String) {
    text(svg, 8.0, 18.0, "b", "Who answers for the virtual IP after the fault");
    let mut x = LEFT;
    for (class, label) in [("o", "old holder"), ("g", "nobody"), ("n", "new holder"), ("w", "both: two holders")] {
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"M{x} 28h18v{BAND}h-18z\"/>");
        text(svg, x + 24.0, 37.5, "s", label);
        x += 110.0;
    }
    text(svg, OUTAGES, 64.0, "s d e", "no answer");
    text(svg, WIDTH - 8.0, 64.0, "s d e", "two answers");
}

/// Lines at the decades, with labels above.
fn scale(svg: &mut String, bottom: f64) {
    for (at, label) in [(FIRST, "fault"), (10.0, "10 ms"), (100.0, "100 ms"), (1000.0, "1 s"), (LAST, "5 s")] {
        let x = place(at);
        let _ = writeln!(svg, "<path class=\"r\" d=\"M{x:.1} {:.1}V{bottom:.1}\"/>", TOP - 5.0);
        text(svg, x, 64.0, "s d m", label);
    }
}

fn band(svg: &mut String, y: f64, cell: &Cell) {
    let text_y = y + BAND - 1.5;
    text(
        svg,
        LEFT - 8.0,
        text_y,
        if cell.setting.kind == Kind::Ours { "s e b" } else { "s e" },
        &cell.setting.title.replace('`', ""),
    );
    let (Some(trial), Some([_, outage, _])) = (median(&cell.trials), spread(cell.trials.iter().map(Trial::outage))) else {
        return text(svg, LEFT + 6.0, text_y, "s t", "all trials failed");
    };
    let moved = moved(trial);
    bar(svg, y, "o", (FIRST, moved));
    bar(svg, y, "n", (moved, LAST));
    if let Some(gap) = trial.gap {
        bar(svg, y, "g", gap);
    }
    joined(trial).iter().for_each(|two| bar(svg, y, "w", *two));
    text(svg, OUTAGES, text_y, "s e", &span(outage));
    let two = longest_double(&cell.trials);
    text(svg, WIDTH - 8.0, text_y, if two == "0" { "s e" } else { "s e t" }, &two);
}

/// When the new holder took over. Pings, which come five times as often as questions, may see it first.
fn moved(trial: &Trial) -> f64 {
    let Some(asked) = trial.moved else { return LAST };
    match trial.gap {
        Some((_, end)) if end < asked && trial.left.is_none_or(|left| left < end) => end,
        _ => asked,
    }
}

/// Stretches with two answers; where one answer got lost in between, one bar is more honest than many.
fn joined(trial: &Trial) -> Vec<(f64, f64)> {
    let mut bars: Vec<(f64, f64)> = Vec::new();
    for &(from, to) in &trial.doubles {
        match bars.last_mut() {
            Some(last) if from - last.1 < 5.0 * EVERY => last.1 = to,
            _ => bars.push((from, to)),
        }
    }
    if let Some(last) = bars.last_mut().filter(|_| trial.endless) {
        last.1 = LAST;
    }
    bars
}

fn bar(svg: &mut String, y: f64, class: &str, (from, to): (f64, f64)) {
    let (x, end) = (place(from), place(to));
    if end > x {
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"M{x:.1} {y}H{end:.1}v{BAND}H{x:.1}z\"/>");
    }
}

/// Where on the scale `ms` after the fault is.
fn place(ms: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * (ms.clamp(FIRST, LAST) / FIRST).log10() / (LAST / FIRST).log10()
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{what}</text>");
}
