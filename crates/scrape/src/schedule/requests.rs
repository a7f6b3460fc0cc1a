//! The schedule's part in requests of persons: a pause of the admission, a site that begins before all others, a site
//! that begins again, and the end of a drained run.

use std::time::Duration;

use super::machine::Schedule;
use super::state::{ScheduleDecision, SiteEnd, SiteId, TurnState};

/// Reason why a site does not begin again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryRefusal {
    /// The site has not ended.
    NotEnded,
    /// The site runs after this site, which has not succeeded or not ended.
    Needs(SiteId),
}

impl Schedule {
    /// Holds back the sites that have not begun, or lets them begin again.
    pub fn set_paused(&mut self, is_paused: bool, now: Duration) -> Vec<ScheduleDecision> {
        self.is_paused = is_paused;
        self.advance(now)
    }

    /// Returns the number of sites that have begun and have not ended.
    pub fn begun(&self) -> usize {
        let is_begun = |site: &SiteId| match self.state(*site) {
            TurnState::Running { .. } => true,
            TurnState::Queued { .. } | TurnState::Pausing { .. } => self.sites[site.place()].begun,
            TurnState::Waiting(_) | TurnState::Ended(_) => false,
        };
        self.agenda().sites().filter(is_begun).count()
    }

    /// Lets a site with met dependencies begin before all others, also during a pause, and ends a pause of the site
    /// itself. The limits hold: the site begins when a slot and its units are free.
    ///
    /// # Errors
    /// The site runs, has ended, or waits for other sites. The unchanged state is returned.
    pub fn hasten(&mut self, site: SiteId, now: Duration) -> Result<Vec<ScheduleDecision>, TurnState> {
        self.advance_clock(now);
        match self.state(site) {
            state @ (TurnState::Running { .. } | TurnState::Ended(_) | TurnState::Waiting(_)) => return Err(state),
            TurnState::Queued { .. } => self.queue.remove(self.key(site), self.agenda().demand(site)),
            TurnState::Pausing { .. } => {}
        }
        self.sites[site.place()].begun = true;
        self.enter_queue(site);
        let mut decisions = Vec::new();
        self.admit(&mut decisions);
        Ok(decisions)
    }

    /// Lets a site that has ended begin again, before all others. The sites that were skipped because of the first end
    /// stay skipped.
    ///
    /// # Errors
    /// The site has not ended, or a site that it needs has not succeeded.
    pub fn retry(&mut self, site: SiteId, now: Duration) -> Result<Vec<ScheduleDecision>, RetryRefusal> {
        self.advance_clock(now);
        if !matches!(self.state(site), TurnState::Ended(_)) {
            return Err(RetryRefusal::NotEnded);
        }
        if let Some(needed) = self.unmet_dependency(site) {
            return Err(RetryRefusal::Needs(needed));
        }
        let retried = &mut self.sites[site.place()];
        retried.begun = true;
        retried.is_retried = true;
        retried.since = self.now;
        self.left += 1;
        self.enter_queue(site);
        let mut decisions = vec![ScheduleDecision::Queue(site)];
        self.admit(&mut decisions);
        Ok(decisions)
    }

    /// Returns a site that must succeed or end before this one begins, and has not.
    fn unmet_dependency(&self, site: SiteId) -> Option<SiteId> {
        let has_ended = |needed: &SiteId| matches!(self.state(*needed), TurnState::Ended(_));
        let has_succeeded = |needed: &SiteId| match self.state(*needed) {
            TurnState::Ended(end) => end.is_success(),
            _ => false,
        };
        let entry = self.agenda().entry(site);
        let unmet_any = match entry.after_any.iter().any(has_succeeded) {
            true => None,
            false => entry.after_any.first(),
        };
        let unmet = entry.after.iter().find(|needed| !has_succeeded(needed)).or(unmet_any);
        let unended = || entry.after_finished.iter().find(|needed| !has_ended(needed));
        unmet.or_else(unended).copied()
    }

    /// Ends all sites that have not begun, and returns them. The sites that run go on.
    pub fn end_rest(&mut self) -> Vec<SiteId> {
        let mut ended = Vec::new();
        let sites: Vec<SiteId> = self.agenda().sites().collect();
        for site in sites {
            match self.state(site) {
                TurnState::Running { .. } | TurnState::Ended(_) => continue,
                TurnState::Queued { .. } => self.queue.remove(self.key(site), self.agenda().demand(site)),
                TurnState::Waiting(_) | TurnState::Pausing { .. } => {}
            }
            self.set_ended(site, SiteEnd::LeftOut);
            ended.push(site);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::random_run::{RandomRun, seconds, world};
    use super::super::{PauseKind, SiteTurn};
    use super::*;
    use orch_journal::SiteStatus;

    /// One step of a random run with requests; the numbers choose a site or a result.
    #[derive(Clone, Debug)]
    enum RunStep {
        EndTurn(usize, u8),
        Advance(u64),
        Pause(bool),
        Hasten(usize),
        Retry(usize),
        Cancel(usize),
    }

    fn any_step() -> impl Strategy<Value = RunStep> {
        prop_oneof![
            4 => (any::<usize>(), any::<u8>()).prop_map(|(turn, fate)| RunStep::EndTurn(turn, fate)),
            2 => (0..50_u64).prop_map(RunStep::Advance),
            1 => any::<bool>().prop_map(RunStep::Pause),
            1 => any::<usize>().prop_map(RunStep::Hasten),
            1 => any::<usize>().prop_map(RunStep::Retry),
            1 => any::<usize>().prop_map(RunStep::Cancel),
        ]
    }

    /// A schedule that is driven step by step, with checks after each.
    struct CheckedRun {
        schedule: Schedule,
        now: Duration,
        turns: Vec<SiteTurn>,
        /// Sites that may begin during a pause, because they have begun or a request begins them.
        hastened: Vec<SiteId>,
        is_paused: bool,
    }

    impl CheckedRun {
        fn new(world: &RandomRun) -> Self {
            let (schedule, decisions) = Schedule::begin(world.agenda(), Duration::ZERO);
            let mut run = Self {
                schedule,
                now: Duration::ZERO,
                turns: Vec::new(),
                hastened: Vec::new(),
                is_paused: false,
            };
            run.apply(decisions);
            run
        }

        fn apply(&mut self, decisions: Vec<ScheduleDecision>) {
            for decision in decisions {
                if let ScheduleDecision::Admit(turn) = decision {
                    let site = turn.site();
                    assert!(
                        !self.turns.iter().any(|other| other.site() == site),
                        "two turns of one site"
                    );
                    assert!(
                        !self.is_paused || self.hastened.contains(&site),
                        "{site:?} begins in a pause"
                    );
                    self.hastened.push(site);
                    self.turns.push(turn);
                }
            }
            let limit = self.schedule.agenda().limits().max_parallel.get();
            assert!(self.turns.len() <= limit && self.schedule.running() == self.turns.len());
        }

        fn site(&self, number: usize) -> Option<SiteId> {
            let count = self.schedule.agenda().sites().len();
            (count > 0).then(|| SiteId::at(number % count))
        }

        fn end_turn(&mut self, number: usize, fate: u8) {
            if self.turns.is_empty() {
                return;
            }
            let turn = self.turns.swap_remove(number % self.turns.len());
            let decisions = match fate % 6 {
                0 => {
                    let due = self.now + seconds(7);
                    self.schedule.pause(turn, PauseKind::BeforeARetry, due, self.now)
                }
                1 => self.schedule.end(turn, SiteStatus::Failed, self.now),
                2 => self.schedule.end(turn, SiteStatus::Cancelled, self.now),
                _ => self.schedule.end(turn, SiteStatus::Complete, self.now),
            };
            self.apply(decisions);
        }

        fn step(&mut self, step: &RunStep) {
            let decisions = match *step {
                RunStep::EndTurn(number, fate) => return self.end_turn(number, fate),
                RunStep::Advance(by) => {
                    self.now += seconds(by);
                    self.schedule.advance(self.now)
                }
                RunStep::Pause(is_paused) => {
                    self.is_paused = is_paused;
                    self.schedule.set_paused(is_paused, self.now)
                }
                RunStep::Hasten(number) => {
                    let Some(site) = self.site(number) else { return };
                    let before = self.schedule.state(site);
                    self.hastened.push(site);
                    match self.schedule.hasten(site, self.now) {
                        Ok(decisions) => decisions,
                        Err(state) => {
                            assert_eq!(state, before);
                            assert!(!matches!(before, TurnState::Queued { .. } | TurnState::Pausing { .. }));
                            self.hastened.pop();
                            return;
                        }
                    }
                }
                RunStep::Retry(number) => {
                    let Some(site) = self.site(number) else { return };
                    let had_ended = matches!(self.schedule.state(site), TurnState::Ended(_));
                    self.hastened.push(site);
                    match self.schedule.retry(site, self.now) {
                        Ok(decisions) => {
                            assert!(had_ended);
                            decisions
                        }
                        Err(refusal) => {
                            assert_eq!(refusal == RetryRefusal::NotEnded, !had_ended);
                            self.hastened.pop();
                            return;
                        }
                    }
                }
                RunStep::Cancel(number) => {
                    let Some(site) = self.site(number) else { return };
                    self.schedule.cancel(site, self.now).unwrap_or_default()
                }
            };
            self.apply(decisions);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn no_order_of_requests_loses_a_site_or_breaks_a_limit(
            world in world(),
            steps in prop::collection::vec(any_step(), 0..120),
        ) {
            let mut run = CheckedRun::new(&world);
            for step in &steps {
                run.step(step);
            }
            // After the pause every site comes to its end.
            run.step(&RunStep::Pause(false));
            for _ in 0..1000 {
                if run.schedule.is_over() {
                    break;
                }
                run.step(&RunStep::Advance(10));
                run.end_turn(0, 3);
            }
            prop_assert!(run.schedule.is_over() && run.turns.is_empty());
        }

        #[test]
        fn a_drained_run_ends_with_the_sites_that_have_begun(
            world in world(),
            steps in prop::collection::vec(any_step(), 0..60),
        ) {
            let mut run = CheckedRun::new(&world);
            for step in &steps {
                run.step(step);
            }
            run.step(&RunStep::Pause(true));
            for _ in 0..1000 {
                if run.schedule.begun() == 0 {
                    break;
                }
                run.step(&RunStep::Advance(10));
                run.end_turn(0, 3);
            }
            prop_assert!(run.turns.is_empty(), "no site runs");
            let rest = run.schedule.end_rest();
            prop_assert!(run.schedule.is_over());
            let is_left_out = |site: &SiteId| run.schedule.state(*site) == TurnState::Ended(SiteEnd::LeftOut);
            prop_assert!(rest.iter().all(is_left_out));
        }
    }
}
