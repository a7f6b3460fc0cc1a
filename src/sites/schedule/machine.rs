//! The schedule itself: what happened goes in, what is to be done comes out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use super::agenda::{Agenda, Entry, Kind};
use super::queue::{Key, Queue};
use super::room::{Claims, Room};
use super::state::{Admission, Cause, Decision, End, Outcome, Pause, SiteId, State, Unmet};
use crate::memory::Admissions;

/// See the module. Moments are those since the begin of the run; one that lies before the last counts as the last.
///
/// Cloning it costs what changes in it: one that goes on with virtual time tells how the run will go.
#[derive(Clone, Debug)]
pub struct Schedule {
    agenda: Arc<Agenda>,
    sites: Vec<Site>,
    queue: Queue,
    room: Room,
    pauses: BinaryHeap<Reverse<(Duration, SiteId)>>,
    now: Duration,
    /// Sites that have not ended.
    left: usize,
    /// How many may begin until the next word.
    allowed: Admissions,
    /// The first that had all but the memory which it may come to hold, at the last look.
    unfit: Option<SiteId>,
}

#[derive(Clone, Copy, Debug)]
struct Site {
    state: State,
    /// Since when it ages; set once.
    since: Duration,
    begun: bool,
}

impl Schedule {
    /// Begins; what may be done at once comes with it.
    pub fn begin(agenda: Agenda, now: Duration) -> (Self, Vec<Decision>) {
        Self::begin_allowed(agenda, Admissions::All, now)
    }

    /// Begins while only so many sites may.
    pub fn begin_allowed(agenda: Agenda, allowed: Admissions, now: Duration) -> (Self, Vec<Decision>) {
        let unmet = |site: SiteId| {
            let entry = agenda.entry(site);
            let count = |list: &[SiteId]| u32::try_from(list.len()).unwrap_or(u32::MAX);
            Unmet {
                after: count(&entry.after),
                any: count(&entry.after_any),
                finished: count(&entry.after_finished),
            }
        };
        let sites: Vec<Site> = agenda
            .sites()
            .map(|site| Site {
                state: State::Waiting(unmet(site)),
                since: now,
                begun: false,
            })
            .collect();
        let mut schedule = Self {
            left: sites.len(),
            sites,
            queue: Queue::default(),
            room: Room::new(agenda.limits()),
            pauses: BinaryHeap::new(),
            now,
            allowed,
            unfit: None,
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

    pub fn agenda(&self) -> &Agenda {
        &self.agenda
    }

    pub fn state(&self, site: SiteId) -> State {
        self.sites[site.place()].state
    }

    /// The turns that are under way, as another schedule that goes on from here gives them back.
    pub(super) fn turns(&self) -> impl Iterator<Item = (Admission, Duration)> {
        let running = |site: SiteId| match self.state(site) {
            State::Running { since } => Some((Admission(site), since)),
            State::Waiting(_) | State::Queued { .. } | State::Pausing { .. } | State::Ended(_) => None,
        };
        self.agenda.sites().filter_map(running)
    }

    /// Whether every site has ended.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// When the first pause ends; [`Schedule::pass`] is to be told then.
    pub fn next_due(&self) -> Option<Duration> {
        // What was cancelled while it paused is still in the heap, and does no harm there.
        self.pauses.peek().map(|Reverse((due, _))| *due)
    }

    /// Sites that have their turn.
    pub fn running(&self) -> usize {
        self.agenda.limits().places.get() - self.room.places()
    }

    /// Whether a site may still begin, now or later.
    pub fn has_waiting(&self) -> bool {
        self.left > self.running()
    }

    /// The site that waits for nothing but memory, if there is one; none that needs memory passes it.
    pub fn unfit(&self) -> Option<SiteId> {
        self.unfit
    }

    /// What sites that have begun since then may come to hold of memory.
    pub fn promised(&self, since: Duration) -> u64 {
        let recent = self.agenda.sites().filter(|site| match self.state(*site) {
            State::Running { since: begun } => begun >= since,
            State::Waiting(_) | State::Queued { .. } | State::Pausing { .. } | State::Ended(_) => false,
        });
        recent.fold(0, |sum: u64, site| sum.saturating_add(self.agenda.entry(site).memory))
    }

    /// Lets so many sites begin until the next word; one that is not used is not kept.
    pub fn allow(&mut self, allowed: Admissions, now: Duration) -> Vec<Decision> {
        self.allowed = allowed;
        self.pass(now)
    }

    /// A site that had its turn has ended.
    pub fn end(&mut self, turn: Admission, outcome: Outcome, now: Duration) -> Vec<Decision> {
        self.pass_to(now);
        let mut decisions = Vec::new();
        if self.give_back(&turn) {
            self.finish(turn.site(), End::Reached(outcome), &mut decisions);
        }
        self.admit(&mut decisions);
        decisions
    }

    /// A site gives its turn back until `due`; then it is queued again.
    pub fn pause(&mut self, turn: Admission, pause: Pause, due: Duration, now: Duration) -> Vec<Decision> {
        self.pass_to(now);
        if self.give_back(&turn) {
            let site = &mut self.sites[turn.site().place()];
            site.begun |= pause == Pause::BeforeARetry;
            site.state = State::Pausing { due, pause };
            self.pauses.push(Reverse((due, turn.site())));
        }
        self.pass(now)
    }

    /// Time has passed: what has paused until now is queued again.
    pub fn pass(&mut self, now: Duration) -> Vec<Decision> {
        self.pass_to(now);
        let mut decisions = Vec::new();
        while let Some(Reverse((due, site))) = self.pauses.peek().copied()
            && due <= self.now
        {
            self.pauses.pop();
            if let State::Pausing { due: of_state, .. } = self.state(site)
                && of_state == due
            {
                self.enter_queue(site);
            }
        }
        self.admit(&mut decisions);
        decisions
    }

    /// Gives up a site that does not run; one that does ends by its turn, with [`Outcome::Cancelled`].
    ///
    /// # Errors
    /// It runs, or has ended: its state, which is left as it was.
    pub fn cancel(&mut self, site: SiteId, now: Duration) -> Result<Vec<Decision>, State> {
        self.pass_to(now);
        match self.state(site) {
            state @ (State::Running { .. } | State::Ended(_)) => return Err(state),
            State::Queued { .. } => self.queue.remove(self.key(site), self.agenda.demand(site)),
            State::Waiting(_) | State::Pausing { .. } => {}
        }
        let mut decisions = Vec::new();
        self.finish(site, End::Reached(Outcome::Cancelled), &mut decisions);
        self.admit(&mut decisions);
        Ok(decisions)
    }

    fn pass_to(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    fn key(&self, site: SiteId) -> Key {
        let Site { since, begun, .. } = self.sites[site.place()];
        Key::new(site, begun, self.agenda.chain(site), since)
    }

    /// Until when a site that began then is expected to hold what it uses.
    fn until(&self, site: SiteId, since: Duration) -> Duration {
        since.saturating_add(self.agenda.entry(site).expected)
    }

    /// Gives back what the site holds; false for a turn of another schedule.
    fn give_back(&mut self, turn: &Admission) -> bool {
        let site = turn.site();
        let Some(State::Running { since }) = self.sites.get(site.place()).map(|site| site.state) else {
            return false;
        };
        let until = self.until(site, since);
        self.room.give_back(site, &self.agenda.entry(site).uses, until);
        true
    }

    /// All of them end before any is told of: none is skipped for another.
    fn leave_out(&mut self, decisions: &mut Vec<Decision>) {
        let sites = self.agenda.sites();
        let sites: Vec<SiteId> = sites.filter(|site| self.agenda.entry(*site).left_out).collect();
        for site in &sites {
            self.set_ended(*site, End::LeftOut);
            decisions.push(Decision::LeaveOut(*site));
        }
        for site in sites {
            self.tell_dependents(site, false, decisions);
        }
    }

    fn queue_if_met(&mut self, site: SiteId, decisions: &mut Vec<Decision>) {
        if let State::Waiting(unmet) = self.state(site)
            && unmet.is_met()
        {
            self.sites[site.place()].since = self.now;
            self.enter_queue(site);
            decisions.push(Decision::Queue(site));
        }
    }

    fn enter_queue(&mut self, site: SiteId) {
        self.sites[site.place()].state = State::Queued { since: self.now };
        self.queue.insert(self.key(site), self.agenda.demand(site));
    }

    /// Ends a site, and what cannot begin any more because of it, and so on.
    fn finish(&mut self, site: SiteId, end: End, decisions: &mut Vec<Decision>) {
        self.set_ended(site, end);
        self.tell_dependents(site, end.is_success(), decisions);
    }

    fn tell_dependents(&mut self, site: SiteId, success: bool, decisions: &mut Vec<Decision>) {
        let mut told = vec![(site, success)];
        while let Some((site, success)) = told.pop() {
            for index in 0..self.agenda.dependents_by_kind(site).len() {
                let (dependent, kind) = self.agenda.dependents_by_kind(site)[index];
                match self.tell(dependent, kind, site, success) {
                    Some(cause) => {
                        self.set_ended(dependent, End::Skipped(cause));
                        decisions.push(Decision::Skip(dependent, cause));
                        told.push((dependent, false));
                    }
                    None => self.queue_if_met(dependent, decisions),
                }
            }
        }
    }

    fn set_ended(&mut self, site: SiteId, end: End) {
        self.sites[site.place()].state = State::Ended(end);
        self.left -= 1;
    }

    /// What a dependency's end means for a waiting site; a cause when it is skipped by that.
    fn tell(&mut self, dependent: SiteId, kind: Kind, ended: SiteId, success: bool) -> Option<Cause> {
        // What does not wait any more was skipped by another, or cancelled.
        let State::Waiting(unmet) = &mut self.sites[dependent.place()].state else {
            return None;
        };
        match (kind, success) {
            (Kind::After, false) => return Some(Cause::After(ended)),
            (Kind::After, true) => unmet.after -= 1,
            (Kind::AfterFinished, _) => unmet.finished -= 1,
            (Kind::AfterAny, true) => unmet.any = 0,
            // One of them has succeeded before.
            (Kind::AfterAny, false) if unmet.any == 0 => {}
            (Kind::AfterAny, false) => {
                unmet.any -= 1;
                if unmet.any == 0 {
                    return Some(Cause::NoneOf(ended));
                }
            }
        }
        None
    }

    /// One look through the first of each demand, in their order.
    fn admit(&mut self, decisions: &mut Vec<Decision>) {
        let mut claims = Claims::none(self.agenda.limits());
        let mut last = None;
        self.unfit = None;
        while self.allowed != Admissions::None
            && self.room.has_a_place()
            && let Some((key, demand)) = self.queue.next(last)
        {
            last = Some((key, demand));
            let site = key.site();
            let until = self.until(site, self.now);
            let Entry { uses, memory, .. } = self.agenda.entry(site);
            if let Admissions::Within(left) = self.allowed
                && *memory > 0
                && (*memory > left || self.unfit.is_some())
            {
                self.unfit.get_or_insert(site);
                continue;
            }
            if claims.allow(&self.room, uses, until) {
                self.room.take(site, uses, until);
                self.queue.remove(key, demand);
                self.sites[site.place()].state = State::Running { since: self.now };
                decisions.push(Decision::Admit(Admission(site)));
                self.allowed = match self.allowed {
                    Admissions::One | Admissions::None => Admissions::None,
                    Admissions::Within(left) => Admissions::Within(left.saturating_sub(*memory)),
                    Admissions::All => Admissions::All,
                };
            } else {
                claims.add(uses, self.room.expected_for(uses, self.now));
            }
        }
    }
}
