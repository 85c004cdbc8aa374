//! The results as a small picture: a bar for each contestant, the shorter the better. Pure.

use super::figures::{Cell, Job, Results, Row, What, Who, label, short};
use std::fmt::Write as _;

const WIDTH: f64 = 880.0;
/// Left edge of the bars.
const LEFT: f64 = 400.0;
/// The longest bar's right edge.
const RIGHT: f64 = 800.0;
const TOP: f64 = 34.0;
const BAR: f64 = 11.0;
const LINE: f64 = 14.0;
/// Between two groups.
const SPACE: f64 = 9.0;

/// What is shown: costs only, so that a short bar is always good.
const SHOWN: [Row; 8] = [
    (Job::Bulk(1), What::Cpu),
    (Job::Bulk(4), What::Cpu),
    (Job::Connects, What::Cpu),
    (Job::Requests(1), What::Cpu),
    (Job::Requests(64), What::Cpu),
    (Job::Requests(64), What::P99),
    (Job::Held, What::MemoryEach),
    (Job::Idle, What::Pss),
];

/// Mid-tones that stand out from white and from black; text follows the reader's scheme.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}.s{font-size:10.5px}.d{fill:#656d76}.e{text-anchor:end}.b{font-weight:600}\
.o{fill:#7d8fa3}.n{fill:#2f9e60}.t{fill:#d63a3f}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.d{fill:#9198a1}.t{fill:#ff7b72}}";

/// The picture of what was measured.
pub fn render(results: &Results, who: &[Who], machine: &str) -> String {
    let mut body = String::new();
    text(&mut body, 8.0, 18.0, "b", "What forwarding costs the forwarder (median; shorter is better)");
    let mut y = TOP;
    for row in SHOWN {
        let shown: Vec<Who> = who.iter().copied().filter(|who| *results.cell(*who, row) != Cell::Nothing).collect();
        if !shown.is_empty() {
            group(&mut body, y, results, row, &shown);
            y += LINE * shown.len() as f64 + SPACE;
        }
    }
    let height = y + 22.0;
    text(&mut body, 8.0, height - 8.0, "s d", machine);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         aria-label=\"CPU, latency and memory of TCP forwarders\"><style>{STYLE}</style>\n{body}</svg>\n"
    )
}

fn group(body: &mut String, y: f64, results: &Results, row: Row, shown: &[Who]) {
    let longest = shown.iter().filter_map(|who| results.median(*who, row)).fold(f64::MIN_POSITIVE, f64::max);
    text(body, 8.0, y + LINE * shown.len() as f64 / 2.0 + 3.0, "b", &label(row));
    for (i, who) in shown.iter().enumerate() {
        let y = y + LINE * i as f64;
        let ours = *who == Who::Ours;
        text(body, LEFT - 8.0, y + BAR - 1.5, if ours { "s e b" } else { "s e" }, who.title());
        let Some(value) = results.median(*who, row) else {
            text(body, LEFT + 4.0, y + BAR - 1.5, "s t", "failed");
            continue;
        };
        let end = LEFT + ((RIGHT - LEFT) * value / longest).max(1.0);
        let _ = writeln!(body, "<path class=\"{}\" d=\"M{LEFT} {y}H{end:.1}v{BAR}H{LEFT}z\"/>", if ours { "n" } else { "o" });
        text(body, end + 5.0, y + BAR - 1.5, if ours { "s b" } else { "s" }, &short(value));
    }
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{what}</text>");
}
