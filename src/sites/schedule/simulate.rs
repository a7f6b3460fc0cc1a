//! The real schedule with virtual time: what a run would look like if sites took so long and ended so.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::agenda::Agenda;
use super::machine::Schedule;
use super::state::{Admission, Decision, End, Outcome, Pause, SiteId};
use crate::memory::Admissions;

/// What comes of one turn of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    pub lasts: Duration,
    pub then: Result<Outcome, (Pause, Duration)>,
}

/// One turn of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub site: SiteId,
    pub begin: Duration,
    pub end: Duration,
}

/// What happened, from the first moment to the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// In the order of their begin.
    pub turns: Vec<Span>,
    /// How each site ended and when, by its place.
    pub ends: Vec<Option<(End, Duration)>>,
    pub makespan: Duration,
}

/// Runs the agenda; `fate` says what comes of a site's turn, the first of which has the number 1.
pub fn simulate(agenda: Agenda, fate: impl FnMut(SiteId, u32) -> Fate) -> Trace {
    let now = Duration::ZERO;
    let (schedule, decisions) = Schedule::begin(agenda, now);
    let mut virtual_run = Virtual::new(schedule, now, fate);
    virtual_run.finish(decisions);
    virtual_run.trace
}

/// When the last site ends if all goes well from here on: `lasts` says for a site that runs how much longer it takes, and for
/// one that has not begun how long it will.
pub fn expected_end(schedule: &Schedule, now: Duration, lasts: impl Fn(SiteId) -> Duration) -> Duration {
    let fate = |site, _| Fate {
        lasts: lasts(site),
        then: Ok(Outcome::Complete),
    };
    let mut virtual_run = Virtual::new(schedule.clone(), now, fate);
    for (turn, _) in schedule.turns() {
        virtual_run.begin(turn);
    }
    // How long there will be no memory for further ones nobody knows.
    let decisions = virtual_run.schedule.allow(Admissions::All, now);
    virtual_run.finish(decisions);
    virtual_run.trace.makespan
}

/// A run with virtual time.
struct Virtual<F> {
    schedule: Schedule,
    now: Duration,
    fate: F,
    attempts: Vec<u32>,
    /// By their end. The turn itself is no part of the order.
    running: BinaryHeap<Reverse<(Duration, SiteId)>>,
    turns: Vec<Option<(Admission, Fate)>>,
    trace: Trace,
}

impl<F: FnMut(SiteId, u32) -> Fate> Virtual<F> {
    fn new(schedule: Schedule, now: Duration, fate: F) -> Self {
        let count = schedule.agenda().sites().len();
        Self {
            now,
            fate,
            attempts: vec![0; count],
            running: BinaryHeap::new(),
            turns: (0..count).map(|_| None).collect(),
            trace: Trace {
                ends: vec![None; count],
                ..Trace::default()
            },
            schedule,
        }
    }

    fn begin(&mut self, turn: Admission) {
        let site = turn.site();
        self.attempts[site.place()] += 1;
        let fate = (self.fate)(site, self.attempts[site.place()]);
        let (begin, end) = (self.now, self.now.saturating_add(fate.lasts));
        self.trace.turns.push(Span { site, begin, end });
        self.running.push(Reverse((end, site)));
        self.turns[site.place()] = Some((turn, fate));
    }

    fn finish(&mut self, mut decisions: Vec<Decision>) {
        loop {
            for decision in decisions {
                match decision {
                    Decision::Queue(_) => {}
                    Decision::Skip(site, cause) => {
                        self.trace.ends[site.place()] = Some((End::Skipped(cause), self.now));
                    }
                    Decision::LeaveOut(site) => self.trace.ends[site.place()] = Some((End::LeftOut, self.now)),
                    Decision::Admit(turn) => self.begin(turn),
                }
            }
            let ends = self.running.peek().map(|Reverse((end, _))| *end);
            let due = self.schedule.next_due();
            decisions = match (ends, due) {
                (None, None) => break,
                (Some(end), due) if due.is_none_or(|due| end <= due) => {
                    self.now = end;
                    let site = self.running.pop().map(|Reverse((_, site))| site);
                    let Some((turn, fate)) = site.and_then(|site| self.turns[site.place()].take()) else {
                        break;
                    };
                    match fate.then {
                        Ok(outcome) => {
                            self.trace.ends[turn.site().place()] = Some((End::Reached(outcome), self.now));
                            self.schedule.end(turn, outcome, self.now)
                        }
                        Err((pause, lasts)) => {
                            let due = self.now.saturating_add(lasts);
                            self.schedule.pause(turn, pause, due, self.now)
                        }
                    }
                }
                (_, due) => {
                    self.now = self.now.max(due.unwrap_or(self.now));
                    self.schedule.pass(self.now)
                }
            };
        }
        self.trace.makespan = self.now;
        debug_assert!(
            self.schedule.is_over(),
            "nothing runs, nothing pauses, and something is left"
        );
    }
}

/// What the run looks like if every site takes as long as expected and succeeds.
pub fn as_expected(agenda: Agenda) -> Trace {
    let expected: Vec<Duration> = agenda.sites().map(|site| agenda.entry(site).expected).collect();
    simulate(agenda, |site, _| Fate {
        lasts: expected[site.place()],
        then: Ok(Outcome::Complete),
    })
}
