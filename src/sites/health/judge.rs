//! The judgement: signs of life in, a verdict whenever it changes out. Time is an argument.
//!
//! A verdict does not flap: a failing site is healthy again only when clearly less fails than is allowed and the latest
//! chunks have all succeeded; a stall takes its whole time again after a sign of life; a slow site stays slow.

use std::time::{Duration, Instant};

use super::window::{WINDOW, Window};
use crate::celery::ChordProgress;
use crate::counted::plural;
use crate::duration_text::shown;
use crate::follow::{AtWork, ChunkEnd, Vital};
use crate::run::{SiteCounts, SiteHealth, SiteVitals};

/// Chunks that must have ended before their share of failures says anything; of a site that has fewer, half of them.
const ENOUGH: u64 = 10;
/// ... but so many in any case: one failure of one is no rate.
const LEAST: u64 = 3;
/// Of the allowed share of failures: at most so much, and a failing site is healthy again ...
const RECOVERED: f64 = 0.75;
/// ... when so many chunks have succeeded since the last failure.
const CLEAN: usize = 5;

/// What a site may do and still be well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Share of the last chunks that may fail, 0 to 1.
    pub max_error_rate: f64,
    /// So long nothing may happen; `None`: for ever.
    pub stall_after: Option<Duration>,
    /// How long it usually takes, and how many times that it may take; `None`: it is never slow.
    pub slow: Option<(Duration, f64)>,
}

/// A verdict that is not that of before.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub health: SiteHealth,
    /// As a person should read it.
    pub reason: String,
    pub vitals: SiteVitals,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Health {
    limits: Limits,
    begun: Instant,
    window: Window,
    counts: SiteCounts,
    /// All of the attempt.
    failed_chunks: u64,
    /// Ends were told one by one: the chord's counters tell nothing new.
    told_by_events: bool,
    chord: ChordProgress,
    /// Since when nothing has happened.
    quiet_since: Instant,
    /// What the last look since then found.
    looked: Option<AtWork>,
    failing: bool,
    stalled: bool,
    slow: bool,
    said: SiteHealth,
}

impl Health {
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            begun: now,
            window: Window::default(),
            counts: SiteCounts::default(),
            failed_chunks: 0,
            told_by_events: false,
            chord: ChordProgress {
                done: 0,
                total: None,
                failed: 0,
            },
            quiet_since: now,
            looked: None,
            failing: false,
            stalled: false,
            slow: false,
            said: SiteHealth::Healthy,
        }
    }

    /// What is known of how far it is has changed: that is a sign of life.
    pub fn progressed(&mut self, counts: SiteCounts, now: Instant) -> Option<Change> {
        self.counts = counts.or(self.counts);
        self.lives(now);
        self.judge(now)
    }

    pub fn see(&mut self, vital: Vital, now: Instant) -> Option<Change> {
        // Before that is taken for a sign of life: how quiet it was.
        let quiet = now.saturating_duration_since(self.quiet_since);
        match vital {
            Vital::ChunkEnded(end) => {
                if !std::mem::replace(&mut self.told_by_events, true) {
                    self.window = Window::default();
                    self.failed_chunks = 0;
                }
                self.chunk_ended(end, now);
            }
            Vital::ChordRead(chord) => self.chord_read(chord, now),
            Vital::Moved | Vital::Disturbed => self.lives(now),
            Vital::TimePassed => {}
            Vital::Looked(found) => self.looked(found, quiet, now),
        }
        self.judge(now)
    }

    /// Chunks that have failed so far, as far as is known.
    pub fn failed_chunks(&self) -> u64 {
        self.failed_chunks.max(self.chord.failed)
    }

    fn chunk_ended(&mut self, end: ChunkEnd, now: Instant) {
        self.window.push(end, now);
        self.failed_chunks += u64::from(!end.succeeded);
        self.lives(now);
        if self.is_enough() && self.window.error_rate() > self.limits.max_error_rate {
            self.failing = true;
        } else if self.window.error_rate() <= self.limits.max_error_rate * RECOVERED && self.window.is_clean(CLEAN) {
            self.failing = false;
        }
    }

    fn is_enough(&self) -> bool {
        let half = self.counts.total_chunks.map(|total| total.div_ceil(2));
        let enough = half.unwrap_or(ENOUGH).clamp(LEAST, ENOUGH);
        self.window.len() as u64 >= enough
    }

    /// Where no events tell the ends one by one. In which order they came is not known: failures are taken to come first.
    fn chord_read(&mut self, chord: ChordProgress, now: Instant) {
        let before = std::mem::replace(&mut self.chord, chord);
        if self.told_by_events {
            return;
        }
        let failed = chord.failed.saturating_sub(before.failed);
        let succeeded = chord.done.saturating_sub(before.done).saturating_sub(failed);
        for (succeeded, count) in [(false, failed), (true, succeeded)] {
            // More than the window holds would only push out their like.
            let seen = usize::try_from(count).unwrap_or(usize::MAX).min(WINDOW);
            for _ in 0..seen {
                let runtime = None;
                self.chunk_ended(ChunkEnd { succeeded, runtime }, now);
            }
        }
    }

    fn lives(&mut self, now: Instant) {
        self.quiet_since = now;
        self.looked = None;
        self.stalled = false;
    }

    /// Quiet is a stall only where something of it runs, or nothing keeps it from running.
    fn looked(&mut self, found: AtWork, quiet: Duration, now: Instant) {
        let before = self.looked.replace(found);
        match found {
            AtWork::Waiting | AtWork::Unknown => {
                self.quiet_since = now;
                self.stalled = false;
            }
            // That is known, and no matter of patience.
            AtWork::Deserted => self.stalled = true,
            AtWork::Running(_) | AtWork::Idle => match before {
                // It may have begun a moment ago.
                Some(AtWork::Waiting | AtWork::Unknown) => self.quiet_since = now,
                Some(AtWork::Running(_) | AtWork::Idle | AtWork::Deserted) | None => {
                    self.stalled = self.limits.stall_after.is_some_and(|after| quiet >= after);
                }
            },
        }
    }

    fn judge(&mut self, now: Instant) -> Option<Change> {
        if let Some((usual, factor)) = self.limits.slow {
            self.slow |= now.saturating_duration_since(self.begun).as_secs_f64() > usual.as_secs_f64() * factor;
        }
        let health = if self.stalled {
            SiteHealth::Stalled
        } else if self.failing {
            SiteHealth::Failing
        } else if self.slow {
            SiteHealth::Slow
        } else {
            SiteHealth::Healthy
        };
        let before = std::mem::replace(&mut self.said, health);
        if before == health {
            return None;
        }
        Some(Change {
            health,
            reason: self.reason(health, before, now),
            vitals: self.vitals(now),
        })
    }

    fn reason(&self, health: SiteHealth, before: SiteHealth, now: Instant) -> String {
        match health {
            SiteHealth::Healthy if before == SiteHealth::Stalled => "something happens again".to_owned(),
            SiteHealth::Healthy => format!(
                "only {} of the last {} chunks failed, none of the latest {CLEAN}",
                self.window.failed(),
                self.window.len()
            ),
            SiteHealth::Failing => {
                let in_a_row = match self.window.failed_in_a_row() {
                    0 | 1 => String::new(),
                    failed => format!(", the latest {failed} in a row"),
                };
                format!(
                    "{} of the last {} chunks failed ({}, more than max_error_rate {}){in_a_row}",
                    self.window.failed(),
                    self.window.len(),
                    percent(self.window.error_rate()),
                    percent(self.limits.max_error_rate),
                )
            }
            SiteHealth::Stalled => {
                let quiet = now.saturating_duration_since(self.quiet_since);
                if self.looked == Some(AtWork::Deserted) {
                    return format!(
                        "no worker consumes its queue, nothing has happened for {}{}",
                        shown(quiet),
                        self.how_far()
                    );
                }
                let allowed = self.limits.stall_after.unwrap_or_default();
                let at = match self.looked {
                    Some(AtWork::Running(1)) => ", 1 task runs",
                    Some(AtWork::Running(tasks)) => &format!(", {tasks} tasks run"),
                    _ => ", no worker is at any of them or at anything else",
                };
                format!(
                    "nothing has happened for {} (stall_after {}){}{at}",
                    shown(quiet),
                    shown(allowed),
                    self.how_far(),
                )
            }
            SiteHealth::Slow => {
                let (usual, factor) = self.limits.slow.unwrap_or_default();
                let chunk = match (self.window.percentile(0.5), self.window.percentile(0.95)) {
                    (Some(middle), Some(high)) => {
                        format!("; a chunk takes {}, 1 in 20 more than {}", shown(middle), shown(high))
                    }
                    _ => String::new(),
                };
                format!(
                    "it runs for {} and usually takes {} (slow_factor {factor}){}{chunk}",
                    shown(now.saturating_duration_since(self.begun)),
                    shown(usual),
                    self.how_far(),
                )
            }
        }
    }

    /// `, 3 of 40 chunks left`, where that is known.
    fn how_far(&self) -> String {
        match (self.counts.completed_chunks, self.counts.total_chunks) {
            (Some(done), Some(total)) => format!(", {} of {} left", total.saturating_sub(done), plural(total, "chunk")),
            (None, Some(total)) => format!(", {} to do", plural(total, "chunk")),
            (Some(done), None) => format!(", {} done", plural(done, "chunk")),
            (None, None) => String::new(),
        }
    }

    fn vitals(&self, now: Instant) -> SiteVitals {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        SiteVitals {
            window: self.window.len() as u64,
            failed: self.window.failed() as u64,
            failed_in_a_row: self.window.failed_in_a_row(),
            chunks_per_minute: self.window.per_minute(now),
            chunk_p50_ms: self.window.percentile(0.5).map(millis),
            chunk_p95_ms: self.window.percentile(0.95).map(millis),
            quiet_ms: millis(now.saturating_duration_since(self.quiet_since)),
        }
    }
}

/// `45 %`; what is not quite all is not said to be all.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || (1.0..=99.0).contains(&percent) || percent >= 100.0 {
        format!("{percent:.0} %")
    } else {
        format!("{percent:.1} %")
    }
}
