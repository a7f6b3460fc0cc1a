//! Cancels jobs that must not go on, for any cause: a stop, a timeout, a lost lease, tasks of a dead run.
//!
//! The messages of a job are removed from the queues, tasks that workers hold are revoked, and running tasks are
//! terminated after a grace period. These steps are repeated until no task is queued, reserved or running, because a
//! task that runs in the grace period may start further tasks. A task belongs to a job by the root id in the message or
//! in the `task-received` event, or because the result of one of the job's tasks names the task: the lists of workers
//! have no root id. A task of another job is never touched.
//!
//! Not found, and so not cancelled: a task that a worker took with early acknowledgement while events were missed, if
//! the result of the parent task is ignored.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::context::JobContext;
use super::monitor::worker_monitor::WorkerMonitor;
use orch_celery::{Client, ControlTarget, Signal, TaskId, TaskLocation};

/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Number of looks in a row that must find nothing: one look may miss a task that moves between two places.
const CLEAN_LOOKS: u32 = 2;
/// Time between SIGTERM, which a task can handle, and SIGKILL, which no task can handle.
const KILL_GRACE: Duration = Duration::from_millis(1500);
/// Longest time that workers have to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Number of results that one look reads for the tasks that they have started.
const RESULTS_PER_LOOK: usize = 64;

/// Time limits of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CancelLimits {
    /// Grace period of running tasks before they are terminated.
    pub grace: Duration,
    /// Time limit of the whole cancellation.
    pub time_limit: Duration,
}

impl CancelLimits {
    /// Limits that let a running task finish within a second.
    pub const GENTLE: Self = Self {
        grace: Duration::from_secs(1),
        time_limit: Duration::from_millis(4500),
    };

    /// Returns limits without a grace period: another attempt with the same work may start soon.
    pub fn without_grace(within: Duration) -> Self {
        Self {
            grace: Duration::ZERO,
            time_limit: within,
        }
    }
}

/// Result of a cancellation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CancelReport {
    /// Number of messages that were removed from queues.
    pub removed: u64,
    /// Number of tasks that were revoked.
    pub revoked: usize,
    /// At least one worker answered a revocation.
    pub is_acknowledged: bool,
    /// Description of work that may remain: a place that could not be searched, or a task that a worker holds and has
    /// no free pool slot to discard. The worker monitor goes on to revoke such tasks for a while.
    pub remaining: Option<String>,
}

/// Cancels the jobs of the `first` tasks; `others` are further tasks that are known to belong to these jobs. The worker
/// monitor must be served while this function runs.
pub async fn cancel_jobs(
    context: &JobContext,
    monitor: &WorkerMonitor,
    first: impl IntoIterator<Item = TaskId>,
    others: impl IntoIterator<Item = TaskId>,
    manner: CancelLimits,
) -> CancelReport {
    let roots: HashSet<TaskId> = first.into_iter().collect();
    if roots.is_empty() {
        return CancelReport::default();
    }
    let mut end = JobCancellation {
        context,
        monitor,
        client: context.celery.with_deadline(manner.time_limit),
        tasks: roots
            .iter()
            .cloned()
            .chain(others)
            .map(|task| (task, SentRevocation::NotSent))
            .collect(),
        open: roots.iter().cloned().collect(),
        roots,
        running: HashSet::new(),
        unseen: None,
        begun: Instant::now(),
        limits: manner,
        report: CancelReport::default(),
    };
    if timeout(manner.time_limit, end.run()).await.is_err() && end.report.remaining.is_none() {
        end.report.remaining = Some("the search for its tasks ran out of time".to_owned());
    }
    let CancelReport {
        removed,
        revoked,
        is_acknowledged: heard,
        ..
    } = end.report;
    tracing::info!(removed, revoked, heard, left = ?end.report.remaining, took = ?end.begun.elapsed(), "cancelled jobs");
    monitor.ban(end.tasks.into_keys());
    end.report
}

/// Strongest revocation of a task that workers have acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SentRevocation {
    NotSent,
    /// Revoked without a signal: a worker does not start the task.
    Revoked,
    Terminated,
    Killed,
}

impl SentRevocation {
    fn signal(self) -> Option<Signal> {
        match self {
            SentRevocation::NotSent | SentRevocation::Revoked => None,
            SentRevocation::Terminated => Some(Signal::Term),
            SentRevocation::Killed => Some(Signal::Kill),
        }
    }
}

struct JobCancellation<'a> {
    context: &'a JobContext,
    monitor: &'a WorkerMonitor,
    client: Client,
    roots: HashSet<TaskId>,
    /// All tasks that are known to belong to the jobs.
    tasks: BTreeMap<TaskId, SentRevocation>,
    /// Tasks with results that may still name further tasks.
    open: BTreeSet<TaskId>,
    /// Tasks that a worker ran at the last look.
    running: HashSet<TaskId>,
    /// Reason why queues outside the configuration could not be searched completely.
    unseen: Option<String>,
    begun: Instant,
    limits: CancelLimits,
    report: CancelReport,
}

impl JobCancellation<'_> {
    async fn run(&mut self) {
        // The tasks that are known already come first: the time may not suffice for more.
        self.add_received();
        self.revoke().await;
        let mut clean = 0;
        while clean < CLEAN_LOOKS {
            let known = self.tasks.len();
            let mut found = self.search_once().await;
            if found.is_none() && clean + 1 == CLEAN_LOOKS {
                found = Box::pin(self.sweep_other_queues()).await;
            }
            let is_acknowledged = self.revoke().await;
            // A terminated task may have started a task to replace itself.
            let is_clean = found.is_none() && is_acknowledged && self.tasks.len() == known;
            clean = if is_clean { clean + 1 } else { 0 };
            self.report.remaining = found;
            if clean < CLEAN_LOOKS {
                sleep(LOOK_INTERVAL).await;
            }
        }
        self.report.remaining = self.unseen.take();
    }

    fn add_tasks(&mut self, tasks: impl IntoIterator<Item = TaskId>) {
        for task in tasks {
            self.tasks.entry(task).or_insert(SentRevocation::NotSent);
        }
    }

    fn add_received(&mut self) {
        let received: Vec<TaskId> = self
            .roots
            .iter()
            .flat_map(|root| self.monitor.unfinished(root))
            .collect();
        self.add_tasks(received);
    }

    /// Searches all places in the order in which tasks move through them, and removes queued messages. Returns a
    /// description of the tasks that were found, or of the place that could not be searched.
    async fn search_once(&mut self) -> Option<String> {
        let queues = self.monitor.queues_to_search();
        let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
        let swept = match self.client.remove_job_messages(&self.roots, &queues).await {
            Ok(swept) => swept,
            Err(error) => return Some(error.to_string()),
        };
        self.report.removed += swept.removed;
        let taken = swept.taken.len();
        self.add_tasks(swept.taken);
        self.add_received();
        self.add_children().await;
        let tasks: HashSet<TaskId> = self.tasks.keys().cloned().collect();
        let held = match self
            .client
            .tasks_in_workers(tasks, self.context.stale_executions.all())
            .await
        {
            Ok(held) => held,
            Err(error) => return Some(error.to_string()),
        };
        let running = held.places.iter();
        self.running = running
            .filter(|(_, place)| matches!(place, TaskLocation::Active(_)))
            .map(|(task, _)| task.clone())
            .collect();
        self.open.extend(self.running.iter().cloned());
        let described = |count: usize, state: &str| (count > 0).then(|| format!("{count} {state}"));
        described(
            usize::try_from(swept.removed).unwrap_or(usize::MAX),
            "tasks were queued",
        )
        .or_else(|| described(self.running.len(), "tasks are running"))
        .or_else(|| described(held.places.len().max(taken), "tasks are held by workers and revoked"))
        .or(swept.unseen)
        .or(held.unseen)
    }

    /// Removes waiting messages from queues that are neither configured nor consumed. Returns a description of the
    /// messages, if any were found. An app may route tasks to a queue that no worker consumes now; the worker of
    /// another night may consume that queue.
    async fn sweep_other_queues(&mut self) -> Option<String> {
        let known = self.monitor.queues_to_search();
        let found = match self.client.broker_queues().await {
            Ok(found) => found,
            Err(error) => return Some(error.to_string()),
        };
        let others = found.messages.iter();
        let others: Vec<&str> = others
            .filter(|(queue, messages)| **messages > 0 && !known.contains(*queue))
            .map(|(queue, _)| queue.as_str())
            .collect();
        let swept = match self.client.remove_job_messages(&self.roots, &others).await {
            Ok(swept) => swept,
            Err(error) => return Some(error.to_string()),
        };
        self.report.removed += swept.removed;
        self.add_tasks(swept.taken);
        // Another look would not find more.
        self.unseen = swept.unseen.or(found.unseen);
        (swept.removed > 0).then(|| format!("{} tasks were queued", swept.removed))
    }

    /// Adds the tasks that the known tasks have started, as far as their results name them by now.
    async fn add_children(&mut self) {
        let results = self.client.results();
        let asked: Vec<TaskId> = self.open.iter().take(RESULTS_PER_LOOK).cloned().collect();
        let answers = join_all(asked.iter().map(|task| results.get(task))).await;
        for (task, answer) in asked.iter().zip(answers) {
            match answer {
                Ok(Some(result)) => {
                    if result.state.is_final() {
                        self.open.remove(task);
                    }
                    let groups = result.children.groups.iter().flat_map(|group| &group.tasks);
                    let children: Vec<TaskId> = groups.chain(&result.children.tasks).cloned().collect();
                    self.add_tasks(children);
                }
                Ok(None) => {}
                // A result that orch cannot decode names no task, now and later.
                Err(error) if !error.is_transient() => drop(self.open.remove(task)),
                Err(_) => {}
            }
        }
    }

    /// Sends the workers all revocations that are due. Returns whether all workers have answered.
    async fn revoke(&mut self) -> bool {
        let passed = self.begun.elapsed();
        let wanted = if passed < self.limits.grace {
            SentRevocation::Revoked
        } else if passed < self.limits.grace + KILL_GRACE {
            SentRevocation::Terminated
        } else {
            SentRevocation::Killed
        };
        // A signal must not hit a pool process that runs another task by now than the one that the worker lists. A task
        // that no worker ran at the last look has no process that could be hit by mistake.
        let hits = |(task, sent): (&TaskId, &SentRevocation)| *sent < wanted && self.running.contains(task);
        let possibly_stale = if wanted > SentRevocation::Revoked && self.tasks.iter().any(hits) {
            self.monitor
                .possibly_stale(ANSWER_TIMEOUT.min(self.limits.time_limit / 4))
                .await
        } else {
            Some(self.context.stale_executions.possibly_stale())
        };
        let mut due: BTreeMap<SentRevocation, Vec<TaskId>> = BTreeMap::new();
        for (task, sent) in &self.tasks {
            let is_safe = possibly_stale.as_ref().is_some_and(|left| !left.contains(task));
            let most = if !is_safe {
                SentRevocation::Revoked
            } else if self.running.contains(task) {
                SentRevocation::Killed
            } else {
                SentRevocation::Terminated
            };
            let now = wanted.min(most);
            if *sent < now {
                due.entry(now).or_default().push(task.clone());
            }
        }
        let within = ANSWER_TIMEOUT.min(self.limits.time_limit / 2);
        let mut have_all_answered = true;
        for (sent, tasks) in due {
            let control = self.client.control();
            match control.revoke(&tasks, sent.signal(), &ControlTarget::All, within).await {
                Ok(replies) => {
                    self.report.is_acknowledged |= replies.answers > 0;
                    if replies.is_incomplete() {
                        have_all_answered = false;
                        continue;
                    }
                    for task in tasks {
                        let before = self.tasks.insert(task, sent);
                        self.report.revoked += usize::from(before == Some(SentRevocation::NotSent));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, tasks = tasks.len(), "could not revoke the tasks of a job");
                    have_all_answered = false;
                }
            }
        }
        have_all_answered
    }
}
