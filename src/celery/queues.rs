//! Queues as lists: how deep they are, and where a task's message is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::client::Client;
use super::inspect::{Execution, RunningTask, Scheduled};
use super::mailbox::{Replies, Target};
use super::message::QueuedTask;
use super::{NodeName, Result, TaskId};

/// Items per read: a queue may hold large messages.
pub(super) const PAGE: usize = 50;
/// Messages looked at in one place; beyond, the answer is [`Whereabouts::Unknown`].
pub(super) const SCAN_LIMIT: usize = 200_000;
/// How long workers have to say what they hold.
const WORKER_DEADLINE: Duration = Duration::from_secs(2);

/// Where a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// Waiting in this queue.
    Queued(String),
    /// Being run by this node.
    Active(NodeName),
    /// Taken by this node, not yet running.
    Reserved(NodeName),
    /// Waiting for its time in this node.
    Scheduled(NodeName),
    /// Taken and not acknowledged, but no worker that answered has it: its worker is busy, or dead.
    Unacked,
    /// Its result is final.
    Finished,
    /// In none of these places, looked at twice.
    Nowhere,
    /// In none of the places that could be looked at; says which could not.
    Unknown(String),
}

/// A message that a worker has taken and not acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub struct UnackedMessage {
    /// When it was taken: unix seconds of the worker's clock.
    pub taken_at: f64,
    /// `None`: it cannot be read.
    pub task: Option<QueuedTask>,
}

/// Messages of one job that a census names.
const REMEMBERED: usize = 10_000;

/// What is under way of some jobs, a job being all tasks with one `root_id`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Tasks with a message in a queue or among the unacknowledged, by job; not all of them where every job has one.
    pub messages: HashMap<TaskId, Vec<TaskId>>,
    /// Every task that a worker runs, has reserved or has scheduled, of whatever job: a worker does not tell the root.
    /// Without the executions that are known to have ended.
    pub held: HashSet<TaskId>,
    /// Workers that said what they run.
    pub answered: BTreeSet<NodeName>,
    /// What could not be looked at.
    pub unseen: Option<String>,
}

/// One look for some tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Tasks that are in none of the places that could be looked at, and have no final result.
    pub nowhere: HashSet<TaskId>,
    /// Workers that said what they run.
    pub answered: BTreeSet<NodeName>,
    /// What could not be looked at.
    pub unseen: Option<String>,
}

/// What was found of the tasks being looked for, and what could not be looked at.
#[derive(Default)]
pub(super) struct Search {
    wanted: HashSet<TaskId>,
    found: HashMap<TaskId, Whereabouts>,
    /// Jobs being looked for, and what was found of them.
    roots: HashSet<TaskId>,
    /// What workers list though it has ended.
    ended: HashSet<Execution>,
    census: Census,
    unseen: Option<String>,
}

impl Search {
    /// For these tasks in workers; `ended` are executions that those list though they have ended.
    pub(super) fn in_workers(wanted: HashSet<TaskId>, ended: HashSet<Execution>) -> Self {
        Self {
            wanted,
            ended,
            ..Self::default()
        }
    }

    /// What was found of the tasks, and what could not be looked at.
    pub(super) fn into_places(self) -> (HashMap<TaskId, Whereabouts>, Option<String>) {
        (self.found, self.unseen)
    }

    /// A later sighting counts more: tasks move from queues to workers.
    fn sighted(&mut self, id: &TaskId, place: Whereabouts) {
        if self.wanted.contains(id) {
            self.found.insert(id.clone(), place);
        }
    }

    fn message(&mut self, task: &QueuedTask, place: Whereabouts) {
        self.sighted(&task.id, place);
        let root = task.root_id.as_ref().unwrap_or(&task.id);
        if self.roots.contains(root) {
            let seen = self.census.messages.entry(root.clone()).or_default();
            if seen.len() < REMEMBERED {
                seen.push(task.id.clone());
            }
        }
    }

    fn held(&mut self, id: &TaskId, place: Whereabouts) {
        self.sighted(id, place);
        if !self.roots.is_empty() {
            self.census.held.insert(id.clone());
        }
    }

    /// Reading further messages could tell nothing new.
    fn knows_all_messages(&self) -> bool {
        self.wanted.is_empty() && self.census.messages.len() == self.roots.len()
    }
}

impl Client {
    /// Messages that wait in a queue, by priority step.
    pub async fn queue_depth(&self, queue: &str) -> Result<BTreeMap<u8, u64>> {
        let mut lengths = redis::pipe();
        let lists = self.broker_keys().lists(queue);
        for (_step, list) in &lists {
            lengths.cmd("LLEN").arg(list);
        }
        let lengths: Vec<u64> = self
            .broker()
            .query("read a queue's depth", &lengths, self.deadline())
            .await?;
        Ok(lists.into_iter().map(|(step, _list)| step).zip(lengths).collect())
    }

    /// Messages that workers have taken and not acknowledged, of all queues.
    pub async fn unacked_count(&self) -> Result<u64> {
        let mut count = redis::pipe();
        count.cmd("HLEN").arg(self.broker_keys().unacked());
        let (count,) = self
            .broker()
            .query("count unacknowledged messages", &count, self.deadline())
            .await?;
        Ok(count)
    }

    /// Messages that workers have taken and not acknowledged, those taken first at the head; at most `limit`.
    pub async fn unacked_messages(&self, limit: usize) -> Result<Vec<UnackedMessage>> {
        let last = limit.saturating_sub(1);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut index = redis::pipe();
        index.cmd("ZRANGE").arg(self.broker_keys().unacked_index());
        index.arg(0).arg(last).arg("WITHSCORES");
        let (tags,): (Vec<(Vec<u8>, f64)>,) = self
            .broker()
            .query("read when messages were taken", &index, self.deadline())
            .await?;
        let mut messages = Vec::with_capacity(tags.len());
        for tags in tags.chunks(PAGE) {
            let mut page = redis::pipe();
            page.cmd("HMGET").arg(self.broker_keys().unacked());
            for (tag, _) in tags {
                page.arg(tag);
            }
            let (values,): (Vec<Option<Vec<u8>>>,) = self
                .broker()
                .query("read unacknowledged messages", &page, self.deadline())
                .await?;
            for ((_, taken_at), value) in tags.iter().zip(values) {
                // Acknowledged meanwhile.
                let Some(value) = value else { continue };
                messages.push(UnackedMessage {
                    taken_at: *taken_at,
                    task: QueuedTask::decode_unacked(&value).ok().flatten(),
                });
            }
        }
        Ok(messages)
    }

    /// Where a task is, see [`Client::locate_all`].
    pub async fn locate(&self, id: &TaskId, queues: &[&str]) -> Result<Whereabouts> {
        let mut places = self.locate_all(std::slice::from_ref(id), queues).await?;
        Ok(places.remove(id).unwrap_or(Whereabouts::Nowhere))
    }

    /// Where each of these tasks is: these queues at all priorities, the unacknowledged messages, the workers, the
    /// results, in the order in which a task moves. What is found in none is looked for once more.
    pub async fn locate_all(&self, ids: &[TaskId], queues: &[&str]) -> Result<HashMap<TaskId, Whereabouts>> {
        let mut places = HashMap::new();
        for look in 1..=2 {
            let wanted: HashSet<TaskId> = ids.iter().filter(|id| !places.contains_key(*id)).cloned().collect();
            if wanted.is_empty() {
                break;
            }
            let search = self.look_everywhere(wanted, queues, HashSet::new()).await?;
            places.extend(search.found);
            if look == 2 {
                for id in ids
                    .iter()
                    .filter(|id| !places.contains_key(*id))
                    .cloned()
                    .collect::<Vec<_>>()
                {
                    let place = search.unseen.clone().map_or(Whereabouts::Nowhere, Whereabouts::Unknown);
                    places.insert(id, place);
                }
            }
        }
        Ok(places)
    }

    /// What is under way of these jobs: in these queues, among the unacknowledged messages, in the workers, looked at
    /// once and in the order in which tasks move. A task that moves on while we look may be missed: look twice.
    ///
    /// `ended` are executions that workers list though they have ended.
    pub async fn census(&self, roots: &HashSet<TaskId>, queues: &[&str], ended: HashSet<Execution>) -> Result<Census> {
        let mut search = Search {
            roots: roots.clone(),
            ended,
            ..Search::default()
        };
        for queue in queues {
            for (_step, list) in self.broker_keys().lists(queue) {
                self.look_in_queue(queue, &list, &mut search).await?;
            }
        }
        self.look_in_unacked(&mut search).await?;
        self.look_in_workers(&mut search).await?;
        Ok(Census {
            unseen: search.unseen,
            ..search.census
        })
    }

    /// Looks once for each of these tasks: in these queues, among the unacknowledged messages, in the workers, among the results.
    /// A task that moves on while we look may be missed: look twice, with time in between. `ended` are executions that
    /// workers list though they have ended.
    pub async fn look_for(&self, ids: &[TaskId], queues: &[&str], ended: HashSet<Execution>) -> Result<Sighting> {
        let wanted: HashSet<TaskId> = ids.iter().cloned().collect();
        let search = self.look_everywhere(wanted, queues, ended).await?;
        let nowhere = search.wanted.into_iter().filter(|id| !search.found.contains_key(id));
        Ok(Sighting {
            nowhere: nowhere.collect(),
            answered: search.census.answered,
            unseen: search.unseen,
        })
    }

    async fn look_everywhere(
        &self,
        wanted: HashSet<TaskId>,
        queues: &[&str],
        ended: HashSet<Execution>,
    ) -> Result<Search> {
        let mut search = Search {
            wanted,
            ended,
            ..Search::default()
        };
        for queue in queues {
            for (_step, list) in self.broker_keys().lists(queue) {
                self.look_in_queue(queue, &list, &mut search).await?;
            }
        }
        self.look_in_unacked(&mut search).await?;
        self.look_in_workers(&mut search).await?;
        // Last, and stronger than all: a worker lists a task for a moment longer than it runs.
        let wanted: Vec<TaskId> = search.wanted.iter().cloned().collect();
        for id in self.results().finished_among(&wanted).await? {
            search.sighted(&id, Whereabouts::Finished);
        }
        Ok(search)
    }

    async fn look_in_queue(&self, queue: &str, list: &str, search: &mut Search) -> Result<()> {
        // From the end that is pushed to: what comes in meanwhile makes us read an item twice, never miss one, and what
        // goes out at the other end shifts nothing.
        for start in (0..SCAN_LIMIT).step_by(PAGE) {
            let mut page = redis::pipe();
            page.cmd("LRANGE").arg(list).arg(start).arg(start + PAGE - 1);
            let (items,): (Vec<Vec<u8>>,) = self.broker().query("read a queue", &page, self.deadline()).await?;
            for item in &items {
                // An unreadable item is no task that we are looking for.
                if let Ok(Some(task)) = QueuedTask::decode(item) {
                    search.message(&task, Whereabouts::Queued(queue.to_owned()));
                }
            }
            if items.len() < PAGE || search.knows_all_messages() {
                return Ok(());
            }
        }
        search.unseen = Some(format!("queue `{queue}` holds more than {SCAN_LIMIT} messages"));
        Ok(())
    }

    async fn look_in_unacked(&self, search: &mut Search) -> Result<()> {
        let key = self.broker_keys().unacked();
        let mut cursor = 0u64;
        let mut seen = 0;
        loop {
            let mut page = redis::pipe();
            page.cmd("HSCAN").arg(&key).arg(cursor).arg("COUNT").arg(PAGE);
            type Page = (u64, Vec<(Vec<u8>, Vec<u8>)>);
            let ((next, entries),): (Page,) = self
                .broker()
                .query("read unacknowledged messages", &page, self.deadline())
                .await?;
            seen += entries.len();
            for (_tag, value) in &entries {
                if let Ok(Some(task)) = QueuedTask::decode_unacked(value) {
                    search.message(&task, Whereabouts::Unacked);
                }
            }
            cursor = next;
            if cursor == 0 || search.knows_all_messages() {
                return Ok(());
            }
            if seen >= SCAN_LIMIT {
                search.unseen = Some(format!("more than {SCAN_LIMIT} messages are unacknowledged"));
                return Ok(());
            }
        }
    }

    pub(super) async fn look_in_workers(&self, search: &mut Search) -> Result<()> {
        let control = self.control();
        let (scheduled, reserved, active) = tokio::join!(
            control.scheduled(&Target::All, WORKER_DEADLINE),
            control.reserved(&Target::All, WORKER_DEADLINE),
            control.active(&Target::All, WORKER_DEADLINE),
        );
        let (scheduled, reserved, mut active) = (scheduled?, reserved?, active?);
        active.forget_ended(&search.ended);
        search
            .census
            .answered
            .extend(active.good().map(|(node, _)| node.clone()));
        let ids = |Scheduled { request, .. }: &Scheduled| request.id.clone();
        sight(&scheduled, search, ids, Whereabouts::Scheduled);
        let ids = |request: &RunningTask| request.id.clone();
        sight(&reserved, search, ids, Whereabouts::Reserved);
        sight(&active, search, ids, Whereabouts::Active);
        Ok(())
    }
}

/// Notes what the workers hold, and who did not say.
fn sight<T>(
    replies: &Replies<Vec<T>>,
    search: &mut Search,
    id: impl Fn(&T) -> TaskId,
    place: impl Fn(NodeName) -> Whereabouts,
) {
    for (node, answer) in &replies.nodes {
        match answer {
            Ok(tasks) => tasks
                .iter()
                .for_each(|task| search.held(&id(task), place(node.clone()))),
            Err(error) => search.unseen = Some(format!("worker {node} could not say what it holds: {error}")),
        }
    }
    if replies.is_incomplete() {
        let (answers, listeners) = (replies.answers, replies.listeners);
        search.unseen = Some(format!("{answers} of {listeners} workers said what they hold"));
    }
}
