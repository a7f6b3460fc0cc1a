//! One attempt at a site: publishes the dispatch task (unless an earlier run has published it), follows the job to its
//! end, and keeps the job's registry up to date.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use super::attempt_end::AttemptEnd;
use super::cancel_site::end_site;
use super::registry::RegistryStatus;
use super::registry_keeper::RegistryKeeper;
use super::site_state::{AttemptOrder, SiteRules};
use super::template_values::argument_values;
use crate::jobs::{
    AutoTimeout, CancelLimits, FollowRequest, FollowRules, Job, JobContext, JobEnd, JobFact, JobFailure, JobFollower,
    JobSignal, JobUpdate, WorkerActivity, WorkerMonitor, cancel_jobs, publish,
};
use crate::sites::health::{HealthLimits, HealthMonitor, VerdictChange};
use crate::sites::policy::standing::SiteStanding;
use orch_celery::{Task, TaskId, TaskLink};
use orch_config::template::{TemplateError, fill, placeholders};
use orch_config::{DynamicTimeout, SiteConfig, SiteTimeout};
use orch_journal::{EventKind, HealthAction, InterruptedJob, JobId, ProgressSource, SiteCounts, SiteHealth};

/// One attempt at a site.
pub(crate) struct Attempt<'a> {
    context: &'a JobContext,
    monitor: &'a WorkerMonitor,
    site: &'a SiteConfig,
    standing: &'a SiteStanding,
    order: AttemptOrder,
    task: TaskId,
    /// An earlier run has published the dispatch task.
    is_published: bool,
    /// Random id, or that of the earlier run's job; the id of the job unless the app names another.
    job_id: JobId,
    registry: RegistryKeeper<'a>,
    health: Mutex<HealthMonitor>,
    /// Set once the site's health ends the attempt.
    given_up: watch::Sender<Option<JobFailure>>,
}

impl<'a> Attempt<'a> {
    /// Prepares an attempt; with `earlier`, the attempt continues to follow the job of an earlier run.
    pub(crate) fn new(
        context: &'a JobContext,
        monitor: &'a WorkerMonitor,
        rules: &SiteRules<'a>,
        order: AttemptOrder,
        earlier: Option<&InterruptedJob>,
    ) -> Self {
        let site = rules.site;
        let task = earlier.map(|job| TaskId::from(job.task_id.as_str()));
        let job_id = earlier.and_then(|job| job.job_id.clone());
        Self {
            context,
            monitor,
            site,
            standing: rules.standing,
            order,
            is_published: task.is_some(),
            task: task.unwrap_or_else(TaskId::random),
            job_id: job_id.unwrap_or_else(|| JobId::new(Uuid::new_v4().to_string())),
            registry: RegistryKeeper::new(context, site),
            health: Mutex::new(HealthMonitor::new(limits(context, site), Instant::now())),
            given_up: watch::Sender::new(None),
        }
    }

    /// Returns the id of the job's first task.
    pub(crate) fn root(&self) -> &TaskId {
        &self.task
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.order.deadline
    }

    /// Runs the attempt to the end.
    pub(crate) async fn run(mut self) -> (Option<JobFailure>, SiteCounts) {
        // The site's own worker may have started after the attempt was created. That time is no time of the job, so
        // that it must not make the site slow or stalled.
        self.health = Mutex::new(HealthMonitor::new(limits(self.context, self.site), Instant::now()));
        match self.dispatch_and_follow().await {
            Ok(mut ending) => {
                ending.counts = self.agreed(ending.counts);
                self.tidy_up(&ending).await;
                (ending.failure, ending.counts)
            }
            Err(failure @ JobFailure::Unhealthy { .. }) => {
                let Self {
                    context, monitor, site, ..
                } = &self;
                // Boxed: the future is large and rarely used.
                let end = end_site(
                    context,
                    monitor,
                    &site.name,
                    CancelLimits::GENTLE,
                    RegistryStatus::Failed,
                );
                let counts = Box::pin(end).await;
                (Some(failure), self.agreed(counts))
            }
            Err(failure) => (Some(failure), SiteCounts::default()),
        }
    }

    /// Adjusts the counts to the verdict: a number that is known to be zero is not unknown, and failed chunks count as
    /// errors even if the app has not counted them.
    fn agreed(&self, counts: SiteCounts) -> SiteCounts {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = Some(health.failed_chunks()).filter(|failed| *failed > 0);
        SiteCounts {
            errors: counts.errors.max(failed),
            ..counts.with_known_results()
        }
    }

    async fn dispatch_and_follow(&self) -> Result<JobEnd, JobFailure> {
        let call = &self.site.dispatch;
        let invalid = |error: TemplateError| JobFailure::Reported(format!("the arguments of `{}`: {error}", call.task));
        let task = self.task().map_err(invalid)?;
        // Only an app that receives the id keeps keys under that id.
        let arguments = Value::Array(vec![
            Value::Array(call.args.clone()),
            Value::Object(call.kwargs.clone()),
        ]);
        let given = placeholders(&arguments)
            .map_err(invalid)?
            .iter()
            .any(|name| name == "job_id");
        let own_job_id = given.then(|| self.job_id.clone());
        if self.is_published {
            self.registry.reopen(&self.job_id).await;
        }
        self.registry.note_dispatched(own_job_id.as_ref());

        let app_prefix = Arc::clone(self.registry.app_prefix());
        let request = FollowRequest {
            root: self.task.clone(),
            dispatch: self.task.clone(),
            rules: FollowRules {
                pool_file: false,
                picked_up: self.is_published,
                own_job_id: own_job_id.clone(),
                pace: self.pace(),
                deadline: self.order.deadline,
                auto_timeout: allowance(self.context, self.site),
            },
            keys_prefix: Box::new(move |job_id| app_prefix.of(job_id)),
            pool_file: None,
            poll_workers_after: self.site.health.stall_after,
            slots: self.site.worker.as_ref().map(|worker| worker.concurrency as u64),
            ends_at_loss_until: self.order.ends_at_loss_until,
            // Any other action judges failed chunks by their share.
            ends_at_failure: self.site.health.on_failing == HealthAction::Warn,
            failures: self.context.failures.of(&self.site.name),
            own_key_values: self.registry.shared_own_values(),
        };
        self.monitor.watch_queues(task.queue.clone());
        self.context.shared_workers.record_job(&self.task);
        let follower = JobFollower::new(self.context, self.monitor, request);
        self.note_in_flight(&Job {
            job_id: None,
            ..Job::default()
        });
        let (site, task_id) = (self.site.name.clone(), self.task.as_str().to_owned());
        tracing::Span::current().record("job", &task_id);
        let (attempt, job_id) = (self.order.number, own_job_id);
        let fencing_token = Some(self.order.token);
        if self.is_published {
            self.context.recorder.emit(EventKind::SitePickedUp {
                site,
                attempt,
                task_id,
                job_id,
                fencing_token,
            });
        } else {
            // Recorded before the publication, so that a run that dies right after the publication can be resumed.
            self.context.recorder.emit(EventKind::SiteDispatched {
                site,
                attempt,
                task_id,
                job_id,
                fencing_token,
            });
            let link = TaskLink::new(task);
            if let Err(error) = publish(self.context, std::slice::from_ref(&link), self.order.deadline).await {
                follower.abandon();
                return Err(JobFailure::Reported(format!(
                    "the dispatch task `{}` cannot be published: {error}",
                    call.task
                )));
            }
        }
        let mut on_update = |update| self.apply_update(update);
        tokio::select! {
            biased;
            ending = Box::pin(follower.follow(&mut on_update)) => Ok(ending),
            failure = self.is_given_up() => Err(failure),
            never = self.registry.keep() => match never {},
            never = self.watch_consumers() => match never {},
        }
    }

    /// Judges the site's health at once when no worker is left for the tasks, and again when a worker is back.
    async fn watch_consumers(&self) -> Infallible {
        // The supervisor looks after a site's own worker.
        if self.site.worker.is_some() {
            return std::future::pending().await;
        }
        loop {
            self.context.shared_workers.until_absent(false).await;
            self.apply_update(JobUpdate::Signal(JobSignal::WorkersPolled(WorkerActivity::Deserted)));
            self.context.shared_workers.until_present().await;
            self.apply_update(JobUpdate::Signal(JobSignal::Interrupted));
        }
    }

    /// Returns the pace of the job. With a rate limit of the site's own worker, the time per chunk is at least the
    /// rate's interval for each pool slot.
    fn pace(&self) -> DynamicTimeout {
        let mut pace = self.site.dynamic_timeout;
        if let Some(worker) = &self.site.worker
            && let Some(rate) = &worker.rate
        {
            let slots = u32::try_from(worker.concurrency).unwrap_or(u32::MAX);
            pace.time_per_chunk = pace.time_per_chunk.max(rate.interval().saturating_mul(slots));
        }
        pace
    }

    fn task(&self) -> Result<Task, TemplateError> {
        let call = &self.site.dispatch;
        let values = argument_values(self.site, &self.job_id, self.order.token);
        let args = call
            .args
            .iter()
            .map(|argument| fill(argument, &values))
            .collect::<Result<_, _>>()?;
        let kwargs = call
            .kwargs
            .iter()
            .map(|(name, argument)| Ok((name.clone(), fill(argument, &values)?)));
        let mut task = Task::new(&call.task);
        task.id = self.task.clone();
        task.args = args;
        task.kwargs = kwargs.collect::<Result<_, _>>()?;
        task.queue = self.context.queue_of(call);
        Ok(task)
    }

    fn apply_update(&self, update: JobUpdate) {
        match update {
            JobUpdate::Signal(vital) => self.judge(|health, now| health.apply_signal(vital, now)),
            JobUpdate::Progressed { counts, source } => self.progressed(counts, source),
            JobUpdate::Fact(fact) => self.apply_fact(fact),
            JobUpdate::TaskFailed { failure, chunk } => {
                let site = Some(&self.site.name);
                self.context.record_failed_task(site, self.order.number, failure, chunk);
            }
        }
    }

    fn apply_fact(&self, fact: JobFact) {
        let site = self.site.name.clone();
        let emit = |kind| self.context.recorder.emit(kind);
        match fact {
            JobFact::ChordCompleted { chord_id } => emit(EventKind::SiteChordCompleted { site, chord_id }),
            JobFact::StageEntered { stage, reason } => emit(EventKind::SiteStageEntered { site, stage, reason }),
            JobFact::HeaderLost { loss, ends_job } => {
                emit(EventKind::SiteChunksLost {
                    site,
                    loss: (&loss).into(),
                    ends_attempt: ends_job,
                });
            }
            JobFact::JobStarted { job, timeout } => {
                self.note_in_flight(&job);
                let Job {
                    job_id,
                    chord_id,
                    counts,
                } = job;
                let job_id = job_id.unwrap_or_else(|| self.job_id.clone());
                self.judge(|health, now| health.apply_progress(counts, now));
                self.registry.note_started(job_id.clone(), counts);
                let timeout_ms = EventKind::millis(timeout);
                emit(EventKind::SiteJobStarted {
                    site,
                    job_id,
                    chord_id,
                    counts,
                    timeout_ms,
                });
            }
        }
    }

    fn progressed(&self, counts: SiteCounts, source: ProgressSource) {
        self.registry.note_progress(counts);
        let site = self.site.name.clone();
        let recorder = &self.context.recorder;
        recorder.emit(EventKind::SiteProgressed { site, counts, source });
        self.judge(|health, now| health.apply_progress(counts, now));
    }

    /// Reports a changed verdict and carries out the configured action.
    fn judge(&self, see: impl FnOnce(&mut HealthMonitor, Instant) -> Option<VerdictChange>) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(VerdictChange { health, reason, vitals }) = see(&mut health, Instant::now()) else {
            return;
        };
        let limits = self.site.health;
        let action = match health {
            SiteHealth::Healthy => None,
            SiteHealth::Slow => Some(limits.on_slow),
            SiteHealth::Failing => Some(limits.on_failing),
            SiteHealth::Stalled => Some(limits.on_stalled),
        };
        self.context.recorder.emit(EventKind::SiteVerdict {
            site: self.site.name.clone(),
            health,
            reason: reason.clone(),
            action,
            vitals,
        });
        let word = health.word();
        let give_up = |may_retry| {
            let reason = format!("ended because the site is {word}: {reason}");
            // The first verdict that ends the attempt counts.
            self.given_up.send_if_modified(|failure| {
                let is_first = failure.is_none();
                failure.get_or_insert(JobFailure::Unhealthy { reason, may_retry });
                is_first
            });
        };
        match action {
            None | Some(HealthAction::Warn) => {}
            Some(HealthAction::RefreshProxies) => self.context.refresh_requests.add(&self.site.name),
            Some(HealthAction::Cancel) => give_up(true),
            Some(HealthAction::Fail) => give_up(false),
        }
    }

    async fn is_given_up(&self) -> JobFailure {
        let mut given_up = self.given_up.subscribe();
        // The sender belongs to `self`, so that the wait does not fail.
        match given_up.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(failure)) => failure,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Records the facts of this attempt that a stop needs.
    fn note_in_flight(&self, job: &Job) {
        let job_id = job.job_id.clone().unwrap_or_else(|| self.job_id.clone());
        let prefix = self.registry.app_prefix().of(&job_id).unwrap_or_default();
        self.context
            .in_flight
            .site_attempted(&self.site.name, &self.task, job_id, prefix);
    }

    /// Writes the last state of the registry. Also ends the rest of a failed job, which must not run during a next
    /// attempt or run: a dispatch task may raise after it has started a chord.
    async fn tidy_up(&self, ending: &JobEnd) {
        if ending.failure.is_some() {
            let first = [ending.root.clone()].into_iter().chain(ending.job.callback());
            let unfinished = ending.unfinished.iter().cloned();
            let ended = cancel_jobs(self.context, self.monitor, first, unfinished, CancelLimits::GENTLE).await;
            if let Some(left) = ended.remaining {
                tracing::warn!(site = %self.site.name, left, "some tasks of the site's job may still exist");
            }
        }
        let job_id = ending.job.job_id.as_ref().unwrap_or(&self.job_id);
        let end = AttemptEnd::of(
            ending.failure.clone(),
            ending.counts,
            self.standing,
            self.site.on_degraded,
        );
        self.registry.write_end(job_id, &end.verdict, ending.counts).await;
    }
}

fn allowance(context: &JobContext, site: &SiteConfig) -> Option<AutoTimeout> {
    match site.timeout {
        SiteTimeout::Fixed(_) => None,
        SiteTimeout::Auto => Some(AutoTimeout {
            begun: Instant::now(),
            usual: context.usual_times.get(&site.name).copied(),
        }),
    }
}

fn limits(context: &JobContext, site: &SiteConfig) -> HealthLimits {
    let usual = context.usual_times.get(&site.name).map(|usual| usual.elapsed);
    HealthLimits {
        max_error_rate: site.health.max_error_rate,
        stall_after: site.health.stall_after,
        slow: usual.zip(site.health.slow_factor),
    }
}
