//! The truth about a job, from the lines that its tasks append to a ledger (`ledger_app.py`): the executions of each
//! task, and the chunks that the callback received. The verdicts of orch are in [`crate::judge`].

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// Line of a ledger.
#[derive(Debug, Deserialize)]
struct Line {
    event: String,
    /// Id of the job's dispatch task.
    root: String,
    task: String,
    pid: i32,
    /// Seconds since the Unix epoch.
    at: f64,
    chunk: Option<u32>,
    /// Id of the callback that a dispatch task has created.
    callback: Option<String>,
    received: Option<Vec<(u32, u32)>>,
}

/// Execution of a dispatch task or of a callback. Celery may repeat a task after the death of the pool process.
#[derive(Debug)]
pub struct Execution {
    pub task: String,
    pid: i32,
    pub ended: Option<f64>,
    pub raised: bool,
    /// Celery has stored a failure.
    failed: bool,
    /// Celery has stored the result.
    pub stored: bool,
    /// Callback that a dispatch task has created.
    callback: Option<String>,
    /// Numbers of the chunks that a callback received, as ascending ranges.
    received: Vec<(u32, u32)>,
}

/// Numbers of events of a chunk.
#[derive(Debug, Default)]
pub struct Chunk {
    pub started: u32,
    pub ended: u32,
    pub raised: u32,
    /// Celery has stored a failure.
    pub failed: u32,
    /// Celery has stored the result and counted the chunk in the chord.
    pub stored: u32,
}

/// Everything that the ledger records of one job.
#[derive(Debug, Default)]
pub struct Job {
    pub dispatches: Vec<Execution>,
    pub chunks: BTreeMap<u32, Chunk>,
    pub callbacks: Vec<Execution>,
}

/// Truth about a job, by the ledger alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    /// The callback has received each chunk exactly once and ended well, and the result is stored.
    Done,
    /// As `Done`, but the dispatch task ran more than once: there are chunks of a job that began twice.
    DispatchedAgain,
    /// The callback has received each chunk exactly once and ended well; the process died before the result was stored.
    NotStored,
    /// As `Done`, but Celery has stored a failure of a task that did not raise: the connection to Redis broke. Celery
    /// may have stored a ChordError in place of the callback's result.
    FailedByCelery,
    /// A task of the job raised.
    Raised,
    /// A task of the job began or was published, and has no end that counts.
    Lost,
    /// The dispatch task has never begun.
    NeverBegun,
}

impl fmt::Display for Truth {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Done => "done",
            Self::DispatchedAgain => "done, dispatched again",
            Self::NotStored => "done, not stored",
            Self::FailedByCelery => "done, a failure stored by Celery",
            Self::Raised => "raised",
            Self::Lost => "lost",
            Self::NeverBegun => "never begun",
        })
    }
}

/// All jobs of one ledger, by the id of their dispatch task.
#[derive(Debug, Default)]
pub struct Ledger(BTreeMap<String, Job>);

impl Ledger {
    /// Reads the ledger of a site; skips incomplete lines of processes that were killed while they wrote.
    pub fn read(directory: &Path, site: &str) -> Self {
        let text = fs::read_to_string(directory.join(format!("ledger.{site}"))).unwrap_or_default();
        Self::parse(&text)
    }

    pub fn parse(text: &str) -> Self {
        let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
        for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            jobs.entry(line.root.clone()).or_default().add(line);
        }
        Self(jobs)
    }

    /// Returns the job of this dispatch task; `None` without a line in the ledger.
    pub fn job(&self, root: &str) -> Option<&Job> {
        self.0.get(root)
    }

    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.0.values()
    }
}

impl Job {
    fn add(&mut self, line: Line) {
        let Some((kind, what)) = line.event.split_once('_') else {
            return;
        };
        let executions = match kind {
            "dispatch" => &mut self.dispatches,
            "callback" => &mut self.callbacks,
            _ => {
                let chunk = match line.chunk {
                    Some(number) => self.chunks.entry(number).or_default(),
                    None => return,
                };
                match what {
                    "started" => chunk.started += 1,
                    "ended" => chunk.ended += 1,
                    "raised" => chunk.raised += 1,
                    "stored" => chunk.stored += 1,
                    "failed" => chunk.failed += 1,
                    _ => {}
                }
                return;
            }
        };
        if what == "started" {
            executions.push(Execution {
                task: line.task,
                pid: line.pid,
                ended: None,
                raised: false,
                failed: false,
                stored: false,
                callback: None,
                received: line.received.unwrap_or_default(),
            });
            return;
        }
        let is_of = |execution: &&mut Execution| execution.task == line.task && execution.pid == line.pid;
        let Some(execution) = executions.iter_mut().rev().find(is_of) else {
            return;
        };
        match what {
            "ended" => {
                execution.ended = Some(line.at);
                execution.callback = line.callback;
            }
            "raised" => execution.raised = true,
            "stored" => execution.stored = true,
            "failed" => execution.failed = true,
            _ => {}
        }
    }

    /// Returns the first callback that ended well and had received each of the chunks exactly once.
    pub fn good_callback(&self, chunks: u32) -> Option<&Execution> {
        self.good_callbacks(chunks).next()
    }

    fn good_callbacks(&self, chunks: u32) -> impl Iterator<Item = &Execution> {
        let whole = [(0, chunks - 1)];
        let is_good = move |callback: &&Execution| callback.ended.is_some() && callback.received == whole;
        self.callbacks.iter().filter(is_good)
    }

    pub fn truth(&self, chunks: u32) -> Truth {
        let tasks = self.dispatches.iter().chain(&self.callbacks);
        if self.dispatches.is_empty() {
            return Truth::NeverBegun;
        }
        if tasks.into_iter().any(|task| task.raised) || self.chunks.values().any(|chunk| chunk.raised > 0) {
            return Truth::Raised;
        }
        let is_failed = self.dispatches.iter().chain(&self.callbacks).any(|task| task.failed)
            || self.chunks.values().any(|chunk| chunk.failed > 0);
        match self.good_callbacks(chunks).max_by_key(|callback| callback.stored) {
            None => Truth::Lost,
            Some(_) if is_failed => Truth::FailedByCelery,
            Some(_) if self.dispatches.len() > 1 => Truth::DispatchedAgain,
            Some(callback) if callback.stored => Truth::Done,
            Some(_) => Truth::NotStored,
        }
    }

    /// Returns whether the callback that the last ended dispatch task created has ended well, with all chunks, and is
    /// stored.
    pub fn last_dispatch_is_done(&self, chunks: u32) -> bool {
        let last = self
            .dispatches
            .iter()
            .rev()
            .find_map(|dispatch| dispatch.callback.as_ref());
        self.good_callbacks(chunks)
            .any(|callback| callback.stored && Some(&callback.task) == last)
    }

    /// Counts the chunks with an execution that ended, also with a failure that Celery stored for a process that died.
    pub fn ended_chunks(&self) -> u64 {
        let ended = |chunk: &&Chunk| chunk.ended > 0 || chunk.raised > 0 || chunk.failed > 0;
        self.chunks.values().filter(ended).count() as u64
    }

    /// Counts the executions of chunks beyond the first of each.
    pub fn executions_again(&self) -> u32 {
        self.chunks.values().map(|chunk| chunk.started.saturating_sub(1)).sum()
    }
}

/// Shows everything that is recorded, for the analysis of a wrong verdict.
impl fmt::Display for Job {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunks = self.chunks.values();
        let count = |of: fn(&Chunk) -> u32| chunks.clone().filter(|chunk| of(chunk) > 0).count();
        write!(
            out,
            "{} dispatches, {} chunks started, {} ended, {} raised, {} failed by Celery, {} stored, {} executions again",
            self.dispatches.len(),
            count(|chunk| chunk.started),
            count(|chunk| chunk.ended),
            count(|chunk| chunk.raised),
            count(|chunk| chunk.failed),
            count(|chunk| chunk.stored),
            self.executions_again()
        )?;
        let unended = self.chunks.iter().filter(|(_, chunk)| chunk.ended == 0);
        let unended: Vec<_> = unended.map(|(number, _)| number.to_string()).take(10).collect();
        if !unended.is_empty() {
            write!(out, "; begun without an end: {}", unended.join(" "))?;
        }
        for (kind, executions) in [("dispatch", &self.dispatches), ("callback", &self.callbacks)] {
            for task in executions {
                write!(out, "\n        {kind} {} in pid {}:", task.task, task.pid)?;
                if kind == "callback" {
                    write!(out, " received {:?},", task.received)?;
                }
                match (task.ended, task.raised) {
                    (Some(at), _) => write!(out, " ended at {at:.3}")?,
                    (None, true) => write!(out, " raised")?,
                    (None, false) => write!(out, " no end")?,
                }
                write!(out, "{}", if task.stored { ", stored" } else { "" })?;
            }
        }
        Ok(())
    }
}
