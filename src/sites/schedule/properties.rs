//! Properties of the schedule over random graphs, limits, durations, outcomes, retries and wrong expectations.
//!
//! What is asserted of the makespan, with no failures and expectations that are right, where LB is the greatest of the critical
//! path, the work divided by the places and the units held divided by those there are:
//! - where there are only places: at most work per place + (1 - 1/places) x the longest chain, Graham's bound for any list
//!   scheduling, and so, without `after_any`, at most (2 - 1/places) x LB;
//! - at most 1.2 x LB wherever the shorter of critical path and work per place is at most a sixth of the longer: then
//!   Graham's argument (work per place + path) says so for every graph;
//! - at most 1.2 x LB on graphs as nights have them (`night`), which nothing proves: a seeded sample is measured.
//!
//! Between those, no bound of 1.2 is true: `places + 1` equal sites without dependencies take 2 / (1 + 1/places) x LB, whoever
//! schedules them. With resources sites may have to leave places idle; there, only that all end and none is overtaken for ever.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// What one random site is.
#[derive(Clone, Debug)]
struct Draft {
    /// Distance back to another site, and how it matters.
    needs: Vec<(usize, u8)>,
    uses: Vec<(usize, u32)>,
    expected: u64,
    /// What comes of its turns, one after the other; the last goes on.
    fates: Vec<(u64, u8)>,
}

#[derive(Clone, Debug)]
struct World {
    places: usize,
    resources: Vec<u32>,
    drafts: Vec<Draft>,
}

fn world() -> impl Strategy<Value = World> {
    let draft = (
        proptest::collection::vec((1..12_usize, any::<u8>()), 0..4),
        proptest::collection::vec((0..3_usize, 0..4_u32), 0..3),
        0..200_u64,
        proptest::collection::vec((0..200_u64, any::<u8>()), 1..4),
    )
        .prop_map(|(needs, uses, expected, fates)| Draft {
            needs,
            uses,
            expected,
            fates,
        });
    (
        1..6_usize,
        proptest::collection::vec(1..4_u32, 3),
        proptest::collection::vec(draft, 0..40),
    )
        .prop_map(|(places, resources, drafts)| World {
            places,
            resources,
            drafts,
        })
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn limits(places: usize, resources: &[u32]) -> Limits {
    Limits {
        places: NonZeroUsize::new(places).unwrap(),
        resources: resources.to_vec(),
    }
}

impl World {
    fn agenda(&self) -> Agenda {
        let entries = self.drafts.iter().enumerate().map(|(place, draft)| {
            let mut entry = Entry {
                expected: seconds(draft.expected),
                ..Entry::default()
            };
            for (back, kind) in &draft.needs {
                let Some(needed) = place.checked_sub(*back) else {
                    continue;
                };
                let list = match kind % 3 {
                    0 => &mut entry.after,
                    1 => &mut entry.after_any,
                    _ => &mut entry.after_finished,
                };
                list.push(SiteId::at(needed));
            }
            for (resource, units) in &draft.uses {
                let used = entry.uses.iter().map(|(used, _)| used.place());
                if !used.clone().any(|used| used == *resource) {
                    let units = (*units).min(self.resources[*resource]);
                    entry.uses.push((ResourceId::at(*resource), units));
                }
            }
            entry
        });
        Agenda::new(entries.collect(), limits(self.places, &self.resources)).expect("edges lead back only")
    }

    fn fate(&self, site: SiteId, attempt: u32) -> Fate {
        let fates = &self.drafts[site.place()].fates;
        let (lasts, then) = fates[(attempt as usize - 1).min(fates.len() - 1)];
        let last = attempt as usize >= fates.len();
        let then = match then % 8 {
            0 if !last => Err((Pause::BeforeItBegins, seconds(u64::from(then)))),
            1 if !last => Err((Pause::BeforeARetry, seconds(u64::from(then)))),
            2 => Ok(Outcome::Failed),
            3 => Ok(Outcome::Degraded),
            4 => Ok(Outcome::Cancelled),
            _ => Ok(Outcome::Complete),
        };
        Fate {
            lasts: seconds(lasts),
            then,
        }
    }
}

/// The end of a site, as its dependencies must have been before it began or was skipped: by the words of the documentation.
fn may_begin(entry: &Entry, trace: &Trace, at: Duration) -> bool {
    let ended = |site: &SiteId| trace.ends[site.place()].filter(|(_, end)| *end <= at);
    let success = |site: &SiteId| ended(site).is_some_and(|(end, _)| end.is_success());
    entry.after.iter().all(success)
        && (entry.after_any.is_empty() || entry.after_any.iter().any(success))
        && entry.after_finished.iter().all(|site| ended(site).is_some())
}

fn assert_within_limits(agenda: &Agenda, trace: &Trace) {
    // At each moment at which something begins; turns without length hold nothing while time passes.
    let mut changes: Vec<(Duration, i8, SiteId)> = Vec::new();
    for turn in trace.turns.iter().filter(|turn| turn.end > turn.begin) {
        changes.push((turn.begin, 1, turn.site));
        changes.push((turn.end, -1, turn.site));
    }
    // Ends before begins of the same moment.
    changes.sort();
    let mut places = 0_i64;
    let mut units = vec![0_i64; agenda.limits().resources.len()];
    for (_, sign, site) in changes {
        let sign = i64::from(sign);
        places += sign;
        for (resource, used) in &agenda.entry(site).uses {
            units[resource.place()] += sign * i64::from(*used);
            assert!(units[resource.place()] <= i64::from(agenda.limits().resources[resource.place()]));
        }
        assert!(
            places <= agenda.limits().places.get() as i64,
            "{places} sites at a time"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn limits_and_dependencies_hold_and_each_site_ends_once(world in world()) {
        let agenda = world.agenda();
        let trace = simulate(agenda.clone(), |site, attempt| world.fate(site, attempt));
        assert_within_limits(&agenda, &trace);
        for site in agenda.sites() {
            let entry = agenda.entry(site);
            let turns: Vec<&Span> = trace.turns.iter().filter(|turn| turn.site == site).collect();
            let Some((end, moment)) = trace.ends[site.place()] else {
                panic!("{site:?} has not ended")
            };
            for turn in &turns {
                prop_assert!(may_begin(entry, &trace, turn.begin), "{:?}", turn);
                prop_assert!(turn.end <= moment);
            }
            match end {
                End::Reached(_) => prop_assert!(!turns.is_empty()),
                End::Skipped(cause) => {
                    prop_assert!(turns.is_empty(), "it was skipped and had a turn");
                    let (of, _) = trace.ends[cause.site().place()].expect("it has ended");
                    prop_assert!(!of.is_success());
                    let succeeded = |site: &SiteId| trace.ends[site.place()].is_some_and(|(end, _)| end.is_success());
                    match cause {
                        Cause::After(site) => prop_assert!(entry.after.contains(&site)),
                        Cause::NoneOf(_) => prop_assert!(!entry.after_any.iter().any(succeeded)),
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_cancelled_anywhere_ends_and_the_rest_goes_on(world in world(), which in any::<prop::sample::Index>(), step in 0..40_usize) {
        if world.drafts.is_empty() {
            return Ok(());
        }
        let agenda = world.agenda();
        let chosen = SiteId::at(which.index(world.drafts.len()));
        let (mut schedule, decisions) = Schedule::begin(agenda, Duration::ZERO);
        let mut turns: Vec<Admission> = Vec::new();
        let mut finals = vec![0; world.drafts.len()];
        let mut take = |decisions: Vec<Decision>, turns: &mut Vec<Admission>| {
            for decision in decisions {
                match decision {
                    Decision::Admit(turn) => turns.push(turn),
                    Decision::Skip(site, _) => finals[site.place()] += 1,
                    Decision::Queue(_) => {}
                }
            }
        };
        take(decisions, &mut turns);
        let (mut cancelled, mut ended) = (0, 0);
        for number in 0.. {
            let now = seconds(number as u64);
            if number == step {
                match schedule.cancel(chosen, now) {
                    Ok(decisions) => {
                        cancelled = 1;
                        take(decisions, &mut turns);
                        prop_assert_eq!(schedule.state(chosen), State::Ended(End::Reached(Outcome::Cancelled)));
                    }
                    Err(state) => prop_assert_eq!(state, schedule.state(chosen)),
                }
            }
            let Some(turn) = turns.pop() else { break };
            ended += 1;
            let decisions = schedule.end(turn, Outcome::Complete, now);
            take(decisions, &mut turns);
        }
        prop_assert!(schedule.is_over());
        prop_assert_eq!(finals.iter().sum::<usize>() + cancelled + ended, world.drafts.len());
    }

    #[test]
    fn with_places_alone_no_schedule_is_worse_than_graham_says(world in world(), places in 1..9_usize) {
        let mut drafts = world.drafts;
        for draft in &mut drafts {
            draft.uses.clear();
        }
        let world = World { places, resources: vec![1; 3], drafts };
        assert_makespan(&world.agenda());
    }
}

/// The bounds that hold for every graph; whether 1.2 is one of them for this one.
fn assert_makespan(agenda: &Agenda) -> bool {
    let bound = agenda.lower_bound().as_secs_f64();
    let makespan = as_expected(agenda.clone()).makespan.as_secs_f64();
    let places = agenda.limits().places.get() as f64;
    let longest = agenda.sites().map(|site| agenda.chain(site)).max();
    let longest = longest.unwrap_or_default().as_secs_f64();
    let work: Duration = agenda.sites().map(|site| agenda.entry(site).expected).sum();
    let work = work.as_secs_f64() / places;
    assert!(makespan >= bound - 1e-6, "{makespan} is under the lower bound {bound}");
    let graham = work + (1.0 - 1.0 / places) * longest;
    assert!(makespan <= graham + 1e-6, "{makespan}, {graham}");
    // With `after_any` the longest chain may be longer than the critical path, which takes the shortest way.
    if agenda.sites().any(|site| !agenda.entry(site).after_any.is_empty()) {
        return false;
    }
    assert!(makespan <= (2.0 - 1.0 / places) * bound + 1e-6, "{makespan}, {bound}");
    let is_meaningful = longest.min(work) * 6.0 <= longest.max(work);
    assert!(!is_meaningful || makespan <= 1.2 * bound + 1e-6, "{makespan}, {bound}");
    is_meaningful
}

/// A graph as nights have them: many sites without dependencies, some chains and fans, durations over three decades.
fn night(random: &mut fastrand::Rng, count: usize) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for place in 0..count {
        let mut entry = Entry {
            expected: Duration::from_secs_f64(10.0_f64.powf(random.f64() * 3.0)),
            ..Entry::default()
        };
        let needs = if place > 0 && random.f64() < 0.4 {
            random.usize(1..3)
        } else {
            0
        };
        for _ in 0..needs {
            let needed = SiteId::at(random.usize(place.saturating_sub(30)..place));
            match random.u8(0..4) {
                0 => entry.after_finished.push(needed),
                _ => entry.after.push(needed),
            }
        }
        entries.push(entry);
    }
    entries
}

#[test]
fn nights_end_within_a_fifth_of_the_lower_bound() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut worst: f64 = 0.0;
    let mut meaningful = 0;
    for _ in 0..300 {
        let (count, places) = (random.usize(40..400), random.usize(1..17));
        let agenda = Agenda::new(night(&mut random, count), limits(places, &[])).unwrap();
        meaningful += usize::from(assert_makespan(&agenda));
        let makespan = as_expected(agenda.clone()).makespan;
        worst = worst.max(makespan.as_secs_f64() / agenda.lower_bound().as_secs_f64());
    }
    println!("worst of 300 nights: {worst:.3} x the lower bound; {meaningful} where the bound is proven");
    assert!(worst <= 1.2, "{worst}");
    assert!(meaningful > 20, "{meaningful}");
}

/// What no bound of 1.2 holds for, as the module says.
#[test]
fn a_site_more_than_places_takes_two_rounds() {
    let entries = vec![
        Entry {
            expected: seconds(100),
            ..Entry::default()
        };
        9
    ];
    let agenda = Agenda::new(entries, limits(8, &[])).unwrap();
    assert_eq!(as_expected(agenda.clone()).makespan, seconds(200));
    assert!(as_expected(agenda.clone()).makespan > agenda.lower_bound().mul_f64(1.2));
}

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
fn ten_thousand_sites_are_no_matter() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut entries = night(&mut random, 10_000);
    for entry in &mut entries {
        if random.f64() < 0.3 {
            entry.uses.push((ResourceId::at(random.usize(0..4)), random.u32(1..9)));
        }
    }
    let begun = Instant::now();
    let agenda = Agenda::new(entries, limits(64, &[8, 16, 9, 30])).unwrap();
    let trace = as_expected(agenda.clone());
    let took = begun.elapsed();
    println!("10,000 sites scheduled to their end in {took:?}, {:?}", trace.makespan);
    assert_within_limits(&agenda, &trace);
    // Twenty times what it takes, unoptimised, on a busy machine.
    assert!(took < Duration::from_secs(5), "{took:?}");
}
