//! How scripts/bench makes figures of what its observers saw. The measuring itself asserts nothing about times.
#[path = "bench/forward/figures.rs"]
#[allow(dead_code)] // what only the table needs
mod figures;
#[path = "bench/forward/table.rs"]
mod table;
#[path = "bench/failover/timeline.rs"]
#[allow(dead_code)] // what only the table needs
mod timeline;

use figures::{Cell, Job, Results, What, Who, quantile, rotated, short};
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

const CPU: figures::Row = (Job::Requests(64), What::Cpu);
const RATE: figures::Row = (Job::Requests(64), What::Rate);

fn results(row: figures::Row, all: &[(Who, &[f64])]) -> Results {
    let mut results = Results::default();
    all.iter().for_each(|(who, values)| values.iter().for_each(|value| results.add(*who, row, *value)));
    results
}

#[test]
fn medians_and_spreads_of_rounds() {
    assert_eq!(figures::median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(figures::median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    assert_eq!(figures::median(&[]), None);
    assert_eq!(figures::spread(&[2.0, 1.0, 4.0]), Some(1.5));
    let latencies: Vec<u32> = (1..=1000).collect();
    assert_eq!([0.5, 0.99, 0.999].map(|part| quantile(&latencies, part)), [Some(500), Some(990), Some(999)]);
    assert_eq!((quantile(&[7], 0.5), quantile(&[7], 0.999), quantile(&[], 0.5)), (Some(7), Some(7), None));
    assert_eq!([0.0, 0.1234, 1.234, 12.34, 123.4, 1234.5].map(short), ["0", "0.123", "1.23", "12.3", "123", "1234"]);
}

#[test]
fn ours_is_held_against_the_best_haproxy_of_each_row() {
    let less = results(
        CPU,
        &[(Who::Ours, &[8.0, 9.0, 7.0]), (Who::Copy, &[10.0, 12.0, 10.0]), (Who::Splice, &[20.0; 3]), (Who::Nginx, &[1.0; 3])],
    );
    let verdict = less.verdict(CPU).expect("both have values");
    assert_eq!((verdict.other, verdict.ratio, verdict.met), (Who::Copy, 0.8, Some(true)));
    assert_eq!((verdict.least, verdict.most), (0.7, 0.8), "of the rounds: 0.8, 0.75, 0.7");
    let more = results(RATE, &[(Who::Ours, &[9.0]), (Who::Copy, &[10.0]), (Who::Splice, &[5.0])]);
    let verdict = more.verdict(RATE).expect("both have values");
    assert_eq!((verdict.other, verdict.ratio, verdict.met), (Who::Copy, 0.9, Some(false)), "of a rate more is better");
    assert_eq!(results(CPU, &[(Who::Ours, &[8.0])]).verdict(CPU), None, "without an HAProxy there is no ratio");
}

#[test]
fn who_fails_once_never_gets_a_number() {
    let mut results = results(CPU, &[(Who::Ours, &[8.0]), (Who::Copy, &[10.0])]);
    results.fail(Who::Copy, Job::Requests(64), "wrong bytes");
    results.add(Who::Copy, CPU, 10.0);
    assert_eq!(results.cell(Who::Copy, CPU), &Cell::Failed("wrong bytes".to_owned()));
    assert_eq!((results.median(Who::Copy, CPU), results.verdict(CPU)), (None, None));
    assert_eq!(results.failures(), ["HAProxy copy, requests, 64 connections: wrong bytes"]);
    let table = table::render(&results, &[Who::Ours, Who::Copy, Who::Dnat], &[Job::Requests(64)]);
    assert!(table.contains("| requests, 64 connections: CPU, µs each | 8.00 | failed | – | – | ≤ 0.9 |"), "{table}");
    assert!(table.contains("FAILED HAProxy copy"), "{table}");
}

#[test]
fn a_row_shows_median_spread_ratio_and_verdict() {
    let bulk = (Job::Bulk(1), What::Cpu);
    let results =
        results(bulk, &[(Who::Ours, &[0.3, 0.3, 0.33]), (Who::Splice, &[0.6; 3]), (Who::BigPipes, &[0.25, 0.2, 0.3])]);
    let table = table::render(&results, &[Who::Ours, Who::Splice, Who::BigPipes], &[Job::Bulk(1)]);
    let row = "| bulk, 1 stream: CPU, s/GB | 0.300 ±5 % | 0.600 ±0 % | 0.250 ±20 % | 1.20 (1.10–1.50) | ≤ 1 ✗ |";
    assert!(table.contains(row), "{table}");
    assert!(table.contains("HAProxy's splicing with its default pipes: 0.50 (expected ≤ 0.5 ✓)"), "{table}");
}

#[test]
fn each_round_begins_with_another_contestant() {
    let all = [Who::Ours, Who::Copy, Who::Nginx];
    assert_eq!(rotated(&all, 1), [Who::Copy, Who::Nginx, Who::Ours]);
    assert_eq!(rotated(&all, 3), all);
    assert_eq!(rotated(&[], 1), []);
}
