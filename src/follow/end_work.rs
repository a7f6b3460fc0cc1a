//! Ending what is left of jobs that must not go on, for whatever cause: a stop, a timeout, a lost lease, a dead run's work.
//!
//! Their messages are removed from the queues, tasks that workers have taken are revoked, running ones are terminated after
//! a grace; again and again, since what runs in its grace may start more, until nothing is queued, reserved or running.
//! A task belongs to a job by the root in its message, or in the event of its receipt, or because the result of one of the
//! job's tasks names it: what workers say of themselves has no root. A task of another job is never touched.
//!
//! Not found, and so not ended: what a task has started, and a worker has taken with early acknowledgement, while events
//! were missed and the result of its starter is ignored.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::context::Context;
use super::desk::Desk;
use crate::celery::{Client, Signal, Target, TaskId, Whereabouts};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// So often in a row nothing must be found: a task that moves may be missed by one look.
const CLEAN_LOOKS: u32 = 2;
/// After the signal that a task can see, until the one that it can not.
const PATIENCE: Duration = Duration::from_millis(1500);
/// For workers to answer, at most.
const ANSWER: Duration = Duration::from_secs(1);
/// Results that are read for what their tasks have started, in one look.
const RESULTS: usize = 64;

/// How jobs are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// For running tasks, before they are terminated.
    pub grace: Duration,
    /// For all of it.
    pub within: Duration,
}

impl Manner {
    /// What runs may come to its end within a second.
    pub const GENTLE: Self = Self {
        grace: Duration::from_secs(1),
        within: Duration::from_millis(4500),
    };

    /// Another may be about to begin with the same.
    pub fn at_once(within: Duration) -> Self {
        Self {
            grace: Duration::ZERO,
            within,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// So many messages were removed from queues.
    pub removed: u64,
    /// So many tasks were revoked.
    pub revoked: usize,
    /// A worker has heard of it.
    pub heard: bool,
    /// What may be left: could not be looked at, or is taken by a worker that has no slot free to throw it away. It is
    /// revoked, again for a while, by the desk.
    pub left: Option<String>,
}

/// Ends the jobs of these `first` tasks; `others` are further tasks that are known to be theirs. The desk must be served
/// meanwhile.
pub async fn end_work(
    context: &Context,
    desk: &Desk,
    first: impl IntoIterator<Item = TaskId>,
    others: impl IntoIterator<Item = TaskId>,
    manner: Manner,
) -> Ended {
    let roots: HashSet<TaskId> = first.into_iter().collect();
    if roots.is_empty() {
        return Ended::default();
    }
    let mut end = End {
        context,
        desk,
        client: context.celery.with_deadline(manner.within),
        tasks: roots
            .iter()
            .cloned()
            .chain(others)
            .map(|task| (task, Told::No))
            .collect(),
        open: roots.iter().cloned().collect(),
        roots,
        running: HashSet::new(),
        unseen: None,
        begun: Instant::now(),
        manner,
        ended: Ended::default(),
    };
    if timeout(manner.within, end.run()).await.is_err() && end.ended.left.is_none() {
        end.ended.left = Some("not all was looked at in time".to_owned());
    }
    let Ended {
        removed,
        revoked,
        heard,
        ..
    } = end.ended;
    tracing::info!(removed, revoked, heard, left = ?end.ended.left, took = ?end.begun.elapsed(), "work ended");
    desk.ban(end.tasks.into_keys());
    end.ended
}

/// What workers were told of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    No,
    /// Not to begin it.
    Revoked,
    Terminated,
    Killed,
}

impl Told {
    fn signal(self) -> Option<Signal> {
        match self {
            Told::No | Told::Revoked => None,
            Told::Terminated => Some(Signal::Term),
            Told::Killed => Some(Signal::Kill),
        }
    }
}

struct End<'a> {
    context: &'a Context,
    desk: &'a Desk,
    client: Client,
    roots: HashSet<TaskId>,
    /// All that are known to be the jobs'.
    tasks: BTreeMap<TaskId, Told>,
    /// Those whose results may still name others.
    open: BTreeSet<TaskId>,
    /// Those that a worker ran at the last look.
    running: HashSet<TaskId>,
    /// What could not be looked at of the queues that nobody has named.
    unseen: Option<String>,
    begun: Instant,
    manner: Manner,
    ended: Ended,
}

impl End<'_> {
    async fn run(&mut self) {
        // First what is known: it may be all that there is time for.
        self.know_received();
        self.revoke().await;
        let mut clean = 0;
        while clean < CLEAN_LOOKS {
            let known = self.tasks.len();
            let mut found = self.look().await;
            if found.is_none() && clean + 1 == CLEAN_LOOKS {
                found = Box::pin(self.sweep_other_queues()).await;
            }
            let told = self.revoke().await;
            // What was terminated may have been replaced by what it has started.
            let is_clean = found.is_none() && told && self.tasks.len() == known;
            clean = if is_clean { clean + 1 } else { 0 };
            self.ended.left = found;
            if clean < CLEAN_LOOKS {
                sleep(PAUSE).await;
            }
        }
        self.ended.left = self.unseen.take();
    }

    fn know(&mut self, tasks: impl IntoIterator<Item = TaskId>) {
        for task in tasks {
            self.tasks.entry(task).or_insert(Told::No);
        }
    }

    fn know_received(&mut self) {
        let received: Vec<TaskId> = self.roots.iter().flat_map(|root| self.desk.unfinished(root)).collect();
        self.know(received);
    }

    /// Looks everywhere, in the order in which tasks move, and removes what is queued; what was found, if anything.
    async fn look(&mut self) -> Option<String> {
        let queues = self.desk.queues_to_look_at();
        let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
        let swept = match self.client.sweep(&self.roots, &queues).await {
            Ok(swept) => swept,
            Err(error) => return Some(error.to_string()),
        };
        self.ended.removed += swept.removed;
        let taken = swept.taken.len();
        self.know(swept.taken);
        self.know_received();
        self.learn_from_results().await;
        let tasks: HashSet<TaskId> = self.tasks.keys().cloned().collect();
        let held = match self.client.in_workers(tasks, self.context.ghosts.all()).await {
            Ok(held) => held,
            Err(error) => return Some(error.to_string()),
        };
        let running = held.places.iter();
        self.running = running
            .filter(|(_, place)| matches!(place, Whereabouts::Active(_)))
            .map(|(task, _)| task.clone())
            .collect();
        self.open.extend(self.running.iter().cloned());
        let told = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
        told(
            usize::try_from(swept.removed).unwrap_or(usize::MAX),
            "tasks were queued",
        )
        .or_else(|| told(self.running.len(), "tasks are running"))
        .or_else(|| told(held.places.len().max(taken), "tasks are taken and revoked"))
        .or(swept.unseen)
        .or(held.unseen)
    }

    /// Removes what waits in queues that nobody has named; returns what was found, if anything. An app may route its tasks to
    /// a queue that no worker consumes now, and another night's worker may.
    async fn sweep_other_queues(&mut self) -> Option<String> {
        let known = self.desk.queues_to_look_at();
        let found = match self.client.broker_queues().await {
            Ok(found) => found,
            Err(error) => return Some(error.to_string()),
        };
        let others = found.messages.iter();
        let others: Vec<&str> = others
            .filter(|(queue, messages)| **messages > 0 && !known.contains(*queue))
            .map(|(queue, _)| queue.as_str())
            .collect();
        let swept = match self.client.sweep(&self.roots, &others).await {
            Ok(swept) => swept,
            Err(error) => return Some(error.to_string()),
        };
        self.ended.removed += swept.removed;
        self.know(swept.taken);
        // Looking again would not find more.
        self.unseen = swept.unseen.or(found.unseen);
        (swept.removed > 0).then(|| format!("{} tasks were queued", swept.removed))
    }

    /// What the tasks of the jobs have started, as far as their results tell by now.
    async fn learn_from_results(&mut self) {
        let results = self.client.results();
        let asked: Vec<TaskId> = self.open.iter().take(RESULTS).cloned().collect();
        let answers = join_all(asked.iter().map(|task| results.get(task))).await;
        for (task, answer) in asked.iter().zip(answers) {
            match answer {
                Ok(Some(result)) => {
                    if result.state.is_final() {
                        self.open.remove(task);
                    }
                    let groups = result.children.groups.iter().flat_map(|group| &group.tasks);
                    let children: Vec<TaskId> = groups.chain(&result.children.tasks).cloned().collect();
                    self.know(children);
                }
                Ok(None) => {}
                // Not a result that orch can read tells nothing, also later.
                Err(error) if !error.is_transient() => drop(self.open.remove(task)),
                Err(_) => {}
            }
        }
    }

    /// Tells workers what they do not know yet; whether they all have heard it.
    async fn revoke(&mut self) -> bool {
        let passed = self.begun.elapsed();
        let wanted = if passed < self.manner.grace {
            Told::Revoked
        } else if passed < self.manner.grace + PATIENCE {
            Told::Terminated
        } else {
            Told::Killed
        };
        // A process that runs another task by now must not be hit for the one that the worker believes it to run.
        // What no worker ran at the last look has no process that could be wrong.
        let hits = |(task, told): (&TaskId, &Told)| *told < wanted && self.running.contains(task);
        let left_behind = if wanted > Told::Revoked && self.tasks.iter().any(hits) {
            self.desk.left_behind(ANSWER.min(self.manner.within / 4)).await
        } else {
            Some(self.context.ghosts.left_behind())
        };
        let mut due: BTreeMap<Told, Vec<TaskId>> = BTreeMap::new();
        for (task, told) in &self.tasks {
            let is_safe = left_behind.as_ref().is_some_and(|left| !left.contains(task));
            let most = if !is_safe {
                Told::Revoked
            } else if self.running.contains(task) {
                Told::Killed
            } else {
                Told::Terminated
            };
            let now = wanted.min(most);
            if *told < now {
                due.entry(now).or_default().push(task.clone());
            }
        }
        let within = ANSWER.min(self.manner.within / 2);
        let mut all_heard = true;
        for (told, tasks) in due {
            let control = self.client.control();
            match control.revoke(&tasks, told.signal(), &Target::All, within).await {
                Ok(replies) => {
                    self.ended.heard |= replies.answers > 0;
                    if replies.is_incomplete() {
                        all_heard = false;
                        continue;
                    }
                    for task in tasks {
                        let before = self.tasks.insert(task, told);
                        self.ended.revoked += usize::from(before == Some(Told::No));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, tasks = tasks.len(), "what is left of a job cannot be revoked");
                    all_heard = false;
                }
            }
        }
        all_heard
    }
}
