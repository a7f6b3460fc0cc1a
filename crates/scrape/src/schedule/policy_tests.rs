//! Examples of the policy: which site goes first, which sites are overtaken and for how long, and which agendas are
//! refused.

use std::time::Duration;

use orch_journal::SiteStatus;

use super::random_run::{limits, seconds};
use super::*;

#[test]
fn the_longest_chain_goes_first_and_equal_ones_as_configured() {
    let site = |expected, after: &[usize]| AgendaEntry {
        expected: seconds(expected),
        after: after.iter().map(|place| SiteId::at(*place)).collect(),
        ..AgendaEntry::default()
    };
    let entries = vec![
        site(10, &[]),
        site(20, &[]),
        site(10, &[]),
        site(5, &[]),
        site(30, &[3]),
    ];
    let agenda = SiteAgenda::new(entries, limits(1, &[])).unwrap();
    let order = |trace: SimulationTrace| trace.turns.iter().map(|turn| turn.site.place()).collect::<Vec<_>>();
    assert_eq!(order(as_expected(agenda.clone())), [3, 4, 1, 0, 2]);
    let path: Vec<usize> = agenda.critical_path().iter().map(|site| site.place()).collect();
    assert_eq!((path, agenda.lower_bound()), (vec![3, 4], seconds(75)));
}

/// Simulates sites of one unit that begin one after the other, two at a time, practically without end, and one site
/// that needs both units.
fn stream(expected: u64, lasts: u64) -> (Duration, SimulationTrace) {
    let one = |expected: u64, units| AgendaEntry {
        expected: seconds(expected),
        uses: vec![(ResourceId::at(0), units)],
        ..AgendaEntry::default()
    };
    let mut entries = vec![one(50, 2)];
    // The first two sites have different durations, so that both units are never free by chance. The durations are
    // longer than that of the site with two units, so that these sites go before it.
    entries.push(one(120, 1));
    entries.extend((0..200).map(|_| one(expected, 1)));
    let agenda = SiteAgenda::new(entries, limits(8, &[2])).unwrap();
    let trace = simulate(agenda, |site, _| SimulatedTurn {
        lasts: match site.place() {
            0 => seconds(50),
            1 => seconds(150),
            _ => seconds(lasts),
        },
        then: Ok(SiteStatus::Complete),
    });
    let begun = trace
        .turns
        .iter()
        .find(|turn| turn.site.place() == 0)
        .expect("the site had a turn");
    (begun.begin, trace)
}

#[test]
fn a_site_that_needs_all_units_is_not_overtaken_for_ever() {
    // Shorter sites overtake it only while they are expected to end in time, that is, before the first long site ends.
    let (begun, trace) = stream(10, 10);
    assert_eq!(begun, seconds(150));
    let before = trace.turns.iter().filter(|turn| turn.begin < begun).count();
    assert!((10..=13).contains(&before), "{before} overtook it");
    // Even if the expectations are wrong, no site overtakes it after the claim should have been met.
    let (begun, trace) = stream(1, 100);
    assert_eq!(begun, seconds(200), "{:?}", &trace.turns[..5]);
}

#[test]
fn waiting_ages() {
    // Each site of the chain is queued later and has more behind it than the short site, which waits from the
    // beginning.
    let mut entries = vec![AgendaEntry {
        expected: seconds(60),
        ..AgendaEntry::default()
    }];
    for place in 0..100_usize {
        let mut entry = AgendaEntry {
            expected: seconds(10),
            ..AgendaEntry::default()
        };
        entry
            .after
            .extend(place.checked_sub(1).map(|before| SiteId::at(before + 1)));
        entries.push(entry);
    }
    let agenda = SiteAgenda::new(entries, limits(1, &[])).unwrap();
    let trace = as_expected(agenda);
    let begun = trace
        .turns
        .iter()
        .position(|turn| turn.site.place() == 0)
        .expect("the site had a turn");
    // Without ageing it would come after 94 of them, since 60 s are less than the chains of the others.
    assert!((70..80).contains(&begun), "after {begun} others");
}

#[test]
fn a_retry_goes_before_what_has_not_begun() {
    let entry = |expected| AgendaEntry {
        expected: seconds(expected),
        ..AgendaEntry::default()
    };
    let agenda = SiteAgenda::new(vec![entry(30), entry(20), entry(10)], limits(1, &[])).unwrap();
    let trace = simulate(agenda, |site, attempt| SimulatedTurn {
        lasts: seconds(5),
        then: match (site.place(), attempt) {
            (0, 1) => Err((PauseKind::BeforeARetry, seconds(2))),
            (1, 1) => Err((PauseKind::BeforeItBegins, seconds(2))),
            _ => Ok(SiteStatus::Complete),
        },
    });
    let order: Vec<usize> = trace.turns.iter().map(|turn| turn.site.place()).collect();
    // Site 1 takes the slot while site 0 pauses; then comes site 0, because its pause is over; then the longest again.
    assert_eq!(order, [0, 1, 0, 1, 2]);
}

#[test]
fn what_could_never_begin_is_refused() {
    let entry = |after: &[usize], uses: &[(usize, u32)]| AgendaEntry {
        after: after.iter().map(|place| SiteId::at(*place)).collect(),
        uses: uses
            .iter()
            .map(|(resource, units)| (ResourceId::at(*resource), *units))
            .collect(),
        ..AgendaEntry::default()
    };
    let site = SiteId::at;
    for (entries, error) in [
        (
            vec![entry(&[1], &[]), entry(&[0], &[])],
            AgendaError::Cycle(vec![site(0), site(1)]),
        ),
        (
            vec![entry(&[], &[(0, 3)])],
            AgendaError::TooManyUnits(site(0), ResourceId::at(0)),
        ),
        (
            vec![entry(&[], &[(0, 2), (0, 1)])],
            AgendaError::TooManyUnits(site(0), ResourceId::at(0)),
        ),
        (vec![entry(&[], &[(1, 1)])], AgendaError::Unknown(site(0))),
        (vec![entry(&[7], &[])], AgendaError::Unknown(site(0))),
    ] {
        assert_eq!(SiteAgenda::new(entries, limits(1, &[2])).map(|_| ()), Err(error));
    }
}

#[test]
fn a_turn_of_another_schedule_changes_nothing() {
    let agenda = |count| SiteAgenda::new(vec![AgendaEntry::default(); count], limits(8, &[])).unwrap();
    let (_, mut of_another_schedule) = Schedule::begin(agenda(3), Duration::ZERO);
    let (mut schedule, _) = Schedule::begin(agenda(1), Duration::ZERO);
    let Some(ScheduleDecision::Admit(turn)) = of_another_schedule.pop() else {
        panic!("three were admitted")
    };
    assert_eq!(schedule.end(turn, SiteStatus::Complete, Duration::ZERO), []);
    assert!(!schedule.is_over());
}

#[test]
fn only_as_many_begin_as_are_allowed_and_the_rest_later() {
    use super::memory_gate::AdmissionLimit;

    let agenda = SiteAgenda::new(vec![AgendaEntry::default(); 4], limits(3, &[])).unwrap();
    let admitted = |decisions: Vec<ScheduleDecision>| -> Vec<SiteTurn> {
        let admit = |decision| match decision {
            ScheduleDecision::Admit(turn) => Some(turn),
            ScheduleDecision::Queue(_) | ScheduleDecision::Skip(..) | ScheduleDecision::LeaveOut(_) => None,
        };
        decisions.into_iter().filter_map(admit).collect()
    };
    let (mut schedule, decisions) = Schedule::begin_limited(agenda, AdmissionLimit::None, seconds(0));
    assert!(admitted(decisions).is_empty());
    assert!(schedule.has_waiting() && schedule.running() == 0);
    let mut first = admitted(schedule.set_admission_limit(AdmissionLimit::One, seconds(1)));
    assert_eq!((first.len(), schedule.running()), (1, 1));
    assert!(admitted(schedule.advance(seconds(2))).is_empty(), "only one may begin");
    // An end frees a slot, but the admission limit still holds.
    let ended = schedule.end(first.remove(0), SiteStatus::Complete, seconds(3));
    assert!(admitted(ended).is_empty());
    let rest = admitted(schedule.set_admission_limit(AdmissionLimit::All, seconds(4)));
    assert_eq!(rest.len(), 3);
    assert!(!schedule.has_waiting());
}

#[test]
fn a_site_that_waits_for_memory_is_overtaken_only_by_sites_that_need_none() {
    use super::memory_gate::AdmissionLimit;

    let entries = [600, 300, 0, 300].map(|memory| AgendaEntry {
        memory,
        ..AgendaEntry::default()
    });
    let agenda = SiteAgenda::new(entries.to_vec(), limits(8, &[])).unwrap();
    let admitted = |decisions: &[ScheduleDecision]| -> Vec<usize> {
        let admit = |decision: &ScheduleDecision| match decision {
            ScheduleDecision::Admit(turn) => Some(turn.site().place()),
            ScheduleDecision::Queue(_) | ScheduleDecision::Skip(..) | ScheduleDecision::LeaveOut(_) => None,
        };
        decisions.iter().filter_map(admit).collect()
    };
    let (mut schedule, decisions) = Schedule::begin_limited(agenda, AdmissionLimit::Within(500), seconds(0));
    assert_eq!(admitted(&decisions), [2]);
    assert_eq!(schedule.waiting_for_memory(), Some(SiteId::at(0)));
    assert_eq!(
        admitted(&schedule.set_admission_limit(AdmissionLimit::Within(1000), seconds(1))),
        [0, 1]
    );
    assert_eq!(schedule.waiting_for_memory(), Some(SiteId::at(3)), "100 are left");
    assert_eq!(
        (
            schedule.expected_memory(seconds(1)),
            schedule.expected_memory(seconds(2))
        ),
        (900, 0)
    );
    assert_eq!(
        admitted(&schedule.set_admission_limit(AdmissionLimit::One, seconds(2))),
        [3]
    );
    assert_eq!(schedule.waiting_for_memory(), None);
}
