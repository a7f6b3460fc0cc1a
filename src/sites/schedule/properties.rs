//! Properties of the schedule over random graphs, limits, durations, outcomes, retries and wrong expectations.
//!
//! Not here: how long a run becomes (`makespan`), and examples of the policy (`policy_tests`).

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::makespan::night;
use super::*;

/// What one random site is.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// Distance back to another site, and how it matters.
    needs: Vec<(usize, u8)>,
    pub uses: Vec<(usize, u32)>,
    expected: u64,
    /// What comes of its turns, one after the other; the last goes on.
    fates: Vec<(u64, u8)>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub places: usize,
    pub resources: Vec<u32>,
    pub drafts: Vec<Draft>,
}

pub(super) fn world() -> impl Strategy<Value = World> {
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

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn limits(places: usize, resources: &[u32]) -> Limits {
    Limits {
        places: NonZeroUsize::new(places).unwrap(),
        resources: resources.to_vec(),
    }
}

impl World {
    pub(super) fn agenda(&self) -> Agenda {
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
    fn who_knows_how_long_sites_take_knows_the_end_at_every_moment(world in world()) {
        let lasts = |site: SiteId| world.fate(site, 1).lasts;
        let complete = |site, _| Fate { lasts: lasts(site), then: Ok(Outcome::Complete) };
        let end = simulate(world.agenda(), complete).makespan;
        let mut now = Duration::ZERO;
        let (mut schedule, mut decisions) = Schedule::begin(world.agenda(), now);
        let mut running: Vec<(Duration, SiteId, Admission)> = Vec::new();
        loop {
            for decision in decisions {
                if let Decision::Admit(turn) = decision {
                    running.push((now + lasts(turn.site()), turn.site(), turn));
                }
            }
            let left = |site: SiteId| match schedule.state(site) {
                State::Running { since } => since + lasts(site) - now,
                _ => lasts(site),
            };
            prop_assert_eq!(expected_end(&schedule, now, left), end);
            running.sort_by(|(one, this, _), (other, that, _)| (other, that).cmp(&(one, this)));
            let Some((ended, _, turn)) = running.pop() else { break };
            now = ended;
            decisions = schedule.end(turn, Outcome::Complete, now);
        }
        prop_assert_eq!(now, end);
    }

    #[test]
    fn limits_and_dependencies_hold_and_each_site_ends_once(world in world(), out in prop::collection::vec(any::<prop::sample::Index>(), 0..3)) {
        let count = world.drafts.len();
        let out = out.iter().filter(|_| count > 0).map(|out| SiteId::at(out.index(count)));
        let agenda = world.agenda().leaving_out(out);
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
                End::Reached(_) => prop_assert!(!turns.is_empty() && !entry.left_out),
                End::LeftOut => {
                    prop_assert!(turns.is_empty() && entry.left_out);
                    prop_assert_eq!(moment, Duration::ZERO);
                }
                End::Skipped(cause) => {
                    prop_assert!(turns.is_empty() && !entry.left_out, "it was skipped and had a turn");
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
                    Decision::Skip(site, _) | Decision::LeaveOut(site) => finals[site.place()] += 1,
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

}

/// The order in which sites without dependencies are looked at.
fn precedes(agenda: &Agenda, one: SiteId, other: SiteId) -> bool {
    let key = |site: SiteId| (std::cmp::Reverse(agenda.chain(site)), site);
    key(one) < key(other)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// With expectations that are right nobody waits longer for having been passed: what took units that another had a claim
    /// on has given them back before that one could begin.
    #[test]
    fn who_is_passed_does_not_wait_for_it(world in world()) {
        let mut drafts = world.drafts;
        for draft in &mut drafts {
            draft.needs.clear();
        }
        let agenda = World { drafts, ..world }.agenda();
        let turns = as_expected(agenda.clone()).turns;
        for (index, passing) in turns.iter().enumerate() {
            let earlier = &turns[..index];
            for passed in &turns[index + 1..] {
                let is_next = turns[index + 1..].iter().all(|turn| {
                    agenda.demand(turn.site) != agenda.demand(passed.site) || !precedes(&agenda, turn.site, passed.site)
                });
                if !is_next || !precedes(&agenda, passed.site, passing.site) || passing.end <= passed.begin {
                    continue;
                }
                // It still runs when the other begins: then there must have been enough for both from the first.
                for (resource, units) in &agenda.entry(passed.site).uses {
                    let used = |site: SiteId| {
                        let uses = agenda.entry(site).uses.iter();
                        uses.filter(|(used, _)| used == resource).map(|(_, units)| *units).sum::<u32>()
                    };
                    let holders = earlier.iter().filter(|turn| turn.end > passing.begin);
                    let held: u32 = holders.map(|turn| used(turn.site)).sum();
                    let all = held + used(passing.site) + units;
                    let is_shared = used(passing.site) > 0;
                    prop_assert!(!is_shared || all <= agenda.limits().resources[resource.place()], "{:?} {:?}", passing, passed);
                }
            }
        }
    }
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
