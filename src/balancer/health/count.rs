//! From the answers of one backend to its changes: so many good ones in a row bring it back, so many bad ones take it out. Pure.
//!
//! Before the first good answer there is no history that could outweigh an answer, so each decides at once: a node that has just
//! started, and may hold the VIP a moment later, must know its backends after one check of each rather than after three. If that
//! first check was unlucky (a lost packet, a network that comes up late), the next good one mends it, without waiting for `rise`.
//! `fall` bad ones in a row end this time of grace: such a backend is down like any other, and has to answer `rise` times.

/// How the last answers of one backend went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    state: State,
    /// Answers in a row that speak against the state; with [`State::Unknown`]: bad ones.
    run: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// No good answer yet, and fewer than `fall` bad ones.
    #[default]
    Unknown,
    Up,
    Down,
}

impl Count {
    /// After one more answer: whether the backend is up now, where that is news.
    pub(super) fn after(&mut self, good: bool, rise: u32, fall: u32) -> Option<bool> {
        let before = self.up();
        let against = good == (self.state == State::Down);
        self.run = if against { self.run.saturating_add(1) } else { 0 };
        let turned = match self.state {
            State::Unknown if good => Some(State::Up),
            State::Unknown | State::Up => (self.run >= fall).then_some(State::Down),
            State::Down => (self.run >= rise).then_some(State::Up),
        };
        if let Some(state) = turned {
            *self = Self { state, run: 0 };
        }
        self.up().filter(|_| self.up() != before)
    }

    /// Whether it is up; `None` before the first answer.
    pub(super) const fn up(&self) -> Option<bool> {
        match self.state {
            State::Unknown if self.run == 0 => None,
            State::Unknown | State::Down => Some(false),
            State::Up => Some(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` good, `-` bad; the result has `U` and `D` where that was told, and `.` where nothing was.
    fn told(answers: &str, rise: u32, fall: u32) -> String {
        let mut count = Count::default();
        let one = |c| match count.after(c == '+', rise, fall) {
            Some(true) => 'U',
            Some(false) => 'D',
            None => '.',
        };
        answers.chars().map(one).collect()
    }

    #[test]
    fn the_first_answer_decides_and_later_ones_count() {
        for (answers, expected) in [
            ("+++", "U.."),
            ("+--+--+---", "U........D"),
            ("+---+-++", "U..D...U"),
            ("+---++---", "U..D.U..D"),
            ("-+", "DU"),
            ("--+---", "D.U..D"),
            ("---++", "D...U"),
            ("---+-++", "D.....U"),
            ("----------+", "D.........."),
        ] {
            assert_eq!(told(answers, 2, 3), expected, "{answers}");
        }
    }

    #[test]
    fn one_and_one_follow_each_answer() {
        assert_eq!(told("+-+--++", 1, 1), "UDUD.U.");
    }

    #[test]
    fn nothing_is_said_before_the_first_answer() {
        let mut count = Count::default();
        assert_eq!(count.up(), None);
        count.after(false, 2, 3);
        assert_eq!(count.up(), Some(false));
    }

    /// Of all sequences: news alternate, up follows only on good answers, down only on bad ones.
    #[test]
    fn news_alternate_and_agree_with_the_answer() {
        for bits in 0u32..1 << 12 {
            for (rise, fall) in [(1, 1), (2, 3), (3, 2), (5, 5)] {
                let (mut count, mut last) = (Count::default(), None);
                for i in 0..12 {
                    let good = bits >> i & 1 == 1;
                    if let Some(up) = count.after(good, rise, fall) {
                        assert_eq!(up, good);
                        assert_ne!(last, Some(up));
                        last = Some(up);
                    }
                    assert_eq!(count.up(), last);
                }
            }
        }
    }
}
