//! Moments of faults, from the ledgers, and the silence of a run that hangs.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::journal;
use super::plan::{Moment, Plan, Planned, SITES};
use crate::support::orch::Project;

/// Time after which a fault is done although its moment has not come.
const MOMENT_TIMEOUT: Duration = Duration::from_secs(20);
/// Time without an event of its sites after which a run hangs: longer than a run waits for the worker of another owner.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(100);
pub const SILENCE_POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Reader of new lines of the ledgers; counts the lines by their kind, for the moments of faults.
pub struct LedgerTail {
    pub ledgers: Vec<(PathBuf, u64)>,
    pub dispatches: usize,
    pub chunks: usize,
    pub callbacks: usize,
}

impl LedgerTail {
    pub fn new(directory: &Path) -> Self {
        let name = |number| directory.join(format!("ledger.{}", Plan::site_name(number)));
        Self {
            ledgers: (0..SITES).map(|number| (name(number), 0)).collect(),
            dispatches: 0,
            chunks: 0,
            callbacks: 0,
        }
    }

    /// Counts the lines that were added since the last call.
    pub fn read(&mut self) {
        for (ledger, read) in &mut self.ledgers {
            let Ok(mut file) = fs::File::open(ledger) else { continue };
            let mut text = Vec::new();
            if file.seek(SeekFrom::Start(*read)).is_err() || file.read_to_end(&mut text).is_err() {
                continue;
            }
            // A line that is being written is read the next time.
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            *read += whole as u64;
            let text = String::from_utf8_lossy(&text[..whole]);
            self.dispatches += text.matches("\"dispatch_started\"").count();
            self.chunks += text.matches("\"chunk_ended\"").count();
            self.callbacks += text.matches("\"callback_started\"").count();
        }
    }
}

/// Fault that waits for its moment.
pub struct ArmedFault {
    pub planned: Planned,
    pub since: Instant,
    pub dispatches: usize,
    pub chunks: usize,
    pub callbacks: usize,
    pub due: Option<Instant>,
}

impl ArmedFault {
    pub fn new(planned: Planned, tail: &LedgerTail) -> Self {
        Self {
            planned,
            since: Instant::now(),
            dispatches: tail.dispatches,
            chunks: tail.chunks,
            callbacks: tail.callbacks,
            due: None,
        }
    }

    /// Decides whether the moment has come and the delay after it is over.
    pub fn is_due(&mut self, tail: &LedgerTail) -> bool {
        let now = Instant::now();
        let has_come = match self.planned.moment {
            Moment::Now => true,
            Moment::Dispatch => tail.dispatches > self.dispatches,
            Moment::Chunks(number) => tail.chunks >= self.chunks + number,
            Moment::Callback => tail.callbacks > self.callbacks,
        };
        // Chunks always end, unless the run ends before; the other moments may never come.
        let is_overdue = !matches!(self.planned.moment, Moment::Chunks(_)) && now > self.since + MOMENT_TIMEOUT;
        if self.due.is_none() && (has_come || is_overdue) {
            self.due = Some(now + self.planned.delay);
        }
        self.due.is_some_and(|due| now >= due)
    }
}

/// Detector of a run whose sites make no progress.
pub struct SilenceDetector {
    looked: Instant,
    since: Instant,
    /// Bytes of the ledgers and number of events of sites at the last look.
    seen: (u64, usize),
}

impl SilenceDetector {
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            looked: now,
            since: now,
            seen: (0, 0),
        }
    }

    /// Decides whether nothing has happened for [`SILENCE_TIMEOUT`]; looks every [`SILENCE_POLL_INTERVAL`].
    pub fn is_too_long(&mut self, tail: &LedgerTail, project: &Project, pid: i32) -> bool {
        let now = Instant::now();
        if now < self.looked + SILENCE_POLL_INTERVAL {
            return false;
        }
        self.looked = now;
        let is_of_site = |event: &&Value| event["event"] != "end_expected";
        let events = journal(project, pid).iter().filter(is_of_site).count();
        let seen = (tail.ledgers.iter().map(|(_, read)| read).sum(), events);
        if seen != self.seen {
            (self.seen, self.since) = (seen, now);
        }
        now > self.since + SILENCE_TIMEOUT
    }
}
