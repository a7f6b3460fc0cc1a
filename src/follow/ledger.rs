//! Which unfinished task belongs to which job, and how the tasks of each job ended, as far as their events tell.
//!
//! Control replies name tasks by id only, and of the task events only `task-received` carries `root_id` (Celery wire,
//! observed on 5.x); this joins them. Not here: where events come from (`desk`).

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::{HashMap, HashSet};

use super::facts::Tally;
use super::header::{FailedChunks, Header};
use super::inventory::{EventOutcome, EventTasks};
use super::loss::LossSigns;
use super::vitals::ChunkEnd;
use crate::celery::TaskId;
use crate::printable::shortened;

/// So many of a job's last ends are remembered: a task may end before anyone knows that its end matters.
const RECENT: usize = 64;

/// Unfinished tasks that are remembered: workers hold so many when each of a hundred has prefetched two thousand. What is
/// received beyond them is of unknown owner until it ends, and is looked up where it matters.
const UNFINISHED: usize = 200_000;

/// Revoked tasks of unknown jobs that are remembered.
const STRAYS: usize = 1_000;

/// Tasks of one job whose ends are remembered one by one: what stores no result is known by its event alone.
const ENDED: usize = 100_000;

/// Characters of an exception in the reason for a job's end.
const LONGEST_FAILURE: usize = 300;

/// Characters of how a task ended that are kept: Celery itself shortens what it prints to a sixtieth of it.
pub const LONGEST_END: usize = 64 << 10;

/// Whose a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Of the job with this root.
    Job(TaskId),
    /// It was at work before any of our jobs was published.
    Foreign,
    /// Its `task-received` was not seen.
    Unknown,
}

/// How a task's event says it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventEnd<Text = String> {
    /// With this result, as Python prints it, maybe shortened.
    Succeeded(Text),
    /// With this exception, as Python prints it.
    Failed(Text),
    Revoked(Text),
    /// A worker threw it away.
    Rejected,
}

impl<Text> EventEnd<Text> {
    fn outcome(&self) -> EventOutcome {
        match self {
            EventEnd::Succeeded(_) => EventOutcome::Succeeded,
            EventEnd::Failed(_) | EventEnd::Revoked(_) => EventOutcome::Failed,
            EventEnd::Rejected => EventOutcome::Rejected,
        }
    }
}

impl EventEnd<&str> {
    /// To be kept in `space`, shortened where it is too long for that.
    fn kept_in(self, mut space: String) -> EventEnd {
        let mut keep = |text: &str| {
            space.clear();
            // No text has more characters than bytes.
            if text.len() <= LONGEST_END {
                space.push_str(text);
            } else {
                space = shortened(text, LONGEST_END);
            }
            std::mem::take(&mut space)
        };
        match self {
            EventEnd::Succeeded(text) => EventEnd::Succeeded(keep(text)),
            EventEnd::Failed(text) => EventEnd::Failed(keep(text)),
            EventEnd::Revoked(text) => EventEnd::Revoked(keep(text)),
            EventEnd::Rejected => EventEnd::Rejected,
        }
    }
}

impl EventEnd {
    fn into_text(self) -> String {
        match self {
            EventEnd::Succeeded(text) | EventEnd::Failed(text) | EventEnd::Revoked(text) => text,
            EventEnd::Rejected => String::new(),
        }
    }
}

/// The memory of task events.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Root of each task that was received and has not ended.
    unfinished: HashMap<TaskId, TaskId>,
    foreign: HashSet<TaskId>,
    /// Revoked without having been received, the latest: a worker drops a message that has expired before it says that it has
    /// taken it (Celery wire, observed on 5.2 to 5.7), so that its job is not known.
    strays: VecDeque<TaskId>,
    jobs: HashMap<TaskId, JobPage>,
    /// Rises each time when events may have been missed.
    gaps: u64,
}

#[derive(Debug, Default)]
struct JobPage {
    /// Rises with every event of the job.
    changes: u64,
    /// Tasks in hand besides the dispatch task, as [`Ledger::unfinished`] has them: asked for with every event.
    unfinished: u64,
    succeeded: u64,
    failed: u64,
    /// Ends of the tasks whose end is waited for by id.
    watched: HashMap<TaskId, Option<EventEnd>>,
    recent: VecDeque<(TaskId, EventEnd)>,
    /// Ends that were not asked for yet, of all tasks but those that are watched.
    ends: VecDeque<ChunkEnd>,
    /// The chord's header, once it is known.
    header: Option<Header>,
    /// Every end that was seen but the dispatch task's.
    ended: HashMap<TaskId, EventOutcome>,
    /// The first task that failed, and `task ID: EXCEPTION`.
    first_failure: Option<(TaskId, String)>,
    /// Tasks whose messages were seen in a queue.
    seen_waiting: HashSet<TaskId>,
    /// Events were missed, or more tasks ended than are remembered.
    is_broken: bool,
}

impl JobPage {
    fn count_out(&mut self) {
        self.unfinished = self.unfinished.saturating_sub(1);
    }

    fn remember(&mut self, task: &TaskId, outcome: EventOutcome, end: &EventEnd<&str>) {
        if self.ended.len() < ENDED {
            self.ended.insert(task.clone(), outcome);
        } else {
            self.is_broken = true;
        }
        if outcome != EventOutcome::Succeeded && self.first_failure.is_none() {
            self.first_failure = Some((task.clone(), failure_text(task, end)));
        }
    }

    /// Ends seen of the header's tasks, and how many it has.
    fn header(&self) -> Option<(u64, u64)> {
        let header = self.header.as_ref()?;
        Some((
            u64::try_from(header.ended_count()).ok()?,
            u64::try_from(header.size()).ok()?,
        ))
    }

    /// `task` of the job was taken by a worker; `is_root`: it is the job's first one.
    fn taken(&mut self, task: &TaskId, is_root: bool) {
        if let Some(header) = &mut self.header
            && !header.taken(task)
            && !is_root
            && !self.watched.contains_key(task)
            && !self.ended.contains_key(task)
        {
            header.note_other();
        }
    }
}

/// `task ID: EXCEPTION`
fn failure_text(task: &TaskId, end: &EventEnd<&str>) -> String {
    let text = match end {
        EventEnd::Succeeded(text) | EventEnd::Failed(text) | EventEnd::Revoked(text) => *text,
        EventEnd::Rejected => "rejected",
    };
    format!("task {task}: {}", shortened(text, LONGEST_FAILURE))
}

impl Ledger {
    /// Names tasks that were there before the first job: they can be none of ours.
    pub fn know_foreign(&mut self, tasks: impl IntoIterator<Item = TaskId>) {
        self.foreign.extend(tasks);
    }

    /// Begins a page for the job whose first task is `root`; call it before publishing.
    pub fn open(&mut self, root: &TaskId) {
        if self.jobs.contains_key(root) {
            return;
        }
        // A job that is picked up may have been at work for long.
        let known = self.unfinished.iter();
        let known = known.filter(|(task, owner)| *owner == root && *task != root).count();
        let page = JobPage {
            unfinished: u64::try_from(known).unwrap_or(u64::MAX),
            ..JobPage::default()
        };
        self.jobs.insert(root.clone(), page);
    }

    /// Remembers how `task` of the job ends, or ended a moment ago.
    pub fn watch(&mut self, root: &TaskId, task: &TaskId) {
        if let Some(page) = self.jobs.get_mut(root) {
            let ended = page
                .recent
                .iter()
                .find(|(recent, _)| recent == task)
                .map(|(_, end)| end.clone());
            page.watched.entry(task.clone()).or_insert(ended);
        }
    }

    /// The tasks of the job's chord; what ended a moment ago is known.
    pub fn know_header(&mut self, root: &TaskId, tasks: &[TaskId]) {
        let Some(page) = self.jobs.get_mut(root).filter(|page| page.header.is_none()) else {
            return;
        };
        let mut header = Header::new(tasks, &page.ended, page.first_failure.as_ref());
        let members: HashSet<&TaskId> = tasks.iter().collect();
        let is_other = |task: &TaskId| !members.contains(task) && task != root && !page.watched.contains_key(task);
        if page.ended.keys().any(is_other) {
            header.note_other();
        }
        for (task, _) in self.unfinished.iter().filter(|(_, owner)| *owner == root) {
            if is_other(task) {
                header.note_other();
            }
            header.taken(task);
        }
        page.header = Some(header);
    }

    /// Forgets the job.
    pub fn close(&mut self, root: &TaskId) {
        self.jobs.remove(root);
    }

    /// A worker has taken `task`. Returns the job that it touches.
    pub fn received(&mut self, task: TaskId, root: TaskId) -> Option<TaskId> {
        let is_kept = self.unfinished.len() < UNFINISHED;
        let touched = self.jobs.get_mut(&root).map(|page| {
            page.changes += 1;
            page.unfinished += u64::from(is_kept && task != root);
            page.is_broken |= !is_kept;
            page.taken(&task, task == root);
            root.clone()
        });
        let before = if is_kept {
            self.unfinished.insert(task.clone(), root)
        } else {
            self.unfinished.remove(&task)
        };
        // Delivered again it is in one hand.
        if let Some(before) = before {
            self.count_out(&task, &before);
        }
        touched
    }

    /// `task` of the job is in no worker's hand any more.
    fn count_out(&mut self, task: &TaskId, root: &TaskId) {
        if let Some(page) = self.jobs.get_mut(root).filter(|_| task != root) {
            page.count_out();
        }
    }

    /// `task` shows a sign of life that is no end. Returns the job that it touches.
    pub fn moved(&mut self, task: &TaskId) -> Option<TaskId> {
        let root = self.unfinished.get(task)?;
        let page = self.jobs.get_mut(root)?;
        page.changes += 1;
        if let Some(header) = &mut page.header {
            header.moved(task);
        }
        Some(root.clone())
    }

    /// `task` has ended. Returns the job that it touches.
    pub fn ended(&mut self, task: &TaskId, end: EventEnd<&str>) -> Option<TaskId> {
        self.ended_after(task, end, None)
    }

    /// As above, having run for this long.
    pub fn ended_after(&mut self, task: &TaskId, end: EventEnd<&str>, runtime: Option<Duration>) -> Option<TaskId> {
        let in_hand = self.unfinished.remove(task);
        let was_in_hand = in_hand.is_some();
        let Some(root) = in_hand.or_else(|| self.owner_by_header(task, &end)) else {
            if let EventEnd::Revoked(_) = end {
                self.stray(task);
            }
            return None;
        };
        let page = self.jobs.get_mut(&root)?;
        page.changes += 1;
        // The dispatch task itself is no part of the tally: it is judged by its own end.
        let outcome = end.outcome();
        if *task != root {
            if was_in_hand {
                page.count_out();
            }
            match outcome {
                EventOutcome::Succeeded => page.succeeded += 1,
                EventOutcome::Failed | EventOutcome::Rejected => page.failed += 1,
            }
            page.remember(task, outcome, &end);
        }
        let text = || Some(failure_text(task, &end));
        let is_chunk = page
            .header
            .as_mut()
            .is_some_and(|header| header.ended(task, outcome, text));
        if let Some(watched) = page.watched.get_mut(task) {
            *watched = Some(end.clone().kept_in(String::new()));
        } else if *task != root {
            if page.ends.len() == RECENT {
                page.ends.pop_front();
            }
            let succeeded = matches!(end, EventEnd::Succeeded(_));
            page.ends.push_back(ChunkEnd { succeeded, runtime });
        }
        if is_chunk {
            // Nobody will want to know by its id.
            return Some(root);
        }
        // The memory of the oldest one's text is the newest one's: one of these comes with each chunk.
        let oldest = if page.recent.len() == RECENT {
            page.recent.pop_front()
        } else {
            None
        };
        let space = oldest.map(|(_, end)| end.into_text()).unwrap_or_default();
        page.recent.push_back((task.clone(), end.kept_in(space)));
        Some(root)
    }

    /// The job of a task that was revoked before a worker said that it had taken it.
    fn owner_by_header(&self, task: &TaskId, end: &EventEnd<&str>) -> Option<TaskId> {
        if !matches!(end, EventEnd::Revoked(_)) {
            return None;
        }
        let has_it = |page: &JobPage| page.header.as_ref().is_some_and(|header| header.is_open(task));
        self.jobs
            .iter()
            .find(|(_, page)| has_it(page))
            .map(|(root, _)| root.clone())
    }

    fn stray(&mut self, task: &TaskId) {
        if self.strays.len() == STRAYS {
            self.strays.pop_front();
        }
        self.strays.push_back(task.clone());
    }

    /// Tasks that were revoked and whose jobs are not known.
    pub fn strays(&self) -> Vec<TaskId> {
        self.strays.iter().cloned().collect()
    }

    /// Events were missed: which tasks are unfinished is not known any more.
    pub fn forget_unfinished(&mut self) {
        self.unfinished.clear();
        self.gaps += 1;
        for page in self.jobs.values_mut() {
            page.unfinished = 0;
            page.is_broken = true;
        }
    }

    /// Events of the job may have been missed: an earlier run has published it.
    pub fn mark_broken(&mut self, root: &TaskId) {
        if let Some(page) = self.jobs.get_mut(root) {
            page.is_broken = true;
        }
    }

    /// Messages of these tasks of the job were seen in a queue: should they vanish, the tasks are lost.
    pub fn note_waiting(&mut self, root: &TaskId, tasks: &[TaskId]) {
        if let Some(page) = self.jobs.get_mut(root) {
            let room = ENDED.saturating_sub(page.seen_waiting.len());
            page.seen_waiting.extend(tasks.iter().take(room).cloned());
        }
    }

    /// Whether a worker has taken `task` and it has not ended.
    pub fn is_unfinished(&self, task: &TaskId) -> bool {
        self.unfinished.contains_key(task)
    }

    /// Tasks of the job's header whose end was not seen; `None` where the header is not known.
    pub fn open_header(&self, root: &TaskId) -> Option<Vec<TaskId>> {
        let header = self.header(root)?;
        Some(header.open().cloned().collect())
    }

    fn header(&self, root: &TaskId) -> Option<&Header> {
        self.jobs.get(root)?.header.as_ref()
    }

    /// Tasks of the job's header that have failed.
    pub fn failed_chunks(&self, root: &TaskId) -> FailedChunks {
        let header = self.header(root);
        header.map(|header| header.failed().clone()).unwrap_or_default()
    }

    /// Signs of the job that tasks of its header are lost, or have failed.
    pub fn loss_signs(&self, root: &TaskId) -> LossSigns {
        let header = self.header(root);
        LossSigns {
            failed: header.map_or(0, |header| header.failed().count),
            rejected: header.map_or(0, Header::rejected),
            gaps: self.gaps,
        }
    }

    /// Tasks of the job's header that would be in a queue or at a worker if they were not lost; none where that is not known.
    pub fn loss_candidates(&self, root: &TaskId) -> Vec<TaskId> {
        let header = self.header(root);
        header.map(Header::candidates).unwrap_or_default()
    }

    /// Remembers tasks of the job's header that were found nowhere.
    pub fn suspect(&mut self, root: &TaskId, tasks: impl IntoIterator<Item = TaskId>) {
        if let Some(header) = self.jobs.get_mut(root).and_then(|page| page.header.as_mut()) {
            header.suspect(tasks);
        }
    }

    /// Those of which no event has come since.
    pub fn suspects(&self, root: &TaskId) -> Vec<TaskId> {
        let header = self.header(root);
        header.map(Header::suspects).unwrap_or_default()
    }

    /// The job's tasks besides its dispatch task.
    pub fn tasks(&self, root: &TaskId) -> EventTasks {
        let unfinished = self.unfinished(root).into_iter().filter(|task| task != root).collect();
        match self.jobs.get(root) {
            Some(page) => EventTasks {
                ended: page.ended.iter().map(|(task, end)| (task.clone(), *end)).collect(),
                unfinished,
                seen_waiting: page.seen_waiting.iter().cloned().collect(),
                first_failure: page.first_failure.as_ref().map(|(_, text)| text.clone()),
                is_broken: page.is_broken,
                is_silent: page.changes == 0,
            },
            None => EventTasks {
                unfinished,
                is_broken: true,
                is_silent: true,
                ..EventTasks::default()
            },
        }
    }

    pub fn owner(&self, task: &TaskId) -> Owner {
        match self.unfinished.get(task) {
            Some(root) => Owner::Job(root.clone()),
            None if self.foreign.contains(task) => Owner::Foreign,
            None => Owner::Unknown,
        }
    }

    /// How a watched task ended, once its event was seen.
    pub fn end_of(&self, root: &TaskId, task: &TaskId) -> Option<EventEnd> {
        self.jobs.get(root)?.watched.get(task)?.clone()
    }

    /// The ends of the job's chunks since this was asked last, of a flood the latest.
    pub fn take_ends(&mut self, root: &TaskId) -> VecDeque<ChunkEnd> {
        self.jobs
            .get_mut(root)
            .map(|page| std::mem::take(&mut page.ends))
            .unwrap_or_default()
    }

    /// Rises with every event of the job.
    pub fn changes(&self, root: &TaskId) -> u64 {
        self.jobs.get(root).map_or(0, |page| page.changes)
    }

    /// The job's tasks besides its dispatch task.
    pub fn tally(&self, root: &TaskId) -> Tally {
        let page = self.jobs.get(root);
        Tally {
            succeeded: page.map_or(0, |page| page.succeeded),
            failed: page.map_or(0, |page| page.failed),
            unfinished: page.map_or(0, |page| page.unfinished),
            header: page.and_then(JobPage::header),
        }
    }

    /// Tasks of the job that a worker has taken and that have not ended, the dispatch task included.
    pub fn unfinished(&self, root: &TaskId) -> Vec<TaskId> {
        self.unfinished
            .iter()
            .filter(|(_, owner)| *owner == root)
            .map(|(task, _)| task.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TaskId {
        TaskId::from(text)
    }

    #[test]
    fn tasks_are_joined_to_their_job_by_the_root_they_were_received_with() {
        let mut ledger = Ledger::default();
        ledger.open(&id("root"));
        ledger.watch(&id("root"), &id("root"));
        ledger.watch(&id("root"), &id("callback"));
        ledger.know_foreign([id("old")]);
        assert_eq!(ledger.received(id("root"), id("root")), Some(id("root")));
        assert_eq!(ledger.received(id("a"), id("root")), Some(id("root")));
        assert_eq!(ledger.received(id("b"), id("root")), Some(id("root")));
        assert_eq!(ledger.received(id("x"), id("stranger")), None);
        assert_eq!(ledger.moved(&id("a")), Some(id("root")));
        assert_eq!(ledger.moved(&id("x")), None);
        assert_eq!(ledger.ended(&id("root"), EventEnd::Succeeded("None")), Some(id("root")));
        assert_eq!(
            ledger.ended(&id("a"), EventEnd::Failed("ValueError()")),
            Some(id("root"))
        );
        assert_eq!(
            ledger.tally(&id("root")),
            Tally {
                succeeded: 0,
                failed: 1,
                unfinished: 1,
                header: None
            }
        );
        assert_eq!(ledger.owner(&id("b")), Owner::Job(id("root")));
        assert_eq!(ledger.owner(&id("x")), Owner::Job(id("stranger")));
        assert_eq!(ledger.owner(&id("old")), Owner::Foreign);
        assert_eq!(ledger.owner(&id("new")), Owner::Unknown);
        assert_eq!(
            ledger.end_of(&id("root"), &id("root")),
            Some(EventEnd::Succeeded("None".into()))
        );
        assert_eq!(ledger.end_of(&id("root"), &id("callback")), None);
        assert_eq!(ledger.end_of(&id("root"), &id("a")), None, "not watched");
        ledger.watch(&id("root"), &id("a"));
        assert_eq!(
            ledger.end_of(&id("root"), &id("a")),
            Some(EventEnd::Failed("ValueError()".into()))
        );
        assert_eq!(ledger.changes(&id("root")), 6);
        assert_eq!(ledger.unfinished(&id("root")), [id("b")]);
    }

    #[test]
    fn what_is_in_hand_is_counted_as_it_comes_and_goes() {
        let mut ledger = Ledger::default();
        let in_hand = |ledger: &Ledger| ledger.tally(&id("root")).unfinished;
        ledger.received(id("before"), id("root"));
        ledger.open(&id("root"));
        ledger.open(&id("root"));
        assert_eq!(in_hand(&ledger), 1, "of a job that is picked up");
        ledger.received(id("root"), id("root"));
        ledger.received(id("a"), id("root"));
        ledger.received(id("a"), id("root"));
        assert_eq!(in_hand(&ledger), 2, "delivered again it is one task");
        ledger.ended(&id("root"), EventEnd::Succeeded("None"));
        ledger.ended(&id("a"), EventEnd::Succeeded("1"));
        ledger.ended(&id("a"), EventEnd::Succeeded("1"));
        assert_eq!(in_hand(&ledger), 1);
        ledger.forget_unfinished();
        ledger.ended(&id("before"), EventEnd::Succeeded("1"));
        assert_eq!(in_hand(&ledger), 0);
    }

    #[test]
    fn a_flood_of_tasks_is_not_remembered_without_end() {
        let mut ledger = Ledger::default();
        ledger.open(&id("root"));
        for number in 0..UNFINISHED + 1000 {
            ledger.received(TaskId::from(format!("stranger-{number}")), id("strangers"));
        }
        assert_eq!(ledger.unfinished.len(), UNFINISHED);
        assert_eq!(ledger.received(id("ours"), id("root")), Some(id("root")));
        assert_eq!(ledger.owner(&id("ours")), Owner::Unknown);
        ledger.forget_unfinished();
        ledger.received(id("ours"), id("root"));
        assert_eq!(ledger.owner(&id("ours")), Owner::Job(id("root")));
    }

    #[test]
    fn an_end_is_counted_once_and_only_after_its_task_was_received() {
        let mut ledger = Ledger::default();
        ledger.open(&id("root"));
        assert_eq!(ledger.ended(&id("a"), EventEnd::Succeeded("1")), None);
        ledger.received(id("a"), id("root"));
        ledger.ended(&id("a"), EventEnd::Succeeded("1"));
        ledger.ended(&id("a"), EventEnd::Succeeded("1"));
        assert_eq!(
            ledger.tally(&id("root")),
            Tally {
                succeeded: 1,
                failed: 0,
                unfinished: 0,
                header: None
            }
        );
        ledger.received(id("b"), id("root"));
        ledger.know_header(&id("root"), &[id("a"), id("b"), id("c")]);
        assert_eq!(ledger.tally(&id("root")).header, Some((1, 3)), "one ended before");
        ledger.ended(&id("b"), EventEnd::Failed("no"));
        assert_eq!(ledger.tally(&id("root")).header, Some((2, 3)));
        ledger.close(&id("root"));
        assert_eq!(ledger.tally(&id("root")), Tally::default());
    }

    #[test]
    fn ends_of_chunks_are_handed_out_once_and_of_a_flood_the_latest() {
        let mut ledger = Ledger::default();
        ledger.open(&id("root"));
        ledger.watch(&id("root"), &id("callback"));
        let mut end = |task: &str, end, seconds: Option<u64>| {
            ledger.received(id(task), id("root"));
            ledger.ended_after(&id(task), end, seconds.map(Duration::from_secs));
        };
        // Neither the dispatch task nor the callback is a chunk.
        end("root", EventEnd::Succeeded("None"), Some(1));
        end("callback", EventEnd::Succeeded("None"), Some(1));
        end("a", EventEnd::Succeeded("1"), Some(2));
        end("b", EventEnd::Failed("no"), None);
        end("c", EventEnd::Revoked("expired"), None);
        let ends = ledger.take_ends(&id("root"));
        let told: Vec<_> = ends.iter().map(|end| (end.succeeded, end.runtime)).collect();
        let two = Some(Duration::from_secs(2));
        assert_eq!(told, [(true, two), (false, None), (false, None)]);
        assert!(ledger.take_ends(&id("root")).is_empty(), "asked for before");
        for number in 0..1000 {
            let task = TaskId::from(format!("flood-{number}"));
            ledger.received(task.clone(), id("root"));
            ledger.ended_after(&task, EventEnd::Succeeded("1"), Some(Duration::from_secs(number)));
        }
        let ends = ledger.take_ends(&id("root"));
        assert_eq!(ends.len(), RECENT);
        assert_eq!(ends.back().and_then(|end| end.runtime), Some(Duration::from_secs(999)));
    }
}
