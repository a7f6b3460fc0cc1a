//! One log that is kept within its bound: when to look at the size, and what to cut.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use orch_base::files::log_bound::{LogBound, LogGrowth, LogStep, look_delay, next_step};
use orch_base::files::log_cut::{CutMethod, LogCut, drop_head, live_size, move_head};
use orch_base::files::{log_pieces, log_stream};
use orch_journal::LogFailure;

/// Delay after a failed copy until the next one.
const COPY_RETRY_DELAY: Duration = Duration::from_secs(30);
/// Delay after a copy that was too slow until the next one.
const OUTPACED_DELAY: Duration = Duration::from_secs(5);
/// Delay until the next look at a log that must be cut and is not quiet yet.
const SETTLE_DELAY: Duration = Duration::from_secs(1);
/// Number of steps of one look at most.
const MAX_STEPS: u32 = 64;

/// Time of the next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextLook {
    After(Duration),
    AfterWrite,
    /// The log was removed.
    Removed,
}

/// A log with its bound.
pub(crate) struct BoundedLog {
    path: PathBuf,
    bound: LogBound,
    growth: LogGrowth,
    /// Time of the last look, and the position of the log's end at that time.
    seen: (Instant, u64),
    /// Time until which heads are not copied, after a failure.
    no_copy_until: Option<Instant>,
    /// Time until which heads are not copied, after a copy that was too slow.
    outpaced_until: Option<Instant>,
    /// Failures that were reported and last.
    reported: Vec<LogFailure>,
}

/// Result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepResult {
    PieceRemoved,
    Cut(LogCut),
    /// The service writes faster than the head can be copied.
    Outpaced,
}

/// A step that failed.
struct FailedStep {
    failure: LogFailure,
    reason: String,
}

impl BoundedLog {
    pub fn new(path: PathBuf, bound: LogBound) -> Self {
        Self {
            path,
            bound,
            growth: LogGrowth::default(),
            seen: (Instant::now(), 0),
            no_copy_until: None,
            outpaced_until: None,
            reported: Vec::new(),
        }
    }

    /// Notes that the log was written to after a time of quiet; returns the delay until the look.
    pub fn begin_growth(&mut self, now: Instant) -> Duration {
        self.seen.0 = now;
        self.delay(true)
    }

    /// Returns whether the log has grown since the last look.
    pub fn has_grown(&self) -> bool {
        log_stream::length(&self.path) != self.seen.1
    }

    /// Brings the log within the bound. `report` gets each failure once while it lasts.
    pub fn look(&mut self, now: Instant, report: impl Fn(LogFailure, String)) -> NextLook {
        let (begin, end) = (Instant::now(), self.seen.1);
        for _ in 0..MAX_STEPS {
            // The service goes on writing during a copy.
            let now = now + begin.elapsed();
            self.note_growth(now);
            let Ok(live) = live_size(&self.path) else {
                return NextLook::Removed;
            };
            let Some(step) = next_step(live, &self.pieces(), self.bound, self.is_copied(now)) else {
                break;
            };
            match self.perform(step) {
                Ok(StepResult::Cut(cut)) if cut.bytes == 0 => break,
                Ok(StepResult::Outpaced) => self.outpaced_until = Some(now + OUTPACED_DELAY),
                Ok(result) => {
                    self.reported.retain(|failure| *failure == LogFailure::LinesAtRisk);
                    if matches!(result, StepResult::Cut(cut) if cut.method == CutMethod::Truncate) {
                        let reason = "it can neither remove nor free a part of a file".to_owned();
                        self.report(LogFailure::LinesAtRisk, reason, &report);
                    }
                }
                Err(FailedStep { failure, reason }) => {
                    self.report(failure, reason, &report);
                    if failure != LogFailure::HeadNotMoved {
                        break;
                    }
                    self.no_copy_until = Some(now + COPY_RETRY_DELAY);
                }
            }
        }
        let Ok(live) = live_size(&self.path) else {
            return NextLook::Removed;
        };
        if self.seen.1 != end {
            NextLook::After(self.delay(self.is_copied(now)))
        } else if live >= self.bound.max && (self.growth.is_fast() || is_before(now, self.outpaced_until)) {
            // A flood has ended; its last lines become pieces.
            NextLook::After(SETTLE_DELAY)
        } else {
            NextLook::AfterWrite
        }
    }

    fn note_growth(&mut self, now: Instant) {
        let end = log_stream::length(&self.path);
        let within = now.saturating_duration_since(self.seen.0);
        self.growth.add(end.saturating_sub(self.seen.1), within);
        self.seen = (now, end);
    }

    /// Returns whether a head becomes a piece.
    fn is_copied(&self, now: Instant) -> bool {
        !(self.growth.is_fast() || is_before(now, self.no_copy_until) || is_before(now, self.outpaced_until))
    }

    /// Returns the sizes of the pieces, the newest first.
    fn pieces(&self) -> Vec<u64> {
        log_pieces::list(&self.path).into_iter().map(|(_, size)| size).collect()
    }

    fn delay(&self, is_copied: bool) -> Duration {
        let live = live_size(&self.path).unwrap_or(0);
        look_delay(live, &self.pieces(), self.bound, is_copied)
    }

    fn perform(&self, step: LogStep) -> Result<StepResult, FailedStep> {
        let failed = |failure| {
            move |error: io::Error| FailedStep {
                failure,
                reason: error.to_string(),
            }
        };
        match step {
            LogStep::RemoveOldestPiece => log_pieces::remove_oldest(&self.path)
                .map(|()| StepResult::PieceRemoved)
                .map_err(failed(LogFailure::HeadNotCut)),
            LogStep::MoveHead(bytes) => move_head(&self.path, bytes, self.bound.total() / 10)
                .map(|cut| cut.map_or(StepResult::Outpaced, StepResult::Cut))
                .map_err(failed(LogFailure::HeadNotMoved)),
            LogStep::DropHead(bytes) => drop_head(&self.path, bytes)
                .map(StepResult::Cut)
                .map_err(failed(LogFailure::HeadNotCut)),
        }
    }

    fn report(&mut self, failure: LogFailure, reason: String, report: &impl Fn(LogFailure, String)) {
        if !self.reported.contains(&failure) {
            self.reported.push(failure);
            report(failure, reason);
        }
    }
}

fn is_before(now: Instant, until: Option<Instant>) -> bool {
    until.is_some_and(|until| now < until)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs::{self, File, OpenOptions};
    use std::io::Write;

    use super::*;

    const MIB: usize = 1 << 20;

    fn log_in(directory: &tempfile::TempDir, keep: u32) -> (BoundedLog, File) {
        let path = directory.path().join("web.log");
        let file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let max = MIB as u64;
        (BoundedLog::new(path, LogBound { max, keep }), file)
    }

    #[test]
    fn a_failed_copy_is_reported_once_and_tried_again_later() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, mut file) = log_in(&directory, 2);
        let reports = RefCell::new(Vec::new());
        let look = |log: &mut BoundedLog, now| log.look(now, |failure, _| reports.borrow_mut().push(failure));
        let mut now = Instant::now() + Duration::from_secs(1);
        // The name of the piece is taken by a directory.
        let obstacle = directory.path().join("web.log.part");
        fs::create_dir(&obstacle).unwrap();
        for _ in 0..2 {
            file.write_all(&vec![b'x'; MIB]).unwrap();
            assert!(matches!(look(&mut log, now), NextLook::After(_)));
            now += Duration::from_secs(10);
        }
        assert_eq!(
            live_size(&log.path).unwrap(),
            2 * MIB as u64,
            "nothing is lost below the bound"
        );
        fs::remove_dir(&obstacle).unwrap();
        // Nobody writes, so nothing is tried until the next write.
        assert_eq!(look(&mut log, now), NextLook::AfterWrite);
        assert!(log.pieces().is_empty());
        now += COPY_RETRY_DELAY;
        file.write_all(b"x").unwrap();
        assert!(log.has_grown());
        look(&mut log, now);
        assert_eq!(log.pieces(), [MIB as u64, MIB as u64]);
        assert_eq!(reports.into_inner(), [LogFailure::HeadNotMoved]);
    }

    #[test]
    fn a_flood_makes_no_pieces_until_it_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, mut file) = log_in(&directory, 3);
        let mut now = Instant::now();
        let look = |log: &mut BoundedLog, now| log.look(now, |failure, reason| panic!("{failure:?} {reason}"));
        for step in 0..200 {
            file.write_all(&vec![b'x'; MIB / 4]).unwrap();
            now += Duration::from_millis(10);
            look(&mut log, now);
            let used = live_size(&log.path).unwrap() + log.pieces().iter().sum::<u64>();
            assert!(used <= log.bound.total() + log.bound.total() / 5, "{used}");
            assert!(step < 100 || log.pieces().is_empty());
        }
        assert_eq!(look(&mut log, now), NextLook::After(SETTLE_DELAY));
        now += Duration::from_secs(10);
        assert_eq!(look(&mut log, now), NextLook::AfterWrite);
        assert_eq!(log.pieces().len(), 3);
        assert!(live_size(&log.path).unwrap() < MIB as u64);
    }

    #[test]
    fn a_removed_log_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, _file) = log_in(&directory, 2);
        fs::remove_file(&log.path).unwrap();
        let next = log.look(Instant::now(), |failure, reason| panic!("{failure:?} {reason}"));
        assert_eq!(next, NextLook::Removed);
    }
}
