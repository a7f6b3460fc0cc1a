//! The real schedule with virtual time: what a run would look like if sites took so long and ended so.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::agenda::Agenda;
use super::machine::Schedule;
use super::state::{Admission, Decision, End, Outcome, Pause, SiteId, State};

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
pub fn simulate(agenda: Agenda, mut fate: impl FnMut(SiteId, u32) -> Fate) -> Trace {
    let count = agenda.sites().len();
    let mut trace = Trace {
        ends: vec![None; count],
        ..Trace::default()
    };
    let mut attempts = vec![0_u32; count];
    // The turn itself is no part of the order.
    let mut running: BinaryHeap<Reverse<(Duration, SiteId)>> = BinaryHeap::new();
    let mut turns: Vec<Option<(Admission, Fate)>> = (0..count).map(|_| None).collect();
    let mut now = Duration::ZERO;
    let (mut schedule, mut decisions) = Schedule::begin(agenda, now);
    loop {
        for decision in decisions {
            match decision {
                Decision::Queue(_) => {}
                Decision::Skip(site, cause) => trace.ends[site.place()] = Some((End::Skipped(cause), now)),
                Decision::Admit(turn) => {
                    let site = turn.site();
                    attempts[site.place()] += 1;
                    let fate = fate(site, attempts[site.place()]);
                    let end = now.saturating_add(fate.lasts);
                    trace.turns.push(Span { site, begin: now, end });
                    running.push(Reverse((end, site)));
                    turns[site.place()] = Some((turn, fate));
                }
            }
        }
        let ends = running.peek().map(|Reverse((end, _))| *end);
        let due = schedule.next_due();
        decisions = match (ends, due) {
            (None, None) => break,
            (Some(end), due) if due.is_none_or(|due| end <= due) => {
                now = end;
                let site = running.pop().map(|Reverse((_, site))| site);
                let Some((turn, fate)) = site.and_then(|site| turns[site.place()].take()) else {
                    break;
                };
                match fate.then {
                    Ok(outcome) => {
                        trace.ends[turn.site().place()] = Some((End::Reached(outcome), now));
                        schedule.end(turn, outcome, now)
                    }
                    Err((pause, lasts)) => schedule.pause(turn, pause, now.saturating_add(lasts), now),
                }
            }
            (_, due) => {
                now = due.unwrap_or(now);
                schedule.pass(now)
            }
        };
    }
    trace.makespan = now;
    debug_assert!(
        schedule.is_over(),
        "nothing runs, nothing pauses, and something is left"
    );
    debug_assert!(
        schedule
            .agenda()
            .sites()
            .all(|site| matches!(schedule.state(site), State::Ended(_))),
        "over is when all have ended"
    );
    trace
}

/// What the run looks like if every site takes as long as expected and succeeds.
pub fn as_expected(agenda: Agenda) -> Trace {
    let expected: Vec<Duration> = agenda.sites().map(|site| agenda.entry(site).expected).collect();
    simulate(agenda, |site, _| Fate {
        lasts: expected[site.place()],
        then: Ok(Outcome::Complete),
    })
}
