//! What all jobs being followed at one time share: one stream of task events, the number of pool slots, and one search
//! for what is left of them.
//!
//! Nothing here runs by itself: [`Desk::serve`] is polled beside the jobs and dropped with them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use super::context::Context;
use super::deaths::{Deadly, Deaths};
use super::facts::Tally;
use super::ghosts;
use super::in_flight::InFlight;
use super::inventory::EventTasks;
use super::ledger::{EventEnd, Ledger, Owner};
use super::queue_watch::QueueWatch;
use super::vitals::{AtWork, ChunkEnd};
use crate::celery::{
    self, Batch, Census, Consumers, Control, EventStream, Execution, News, NodeName, Replies, RunningTask, Scheduled,
    Signal, Stats, Target, TaskId, TaskNews,
};
use crate::run::{self, Level};

/// How long workers have to tell about themselves.
const WORKER_DEADLINE: Duration = Duration::from_secs(1);
/// Workers are asked again this often, and whenever one comes or goes.
const MEET_EVERY: Duration = Duration::from_secs(30);
/// After events could not be subscribed to.
const RESUBSCRIBE_AFTER: Duration = Duration::from_secs(1);
/// Between the two looks that make sure that nothing is left of a job.
pub(super) const SECOND_LOOK_AFTER: Duration = Duration::from_secs(1);
/// So long after a change, and this often, workers are told what must not run.
const BAN_PATIENCE: Duration = Duration::from_secs(10);
const BAN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// So long after a disruption it is watched what the processes of the pools go on with.
const HUNT_PATIENCE: Duration = Duration::from_secs(120);
const HUNT_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// The same for a job of which nothing was heard and that has tasks in workers by their lists: long enough for two looks.
const QUIET_HUNT_PATIENCE: Duration = Duration::from_secs(2);

/// Whether anything of a job is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    Something,
    /// Looked at twice.
    Nothing,
    /// Something could not be looked at.
    Unsure(String),
    /// All that is left waits in queues that no worker consumes, and no worker has come to consume them; says which.
    Unconsumed(String),
}

/// Who waits for news of each job. Looked up with each event.
type Pages = foldhash::HashMap<TaskId, Arc<Notify>>;

/// What events have told; both are asked with each of them.
#[derive(Default)]
pub(super) struct Books {
    pub ledger: Ledger,
    deaths: Deaths,
}

/// See the module.
pub struct Desk {
    pub(super) context: Context,
    books: Mutex<Books>,
    pages: Mutex<Pages>,
    /// Where tasks may wait: those that are configured, published to, or consumed by any worker.
    queues: Mutex<BTreeSet<String>>,
    slots: AtomicU64,
    /// Events were missed: shared workers are to be asked what they hold.
    holders_unknown: AtomicBool,
    workers_changed: Notify,
    /// Connections broke, or a worker died.
    disrupted: Notify,
    /// A job that is searched for is left in workers by what they list.
    is_listed: Notify,
    /// A worker has put a task back.
    put_back: Notify,
    /// Must not run, whichever worker comes to have them: workers forget what was revoked, or were not there to hear it.
    banned: Mutex<BTreeSet<TaskId>>,
    bans_due: Notify,
    /// Processes of each worker's pool.
    pools: Mutex<HashMap<NodeName, HashSet<u32>>>,
    /// The last census, when it began, and whether it looked everywhere.
    pub(super) census: tokio::sync::Mutex<Option<(Instant, bool, Arc<Census>)>>,
    queue_watch: Mutex<QueueWatch>,
    stream: tokio::sync::Mutex<Option<EventStream>>,
}

impl Desk {
    /// Subscribes to events and asks the workers what they are at; takes a few milliseconds, and with a Redis or workers
    /// that do not answer some seconds at most. What could not be learnt is made up for later.
    pub async fn open(context: &Context) -> Self {
        // First the subscription: what is received from now on is seen, what is at work before is foreign.
        let stream = match context.celery.events().await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::warn!(%error, "no task events for now");
                None
            }
        };
        let control = context.celery.control();
        let all = &Target::All;
        let (active, reserved, scheduled) = tokio::join!(
            control.active(all, WORKER_DEADLINE),
            control.reserved(all, WORKER_DEADLINE),
            control.scheduled(all, WORKER_DEADLINE),
        );
        note_holders(context, &active, &reserved, &scheduled);
        let mut ledger = Ledger::default();
        // Where jobs are picked up, what is at work may be theirs: it is nobody's until its job is known.
        let (active, reserved, scheduled) = if context.earlier.is_empty() {
            (active.ok(), reserved.ok(), scheduled.ok())
        } else {
            (None, None, None)
        };
        for replies in [active, reserved].into_iter().flatten() {
            ledger.know_foreign(
                replies
                    .good()
                    .flat_map(|(_, tasks)| tasks.iter().map(|task| task.id.clone())),
            );
        }
        for replies in scheduled.into_iter() {
            ledger.know_foreign(
                replies
                    .good()
                    .flat_map(|(_, tasks)| tasks.iter().map(|task| task.request.id.clone())),
            );
        }
        let desk = Self {
            context: context.clone(),
            books: Mutex::new(Books {
                ledger,
                deaths: Deaths::default(),
            }),
            pages: Mutex::default(),
            queues: Mutex::new(context.queues.iter().cloned().collect()),
            slots: AtomicU64::new(0),
            holders_unknown: AtomicBool::new(false),
            workers_changed: Notify::new(),
            disrupted: Notify::new(),
            is_listed: Notify::new(),
            put_back: Notify::new(),
            banned: Mutex::default(),
            bans_due: Notify::new(),
            pools: Mutex::default(),
            census: tokio::sync::Mutex::default(),
            queue_watch: Mutex::default(),
            stream: tokio::sync::Mutex::new(stream),
        };
        desk.meet_workers().await;
        desk
    }

    /// Keeps everything up to date for as long as it is polled.
    pub async fn serve(&self) -> Infallible {
        tokio::select! {
            never = self.read_events() => never,
            never = self.keep_meeting() => never,
            never = self.hunt_ghosts() => never,
            never = self.revoke_deadly() => never,
            never = self.revoke_banned() => never,
            never = Box::pin(self.watch_for_unconsumed()) => never,
        }
    }

    /// Begins a job's page; do so before its first task is published.
    pub fn page(&self, root: &TaskId) -> Page<'_> {
        self.books().ledger.open(root);
        let changed = Arc::new(Notify::new());
        self.pages().insert(root.clone(), Arc::clone(&changed));
        Page {
            desk: self,
            root: root.clone(),
            changed,
        }
    }

    pub(super) fn in_flight(&self) -> &InFlight {
        &self.context.in_flight
    }

    pub(super) fn control(&self) -> Control {
        self.context.celery.control()
    }

    pub(super) fn ghosts(&self) -> HashSet<Execution> {
        self.context.ghosts.all()
    }

    pub(super) fn owner(&self, task: &TaskId) -> Owner {
        self.books().ledger.owner(task)
    }

    /// Pool slots of all workers that answered last, but for those that do one site's tasks only; 0 when none ever did.
    pub fn slots(&self) -> u64 {
        self.slots.load(Ordering::Relaxed)
    }

    /// Tasks of a job that a worker has taken and that have not ended, also after its page is closed.
    pub fn unfinished(&self, root: &TaskId) -> Vec<TaskId> {
        self.books().ledger.unfinished(root)
    }

    /// Has these tasks revoked for a while from now, and whenever a worker comes or goes, running ones with SIGTERM, for as
    /// long as the desk is served.
    pub fn ban(&self, tasks: impl IntoIterator<Item = TaskId>) {
        self.banned().extend(tasks);
        self.bans_due.notify_one();
    }

    fn banned(&self) -> MutexGuard<'_, BTreeSet<TaskId>> {
        self.banned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where tasks may wait, as far as is known by now.
    pub fn queues_to_look_at(&self) -> BTreeSet<String> {
        self.queues().clone()
    }

    /// Tasks are published to these queues too.
    pub fn watch_queues(&self, queues: impl IntoIterator<Item = String>) {
        self.queues().extend(queues);
    }

    fn queues(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<NodeName, HashSet<u32>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queue_watch(&self) -> MutexGuard<'_, QueueWatch> {
        self.queue_watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first tasks of all jobs that are followed.
    pub(super) fn roots(&self) -> HashSet<TaskId> {
        self.pages().keys().cloned().collect()
    }

    async fn read_events(&self) -> Infallible {
        let mut stream = self.stream.lock().await;
        loop {
            let Some(open) = stream.as_mut() else {
                sleep(RESUBSCRIBE_AFTER).await;
                *stream = self.context.celery.events().await.ok();
                if stream.is_some() {
                    self.missed_events();
                }
                continue;
            };
            // One job's events come in a row, mostly.
            let mut touched: Vec<TaskId> = Vec::new();
            let mut note = |news: News<'_>| {
                if let Some(root) = self.note(news).filter(|root| touched.last() != Some(root)) {
                    touched.push(root);
                }
            };
            let read = open.next_news(&mut note).await;
            self.announce(&touched);
            match read {
                Ok(Batch::Events) => {}
                Ok(Batch::Gap) => self.missed_events(),
                Err(error) => {
                    tracing::warn!(%error, "no task events for now");
                    *stream = None;
                }
            }
        }
    }

    fn missed_events(&self) {
        self.holders_unknown
            .store(self.context.shared.forget_holders(), Ordering::Relaxed);
        self.books().ledger.forget_unfinished();
        self.context.event_gaps.send_modify(|gaps| *gaps += 1);
        self.workers_changed.notify_one();
        self.disrupted.notify_one();
        for changed in self.pages().values() {
            changed.notify_one();
        }
    }

    /// Wakes who follows these jobs.
    fn announce(&self, roots: &[TaskId]) {
        let pages = self.pages();
        for changed in roots.iter().filter_map(|root| pages.get(root)) {
            changed.notify_one();
        }
    }

    /// Remembers what is told; the job that it touches.
    fn note(&self, news: News<'_>) -> Option<TaskId> {
        let (id, node, event) = match news {
            News::Task { id, node, event } => (id, node, event),
            News::WorkersChanged => {
                self.workers_changed.notify_one();
                return None;
            }
        };
        match &event {
            TaskNews::Received { .. } => self.context.shared.took(node, &id),
            TaskNews::Moved => {}
            _ => self.context.shared.let_go(&id),
        }
        let mut books = self.books();
        let Books { ledger, deaths } = &mut *books;
        let mut failed = false;
        let touched = match event {
            TaskNews::Received { name, root_id } => {
                deaths.received(&id, name);
                let root = root_id.unwrap_or_else(|| id.clone());
                ledger.received(id, root)
            }
            TaskNews::PutBack => {
                let touched = ledger.moved(&id);
                // Another's task is another's matter.
                if touched.is_some() {
                    deaths.put_back(NodeName::from(node), id);
                    self.put_back.notify_one();
                }
                touched
            }
            TaskNews::Moved => ledger.moved(&id),
            TaskNews::Succeeded {
                result,
                runtime_seconds,
            } => {
                let runtime = runtime_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                deaths.ended(&id);
                ledger.ended_after(&id, EventEnd::Succeeded(result), runtime)
            }
            TaskNews::Failed(exception) => {
                failed = true;
                deaths.ended(&id);
                ledger.ended(&id, EventEnd::Failed(exception))
            }
            TaskNews::Rejected => ledger.ended(&id, EventEnd::Rejected),
            TaskNews::Revoked { expired } => {
                deaths.ended(&id);
                let message = if expired { "expired" } else { "revoked" };
                ledger.ended(&id, EventEnd::Revoked(message))
            }
        };
        drop(books);
        if failed && touched.is_some() {
            self.context.task_failed();
        }
        touched
    }

    /// Finds out why workers put tasks back, and revokes what kills its pool processes again and again.
    async fn revoke_deadly(&self) -> Infallible {
        loop {
            self.put_back.notified().await;
            let stats = self.context.celery.control().stats(&Target::All, WORKER_DEADLINE).await;
            let Ok(stats) = stats else { continue };
            for (node, stats) in stats.good() {
                let now: HashSet<u32> = stats.pool_processes.iter().copied().collect();
                let before = self.pools().insert(node.clone(), now.clone()).unwrap_or_default();
                let deadly = self.books().deaths.judge(node, &before, &now);
                if !deadly.is_empty() {
                    self.revoke(&deadly).await;
                }
            }
        }
    }

    /// A worker that is restarted forgets revocations; the next death tells again.
    async fn revoke(&self, deadly: &[Deadly]) {
        for Deadly { task, name, deaths } in deadly {
            let name = name.as_deref().unwrap_or("of unknown name");
            let message = format!(
                "task {task} ({name}) has lost its pool process {deaths} times (was it killed for want of memory?); it \
                 is revoked and counts as an error\n  hint:  the worker's log names the signal"
            );
            let level = Level::Warning;
            self.context.recorder.emit(run::EventKind::Noticed { level, message });
        }
        let tasks: Vec<TaskId> = deadly.iter().map(|deadly| deadly.task.clone()).collect();
        // Without a signal: what has begun already ends by its own doing, and the next delivery is refused.
        let control = self.context.celery.control();
        let told = control.revoke(&tasks, None, &Target::All, WORKER_DEADLINE);
        if let Err(error) = told.await {
            tracing::warn!(%error, ?tasks, "revoke what kills its pool processes");
        }
    }

    async fn keep_meeting(&self) -> Infallible {
        let mut deaths = self.context.worker_deaths.clone();
        loop {
            let changed = tokio::select! {
                () = self.workers_changed.notified() => true,
                () = sleep(MEET_EVERY) => false,
                Ok(()) = deaths.changed() => {
                    self.disrupted.notify_one();
                    true
                }
            };
            if changed {
                self.bans_due.notify_one();
            }
            self.meet_workers().await;
        }
    }

    /// A worker that says it is there does not hear yet: it is told again and again for a while.
    async fn revoke_banned(&self) -> Infallible {
        loop {
            self.bans_due.notified().await;
            let give_up = Instant::now() + BAN_PATIENCE;
            while Instant::now() < give_up {
                let tasks: Vec<TaskId> = self.banned().iter().cloned().collect();
                if tasks.is_empty() {
                    break;
                }
                self.revoke_and_terminate(tasks).await;
                sleep(BAN_AGAIN_AFTER).await;
            }
        }
    }

    /// Ends what runs of these tasks; those that their processes have left behind are not to be begun again, and no more.
    async fn revoke_and_terminate(&self, tasks: Vec<TaskId>) {
        let left_behind = self.left_behind(WORKER_DEADLINE).await;
        let (stale, rest): (Vec<TaskId>, Vec<TaskId>) = match left_behind {
            Some(left_behind) => tasks.into_iter().partition(|task| left_behind.contains(task)),
            None => (tasks, Vec::new()),
        };
        let control = self.context.celery.control();
        for (tasks, signal) in [(rest, Some(Signal::Term)), (stale, None)] {
            if tasks.is_empty() {
                continue;
            }
            if let Err(error) = control.revoke(&tasks, signal, &Target::All, WORKER_DEADLINE).await {
                tracing::debug!(%error, tasks = tasks.len(), "revoke what must not run");
            }
        }
    }

    /// Asks the workers for their pools and queues, and for their events: one that was reused may send none.
    async fn meet_workers(&self) {
        let control = self.context.celery.control();
        let all = &Target::All;
        if self.holders_unknown.swap(false, Ordering::Relaxed) {
            let (active, reserved, scheduled) = tokio::join!(
                control.active(all, WORKER_DEADLINE),
                control.reserved(all, WORKER_DEADLINE),
                control.scheduled(all, WORKER_DEADLINE),
            );
            note_holders(&self.context, &active, &reserved, &scheduled);
        }
        let (stats, queues, events) = tokio::join!(
            control.stats(all, WORKER_DEADLINE),
            control.active_queues(all, WORKER_DEADLINE),
            control.enable_events(all, WORKER_DEADLINE),
        );
        if let Err(error) = events {
            tracing::debug!(%error, "task events may be switched off");
        }
        for replies in queues.iter() {
            let consumed = replies
                .good()
                .flat_map(|(_, queues)| queues.iter().map(|queue| queue.name.clone()));
            self.queues().extend(consumed);
            self.queue_watch().know_consumers(Consumers::of(replies));
        }
        match stats {
            // A moment without workers (one is being restarted) is no news about how many there will be.
            Ok(replies) if replies.nodes.is_empty() => {}
            Ok(replies) => {
                let processes = |stats: &Stats| stats.pool_processes.iter().copied().collect();
                let pools = replies.good().map(|(node, stats)| (node.clone(), processes(stats)));
                // Before a suspect is judged the processes must stay those that were there when it ran.
                if !self.books().deaths.is_suspicious() {
                    self.pools().extend(pools);
                }
                let own = |node: &NodeName| {
                    let consumed = queues.as_ref().ok().and_then(|replies| replies.of(node));
                    consumed.is_some_and(|queues| {
                        let mut names = queues.iter().map(|queue| &queue.name);
                        !queues.is_empty() && names.all(|name| self.context.own_queues.contains(name))
                    })
                };
                let shared = replies.good().filter(|(node, _)| !own(node));
                let slots = shared.map(|(_, stats)| stats.pool_slots).sum();
                self.slots.store(slots, Ordering::Relaxed);
            }
            Err(error) => tracing::debug!(%error, "pool slots cannot be counted"),
        }
    }

    /// After connections broke or a worker died, and for a job that is searched for: watches for a while what the processes
    /// of the pools go on with. A worker forgets no task either whose end it could not write down.
    async fn hunt_ghosts(&self) -> Infallible {
        loop {
            let patience = tokio::select! {
                () = self.disrupted.notified() => HUNT_PATIENCE,
                () = self.is_listed.notified() => QUIET_HUNT_PATIENCE,
            };
            let give_up = Instant::now() + patience;
            while Instant::now() < give_up {
                self.left_behind(WORKER_DEADLINE).await;
                sleep(HUNT_AGAIN_AFTER).await;
            }
        }
    }

    /// Asks what workers run; returns the tasks among it that their processes have left behind, seem to have left, or may have
    /// left because their worker does not say what its processes do. A signal for one of these can hit another task that the
    /// process runs by now. `None`: no worker could be asked.
    pub(super) async fn left_behind(&self, within: Duration) -> Option<HashSet<TaskId>> {
        let control = self.control();
        // First what is listed, then the processes: what is not there any more has ended what it was listed with.
        let running = control.active(&Target::All, within).await.ok()?;
        let stats = control.stats(&Target::All, within).await.ok()?;
        let mut unknown = HashSet::new();
        for (node, running) in running.good() {
            // Of two workers with one name it is not known whose answer is whose.
            match stats.of(node).filter(|_| !stats.shared.contains_key(node)) {
                Some(stats) => self.spot_ghosts(node, running, stats),
                None => unknown.extend(running.iter().map(|task| task.id.clone())),
            }
        }
        unknown.extend(self.context.ghosts.left_behind());
        Some(unknown)
    }

    fn spot_ghosts(&self, node: &NodeName, running: &[RunningTask], stats: &Stats) {
        let pool = stats.pool_processes.iter().copied().collect();
        let idle = celery::idle_processes(node, stats);
        let stale = self.context.ghosts.see(node, running, (&pool, &idle), Instant::now());
        if let Some(message) = ghosts::notice(node, &stale) {
            self.context.recorder.emit(run::EventKind::Noticed {
                level: Level::Warning,
                message,
            });
        }
    }
}

/// Notes what shared workers hold by their own account.
fn note_holders(
    context: &Context,
    active: &celery::Result<Replies<Vec<RunningTask>>>,
    reserved: &celery::Result<Replies<Vec<RunningTask>>>,
    scheduled: &celery::Result<Replies<Vec<Scheduled>>>,
) {
    for (node, tasks) in scheduled.iter().flat_map(Replies::good) {
        for task in tasks {
            context.shared.took(node.as_str(), &task.request.id);
        }
    }
    for replies in [active, reserved].into_iter().flatten() {
        for (node, tasks) in replies.good() {
            for task in tasks {
                context.shared.took(node.as_str(), &task.id);
            }
        }
    }
}

/// One job's part of the desk; dropping it ends that.
pub struct Page<'d> {
    pub(super) desk: &'d Desk,
    pub(super) root: TaskId,
    changed: Arc<Notify>,
}

impl Page<'_> {
    /// Rises with every event of the job.
    pub(super) fn changes(&self) -> u64 {
        self.desk.books().ledger.changes(&self.root)
    }

    /// Waits for the next event of the job, or until events may have been missed. Safe to cancel.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Remembers the end of `task` from now on.
    pub fn watch(&self, task: &TaskId) {
        self.desk.books().ledger.watch(&self.root, task);
    }

    /// How a watched task ended by its event.
    pub fn end_of(&self, task: &TaskId) -> Option<EventEnd> {
        self.desk.books().ledger.end_of(&self.root, task)
    }

    /// The tasks of the job's chord.
    pub fn know_header(&self, tasks: &[TaskId]) {
        self.desk.books().ledger.know_header(&self.root, tasks);
    }

    /// The ends of the job's chunks since this was asked last.
    pub fn take_ends(&self) -> impl Iterator<Item = ChunkEnd> + use<> {
        self.desk.books().ledger.take_ends(&self.root).into_iter()
    }

    /// What workers are at of the job; `known` are tasks that are known to be its own.
    pub async fn at_work(&self, known: &HashSet<TaskId>) -> AtWork {
        self.desk.at_work(&self.root, known).await
    }

    pub fn tally(&self) -> Tally {
        self.desk.books().ledger.tally(&self.root)
    }

    /// Tasks of the job that a worker has taken and that have not ended.
    pub fn unfinished(&self) -> Vec<TaskId> {
        self.desk.books().ledger.unfinished(&self.root)
    }

    /// Events of the job may have been missed: an earlier run has published it.
    pub fn mark_broken(&self) {
        self.desk.books().ledger.mark_broken(&self.root);
    }

    /// Whether a worker has taken `task` and it has not ended.
    pub fn is_unfinished(&self, task: &TaskId) -> bool {
        self.desk.books().ledger.is_unfinished(task)
    }

    /// Tasks of the chord's header whose end was not seen; `None` where the header is not known.
    pub fn open_header(&self) -> Option<Vec<TaskId>> {
        self.desk.books().ledger.open_header(&self.root)
    }

    /// Tasks that were revoked and whose jobs are not known.
    pub fn strays(&self) -> Vec<TaskId> {
        self.desk.books().ledger.strays()
    }

    /// The job's tasks besides its dispatch task, by their events.
    pub fn tasks(&self) -> EventTasks {
        self.desk.books().ledger.tasks(&self.root)
    }

    /// Whether anything of the job is queued, unacknowledged or in a worker; `known` are tasks that are known to be its
    /// own. Takes more than a second when nothing is.
    pub async fn left(&self, known: &HashSet<TaskId>) -> Left {
        let changes = || self.desk.books().ledger.changes(&self.root);
        let before = changes();
        let first = self.look(known).await;
        if first != Left::Nothing {
            return first;
        }
        sleep(SECOND_LOOK_AFTER).await;
        let second = self.look(known).await;
        if second == Left::Nothing && changes() != before {
            Left::Something
        } else {
            second
        }
    }

    async fn look(&self, known: &HashSet<TaskId>) -> Left {
        if !self.desk.context.workers_settled.now() {
            return Left::Unsure("a worker is being started or stopped".to_owned());
        }
        // The known queues come first: a search through the whole broker costs more.
        for everywhere in [false, true] {
            let census = match Box::pin(self.desk.survey(everywhere)).await {
                Ok(census) => census,
                Err(error) => return Left::Unsure(error.to_string()),
            };
            let left = self.judge(&census, known);
            if left != Left::Nothing {
                return left;
            }
            if let Some(left) = self.desk.left_in_unconsumed_queues(&self.root) {
                return left;
            }
        }
        Left::Nothing
    }

    /// Has it found out whether the tasks still run.
    fn listed(&self) -> Left {
        self.desk.is_listed.notify_one();
        Left::Something
    }

    fn judge(&self, census: &Census, known: &HashSet<TaskId>) -> Left {
        if let Some(waiting) = census.messages.get(&self.root) {
            self.desk.books().ledger.note_waiting(&self.root, waiting);
            return Left::Something;
        }
        if let Some(node) = self.desk.context.shared.living_beyond(&census.answered) {
            return Left::Unsure(format!("worker {node} lives and has not said what it holds"));
        }
        let mut unknown = None;
        let books = self.desk.books();
        for task in &census.held {
            match books.ledger.owner(task) {
                Owner::Job(root) if root == self.root => return self.listed(),
                _ if known.contains(task) => return self.listed(),
                Owner::Job(_) | Owner::Foreign => {}
                Owner::Unknown => unknown = Some(format!("a worker is at task {task}, which may belong to the job")),
            }
        }
        match unknown.or_else(|| census.unseen.clone()) {
            Some(reason) => Left::Unsure(reason),
            None => Left::Nothing,
        }
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        self.desk.books().ledger.close(&self.root);
        self.desk.pages().remove(&self.root);
    }
}
