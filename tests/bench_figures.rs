//! How scripts/bench makes figures of what its observers saw. The measuring itself asserts nothing about times.
#[path = "bench/failover/timeline.rs"]
#[allow(dead_code)] // what only the table needs
mod timeline;

use timeline::{Round, Trial, doubles, late, longest_gap, median, spread};

fn rounds(letters: &str) -> Vec<(f64, Round)> {
    let round = |letter| match letter {
        'o' => Round::Old,
        'n' => Round::New,
        'b' => Round::Both,
        _ => Round::Nobody,
    };
    letters.chars().enumerate().map(|(i, letter)| (i as f64 * 10.0, round(letter))).collect()
}

#[test]
fn each_question_with_two_answers_counts_ten_milliseconds() {
    assert_eq!(doubles(&rounds("ooo..nnn")), []);
    assert_eq!(doubles(&rounds("ooobnnn")), [(30.0, 40.0)]);
    assert_eq!(doubles(&rounds("obbbnbbn")), [(10.0, 40.0), (50.0, 70.0)]);
    let trial = Trial { doubles: doubles(&rounds("obbbnbbn")), ..Trial::default() };
    assert_eq!((trial.double(), trial.saw_two()), (50.0, true));
}

#[test]
fn two_answers_on_return_or_without_end_are_two_answers() {
    assert!(!Trial::default().saw_two());
    assert!(Trial { endless: true, ..Trial::default() }.saw_two());
    assert!(Trial { return_doubles: 10.0, ..Trial::default() }.saw_two());
}

#[test]
fn a_gap_is_between_answered_pings_and_belongs_to_its_phase() {
    let pings: Vec<(f64, bool)> =
        "aaa.aa....aaa...aa".chars().enumerate().map(|(i, c)| (i as f64 * 2.0 - 6.0, c == 'a')).collect();
    assert_eq!(longest_gap(&pings, (0.0, 20.0)), Some((4.0, 14.0)));
    assert_eq!(longest_gap(&pings, (20.0, f64::INFINITY)), Some((18.0, 26.0)), "begun before the return, ended after it");
    assert_eq!(longest_gap(&pings, (-6.0, -1.0)), Some((-2.0, 2.0)));
    assert_eq!(longest_gap(&pings[..3], (-6.0, 20.0)), None);
}

#[test]
fn spreads_and_medians_are_of_the_sorted_trials() {
    assert_eq!(spread([3.0, 1.0, 2.0].into_iter()), Some([1.0, 2.0, 3.0]));
    assert_eq!(spread(std::iter::empty()), None);
    let trials = [30.0, 10.0, 20.0].map(|end| Trial { gap: Some((0.0, end)), ..Trial::default() });
    assert_eq!(median(&trials).map(Trial::outage), Some(20.0));
    assert_eq!(median(&[]), None);
}

#[test]
fn late_questions_are_counted() {
    assert_eq!(late(&[0.0, 10.1, 20.0, 36.0, 46.0]), (1, 5));
    assert_eq!(late(&[]), (0, 0));
}
