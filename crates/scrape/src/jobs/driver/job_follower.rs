//! The follower itself: its subscriptions, the inputs to the state machine, and the steps that a new stage needs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::jobs::context::JobContext;
use crate::jobs::file_stamp::FileStamp;
use crate::jobs::follow_request::{FollowRequest, JobUpdate};
use crate::jobs::header::LossSigns;
use crate::jobs::inputs::{JobFact, JobInput, ListedTasks};
use crate::jobs::monitor::subscription::JobSubscription;
use crate::jobs::monitor::worker_monitor::WorkerMonitor;
use crate::jobs::outcome::{HeaderCheck, HeaderLoss};
use crate::jobs::progress_keys::ProgressKeyValues;
use crate::jobs::signals::JobSignal;
use crate::jobs::state_machine::{JobStage, JobStateMachine};
use orch_base::files::watch::FileWatch;
use orch_celery::{ChordProgress, GroupId, ResultWatch, TaskId};
use orch_journal::{ProgressSource, SiteCounts};

/// Time without an event after which orch searches for the job.
pub(super) const SEARCH_DELAY: Duration = Duration::from_secs(10);
/// Time after which a search that could not look everywhere is repeated.
pub(super) const UNSURE_RETRY_DELAY: Duration = Duration::from_secs(2);

/// Time in which a worker must take the callback of a chord after the header has ended, before orch searches for the
/// callback.
pub(super) const CALLBACK_GRACE: Duration = Duration::from_secs(2);

/// Follower of one job, from before the job is published to the end of the job.
pub struct JobFollower<'a> {
    pub(super) context: &'a JobContext,
    pub(super) subscription: Arc<JobSubscription<'a>>,
    pub(super) monitor: &'a WorkerMonitor,
    pub(super) request: FollowRequest<'a>,
    pub(super) machine: JobStateMachine,
    pub(super) dispatch: Option<ResultWatch>,
    pub(super) callback: Option<ResultWatch>,
    /// Header of the chord, as the dispatch task's result names it.
    pub(super) group: Option<GroupId>,
    /// Tasks that the dispatch task's result lists as its children.
    pub(super) listed: Option<Arc<ListedTasks>>,
    /// Result of the comparison of the header's tasks when the callback was first seen.
    pub(super) header_check: Option<HeaderCheck>,
    pub(super) chord: Option<ChordProgress>,
    pub(super) keys: Option<ProgressKeyValues>,
    pub(super) reported: Option<(SiteCounts, ProgressSource)>,
    pub(super) worker_exits: u64,
    /// Time of the first event of the job after the last reading of the progress.
    pub(super) changed_at: Option<Instant>,
    pub(super) begun: Instant,
    pub(super) progress_read_at: Option<Instant>,
    pub(super) search_at: Instant,
    /// Time at which workers are asked which tasks of the job they run.
    pub(super) query_at: Option<Instant>,
    /// Time at which a task counts as having no result, after an event has reported the end of the task.
    pub(super) final_results_at: Option<Instant>,
    pub(super) file_watch: Option<FileWatch>,
    pub(super) are_results_unreadable: bool,
    /// Tasks of the chord's header that are known to be lost.
    pub(super) loss: HeaderLoss,
    pub(super) loss_signs: LossSigns,
    /// Number of the job's events that were handled.
    pub(super) changes: u64,
    /// Time at which lost tasks of the header are searched, and the delay of a search that could not look everywhere.
    pub(super) loss_search_at: Option<Instant>,
    pub(super) loss_search_delay: Duration,
    /// A worker has died, and no search for the job has ended since.
    pub(super) has_unsearched_death: bool,
}

impl<'a> JobFollower<'a> {
    /// Subscribes to everything; publish the job after this call.
    pub fn new(context: &'a JobContext, monitor: &'a WorkerMonitor, request: FollowRequest<'a>) -> Self {
        let subscription = Arc::new(monitor.subscribe(&request.root, request.failures.clone()));
        subscription.watch(&request.dispatch);
        if request.rules.picked_up {
            subscription.mark_incomplete();
        }
        let machine = JobStateMachine::begin(request.rules.clone(), slots(&request, monitor));
        context
            .in_flight
            .note_job(&request.root, &request.dispatch, machine.job());
        let now = Instant::now();
        // The job of an earlier run may be long gone: search at once.
        let picked_up = request.rules.picked_up;
        Self {
            context,
            subscription,
            monitor,
            dispatch: Some(context.celery.results().watch(&request.dispatch)),
            machine,
            callback: None,
            group: None,
            listed: None,
            header_check: None,
            chord: None,
            keys: None,
            reported: None,
            worker_exits: *context.worker_exits.borrow(),
            changed_at: Some(now),
            begun: now,
            progress_read_at: None,
            search_at: if picked_up {
                now
            } else {
                context.tick.at_or_after(now + SEARCH_DELAY)
            },
            query_at: request.poll_workers_after.map(|after| now + after),
            final_results_at: None,
            file_watch: None,
            are_results_unreadable: false,
            loss: HeaderLoss::default(),
            loss_signs: LossSigns::default(),
            changes: 0,
            loss_search_at: None,
            loss_search_delay: UNSURE_RETRY_DELAY,
            has_unsearched_death: false,
            request,
        }
    }

    /// Reports the first failures of signatures that are new.
    pub(super) fn report_failures(&self, report: &mut (dyn FnMut(JobUpdate) + Send)) {
        for failure in self.request.failures.take_new() {
            let place = self.header().iter().position(|task| *task == failure.task);
            let chunk = place.and_then(|place| u64::try_from(place + 1).ok());
            report(JobUpdate::TaskFailed { failure, chunk });
        }
    }

    /// Forgets the job, which was never published.
    pub fn abandon(self) {
        self.context.in_flight.forget_job(&self.request.root);
    }

    /// Applies an input to the state machine and reports the facts that the state machine returns.
    pub(super) fn apply(&mut self, input: JobInput, report: &mut (dyn FnMut(JobUpdate) + Send)) {
        let now = Instant::now();
        let (machine, facts) = self.machine.clone().step(input, now);
        self.machine = machine;
        for fact in facts {
            let entered = matches!(fact, JobFact::StageEntered { .. });
            report(JobUpdate::Fact(fact));
            if entered {
                self.stage_entered(now);
            }
        }
        self.apply_header_check(report);
        self.check_file(report);
    }

    fn stage_entered(&mut self, now: Instant) {
        let job = self.machine.job();
        self.context
            .in_flight
            .note_job(&self.request.root, &self.request.dispatch, job);
        self.progress_read_at = None;
        match self.machine.stage() {
            JobStage::Chord { chord_id, .. } => {
                let callback = TaskId::from(chord_id.as_str());
                self.subscription.watch(&callback);
                self.callback = Some(self.context.celery.results().watch(&callback));
                self.search_at = if self.request.rules.picked_up {
                    now
                } else {
                    self.next_search(now)
                };
                if !self.request.rules.picked_up {
                    // No chunk is done yet, and many a job is over when the first reading would be due.
                    self.progress_read_at = Some(now);
                }
            }
            // Nothing announces the end in these stages, and the end may have come already.
            JobStage::ProgressKeys { .. } | JobStage::TaskEvents => self.search_at = now,
            JobStage::FileTime => {
                self.search_at = now;
                self.file_watch = self
                    .request
                    .pool_file
                    .as_ref()
                    .and_then(|(file, _)| FileWatch::new(file).ok());
            }
            JobStage::Dispatch | JobStage::Ended(_) => {}
        }
    }

    /// Returns the tasks of the only chord that was started; empty if there is no such chord.
    pub(super) fn header(&self) -> &[TaskId] {
        self.listed.as_deref().and_then(ListedTasks::header).unwrap_or_default()
    }

    pub(super) fn apply_header_check(&mut self, report: &mut (dyn FnMut(JobUpdate) + Send)) {
        if self.machine.wants_header_check()
            && let Some(check) = self.header_check.clone()
        {
            self.apply(JobInput::HeaderChecked(check), report);
        }
    }

    /// Returns when orch searches for the job if no event comes.
    pub(super) fn next_search(&self, now: Instant) -> Instant {
        if self.has_unsearched_death {
            // The last events of a dead worker arrive after the death is known.
            now + CALLBACK_GRACE
        } else {
            // All jobs that are searched for at one moment share one look at the queues and workers.
            self.context.tick.at_or_after(now + SEARCH_DELAY)
        }
    }

    /// Returns whether a named callback ends the job, and the header of that callback is all that the dispatch task
    /// started.
    pub(super) fn has_named_header(&self) -> bool {
        let is_one = self.listed.as_ref().is_some_and(|listed| listed.is_one_group());
        is_one && self.group.is_some() && self.machine.named_callback().is_some()
    }

    pub(super) fn report_signal(&mut self, vital: JobSignal, report: &mut (dyn FnMut(JobUpdate) + Send)) {
        self.postpone_query();
        report(JobUpdate::Signal(vital));
    }

    pub(super) fn postpone_query(&mut self) {
        self.query_at = self.request.poll_workers_after.map(|after| Instant::now() + after);
    }

    pub(super) fn watches_file(&self) -> bool {
        *self.machine.stage() == JobStage::FileTime
    }

    pub(super) fn check_file(&mut self, report: &mut (dyn FnMut(JobUpdate) + Send)) {
        if self.watches_file()
            && let Some((file, before)) = &self.request.pool_file
            && FileStamp::has_changed(*before, file)
        {
            self.apply(JobInput::FileChanged, report);
        }
    }

    pub(super) fn known_tasks(&self) -> HashSet<TaskId> {
        let callback = self.machine.job().chord_id.as_deref().map(TaskId::from);
        let dispatch = [self.request.root.clone(), self.request.dispatch.clone()];
        dispatch
            .into_iter()
            .chain(callback)
            .chain(self.listed.iter().flat_map(|listed| listed.all()).cloned())
            .collect()
    }

    pub(super) fn prefix(&self) -> Option<String> {
        (self.request.keys_prefix)(self.machine.job().job_id.as_ref()?)
    }
}

/// Returns the number of pool slots that execute the job's tasks, if the number is known.
pub(super) fn slots(request: &FollowRequest<'_>, monitor: &WorkerMonitor) -> u64 {
    request.slots.unwrap_or_else(|| monitor.slots())
}
