//! What the LAN saw: who answered ARP for the VIP, how long no ping was answered, whether two answered.

use super::board::Board;
use super::lab::net::VIP4;
use super::lab::{ArpWatch, Host, Prober, ms, wait_for};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

type Mac = [u8; 6];

/// Both observers, from before the first holder to the end.
pub struct View {
    watch: ArpWatch,
    prober: Prober,
    macs: Vec<Mac>,
    began: Instant,
}

/// An answer older than this does not tell who holds the VIP now.
const FRESH: Duration = ms(500);
/// Two doubled questions further apart than this are two stories.
const NEAR: Duration = ms(2000);

impl View {
    /// Starts watching.
    pub fn start(client: &Host, observer: &Host, boards: &[Board], every: Duration) -> View {
        let macs = boards.iter().map(Board::mac).collect();
        let watch = ArpWatch::start_every(observer, VIP4, every);
        View { watch, prober: Prober::start_every(client, VIP4, every), macs, began: Instant::now() }
    }

    /// Seconds since it began.
    pub fn at(&self, instant: Instant) -> f64 {
        instant.saturating_duration_since(self.began).as_secs_f64()
    }

    /// The board that answers now.
    pub fn holder(&self) -> Option<usize> {
        let last = self.watch.last().filter(|a| a.at.elapsed() < FRESH)?;
        self.macs.iter().position(|mac| *mac == last.mac)
    }

    /// Waits for a board other than `old` that answers, and pings too.
    pub fn wait_holder(&self, old: Option<usize>, limit: Duration) -> usize {
        let holder = wait_for("another board answers for the VIP", limit, || self.holder().filter(|h| Some(*h) != old));
        self.prober.wait_answer(limit);
        holder
    }

    /// When `board` first and last answered a question since `from`.
    pub fn answered(&self, board: usize, from: Instant) -> Option<(Instant, Instant)> {
        let answers = self.watch.answers();
        let mut times = answers.iter().filter(|a| a.mac == self.macs[board] && a.at >= from).map(|a| a.at);
        let first = times.next()?;
        Some((first, times.next_back().unwrap_or(first)))
    }

    /// The longest stretch without an answered ping that ended after `from`.
    pub fn outage(&self, from: Instant) -> Duration {
        let since = self.prober.outages().into_iter().filter(|o| o.from + o.length > from);
        since.map(|o| o.length).max().unwrap_or_default()
    }

    /// Questions that two boards answered: `(proven, all)`.
    ///
    /// A question may wait in a stalled emulator until its board holds the VIP, while the holder before has long answered it. So two
    /// holders are proven by a question that was asked when both had been seen to answer an earlier one, and that both answered again.
    pub fn doubles(&self) -> (usize, usize) {
        let (asked, answers) = (self.watch.asked(), self.watch.answers());
        let seen = |round: u32, macs: &BTreeSet<Mac>| {
            let of_it = answers.iter().filter(|a| a.round == round && macs.contains(&a.mac));
            of_it.map(|a| a.at).max().expect("it was answered")
        };
        let doubles = self.watch.doubles();
        let proven = doubles.iter().enumerate().filter(|(i, (round, macs))| {
            let now = asked[*round as usize - 1];
            let earlier = doubles[..*i].iter().filter(|(_, before)| before == macs);
            earlier.map(|(before, macs)| seen(*before, macs)).any(|at| at < now && now - at < NEAR)
        });
        (proven.count(), doubles.len())
    }

    /// How often another board than before answered.
    pub fn changes(&self) -> usize {
        self.watch.answers().windows(2).filter(|w| w[0].mac != w[1].mac).count()
    }

    /// Who answered from when to when, a line for each stretch.
    pub fn story(&self) -> Vec<String> {
        let answers = self.watch.answers();
        let stretches = answers.chunk_by(|a, b| a.mac == b.mac && b.at - a.at < FRESH);
        let line = |s: &[super::lab::observe::Answer]| {
            let (first, last) = (s[0], s[s.len() - 1]);
            let who = self.macs.iter().position(|mac| *mac == first.mac);
            let who = who.map_or_else(|| super::lab::net::mac_text(first.mac), |i| format!("n{}", i + 1));
            format!("{:8.3} … {:8.3}  {who} answers", self.at(first.at), self.at(last.at))
        };
        stretches.map(line).collect()
    }
}
