//! Properties of the schedule over random graphs, limits, durations, outcomes, retries and wrong expectations.
//!
//! [`makespan`](super::makespan) tests the length of a run, and [`policy_tests`](super::policy_tests) has examples of
//! the policy.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use orch_journal::SiteStatus;

use super::random_run::{RandomRun, limits, night, seconds, world};
use super::*;

/// Returns whether the dependencies of a site had ended at `at` as the documentation demands before the site begins.
fn may_begin(entry: &AgendaEntry, trace: &SimulationTrace, at: Duration) -> bool {
    let ended = |site: &SiteId| trace.ends[site.place()].filter(|(_, end)| *end <= at);
    let success = |site: &SiteId| ended(site).is_some_and(|(end, _)| end.is_success());
    entry.after.iter().all(success)
        && (entry.after_any.is_empty() || entry.after_any.iter().any(success))
        && entry.after_finished.iter().all(|site| ended(site).is_some())
}

fn assert_within_limits(agenda: &SiteAgenda, trace: &SimulationTrace) {
    // At each time at which a turn begins; turns without length hold nothing while time passes.
    let mut changes: Vec<(Duration, i8, SiteId)> = Vec::new();
    for turn in trace.turns.iter().filter(|turn| turn.end > turn.begin) {
        changes.push((turn.begin, 1, turn.site));
        changes.push((turn.end, -1, turn.site));
    }
    // Ends before begins at the same time.
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
            places <= agenda.limits().max_parallel.get() as i64,
            "{places} sites at a time"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn known_durations_give_the_end_at_every_moment(world in world()) {
        let lasts = |site: SiteId| world.fate(site, 1).lasts;
        let complete = |site, _| SimulatedTurn { lasts: lasts(site), then: Ok(SiteStatus::Complete) };
        let end = simulate(world.agenda(), complete).makespan;
        let mut now = Duration::ZERO;
        let (mut schedule, mut decisions) = Schedule::begin(world.agenda(), now);
        let mut running: Vec<(Duration, SiteId, SiteTurn)> = Vec::new();
        loop {
            for decision in decisions {
                if let ScheduleDecision::Admit(turn) = decision {
                    running.push((now + lasts(turn.site()), turn.site(), turn));
                }
            }
            let left = |site: SiteId| match schedule.state(site) {
                TurnState::Running { since } => (since + lasts(site)).saturating_sub(now),
                _ => lasts(site),
            };
            prop_assert_eq!(expected_end(&schedule, now, left), end);
            running.sort_by(|(one, this, _), (other, that, _)| (other, that).cmp(&(one, this)));
            let Some((ended, _, turn)) = running.pop() else { break };
            now = ended;
            decisions = schedule.end(turn, SiteStatus::Complete, now);
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
            let turns: Vec<&TurnSpan> = trace.turns.iter().filter(|turn| turn.site == site).collect();
            let Some((end, moment)) = trace.ends[site.place()] else {
                panic!("{site:?} has not ended")
            };
            for turn in &turns {
                prop_assert!(may_begin(entry, &trace, turn.begin), "{:?}", turn);
                prop_assert!(turn.end <= moment);
            }
            match end {
                SiteEnd::Reached(_) => prop_assert!(!turns.is_empty() && !entry.left_out),
                SiteEnd::LeftOut => {
                    prop_assert!(turns.is_empty() && entry.left_out);
                    prop_assert_eq!(moment, Duration::ZERO);
                }
                SiteEnd::Skipped(cause) => {
                    prop_assert!(turns.is_empty() && !entry.left_out, "the site was skipped and had a turn");
                    let (of, _) = trace.ends[cause.site().place()].expect("the site has ended");
                    prop_assert!(!of.is_success());
                    let succeeded = |site: &SiteId| trace.ends[site.place()].is_some_and(|(end, _)| end.is_success());
                    match cause {
                        SkipCause::After(site) => prop_assert!(entry.after.contains(&site)),
                        SkipCause::NoneOf(_) => prop_assert!(!entry.after_any.iter().any(succeeded)),
                    }
                }
            }
        }
    }

    #[test]
    fn a_site_that_is_cancelled_anywhere_ends_and_the_rest_goes_on(world in world(), which in any::<prop::sample::Index>(), step in 0..40_usize) {
        if world.drafts.is_empty() {
            return Ok(());
        }
        let agenda = world.agenda();
        let chosen = SiteId::at(which.index(world.drafts.len()));
        let (mut schedule, decisions) = Schedule::begin(agenda, Duration::ZERO);
        let mut turns: Vec<SiteTurn> = Vec::new();
        let mut finals = vec![0; world.drafts.len()];
        let mut take = |decisions: Vec<ScheduleDecision>, turns: &mut Vec<SiteTurn>| {
            for decision in decisions {
                match decision {
                    ScheduleDecision::Admit(turn) => turns.push(turn),
                    ScheduleDecision::Skip(site, _) | ScheduleDecision::LeaveOut(site) => finals[site.place()] += 1,
                    ScheduleDecision::Queue(_) => {}
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
                        prop_assert_eq!(schedule.state(chosen), TurnState::Ended(SiteEnd::Reached(SiteStatus::Cancelled)));
                    }
                    Err(state) => prop_assert_eq!(state, schedule.state(chosen)),
                }
            }
            let Some(turn) = turns.pop() else { break };
            ended += 1;
            let decisions = schedule.end(turn, SiteStatus::Complete, now);
            take(decisions, &mut turns);
        }
        prop_assert!(schedule.is_over());
        prop_assert_eq!(finals.iter().sum::<usize>() + cancelled + ended, world.drafts.len());
    }

}

/// Returns whether `one` is examined before `other`, for sites without dependencies.
fn precedes(agenda: &SiteAgenda, one: SiteId, other: SiteId) -> bool {
    let key = |site: SiteId| (std::cmp::Reverse(agenda.chain(site)), site);
    key(one) < key(other)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Checks that with correct expectations no site waits longer because it was overtaken: units under another site's
    /// claim are back before that site could begin.
    #[test]
    fn an_overtaken_site_does_not_wait_longer(world in world()) {
        let mut drafts = world.drafts;
        for draft in &mut drafts {
            draft.needs.clear();
        }
        let agenda = RandomRun { drafts, ..world }.agenda();
        let turns = as_expected(agenda.clone()).turns;
        for (index, overtaking) in turns.iter().enumerate() {
            let earlier = &turns[..index];
            for overtaken in &turns[index + 1..] {
                let is_next = turns[index + 1..].iter().all(|turn| {
                    agenda.demand(turn.site) != agenda.demand(overtaken.site) || !precedes(&agenda, turn.site, overtaken.site)
                });
                if !is_next || !precedes(&agenda, overtaken.site, overtaking.site) || overtaking.end <= overtaken.begin {
                    continue;
                }
                // The overtaking site still runs when the other begins: then the units must have sufficed for both from
                // the beginning.
                for (resource, units) in &agenda.entry(overtaken.site).uses {
                    let used = |site: SiteId| {
                        let uses = agenda.entry(site).uses.iter();
                        uses.filter(|(used, _)| used == resource).map(|(_, units)| *units).sum::<u32>()
                    };
                    let holders = earlier.iter().filter(|turn| turn.end > overtaking.begin);
                    let held: u32 = holders.map(|turn| used(turn.site)).sum();
                    let all = held + used(overtaking.site) + units;
                    let is_shared = used(overtaking.site) > 0;
                    prop_assert!(!is_shared || all <= agenda.limits().resources[resource.place()], "{:?} {:?}", overtaking, overtaken);
                }
            }
        }
    }
}

#[test]
fn ten_thousand_sites_are_scheduled_in_seconds() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut entries = night(&mut random, 10_000);
    for entry in &mut entries {
        if random.f64() < 0.3 {
            entry.uses.push((ResourceId::at(random.usize(0..4)), random.u32(1..9)));
        }
    }
    let begun = Instant::now();
    let agenda = SiteAgenda::new(entries, limits(64, &[8, 16, 9, 30])).unwrap();
    let trace = as_expected(agenda.clone());
    let took = begun.elapsed();
    println!("10,000 sites scheduled to their end in {took:?}, {:?}", trace.makespan);
    assert_within_limits(&agenda, &trace);
    // Twenty times the measured duration, unoptimised, on a busy machine.
    assert!(took < Duration::from_secs(5), "{took:?}");
}
