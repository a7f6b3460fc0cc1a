//! The loop that follows a job: starts each operation when it is due, waits for whichever ends first, and handles it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use super::job_follower::{CALLBACK_GRACE, JobFollower, UNSURE_RETRY_DELAY, slots};
use super::pending::{PendingOperation, done, file_changed, finished};
use super::task_ends::FinalState;
use crate::jobs::failures::stored_failures;
use crate::jobs::follow_request::{JobEnd, JobUpdate};
use crate::jobs::inputs::{JobFailure, JobInput};
use crate::jobs::monitor::loss_search::LossSearch;
use crate::jobs::monitor::remaining_work::RemainingWork;
use crate::jobs::outcome::HeaderCheck;
use crate::jobs::progress::ProgressReading;
use crate::jobs::remains;
use crate::jobs::signals::{JobSignal, WorkerActivity};
use crate::jobs::state_machine::JobStage;
use orch_celery::TaskId;

/// Time that the result of a task may come after the event of the task's end. Celery stores the result before the event
/// is sent: a result that has not come after this time will not come.
const RESULT_GRACE: Duration = Duration::from_secs(1);
/// Time between two looks at the pool file when the file cannot be watched.
const FILE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Time limit of the last reading of the counts.
const LAST_READING_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of the reading of failures from stored results.
const FAILURES_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay of a wake-up from which on orch itself must have been suspended.
const SUSPENSION_DELAY: Duration = Duration::from_secs(10);

impl<'a> JobFollower<'a> {
    /// Follows the job to the end, at the latest until two seconds after the deadline of the rules.
    pub async fn follow(mut self, report: &mut (dyn FnMut(JobUpdate) + Send)) -> JobEnd {
        let mut worker_deaths = self.context.worker_exits.clone();
        let mut reading: Option<PendingOperation<'a, orch_celery::Result<ProgressReading>>> = None;
        let mut search: Option<PendingOperation<'a, Result<Option<FinalState>, RemainingWork>>> = None;
        let mut final_results: Option<PendingOperation<'a, orch_celery::Result<FinalState>>> = None;
        let mut activity: Option<PendingOperation<'a, WorkerActivity>> = None;
        let mut check: Option<PendingOperation<'a, HeaderCheck>> = None;
        let mut loss: Option<PendingOperation<'a, LossSearch>> = None;
        let mut awake_by = Instant::now();
        while !matches!(self.machine.stage(), JobStage::Ended(_)) {
            let now = Instant::now();
            if now > awake_by + SUSPENSION_DELAY {
                activity = None;
                self.report_signal(JobSignal::Interrupted, report);
            }
            if activity.is_none() && self.query_at.is_some_and(|due| now >= due) {
                self.query_at = None;
                activity = Some(self.query_activity());
            }
            if reading.is_none() && self.progress_due().is_some_and(|due| now >= due) {
                self.changed_at = None;
                self.progress_read_at = Some(now);
                reading = Some(self.read_progress());
            }
            if search.is_none() && now >= self.search_at {
                search = Some(self.search());
            }
            if final_results.is_none() && self.final_results_at.is_some_and(|due| now >= due) {
                self.final_results_at = None;
                final_results = Some(self.read_final_state(false));
            }
            if check.is_none() && self.header_check.is_none() && self.is_callback_seen() {
                check = Some(self.check_header());
            }
            if loss.is_none() && self.loss_search_at.is_some_and(|due| now >= due) {
                loss = self.search_losses();
            }
            let subscription = Arc::clone(&self.subscription);
            let mut wake_at = self.wake_at(reading.is_none(), search.is_none(), final_results.is_none());
            if let Some(due) = self
                .loss_search_at
                .filter(|_| loss.is_none() && self.has_named_header())
            {
                wake_at = wake_at.min(due);
            }
            awake_by = wake_at;
            tokio::select! {
                biased;
                result = finished(&mut self.callback) => {
                    self.callback = None;
                    self.take_result(result, false, report);
                }
                result = finished(&mut self.dispatch) => {
                    self.dispatch = None;
                    self.take_result(result, true, report);
                }
                last = done(&mut final_results) => match last {
                    Ok(last) => self.apply_final_results(last, report),
                    Err(_) => self.final_results_at = Some(Instant::now() + UNSURE_RETRY_DELAY),
                },
                () = subscription.changed() => {
                    let changes = subscription.changes();
                    if changes == self.changes {
                        // Events were missed. That says nothing about the job, and must not put off a search for the
                        // job.
                        self.search_at = self.search_at.min(Instant::now() + CALLBACK_GRACE);
                        self.changed_at.get_or_insert_with(Instant::now);
                        self.check_loss_signs(report);
                    } else {
                        self.changes = changes;
                        search = None;
                        activity = None;
                        self.handle_event(report);
                    }
                }
                read = done(&mut reading) => match read {
                    Ok(reading) => self.take_reading(reading, report),
                    Err(error) => tracing::debug!(%error, root = %self.request.root, "could not read the progress keys"),
                },
                found = done(&mut search) => self.take_search(found, report),
                checked = done(&mut check) => {
                    self.header_check = Some(checked);
                    self.apply_header_check(report);
                }
                found = done(&mut loss) => self.take_losses(found, report),
                found = done(&mut activity) => {
                    self.postpone_query();
                    report(JobUpdate::Signal(JobSignal::WorkersPolled(found)));
                }
                Ok(()) = worker_deaths.changed() => {
                    self.search_at = Instant::now();
                    self.has_unsearched_death = true;
                    self.loss_search_at = Some(self.search_at);
                    activity = None;
                    self.report_signal(JobSignal::Interrupted, report);
                }
                () = file_changed(&mut self.file_watch), if self.watches_file() => self.check_file(report),
                () = sleep_until(wake_at.into()) => {
                    self.check_file(report);
                    report(JobUpdate::Signal(JobSignal::TimePassed));
                    self.apply(JobInput::SlotsCounted(slots(&self.request, self.monitor)), report);
                    self.apply(JobInput::Tick, report);
                }
            }
        }
        self.end(report).await
    }

    async fn end(mut self, report: &mut (dyn FnMut(JobUpdate) + Send)) -> JobEnd {
        self.context.in_flight.forget_job(&self.request.root);
        if self.group.is_some() || self.prefix().is_some() {
            // Read the app's final counts; the chord's own counters are gone by now.
            self.group = None;
            if let Ok(Ok(reading)) = timeout(LAST_READING_TIMEOUT, self.read_progress()).await {
                self.store_reading(&reading);
            }
        }
        let failure = match self.machine.stage() {
            JobStage::Ended(Err(failure)) => Some(failure.clone()),
            _ => None,
        };
        if matches!(failure, Some(JobFailure::Reported(_))) {
            self.context.task_failed();
        }
        // A job that has succeeded has no work to cancel.
        let unfinished = match &failure {
            Some(_) => self
                .known_tasks()
                .into_iter()
                .chain(self.subscription.unfinished())
                .collect(),
            None => HashSet::new(),
        };
        let (counts, _) = self.counts();
        if failure.is_some() || counts.errors.is_some_and(|errors| errors > 0) {
            self.stored_failures().await;
        }
        self.report_failures(report);
        JobEnd {
            failure,
            job: self.machine.job().clone(),
            counts,
            root: self.request.root.clone(),
            unfinished: unfinished.into_iter().collect(),
        }
    }

    /// Notes the failures that only stored results show.
    fn stored_failures(&self) -> impl Future<Output = ()> + Send + use<'a> {
        let mut tasks: Vec<TaskId> = self.known_tasks().into_iter().collect();
        // The results of a set come in random order; a fixed order makes the first failure the same in each run.
        tasks.sort();
        let results = self.context.celery.results();
        let (log, root) = (self.request.failures.clone(), self.request.root.clone());
        let subscription = Arc::clone(&self.subscription);
        async move {
            let read = stored_failures::note(&results, &subscription, &tasks, &log);
            match timeout(FAILURES_TIMEOUT, read).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, %root, "could not read the failures of tasks"),
                Err(_) => tracing::warn!(%root, "could not read the failures of tasks in time"),
            }
        }
    }

    /// Returns whether the callback runs or has run.
    fn is_callback_seen(&self) -> bool {
        let is_running = |callback| self.subscription.is_unfinished(&callback);
        self.machine.wants_header_check()
            || (!self.header().is_empty() && self.machine.job().callback().is_some_and(is_running))
    }

    fn check_header(&self) -> PendingOperation<'a, HeaderCheck> {
        let header = self.header().to_vec();
        Box::pin(remains::check_header(
            self.context.celery.results(),
            Arc::clone(&self.subscription),
            header,
        ))
    }

    /// Handles new events of the job.
    fn handle_event(&mut self, report: &mut (dyn FnMut(JobUpdate) + Send)) {
        let now = Instant::now();
        self.report_signal(JobSignal::EventReceived, report);
        self.report_failures(report);
        for end in self.subscription.take_ends() {
            report(JobUpdate::Signal(JobSignal::ChunkEnded(end)));
        }
        self.changed_at.get_or_insert_with(Instant::now);
        self.search_at = self.next_search(now);
        let callback = self.machine.job().chord_id.as_deref().map(TaskId::from);
        let awaited = [
            (self.dispatch.is_some(), Some(&self.request.dispatch)),
            (self.callback.is_some(), callback.as_ref()),
        ];
        let has_ended = |(waiting, task): (bool, Option<&TaskId>)| {
            waiting && task.is_some_and(|task| self.subscription.end_of(task).is_some())
        };
        if awaited.into_iter().any(has_ended) && self.final_results_at.is_none() {
            self.final_results_at = Some(now + RESULT_GRACE);
        }
        let unannounced = matches!(
            self.machine.stage(),
            JobStage::ProgressKeys { .. } | JobStage::TaskEvents | JobStage::FileTime
        );
        let tally = self.subscription.tally();
        let lost = u64::try_from(self.loss.lost.len()).unwrap_or(u64::MAX);
        let is_over = |(ended, size): (u64, u64)| ended.saturating_add(lost) >= size;
        if unannounced && tally.unfinished == 0 {
            self.search_at = now;
        } else if tally.unfinished <= lost && tally.header.is_some_and(is_over) {
            // Either the callback comes now, or no result is ever stored under the callback's id.
            self.search_at = now + CALLBACK_GRACE;
        }
        self.apply_unrecorded_ends(report);
        self.check_loss_signs(report);
    }

    /// Asks the workers which tasks of the job they run.
    fn query_activity(&self) -> PendingOperation<'a, WorkerActivity> {
        let (subscription, known) = (Arc::clone(&self.subscription), self.known_tasks());
        Box::pin(async move { subscription.worker_activity(&known).await })
    }

    /// Returns when the follower must wake up without an event. Steps that are in progress have no wake-up time.
    fn wake_at(&self, may_read: bool, may_search: bool, may_read_results: bool) -> Instant {
        let polling = (self.watches_file() && self.file_watch.is_none()).then(|| Instant::now() + FILE_POLL_INTERVAL);
        let progress = self.progress_due().filter(|_| may_read);
        let search = may_search.then_some(self.search_at);
        let final_results = self.final_results_at.filter(|_| may_read_results);
        let times = [
            self.machine.next_tick(),
            progress,
            search,
            final_results,
            polling,
            self.query_at,
        ];
        times
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| self.machine.deadline())
    }
}
