//! Search for tasks: in queues, among the unacknowledged messages, in workers and in the results.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::scan::{ListEnd, SCAN_LIMIT};
use crate::client::Client;
use crate::control::inspect::{RunningTask, ScheduledTask, TaskExecution};
use crate::control::mailbox::ControlReplies;
use crate::error::Result;
use crate::wire::ids::{NodeName, TaskId};
use crate::wire::message::QueuedTask;

/// Maximum number of messages of one job in a result.
const MESSAGES_PER_JOB: usize = 10_000;

/// Location of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskLocation {
    /// Waiting in this queue.
    Queued(String),
    /// Running in this node.
    Active(NodeName),
    /// Taken by this node and not started.
    Reserved(NodeName),
    /// Waiting in this node for its start time.
    Scheduled(NodeName),
    /// Taken and not acknowledged, while no worker that replied has the task: the worker is busy or dead.
    Unacked,
    /// Finished, with a final result.
    Finished,
    /// In none of these places, after two searches.
    NotFound,
    /// In none of the searched places. Contains the reason why some places could not be searched.
    Unknown(String),
}

/// Unfinished tasks of given jobs. A job is all tasks with the same `root_id`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnfinishedTasks {
    /// Tasks with a message in a queue or among the unacknowledged messages, by job. The search stops early when every
    /// job has a message, so the lists can be incomplete.
    pub messages: HashMap<TaskId, Vec<TaskId>>,
    /// All tasks of any job that a worker runs, has reserved or has scheduled, because workers do not report the root.
    /// Executions that are known to have ended are left out.
    pub held: HashSet<TaskId>,
    /// Workers that reported their running tasks.
    pub answered: BTreeSet<NodeName>,
    /// Reason why the search is incomplete, if so.
    pub unseen: Option<String>,
}

/// Result of one search for given tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskSearchResult {
    /// Tasks that are in none of the searched places and have no final result.
    pub not_found: HashSet<TaskId>,
    /// Workers that reported their running tasks.
    pub answered: BTreeSet<NodeName>,
    /// Reason why the search is incomplete, if so.
    pub unseen: Option<String>,
}

/// Given tasks that workers hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TasksInWorkers {
    /// Locations of the tasks: active, reserved or scheduled.
    pub places: HashMap<TaskId, TaskLocation>,
    /// Reason why the search is incomplete, if so.
    pub unseen: Option<String>,
}

/// State of a search for tasks and jobs.
#[derive(Default)]
struct TaskSearch {
    wanted: HashSet<TaskId>,
    found: HashMap<TaskId, TaskLocation>,
    /// Jobs to search for; `unfinished_tasks` holds the result.
    roots: HashSet<TaskId>,
    /// Stale executions: workers list them, but they have ended.
    ended: HashSet<TaskExecution>,
    unfinished_tasks: UnfinishedTasks,
    unseen: Option<String>,
}

impl TaskSearch {
    /// Records a location. A later location replaces an earlier one, because tasks move from queues to workers.
    fn record_location(&mut self, id: &TaskId, place: TaskLocation) {
        if self.wanted.contains(id) {
            self.found.insert(id.clone(), place);
        }
    }

    fn record_message(&mut self, task: &QueuedTask, place: TaskLocation) {
        self.record_location(&task.id, place);
        if self.roots.contains(task.root()) {
            let seen = self.unfinished_tasks.messages.entry(task.root().clone()).or_default();
            if seen.len() < MESSAGES_PER_JOB {
                seen.push(task.id.clone());
            }
        }
    }

    fn record_held(&mut self, id: &TaskId, place: TaskLocation) {
        self.record_location(id, place);
        if !self.roots.is_empty() {
            self.unfinished_tasks.held.insert(id.clone());
        }
    }

    /// Returns true when further messages cannot change the result.
    fn has_all_messages(&self) -> bool {
        self.wanted.is_empty() && self.unfinished_tasks.messages.len() == self.roots.len()
    }
}

impl Client {
    /// Finds a task, see [`Client::locate_all`].
    pub async fn locate(&self, id: &TaskId, queues: &[&str]) -> Result<TaskLocation> {
        let mut places = self.locate_all(std::slice::from_ref(id), queues).await?;
        Ok(places.remove(id).unwrap_or(TaskLocation::NotFound))
    }

    /// Finds each of these tasks. Searches these queues at all priorities, the unacknowledged messages, the workers and
    /// the results, in the order in which a task moves. Searches a second time for tasks that were not found.
    pub async fn locate_all(&self, ids: &[TaskId], queues: &[&str]) -> Result<HashMap<TaskId, TaskLocation>> {
        let mut places = HashMap::new();
        for look in 1..=2 {
            let wanted: HashSet<TaskId> = ids.iter().filter(|id| !places.contains_key(*id)).cloned().collect();
            if wanted.is_empty() {
                break;
            }
            let search = self.search_everywhere(wanted, queues, HashSet::new()).await?;
            places.extend(search.found);
            if look == 2 {
                for id in ids
                    .iter()
                    .filter(|id| !places.contains_key(*id))
                    .cloned()
                    .collect::<Vec<_>>()
                {
                    let place = search
                        .unseen
                        .clone()
                        .map_or(TaskLocation::NotFound, TaskLocation::Unknown);
                    places.insert(id, place);
                }
            }
        }
        Ok(places)
    }

    /// Finds the unfinished tasks of these jobs. Searches these queues, the unacknowledged messages and the workers
    /// once, in the order in which tasks move. The search may miss a task that moves at the same time, so search twice.
    ///
    /// `ended` contains stale executions: workers list them, but they have ended.
    pub async fn unfinished_tasks(
        &self,
        roots: &HashSet<TaskId>,
        queues: &[&str],
        ended: HashSet<TaskExecution>,
    ) -> Result<UnfinishedTasks> {
        let mut search = TaskSearch {
            roots: roots.clone(),
            ended,
            ..TaskSearch::default()
        };
        self.look_in_broker(queues, &mut search).await?;
        Ok(UnfinishedTasks {
            unseen: search.unseen,
            ..search.unfinished_tasks
        })
    }

    /// Searches once for each of these tasks: in these queues, the unacknowledged messages, the workers and the
    /// results. The search may miss a task that moves at the same time, so search twice with some time in between.
    /// `ended` contains stale executions: workers list them, but they have ended.
    pub async fn search_tasks(
        &self,
        ids: &[TaskId],
        queues: &[&str],
        ended: HashSet<TaskExecution>,
    ) -> Result<TaskSearchResult> {
        let wanted: HashSet<TaskId> = ids.iter().cloned().collect();
        let search = self.search_everywhere(wanted, queues, ended).await?;
        let nowhere = search.wanted.into_iter().filter(|id| !search.found.contains_key(id));
        Ok(TaskSearchResult {
            not_found: nowhere.collect(),
            answered: search.unfinished_tasks.answered,
            unseen: search.unseen,
        })
    }

    async fn search_everywhere(
        &self,
        wanted: HashSet<TaskId>,
        queues: &[&str],
        ended: HashSet<TaskExecution>,
    ) -> Result<TaskSearch> {
        let mut search = TaskSearch {
            wanted,
            ended,
            ..TaskSearch::default()
        };
        self.look_in_broker(queues, &mut search).await?;
        // Results come last and override other locations: a worker lists a task for a moment after the end of the task.
        let wanted: Vec<TaskId> = search.wanted.iter().cloned().collect();
        for id in self.results().finished_among(&wanted).await? {
            search.record_location(&id, TaskLocation::Finished);
        }
        Ok(search)
    }

    /// Finds these tasks in workers, except `ended`: stale executions, which workers list although they have ended.
    ///
    /// # Errors
    /// Redis does not answer within the deadline.
    pub async fn tasks_in_workers(
        &self,
        tasks: HashSet<TaskId>,
        ended: HashSet<TaskExecution>,
    ) -> Result<TasksInWorkers> {
        let mut search = TaskSearch {
            wanted: tasks,
            ended,
            ..TaskSearch::default()
        };
        self.look_in_workers(&mut search).await?;
        Ok(TasksInWorkers {
            places: search.found,
            unseen: search.unseen,
        })
    }

    /// Searches these queues, the unacknowledged messages and the workers, in the order in which a task moves.
    async fn look_in_broker(&self, queues: &[&str], search: &mut TaskSearch) -> Result<()> {
        for queue in queues {
            for (_step, list) in self.broker_keys().lists(queue) {
                self.look_in_queue(queue, &list, search).await?;
            }
        }
        self.look_in_unacked(search).await?;
        self.look_in_workers(search).await
    }

    async fn look_in_queue(&self, queue: &str, list: &str, search: &mut TaskSearch) -> Result<()> {
        let mut walk = self.walk_list(list, ListEnd::Newest);
        while let Some(items) = walk.next_page().await? {
            // An item that cannot be read is not one of the wanted tasks.
            for task in items.iter().filter_map(|item| QueuedTask::decode(item).ok()?) {
                search.record_message(&task, TaskLocation::Queued(queue.to_owned()));
            }
            if search.has_all_messages() {
                return Ok(());
            }
        }
        search.unseen = walk.unseen(queue).or(search.unseen.take());
        Ok(())
    }

    async fn look_in_unacked(&self, search: &mut TaskSearch) -> Result<()> {
        let mut walk = self.walk_unacked(SCAN_LIMIT);
        while let Some(entries) = walk.next_page().await? {
            for (_tag, value) in &entries {
                if let Ok(Some(task)) = QueuedTask::decode_unacked(value) {
                    search.record_message(&task, TaskLocation::Unacked);
                }
            }
            if search.has_all_messages() {
                return Ok(());
            }
        }
        search.unseen = walk.unseen().or(search.unseen.take());
        Ok(())
    }

    async fn look_in_workers(&self, search: &mut TaskSearch) -> Result<()> {
        let held = self.worker_tasks(&search.ended).await?;
        let answered = held.active.good().map(|(node, _)| node.clone());
        search.unfinished_tasks.answered.extend(answered);
        let ids = |ScheduledTask { request, .. }: &ScheduledTask| request.id.clone();
        record_replies(&held.scheduled, search, ids, TaskLocation::Scheduled);
        let ids = |request: &RunningTask| request.id.clone();
        record_replies(&held.reserved, search, ids, TaskLocation::Reserved);
        record_replies(&held.active, search, ids, TaskLocation::Active);
        Ok(())
    }
}

/// Records the tasks that workers hold, and the workers that did not report theirs.
fn record_replies<T>(
    replies: &ControlReplies<Vec<T>>,
    search: &mut TaskSearch,
    id: impl Fn(&T) -> TaskId,
    place: impl Fn(NodeName) -> TaskLocation,
) {
    for (node, answer) in &replies.nodes {
        match answer {
            Ok(tasks) => tasks
                .iter()
                .for_each(|task| search.record_held(&id(task), place(node.clone()))),
            Err(error) => search.unseen = Some(format!("worker {node} could not report its tasks: {error}")),
        }
    }
    if replies.is_incomplete() {
        let (answers, listeners) = (replies.answers, replies.listeners);
        search.unseen = Some(format!("{answers} of {listeners} workers reported their tasks"));
    }
}
