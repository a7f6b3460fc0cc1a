//! Examples of the policy: who goes first, who is passed and for how long, what is refused.

use std::time::Duration;

use super::properties::{limits, seconds};
use super::*;

#[test]
fn the_longest_chain_goes_first_and_equal_ones_as_configured() {
    let site = |expected, after: &[usize]| Entry {
        expected: seconds(expected),
        after: after.iter().map(|place| SiteId::at(*place)).collect(),
        ..Entry::default()
    };
    let entries = vec![
        site(10, &[]),
        site(20, &[]),
        site(10, &[]),
        site(5, &[]),
        site(30, &[3]),
    ];
    let agenda = Agenda::new(entries, limits(1, &[])).unwrap();
    let order = |trace: Trace| trace.turns.iter().map(|turn| turn.site.place()).collect::<Vec<_>>();
    assert_eq!(order(as_expected(agenda.clone())), [3, 4, 1, 0, 2]);
    let path: Vec<usize> = agenda.critical_path().iter().map(|site| site.place()).collect();
    assert_eq!((path, agenda.lower_bound()), (vec![3, 4], seconds(75)));
}

/// Sites of one unit that begin one after the other, two at a time, for ever as it were; and one that needs both units.
fn stream(expected: u64, lasts: u64) -> (Duration, Trace) {
    let one = |expected: u64, units| Entry {
        expected: seconds(expected),
        uses: vec![(ResourceId::at(0), units)],
        ..Entry::default()
    };
    let mut entries = vec![one(50, 2)];
    // They begin with different lengths, so that both units are never free by chance; longer than the site of two units, so
    // that they come before it.
    entries.push(one(120, 1));
    entries.extend((0..200).map(|_| one(expected, 1)));
    let agenda = Agenda::new(entries, limits(8, &[2])).unwrap();
    let trace = simulate(agenda, |site, _| Fate {
        lasts: match site.place() {
            0 => seconds(50),
            1 => seconds(150),
            _ => seconds(lasts),
        },
        then: Ok(Outcome::Complete),
    });
    let begun = trace
        .turns
        .iter()
        .find(|turn| turn.site.place() == 0)
        .expect("it had a turn");
    (begun.begin, trace)
}

#[test]
fn a_site_that_needs_all_units_is_not_overtaken_for_ever() {
    // Shorter ones pass it only as long as they are expected back in time: before the first long one ends.
    let (begun, trace) = stream(10, 10);
    assert_eq!(begun, seconds(150));
    let before = trace.turns.iter().filter(|turn| turn.begin < begun).count();
    assert!((10..=13).contains(&before), "{before} passed it");
    // However wrong the expectation is: none passes once the claim should have been met.
    let (begun, trace) = stream(1, 100);
    assert_eq!(begun, seconds(200), "{:?}", &trace.turns[..5]);
}

#[test]
fn waiting_ages() {
    // Each of the chain's sites is queued later and has more behind it than the short one that waits from the begin.
    let mut entries = vec![Entry {
        expected: seconds(60),
        ..Entry::default()
    }];
    for place in 0..100_usize {
        let mut entry = Entry {
            expected: seconds(10),
            ..Entry::default()
        };
        entry
            .after
            .extend(place.checked_sub(1).map(|before| SiteId::at(before + 1)));
        entries.push(entry);
    }
    let agenda = Agenda::new(entries, limits(1, &[])).unwrap();
    let trace = as_expected(agenda);
    let begun = trace
        .turns
        .iter()
        .position(|turn| turn.site.place() == 0)
        .expect("it had a turn");
    // Without ageing it would be after 94 of them, since 60 s are less than what the others begin.
    assert!((70..80).contains(&begun), "after {begun} others");
}

#[test]
fn a_retry_goes_before_what_has_not_begun() {
    let entry = |expected| Entry {
        expected: seconds(expected),
        ..Entry::default()
    };
    let agenda = Agenda::new(vec![entry(30), entry(20), entry(10)], limits(1, &[])).unwrap();
    let trace = simulate(agenda, |site, attempt| Fate {
        lasts: seconds(5),
        then: match (site.place(), attempt) {
            (0, 1) => Err((Pause::BeforeARetry, seconds(2))),
            (1, 1) => Err((Pause::BeforeItBegins, seconds(2))),
            _ => Ok(Outcome::Complete),
        },
    });
    let order: Vec<usize> = trace.turns.iter().map(|turn| turn.site.place()).collect();
    // 1 takes the place while 0 pauses; then 0, whose pause is over; then the longest again.
    assert_eq!(order, [0, 1, 0, 1, 2]);
}

#[test]
fn what_could_never_begin_is_refused() {
    let entry = |after: &[usize], uses: &[(usize, u32)]| Entry {
        after: after.iter().map(|place| SiteId::at(*place)).collect(),
        uses: uses
            .iter()
            .map(|(resource, units)| (ResourceId::at(*resource), *units))
            .collect(),
        ..Entry::default()
    };
    let site = SiteId::at;
    for (entries, error) in [
        (
            vec![entry(&[1], &[]), entry(&[0], &[])],
            AgendaError::Cycle(vec![site(0), site(1)]),
        ),
        (
            vec![entry(&[], &[(0, 3)])],
            AgendaError::MoreThanThereIs(site(0), ResourceId::at(0)),
        ),
        (
            vec![entry(&[], &[(0, 2), (0, 1)])],
            AgendaError::MoreThanThereIs(site(0), ResourceId::at(0)),
        ),
        (vec![entry(&[], &[(1, 1)])], AgendaError::Unknown(site(0))),
        (vec![entry(&[7], &[])], AgendaError::Unknown(site(0))),
    ] {
        assert_eq!(Agenda::new(entries, limits(1, &[2])).map(|_| ()), Err(error));
    }
}

#[test]
fn a_turn_of_another_schedule_changes_nothing() {
    let agenda = |count| Agenda::new(vec![Entry::default(); count], limits(8, &[])).unwrap();
    let (_, mut of_other) = Schedule::begin(agenda(3), Duration::ZERO);
    let (mut schedule, _) = Schedule::begin(agenda(1), Duration::ZERO);
    let Some(Decision::Admit(turn)) = of_other.pop() else {
        panic!("three were admitted")
    };
    assert_eq!(schedule.end(turn, Outcome::Complete, Duration::ZERO), []);
    assert!(!schedule.is_over());
}

#[test]
fn only_as_many_begin_as_are_allowed_and_the_rest_later() {
    use crate::memory::Admissions;

    let agenda = Agenda::new(vec![Entry::default(); 4], limits(3, &[])).unwrap();
    let admitted = |decisions: Vec<Decision>| -> Vec<Admission> {
        let admit = |decision| match decision {
            Decision::Admit(turn) => Some(turn),
            Decision::Queue(_) | Decision::Skip(..) | Decision::LeaveOut(_) => None,
        };
        decisions.into_iter().filter_map(admit).collect()
    };
    let (mut schedule, decisions) = Schedule::begin_allowed(agenda, Admissions::None, seconds(0));
    assert!(admitted(decisions).is_empty());
    assert!(schedule.has_waiting() && schedule.running() == 0);
    let mut first = admitted(schedule.allow(Admissions::One, seconds(1)));
    assert_eq!((first.len(), schedule.running()), (1, 1));
    assert!(admitted(schedule.pass(seconds(2))).is_empty(), "one is one");
    // What ends makes room, and nothing more.
    let ended = schedule.end(first.remove(0), Outcome::Complete, seconds(3));
    assert!(admitted(ended).is_empty());
    let rest = admitted(schedule.allow(Admissions::All, seconds(4)));
    assert_eq!(rest.len(), 3);
    assert!(!schedule.has_waiting());
}

#[test]
fn who_waits_for_memory_is_passed_by_those_only_that_need_none() {
    use crate::memory::Admissions;

    let entries = [600, 300, 0, 300].map(|memory| Entry {
        memory,
        ..Entry::default()
    });
    let agenda = Agenda::new(entries.to_vec(), limits(8, &[])).unwrap();
    let admitted = |decisions: &[Decision]| -> Vec<usize> {
        let admit = |decision: &Decision| match decision {
            Decision::Admit(turn) => Some(turn.site().place()),
            Decision::Queue(_) | Decision::Skip(..) | Decision::LeaveOut(_) => None,
        };
        decisions.iter().filter_map(admit).collect()
    };
    let (mut schedule, decisions) = Schedule::begin_allowed(agenda, Admissions::Within(500), seconds(0));
    assert_eq!(admitted(&decisions), [2]);
    assert_eq!(schedule.unfit(), Some(SiteId::at(0)));
    assert_eq!(admitted(&schedule.allow(Admissions::Within(1000), seconds(1))), [0, 1]);
    assert_eq!(schedule.unfit(), Some(SiteId::at(3)), "100 are left");
    assert_eq!((schedule.promised(seconds(1)), schedule.promised(seconds(2))), (900, 0));
    assert_eq!(admitted(&schedule.allow(Admissions::One, seconds(2))), [3]);
    assert_eq!(schedule.unfit(), None);
}
