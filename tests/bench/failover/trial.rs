//! One fault, from a healthy cluster to a healthy cluster.

use super::contest::Contestant;
use super::fault::Fault;
use super::lab::net::VIP4;
use super::lab::{ArpWatch, Prober, ms, secs};
use super::scene::{Scene, until};
use super::timeline::{Round, Trial, doubles, late, longest_gap};
use std::time::{Duration, Instant};

/// Two answers that last so long are written down as endless.
pub const DOUBLE_CAP: Duration = secs(5);
/// The longest that nobody may answer.
const PATIENCE: Duration = secs(20);
/// After the move: so long it is watched for a second answer.
const AFTER: Duration = ms(300);

/// Both observers of a trial and its zero of time.
struct Observed<'a> {
    scene: &'a Scene,
    watch: ArpWatch,
    prober: Prober,
    old: usize,
    fault: Instant,
}

/// What the end of the watching was about.
enum End {
    Moved,
    Stayed,
    Endless,
}

/// Runs one trial against the holder of a settled cluster, `known` from the trial before; returns who holds afterwards.
/// `phase` (0 to 1) is the part of a heartbeat by which the fault is delayed.
pub fn run(
    who: &mut dyn Contestant,
    scene: &Scene,
    fault: Fault,
    phase: f64,
    known: Option<usize>,
) -> Result<(Trial, usize), String> {
    let mut old = known.map_or_else(|| who.settled(scene, None), Ok)?;
    let watch = ArpWatch::start(&scene.observer, VIP4);
    let prober = Prober::start(&scene.client, VIP4);
    let mut false_starts = 0;
    while let Err(why) = wait_holder(scene, &watch, &prober, old) {
        false_starts += 1;
        let holder = who.settled(scene, None)?;
        if false_starts > 5 {
            return Err(why);
        }
        old = holder;
    }
    let fenced = who.fenced(old);
    // Not a wait for anything: faults must not all come at the same moment between two heartbeats.
    std::thread::sleep(who.setting().period.mul_f64(phase));
    let mut seen = Observed { scene, watch, prober, old, fault: Instant::now() };
    seen.fault = Instant::now();
    who.inject(scene, fault, old)?;
    if fault.is_network() {
        seen.fault = Instant::now(); // ip(8) and tc(8) take milliseconds to cut
    }
    let end = seen.wait_end(who.setting().patience)?;
    let repaired = seen.now();
    who.repair(scene, fault, old)?;
    let holder = who.settled(scene, Some(fault))?;
    seen.wait_one_answer()?;
    Ok((Trial { endless: matches!(end, End::Endless), fenced, false_starts, ..seen.evaluate(repaired) }, holder))
}

/// Waits until `old` alone answers, and pings too.
fn wait_holder(scene: &Scene, watch: &ArpWatch, prober: &Prober, old: usize) -> Result<(), String> {
    let (rounds, now) = (watch.rounds(), Instant::now());
    until("the holder answers", secs(3), || {
        let by_old = watch.last().is_some_and(|a| a.round >= rounds + 5 && a.mac == scene.nodes[old].mac());
        (by_old && prober.first_answer_after(now).is_some()).then_some(())
    })
}

impl Observed<'_> {
    fn now(&self) -> f64 {
        self.at(Instant::now())
    }

    /// Milliseconds since the fault.
    fn at(&self, instant: Instant) -> f64 {
        match instant.checked_duration_since(self.fault) {
            Some(after) => after.as_secs_f64() * 1000.0,
            None => -(self.fault - instant).as_secs_f64() * 1000.0,
        }
    }

    /// All questions since shortly before the fault.
    fn rounds(&self) -> Vec<(f64, Round)> {
        let mut who: Vec<[bool; 2]> = vec![[false; 2]; self.watch.asked().len()];
        let mut others = vec![None; who.len()];
        let mut two_others = vec![false; who.len()];
        for answer in self.watch.answers() {
            let Some(i) = (answer.round as usize).checked_sub(1).filter(|i| *i < who.len()) else { continue };
            if self.scene.node_of(answer.mac) == Some(self.old) {
                who[i][0] = true;
            } else {
                two_others[i] |= others[i].is_some_and(|mac| mac != answer.mac);
                others[i] = Some(answer.mac);
                who[i][1] = true;
            }
        }
        let round = |i: usize| match who[i] {
            _ if two_others[i] => Round::Both,
            [true, true] => Round::Both,
            [true, false] => Round::Old,
            [false, true] => Round::New,
            [false, false] => Round::Nobody,
        };
        let asked = self.watch.asked();
        (0..who.len()).map(|i| (self.at(asked[i]), round(i))).filter(|(at, _)| *at > -100.0).collect()
    }

    /// Waits until the VIP has moved and one host answers for it, or two have for long, or the old holder has survived the fault.
    fn wait_end(&self, patience: Duration) -> Result<End, String> {
        let (cap, after) = (DOUBLE_CAP.as_secs_f64() * 1000.0, AFTER.as_secs_f64() * 1000.0);
        until("one other node answers for the VIP", PATIENCE + patience, || {
            let (rounds, now) = (self.rounds(), self.now());
            let first = |kind: Round| rounds.iter().find(|(at, r)| *at > 0.0 && *r == kind).map(|(at, _)| *at);
            let last = |kind: Round| rounds.iter().rfind(|(_, r)| *r == kind).map(|(at, _)| *at);
            let still_two = last(Round::Both).is_some_and(|at| now - at < after);
            if still_two && first(Round::Both).is_some_and(|at| now - at > cap) {
                return Some(End::Endless);
            }
            let moved =
                first(Round::New).is_some_and(|at| now - at > after) && last(Round::New).is_some_and(|at| now - at < 50.0);
            if moved && !still_two && self.answered_since(now - after) {
                return Some(End::Moved);
            }
            let stayed = first(Round::New).is_none() && first(Round::Both).is_none();
            let old_answers = last(Round::Old).is_some_and(|at| now - at < 50.0);
            (stayed && old_answers && now > patience.as_secs_f64() * 1000.0).then_some(End::Stayed)
        })
    }

    fn answered_since(&self, at: f64) -> bool {
        let since = self.fault + Duration::from_secs_f64(at.max(0.0) / 1000.0);
        self.prober.first_answer_after(since).is_some()
    }

    /// After the return: the last questions had one answer each, the same one.
    fn wait_one_answer(&self) -> Result<(), String> {
        until("one host answers again", secs(20), || {
            let rounds = self.rounds();
            let newest = rounds.iter().rev().skip(1).take(20); // the very newest may still be on its way
            let newest: Vec<Round> = newest.map(|(_, r)| *r).collect();
            let same = newest.iter().all(|r| *r == newest[0]);
            (newest.len() == 20 && same && matches!(newest[0], Round::Old | Round::New)).then_some(())
        })
    }

    fn evaluate(&self, repaired: f64) -> Trial {
        let rounds = self.rounds();
        let (before, after): (Vec<_>, Vec<_>) = rounds.iter().partition(|(at, _)| *at < repaired);
        let pings: Vec<(f64, bool)> = self.prober.probes().iter().map(|p| (self.at(p.sent), p.answered.is_some())).collect();
        let moved = rounds.iter().find(|(at, r)| *at > 0.0 && matches!(r, Round::New | Round::Both)).map(|(at, _)| *at);
        let length = |span: Option<(f64, f64)>| span.map_or(0.0, |(from, to)| to - from);
        Trial {
            gap: longest_gap(&pings, (0.0, repaired)),
            doubles: doubles(&before),
            moved,
            left: before.iter().rfind(|(at, r)| *r == Round::Old && moved.is_none_or(|moved| *at < moved)).map(|(at, _)| *at),
            late: late(&rounds.iter().map(|(at, _)| *at).collect::<Vec<_>>()),
            return_gap: length(longest_gap(&pings, (repaired, f64::INFINITY))),
            return_doubles: length_of(&doubles(&after)),
            ..Trial::default()
        }
    }
}

fn length_of(spans: &[(f64, f64)]) -> f64 {
    spans.iter().map(|(from, to)| to - from).sum()
}
