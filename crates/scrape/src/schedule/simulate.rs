//! Simulation: the real schedule in virtual time, with given durations and outcomes of the turns.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use orch_journal::SiteStatus;

use super::agenda::SiteAgenda;
use super::machine::Schedule;
use super::memory_gate::AdmissionLimit;
use super::state::{PauseKind, ScheduleDecision, SiteEnd, SiteId, SiteTurn};

/// Result of one turn of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatedTurn {
    pub lasts: Duration,
    pub then: Result<SiteStatus, (PauseKind, Duration)>,
}

/// One turn of a site in a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnSpan {
    pub site: SiteId,
    pub begin: Duration,
    pub end: Duration,
}

/// Record of a simulation, from the first to the last event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimulationTrace {
    /// Turns in the order of their begins.
    pub turns: Vec<TurnSpan>,
    /// End of each site and the time of that end, by site position.
    pub ends: Vec<Option<(SiteEnd, Duration)>>,
    pub makespan: Duration,
}

/// Simulates an agenda; `fate` returns the result of a site's turn, of which the first has the number 1.
pub fn simulate(agenda: SiteAgenda, fate: impl FnMut(SiteId, u32) -> SimulatedTurn) -> SimulationTrace {
    let now = Duration::ZERO;
    let (schedule, decisions) = Schedule::begin(agenda, now);
    let mut virtual_run = VirtualRun::new(schedule, now, fate);
    virtual_run.finish(decisions);
    virtual_run.trace
}

/// Returns when the last site ends if all goes well from here on. `lasts` returns the remaining time of a site that
/// runs, and the duration of a site that has not begun.
pub fn expected_end(schedule: &Schedule, now: Duration, lasts: impl Fn(SiteId) -> Duration) -> Duration {
    let fate = |site, _| SimulatedTurn {
        lasts: lasts(site),
        then: Ok(SiteStatus::Complete),
    };
    let mut virtual_run = VirtualRun::new(schedule.clone(), now, fate);
    for (turn, _) in schedule.turns() {
        virtual_run.begin(turn);
    }
    // The ends of a memory shortage and of a pause are unknown, so that all sites may begin here.
    virtual_run.schedule.is_paused = false;
    let decisions = virtual_run.schedule.set_admission_limit(AdmissionLimit::All, now);
    virtual_run.finish(decisions);
    virtual_run.trace.makespan
}

/// Run in virtual time.
struct VirtualRun<F> {
    schedule: Schedule,
    now: Duration,
    fate: F,
    attempts: Vec<u32>,
    /// Running sites by their end. The turn itself is not part of the order.
    running: BinaryHeap<Reverse<(Duration, SiteId)>>,
    turns: Vec<Option<(SiteTurn, SimulatedTurn)>>,
    trace: SimulationTrace,
}

impl<F: FnMut(SiteId, u32) -> SimulatedTurn> VirtualRun<F> {
    fn new(schedule: Schedule, now: Duration, fate: F) -> Self {
        let count = schedule.agenda().sites().len();
        Self {
            now,
            fate,
            attempts: vec![0; count],
            running: BinaryHeap::new(),
            turns: (0..count).map(|_| None).collect(),
            trace: SimulationTrace {
                ends: vec![None; count],
                ..SimulationTrace::default()
            },
            schedule,
        }
    }

    fn begin(&mut self, turn: SiteTurn) {
        let site = turn.site();
        self.attempts[site.place()] += 1;
        let fate = (self.fate)(site, self.attempts[site.place()]);
        let (begin, end) = (self.now, self.now.saturating_add(fate.lasts));
        self.trace.turns.push(TurnSpan { site, begin, end });
        self.running.push(Reverse((end, site)));
        self.turns[site.place()] = Some((turn, fate));
    }

    fn finish(&mut self, mut decisions: Vec<ScheduleDecision>) {
        loop {
            for decision in decisions {
                match decision {
                    ScheduleDecision::Queue(_) => {}
                    ScheduleDecision::Skip(site, cause) => {
                        self.trace.ends[site.place()] = Some((SiteEnd::Skipped(cause), self.now));
                    }
                    ScheduleDecision::LeaveOut(site) => {
                        self.trace.ends[site.place()] = Some((SiteEnd::LeftOut, self.now))
                    }
                    ScheduleDecision::Admit(turn) => self.begin(turn),
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
                            self.trace.ends[turn.site().place()] = Some((SiteEnd::Reached(outcome), self.now));
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
                    self.schedule.advance(self.now)
                }
            };
        }
        self.trace.makespan = self.now;
        debug_assert!(
            self.schedule.is_over(),
            "no site runs or pauses, and some sites have not ended"
        );
    }
}

/// Simulates a run in which every site takes as long as expected and succeeds.
pub fn as_expected(agenda: SiteAgenda) -> SimulationTrace {
    let expected: Vec<Duration> = agenda.sites().map(|site| agenda.entry(site).expected).collect();
    simulate(agenda, |site, _| SimulatedTurn {
        lasts: expected[site.place()],
        then: Ok(SiteStatus::Complete),
    })
}
