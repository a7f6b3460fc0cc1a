//! State machine of the schedule: events go in, decisions come out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use orch_journal::SiteStatus;

use super::agenda::{AgendaEntry, DependencyKind, SiteAgenda};
use super::capacity::{CapacityClaims, FreeCapacity};
use super::memory_gate::AdmissionLimit;
use super::queue::{QueueKey, SiteQueue};
use super::state::{PauseKind, ScheduleDecision, SiteEnd, SiteId, SiteTurn, SkipCause, TurnState, UnmetDependencies};

/// Schedule of a run. Times count from the begin of the run; a time before the last one counts as the last one.
///
/// A clone copies only the state that changes, and shares the agenda. A clone that continues in virtual time forecasts
/// the run.
#[derive(Clone, Debug)]
pub struct Schedule {
    agenda: Arc<SiteAgenda>,
    pub(super) sites: Vec<ScheduledSite>,
    pub(super) queue: SiteQueue,
    room: FreeCapacity,
    pauses: BinaryHeap<Reverse<(Duration, SiteId)>>,
    pub(super) now: Duration,
    /// Number of sites that have not ended.
    pub(super) left: usize,
    /// Number of sites that may begin until the next limit is set.
    allowed: AdmissionLimit,
    /// First site in the last pass through the queue that lacked only the expected memory.
    waiting_for_memory: Option<SiteId>,
    /// Only sites that have begun may continue; no other site begins.
    pub(super) is_paused: bool,
}

/// Site of the schedule with its state.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScheduledSite {
    pub(super) state: TurnState,
    /// Time from which the site ages; set once, and again by a retry.
    pub(super) since: Duration,
    /// The site has begun, or a request begins it: it goes before all others, and a pause does not hold it back.
    pub(super) begun: bool,
    /// The site has ended before, and other sites know that end.
    pub(super) is_retried: bool,
}

impl Schedule {
    /// Begins the schedule; also returns the first decisions.
    pub fn begin(agenda: SiteAgenda, now: Duration) -> (Self, Vec<ScheduleDecision>) {
        Self::begin_limited(agenda, AdmissionLimit::All, now)
    }

    /// Begins the schedule with a limit on the sites that may begin.
    pub fn begin_limited(agenda: SiteAgenda, allowed: AdmissionLimit, now: Duration) -> (Self, Vec<ScheduleDecision>) {
        Self::begin_held(agenda, allowed, false, now)
    }

    /// Begins the schedule with a limit on the sites that may begin, or with a pause.
    pub fn begin_held(
        agenda: SiteAgenda,
        allowed: AdmissionLimit,
        is_paused: bool,
        now: Duration,
    ) -> (Self, Vec<ScheduleDecision>) {
        let unmet = |site: SiteId| {
            let entry = agenda.entry(site);
            let count = |list: &[SiteId]| u32::try_from(list.len()).unwrap_or(u32::MAX);
            UnmetDependencies {
                after: count(&entry.after),
                any: count(&entry.after_any),
                finished: count(&entry.after_finished),
            }
        };
        let sites: Vec<ScheduledSite> = agenda
            .sites()
            .map(|site| ScheduledSite {
                state: TurnState::Waiting(unmet(site)),
                since: now,
                begun: false,
                is_retried: false,
            })
            .collect();
        let mut schedule = Self {
            left: sites.len(),
            sites,
            queue: SiteQueue::default(),
            room: FreeCapacity::new(agenda.limits()),
            pauses: BinaryHeap::new(),
            now,
            allowed,
            waiting_for_memory: None,
            is_paused,
            agenda: Arc::new(agenda),
        };
        let mut decisions = Vec::new();
        schedule.leave_out(&mut decisions);
        for site in schedule.agenda.sites() {
            schedule.queue_if_met(site, &mut decisions);
        }
        schedule.admit(&mut decisions);
        (schedule, decisions)
    }

    pub fn agenda(&self) -> &SiteAgenda {
        &self.agenda
    }

    pub fn state(&self, site: SiteId) -> TurnState {
        self.sites[site.place()].state
    }

    /// Returns the turns under way with their begins, for a copy of this schedule that continues from here.
    pub(crate) fn turns(&self) -> impl Iterator<Item = (SiteTurn, Duration)> {
        let running = |site: SiteId| match self.state(site) {
            TurnState::Running { since } => Some((SiteTurn(site), since)),
            TurnState::Waiting(_) | TurnState::Queued { .. } | TurnState::Pausing { .. } | TurnState::Ended(_) => None,
        };
        self.agenda.sites().filter_map(running)
    }

    /// Returns whether every site has ended.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Returns when the first pause ends; the schedule must be advanced then.
    pub fn next_due(&self) -> Option<Duration> {
        // A site that was cancelled while it paused is still in the heap, which does no harm.
        self.pauses.peek().map(|Reverse((due, _))| *due)
    }

    /// Returns the number of sites that have their turn.
    pub fn running(&self) -> usize {
        self.agenda.limits().max_parallel.get() - self.room.free_slots()
    }

    /// Returns whether a site may still begin, now or later.
    pub fn has_waiting(&self) -> bool {
        self.left > self.running()
    }

    /// Returns the site that waits only for memory, if there is one; no other site that needs memory overtakes that
    /// site.
    pub fn waiting_for_memory(&self) -> Option<SiteId> {
        self.waiting_for_memory
    }

    /// Returns the memory that the sites that have begun since `since` may come to use.
    pub fn expected_memory(&self, since: Duration) -> u64 {
        let recent = self.agenda.sites().filter(|site| match self.state(*site) {
            TurnState::Running { since: begun } => begun >= since,
            TurnState::Waiting(_) | TurnState::Queued { .. } | TurnState::Pausing { .. } | TurnState::Ended(_) => false,
        });
        recent.fold(0, |sum: u64, site| sum.saturating_add(self.agenda.entry(site).memory))
    }

    /// Sets how many sites may begin until the next limit is set; admissions that are not used are not kept.
    pub fn set_admission_limit(&mut self, allowed: AdmissionLimit, now: Duration) -> Vec<ScheduleDecision> {
        self.allowed = allowed;
        self.advance(now)
    }

    /// Ends a site that had a turn.
    pub fn end(&mut self, turn: SiteTurn, status: SiteStatus, now: Duration) -> Vec<ScheduleDecision> {
        self.advance_clock(now);
        let mut decisions = Vec::new();
        if self.give_back(&turn) {
            self.finish(turn.site(), SiteEnd::Reached(status), &mut decisions);
        }
        self.admit(&mut decisions);
        decisions
    }

    /// Takes the turn of a site back until `due`, and then queues the site again.
    pub fn pause(&mut self, turn: SiteTurn, pause: PauseKind, due: Duration, now: Duration) -> Vec<ScheduleDecision> {
        self.advance_clock(now);
        if self.give_back(&turn) {
            let site = &mut self.sites[turn.site().place()];
            site.begun |= pause == PauseKind::BeforeARetry;
            site.state = TurnState::Pausing { due, pause };
            self.pauses.push(Reverse((due, turn.site())));
        }
        self.advance(now)
    }

    /// Advances the time, and queues the sites with pauses that have ended.
    pub fn advance(&mut self, now: Duration) -> Vec<ScheduleDecision> {
        self.advance_clock(now);
        let mut decisions = Vec::new();
        while let Some(Reverse((due, site))) = self.pauses.peek().copied()
            && due <= self.now
        {
            self.pauses.pop();
            if let TurnState::Pausing { due: of_state, .. } = self.state(site)
                && of_state == due
            {
                self.enter_queue(site);
            }
        }
        self.admit(&mut decisions);
        decisions
    }

    /// Ends a site that does not run; a running site ends by the end of the turn, as cancelled.
    ///
    /// # Errors
    /// The site runs or has ended. The unchanged state is returned.
    pub fn cancel(&mut self, site: SiteId, now: Duration) -> Result<Vec<ScheduleDecision>, TurnState> {
        self.advance_clock(now);
        match self.state(site) {
            state @ (TurnState::Running { .. } | TurnState::Ended(_)) => return Err(state),
            TurnState::Queued { .. } => self.queue.remove(self.key(site), self.agenda.demand(site)),
            TurnState::Waiting(_) | TurnState::Pausing { .. } => {}
        }
        let mut decisions = Vec::new();
        self.finish(site, SiteEnd::Reached(SiteStatus::Cancelled), &mut decisions);
        self.admit(&mut decisions);
        Ok(decisions)
    }

    pub(super) fn advance_clock(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    pub(super) fn key(&self, site: SiteId) -> QueueKey {
        let ScheduledSite { since, begun, .. } = self.sites[site.place()];
        QueueKey::new(site, begun, self.agenda.chain(site), since)
    }

    /// Returns the time until which a site that began at `since` is expected to hold the units.
    fn until(&self, site: SiteId, since: Duration) -> Duration {
        since.saturating_add(self.agenda.entry(site).expected)
    }

    /// Releases the slot and the units of the site; returns false for a turn of another schedule.
    fn give_back(&mut self, turn: &SiteTurn) -> bool {
        let site = turn.site();
        let Some(TurnState::Running { since }) = self.sites.get(site.place()).map(|site| site.state) else {
            return false;
        };
        let until = self.until(site, since);
        self.room.give_back(site, &self.agenda.entry(site).uses, until);
        true
    }

    /// Ends all sites that are left out, and only then notifies their dependents: none of them is skipped because of
    /// another.
    fn leave_out(&mut self, decisions: &mut Vec<ScheduleDecision>) {
        let sites = self.agenda.sites();
        let sites: Vec<SiteId> = sites.filter(|site| self.agenda.entry(*site).left_out).collect();
        for site in &sites {
            self.set_ended(*site, SiteEnd::LeftOut);
            decisions.push(ScheduleDecision::LeaveOut(*site));
        }
        for site in sites {
            self.notify_dependents(site, false, decisions);
        }
    }

    fn queue_if_met(&mut self, site: SiteId, decisions: &mut Vec<ScheduleDecision>) {
        if let TurnState::Waiting(unmet) = self.state(site)
            && unmet.is_met()
        {
            self.sites[site.place()].since = self.now;
            self.enter_queue(site);
            decisions.push(ScheduleDecision::Queue(site));
        }
    }

    pub(super) fn enter_queue(&mut self, site: SiteId) {
        self.sites[site.place()].state = TurnState::Queued { since: self.now };
        self.queue.insert(self.key(site), self.agenda.demand(site));
    }

    /// Ends a site, then the sites that cannot begin any more because of that, and so on.
    fn finish(&mut self, site: SiteId, end: SiteEnd, decisions: &mut Vec<ScheduleDecision>) {
        self.set_ended(site, end);
        // The dependents of a retried site have begun or were skipped by its first end.
        if !self.sites[site.place()].is_retried {
            self.notify_dependents(site, end.is_success(), decisions);
        }
    }

    fn notify_dependents(&mut self, site: SiteId, success: bool, decisions: &mut Vec<ScheduleDecision>) {
        let mut ends = vec![(site, success)];
        while let Some((site, success)) = ends.pop() {
            for index in 0..self.agenda.dependents_by_kind(site).len() {
                let (dependent, kind) = self.agenda.dependents_by_kind(site)[index];
                match self.apply_dependency_end(dependent, kind, site, success) {
                    Some(cause) => {
                        self.set_ended(dependent, SiteEnd::Skipped(cause));
                        decisions.push(ScheduleDecision::Skip(dependent, cause));
                        ends.push((dependent, false));
                    }
                    None => self.queue_if_met(dependent, decisions),
                }
            }
        }
    }

    pub(super) fn set_ended(&mut self, site: SiteId, end: SiteEnd) {
        self.sites[site.place()].state = TurnState::Ended(end);
        self.left -= 1;
    }

    /// Applies the end of a dependency to a waiting site; returns a cause if the site is skipped because of that.
    fn apply_dependency_end(
        &mut self,
        dependent: SiteId,
        kind: DependencyKind,
        ended: SiteId,
        success: bool,
    ) -> Option<SkipCause> {
        // A site that no longer waits was skipped because of another site, or cancelled.
        let TurnState::Waiting(unmet) = &mut self.sites[dependent.place()].state else {
            return None;
        };
        match (kind, success) {
            (DependencyKind::After, false) => return Some(SkipCause::After(ended)),
            (DependencyKind::After, true) => unmet.after -= 1,
            (DependencyKind::AfterFinished, _) => unmet.finished -= 1,
            (DependencyKind::AfterAny, true) => unmet.any = 0,
            // One of them has succeeded before.
            (DependencyKind::AfterAny, false) if unmet.any == 0 => {}
            (DependencyKind::AfterAny, false) => {
                unmet.any -= 1;
                if unmet.any == 0 {
                    return Some(SkipCause::NoneOf(ended));
                }
            }
        }
        None
    }

    /// Examines the first site of each demand once, in their order, and admits the sites that fit.
    pub(super) fn admit(&mut self, decisions: &mut Vec<ScheduleDecision>) {
        let mut claims = CapacityClaims::none(self.agenda.limits());
        let mut last = None;
        self.waiting_for_memory = None;
        while self.allowed != AdmissionLimit::None
            && self.room.has_free_slot()
            && let Some((key, demand)) = self.queue.next(last)
        {
            last = Some((key, demand));
            let site = key.site();
            if self.is_paused && !self.sites[site.place()].begun {
                continue;
            }
            let until = self.until(site, self.now);
            let AgendaEntry { uses, memory, .. } = self.agenda.entry(site);
            if let AdmissionLimit::Within(left) = self.allowed
                && *memory > 0
                && (*memory > left || self.waiting_for_memory.is_some())
            {
                self.waiting_for_memory.get_or_insert(site);
                continue;
            }
            if claims.allow(&self.room, uses, until) {
                self.room.take(site, uses, until);
                self.queue.remove(key, demand);
                self.sites[site.place()].state = TurnState::Running { since: self.now };
                decisions.push(ScheduleDecision::Admit(SiteTurn(site)));
                self.allowed = match self.allowed {
                    AdmissionLimit::One | AdmissionLimit::None => AdmissionLimit::None,
                    AdmissionLimit::Within(left) => AdmissionLimit::Within(left.saturating_sub(*memory)),
                    AdmissionLimit::All => AdmissionLimit::All,
                };
            } else {
                claims.add(uses, self.room.expected_for(uses, self.now));
            }
        }
    }
}
