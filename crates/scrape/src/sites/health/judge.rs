//! Judgement of a site's health: signals go in, and a verdict comes out whenever it changes. Time is an argument.
//!
//! A verdict does not flap: a failing site is healthy again only if its error rate is clearly below the limit and the
//! latest chunks have all succeeded. A stall takes the full time again after a sign of life. A slow site stays slow.

use std::time::{Duration, Instant};

use super::window::{ChunkWindow, WINDOW};
use crate::jobs::{ChunkEnd, JobSignal, WorkerActivity};
use orch_base::text::counted::plural;
use orch_base::text::duration_text::shown;
use orch_celery::ChordProgress;
use orch_journal::{SiteCounts, SiteHealth, SiteMetrics};

/// Number of chunks that must have ended before the error rate counts, or half of the site's chunks if that is less ...
const ENOUGH: u64 = 10;
/// ... but at least this number: one failure of one chunk is no rate.
const LEAST: u64 = 3;
/// Share of the allowed error rate down to which a failing site must come to be healthy again ...
const RECOVERED: f64 = 0.75;
/// ... with this many successful chunks since the last failure.
const CLEAN: usize = 5;

/// Limits within which a site is healthy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HealthLimits {
    /// Share of the last chunks that may fail, 0 to 1.
    pub max_error_rate: f64,
    /// Longest time without progress; `None`: unlimited.
    pub stall_after: Option<Duration>,
    /// Usual duration, and the factor by which the site may exceed that duration; `None`: the site is never slow.
    pub slow: Option<(Duration, f64)>,
}

/// Verdict that differs from the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct VerdictChange {
    pub health: SiteHealth,
    /// Text for a person.
    pub reason: String,
    pub vitals: SiteMetrics,
}

/// Health of one site, with the signals so far.
#[derive(Clone, Debug)]
pub struct HealthMonitor {
    limits: HealthLimits,
    begun: Instant,
    window: ChunkWindow,
    counts: SiteCounts,
    /// Number of failed chunks of the whole attempt.
    failed_chunks: u64,
    /// Events report the end of each chunk, so that the chord's counters add nothing.
    has_events: bool,
    chord: ChordProgress,
    /// Time since which nothing has happened.
    quiet_since: Instant,
    /// Result of the last poll of the workers since then.
    last_poll: Option<WorkerActivity>,
    failing: bool,
    stalled: bool,
    slow: bool,
    reported: SiteHealth,
}

impl HealthMonitor {
    pub fn new(limits: HealthLimits, now: Instant) -> Self {
        Self {
            limits,
            begun: now,
            window: ChunkWindow::default(),
            counts: SiteCounts::default(),
            failed_chunks: 0,
            has_events: false,
            chord: ChordProgress {
                done: 0,
                total: None,
                failed: 0,
            },
            quiet_since: now,
            last_poll: None,
            failing: false,
            stalled: false,
            slow: false,
            reported: SiteHealth::Healthy,
        }
    }

    /// Applies new counts, which are a sign of life.
    pub fn apply_progress(&mut self, counts: SiteCounts, now: Instant) -> Option<VerdictChange> {
        self.counts = counts.or(self.counts);
        self.reset_quiet_time(now);
        self.judge(now)
    }

    pub fn apply_signal(&mut self, vital: JobSignal, now: Instant) -> Option<VerdictChange> {
        // Computed first, because a sign of life resets the quiet time.
        let quiet = now.saturating_duration_since(self.quiet_since);
        match vital {
            JobSignal::ChunkEnded(end) => {
                if !std::mem::replace(&mut self.has_events, true) {
                    self.window = ChunkWindow::default();
                    self.failed_chunks = 0;
                }
                self.chunk_ended(end, now);
            }
            JobSignal::ChordRead(chord) => self.chord_read(chord, now),
            JobSignal::EventReceived | JobSignal::Interrupted => self.reset_quiet_time(now),
            JobSignal::TimePassed => {}
            JobSignal::WorkersPolled(found) => self.apply_poll(found, quiet, now),
        }
        self.judge(now)
    }

    /// Returns the number of chunks that have failed so far, as far as known.
    pub fn failed_chunks(&self) -> u64 {
        self.failed_chunks.max(self.chord.failed)
    }

    fn chunk_ended(&mut self, end: ChunkEnd, now: Instant) {
        self.window.push(end, now);
        self.failed_chunks += u64::from(!end.succeeded);
        self.reset_quiet_time(now);
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

    /// Applies the chord's counters if no events report the ends of chunks. The order of the ends is unknown: failures
    /// count as the first ones.
    fn chord_read(&mut self, chord: ChordProgress, now: Instant) {
        let before = std::mem::replace(&mut self.chord, chord);
        if self.has_events {
            return;
        }
        let failed = chord.failed.saturating_sub(before.failed);
        let succeeded = chord.done.saturating_sub(before.done).saturating_sub(failed);
        for (succeeded, count) in [(false, failed), (true, succeeded)] {
            // More chunks than the window holds would only replace others of the same kind.
            let seen = usize::try_from(count).unwrap_or(usize::MAX).min(WINDOW);
            for _ in 0..seen {
                let runtime = None;
                self.chunk_ended(ChunkEnd { succeeded, runtime }, now);
            }
        }
    }

    fn reset_quiet_time(&mut self, now: Instant) {
        self.quiet_since = now;
        self.last_poll = None;
        self.stalled = false;
    }

    /// Applies a poll of the workers. Quiet is a stall only if a task of the site runs, or if nothing keeps it from
    /// running.
    fn apply_poll(&mut self, found: WorkerActivity, quiet: Duration, now: Instant) {
        let before = self.last_poll.replace(found);
        match found {
            WorkerActivity::Waiting | WorkerActivity::Unknown => {
                self.quiet_since = now;
                self.stalled = false;
            }
            // Known for certain, so that no waiting time is needed.
            WorkerActivity::Deserted => self.stalled = true,
            WorkerActivity::Running(_) | WorkerActivity::Idle => match before {
                // The task may have begun a moment ago.
                Some(WorkerActivity::Waiting | WorkerActivity::Unknown) => self.quiet_since = now,
                Some(WorkerActivity::Running(_) | WorkerActivity::Idle | WorkerActivity::Deserted) | None => {
                    self.stalled = self.limits.stall_after.is_some_and(|after| quiet >= after);
                }
            },
        }
    }

    fn judge(&mut self, now: Instant) -> Option<VerdictChange> {
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
        let before = std::mem::replace(&mut self.reported, health);
        if before == health {
            return None;
        }
        Some(VerdictChange {
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
                if self.last_poll == Some(WorkerActivity::Deserted) {
                    return format!(
                        "no worker consumes its queue, nothing has happened for {}{}",
                        shown(quiet),
                        self.progress_text()
                    );
                }
                let allowed = self.limits.stall_after.unwrap_or_default();
                let at = match self.last_poll {
                    Some(WorkerActivity::Running(1)) => ", 1 task runs",
                    Some(WorkerActivity::Running(tasks)) => &format!(", {tasks} tasks run"),
                    _ => ", no worker is running any of them or any other task",
                };
                format!(
                    "nothing has happened for {} (stall_after {}){}{at}",
                    shown(quiet),
                    shown(allowed),
                    self.progress_text(),
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
                    self.progress_text(),
                )
            }
        }
    }

    /// Returns a text such as `, 3 of 40 chunks left`, if the counts are known.
    fn progress_text(&self) -> String {
        match (self.counts.completed_chunks, self.counts.total_chunks) {
            (Some(done), Some(total)) => format!(", {} of {} left", total.saturating_sub(done), plural(total, "chunk")),
            (None, Some(total)) => format!(", {} to do", plural(total, "chunk")),
            (Some(done), None) => format!(", {} done", plural(done, "chunk")),
            (None, None) => String::new(),
        }
    }

    fn vitals(&self, now: Instant) -> SiteMetrics {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        SiteMetrics {
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

/// Formats a share such as `45 %`; a share that is almost 0 or 100 % is not rounded to these.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || (1.0..=99.0).contains(&percent) || percent >= 100.0 {
        format!("{percent:.0} %")
    } else {
        format!("{percent:.1} %")
    }
}
