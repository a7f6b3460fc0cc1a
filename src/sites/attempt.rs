//! One attempt at one site: publish its dispatch task (unless an earlier run has), follow the job to its end, keep its
//! registry.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::attempt_end::{AttemptEnd, Verdict};
use super::end_site::end_site;
use super::health::{Change, Health, Limits};
use super::registry::{RENEW_EVERY, Registry, RegistryStatus};
use super::standing::Standing;
use super::values::{AppPrefix, argument_values};
use crate::celery::{Link, Task, TaskId};
use crate::config::{Pace, SiteConfig, SiteTimeout};
use crate::follow::{
    Allowance, AtWork, Context, Desk, Ending, Errand, Fact, Failure, Follower, Job, Manner, Rules, TemplateError, Told,
    Vital, end_work, fill, placeholders, publish,
};
use crate::run::{EventKind, HealthAction, JobId, JobSoFar, Level, ProgressSource, SiteCounts, SiteHealth};

/// For each thing that is tidied up after the end.
const TIDYING: Duration = Duration::from_secs(2);
/// The registry is written at most this often.
const REGISTRY_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Attempt<'a> {
    context: &'a Context,
    desk: &'a Desk,
    site: &'a SiteConfig,
    standing: &'a Standing,
    /// 1 for the first.
    number: u32,
    deadline: Instant,
    /// Of the lease that it runs under.
    fencing_token: u64,
    task: TaskId,
    /// An earlier run has published it.
    is_published: bool,
    /// Until then a loss among its chunks ends it, since another attempt follows.
    ends_at_loss_until: Option<Instant>,
    /// Random, or the earlier run's; the job's own as long as nothing else names one.
    job_id: JobId,
    app_prefix: Arc<AppPrefix<'a>>,
    /// What the registry should say.
    entry: watch::Sender<Entry>,
    /// Values that orch wrote under the app's names.
    ours: Arc<Mutex<Vec<Option<String>>>>,
    health: Mutex<Health>,
    /// Set once its health ends it.
    given_up: watch::Sender<Option<Failure>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// `None`: not known yet.
    job_id: Option<JobId>,
    status: RegistryStatus,
    counts: SiteCounts,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        context: &'a Context,
        desk: &'a Desk,
        site: &'a SiteConfig,
        standing: &'a Standing,
        number: u32,
        deadline: Instant,
        fencing_token: u64,
    ) -> Self {
        let entry = Entry {
            job_id: None,
            status: RegistryStatus::Collecting,
            counts: SiteCounts::default(),
        };
        Self {
            context,
            desk,
            site,
            standing,
            number,
            deadline,
            fencing_token,
            task: TaskId::random(),
            is_published: false,
            ends_at_loss_until: None,
            job_id: JobId::new(Uuid::new_v4().to_string()),
            app_prefix: Arc::new(AppPrefix::new(site)),
            entry: watch::Sender::new(entry),
            ours: Arc::default(),
            health: Mutex::new(Health::new(limits(context, site), Instant::now())),
            given_up: watch::Sender::new(None),
        }
    }

    /// Follows the job of an earlier run further.
    pub(super) fn picked_up(
        context: &'a Context,
        desk: &'a Desk,
        site: &'a SiteConfig,
        standing: &'a Standing,
        job: &JobSoFar,
        deadline: Instant,
        fencing_token: u64,
    ) -> Self {
        let new = Self::new(context, desk, site, standing, job.attempt, deadline, fencing_token);
        Self {
            task: TaskId::from(job.task_id.as_str()),
            is_published: true,
            job_id: job.job_id.clone().unwrap_or_else(|| new.job_id.clone()),
            ..new
        }
    }

    /// Ends at once where a chunk is lost before `until`: another attempt follows.
    #[must_use]
    pub(super) fn ending_at_loss(self, until: Option<Instant>) -> Self {
        Self {
            ends_at_loss_until: until,
            ..self
        }
    }

    /// The first task of its job.
    pub(super) fn root(&self) -> &TaskId {
        &self.task
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Runs it to its end.
    pub(super) async fn run(mut self) -> (Option<Failure>, SiteCounts) {
        // Its own worker may have started since it was made: that is no time of the job, by which it may be slow or stalled.
        self.health = Mutex::new(Health::new(limits(self.context, self.site), Instant::now()));
        match self.dispatch_and_follow().await {
            Ok(mut ending) => {
                ending.counts = self.agreed(ending.counts);
                self.tidy_up(&ending).await;
                (ending.failure, ending.counts)
            }
            Err(failure @ Failure::Unhealthy { .. }) => {
                let Self {
                    context, desk, site, ..
                } = &self;
                // Boxed: it is large and seldom begun.
                let end = end_site(context, desk, &site.name, Manner::GENTLE, RegistryStatus::Failed);
                let state = Box::pin(end).await;
                (Some(failure), self.agreed(state.counts))
            }
            Err(failure) => (Some(failure), SiteCounts::default()),
        }
    }

    /// These counts as they agree with the verdict: what is known to be zero is not unknown, and chunks that failed are
    /// errors, also where the app has not counted them.
    fn agreed(&self, counts: SiteCounts) -> SiteCounts {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = Some(health.failed_chunks()).filter(|failed| *failed > 0);
        SiteCounts {
            errors: counts.errors.max(failed),
            ..counts.with_known_results()
        }
    }

    async fn dispatch_and_follow(&self) -> Result<Ending, Failure> {
        let call = &self.site.dispatch;
        let told = |error: TemplateError| Failure::Told(format!("the arguments of `{}`: {error}", call.task));
        let task = self.task().map_err(told)?;
        // Only an app that is given the id keeps its keys under it.
        let arguments = Value::Array(vec![
            Value::Array(call.args.clone()),
            Value::Object(call.kwargs.clone()),
        ]);
        let given = placeholders(&arguments)
            .map_err(told)?
            .iter()
            .any(|name| name == "job_id");
        let own_job_id = given.then(|| self.job_id.clone());
        if self.is_published {
            let reopened = self.registry(&self.job_id).reopen(&self.context.celery).await;
            if let Err(error) = reopened {
                tracing::warn!(site = %self.site.name, %error, "the registry cannot be reopened");
            }
        }
        self.entry.send_modify(|entry| entry.job_id.clone_from(&own_job_id));

        let app_prefix = Arc::clone(&self.app_prefix);
        let errand = Errand {
            root: self.task.clone(),
            dispatch: self.task.clone(),
            rules: Rules {
                pool_file: false,
                picked_up: self.is_published,
                own_job_id: own_job_id.clone(),
                pace: self.pace(),
                deadline: self.deadline,
                allowance: allowance(self.context, self.site),
            },
            keys_prefix: Box::new(move |job_id| app_prefix.of(job_id)),
            pool_file: None,
            look_after: self.site.health.stall_after,
            slots: self.site.worker.as_ref().map(|worker| worker.concurrency as u64),
            ends_at_loss_until: self.ends_at_loss_until,
            // Any other action decides about chunks that fail, by their share.
            ends_at_failure: self.site.health.on_failing == HealthAction::Warn,
            ours: Arc::clone(&self.ours),
        };
        self.desk.watch_queues(task.queue.clone());
        self.context.shared.follows(&self.task);
        let follower = Follower::new(self.context, self.desk, errand);
        self.note_in_flight(&Job {
            job_id: None,
            ..Job::default()
        });
        let (site, task_id) = (self.site.name.clone(), self.task.as_str().to_owned());
        let (attempt, job_id) = (self.number, own_job_id);
        let fencing_token = Some(self.fencing_token);
        if self.is_published {
            self.context.recorder.emit(EventKind::SitePickedUp {
                site,
                attempt,
                task_id,
                job_id,
                fencing_token,
            });
        } else {
            // First, so that a run which dies right after publishing can be resumed.
            self.context.recorder.emit(EventKind::SiteDispatched {
                site,
                attempt,
                task_id,
                job_id,
                fencing_token,
            });
            let link = Link::new(task);
            if let Err(error) = publish(self.context, std::slice::from_ref(&link), self.deadline).await {
                follower.abandon();
                return Err(Failure::Told(format!(
                    "the dispatch task `{}` cannot be published: {error}",
                    call.task
                )));
            }
        }
        let mut tell = |told| self.tell(told);
        tokio::select! {
            biased;
            ending = Box::pin(follower.follow(&mut tell)) => Ok(ending),
            failure = self.is_given_up() => Err(failure),
            never = self.keep_registry() => match never {},
            never = self.watch_for_desertion() => match never {},
        }
    }

    /// Has it judged at once when no worker is left for its tasks, and when one is there again.
    async fn watch_for_desertion(&self) -> Infallible {
        // A worker of its own is the supervisor's matter.
        if self.site.worker.is_some() {
            return std::future::pending().await;
        }
        loop {
            self.context.shared.absent(false).await;
            self.tell(Told::Vital(Vital::Looked(AtWork::Deserted)));
            self.context.shared.present().await;
            self.tell(Told::Vital(Vital::Disturbed));
        }
    }

    /// Tasks that may begin at a rate only take that long, as it were.
    fn pace(&self) -> Pace {
        let mut pace = self.site.pace;
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
        let values = argument_values(self.site, &self.job_id, self.fencing_token);
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

    fn tell(&self, told: Told) {
        match told {
            Told::Vital(vital) => self.judge(|health, now| health.see(vital, now)),
            Told::Progressed { counts, source } => self.progressed(counts, source),
            Told::Fact(fact) => self.learn(fact),
        }
    }

    fn learn(&self, fact: Fact) {
        let site = self.site.name.clone();
        let emit = |kind| self.context.recorder.emit(kind);
        match fact {
            Fact::ChordCompleted { chord_id } => emit(EventKind::SiteChordCompleted { site, chord_id }),
            Fact::StageEntered { stage, reason } => emit(EventKind::SiteStageEntered { site, stage, reason }),
            Fact::HeaderLost { loss, ends_job } => {
                let consequence = match ends_job {
                    true => "the attempt ends, and another one follows (`on_lost`)",
                    false => "its other chunks go on",
                };
                let message = format!("{site}: {}; {consequence}", loss.reason());
                let level = Level::Warning;
                emit(EventKind::Noticed { level, message });
            }
            Fact::JobStarted { job, timeout } => {
                self.note_in_flight(&job);
                let Job {
                    job_id,
                    chord_id,
                    counts,
                } = job;
                let job_id = job_id.unwrap_or_else(|| self.job_id.clone());
                self.judge(|health, now| health.progressed(counts, now));
                self.entry.send_replace(Entry {
                    job_id: Some(job_id.clone()),
                    status: RegistryStatus::Dispatched,
                    counts,
                });
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
        self.entry.send_modify(|entry| {
            entry.counts = counts;
            if counts.completed_chunks.is_some_and(|completed| completed > 0) {
                entry.status = RegistryStatus::Processing;
            }
        });
        let site = self.site.name.clone();
        self.context.in_flight.site_progressed(&site, counts);
        let recorder = &self.context.recorder;
        recorder.emit(EventKind::SiteProgressed { site, counts, source });
        self.judge(|health, now| health.progressed(counts, now));
    }

    /// Tells the verdict where it has changed, and does what the configuration says about it.
    fn judge(&self, see: impl FnOnce(&mut Health, Instant) -> Option<Change>) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Change { health, reason, vitals }) = see(&mut health, Instant::now()) else {
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
            let reason = format!("it was ended, being {word}: {reason}");
            // The first is what did it.
            self.given_up.send_if_modified(|failure| {
                let is_first = failure.is_none();
                failure.get_or_insert(Failure::Unhealthy { reason, may_retry });
                is_first
            });
        };
        match action {
            None | Some(HealthAction::Warn) => {}
            Some(HealthAction::RefreshProxies) => self.context.refresh_asks.ask(&self.site.name),
            Some(HealthAction::Cancel) => give_up(true),
            Some(HealthAction::Fail) => give_up(false),
        }
    }

    async fn is_given_up(&self) -> Failure {
        let mut given_up = self.given_up.subscribe();
        // The sender is ours: the wait does not fail.
        match given_up.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(failure)) => failure,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// What a stop must know of this attempt.
    fn note_in_flight(&self, job: &Job) {
        let job_id = job.job_id.clone().unwrap_or_else(|| self.job_id.clone());
        let prefix = self.app_prefix.of(&job_id).unwrap_or_default();
        self.context
            .in_flight
            .site_attempted(&self.site.name, &self.task, job_id, prefix);
    }

    fn registry(&self, job_id: &JobId) -> Registry {
        let app_prefix = self.app_prefix.of(job_id).unwrap_or_default();
        Registry::new(&self.site.name, job_id, &app_prefix)
    }

    /// Writes the registry whenever it should say something else, and keeps it alive in between.
    async fn keep_registry(&self) -> Infallible {
        let mut entries = self.entry.subscribe();
        entries.mark_changed();
        let mut written: Option<JobId> = None;
        loop {
            let changed = timeout(RENEW_EVERY, entries.changed()).await.is_ok();
            // What follows at once is told with it; and a job that is over by then by its end alone.
            sleep(REGISTRY_PAUSE).await;
            let entry = entries.borrow_and_update().clone();
            let Some(job_id) = &entry.job_id else { continue };
            let registry = self.registry(job_id);
            let outcome = if changed {
                if written.as_ref() != Some(job_id) {
                    self.ours().clear();
                    written = Some(job_id.clone());
                }
                registry
                    .write(&self.context.celery, entry.status, entry.counts)
                    .await
                    .map(|ours| self.claim(ours))
            } else {
                registry.renew(&self.context.celery).await
            };
            if let Err(error) = outcome {
                tracing::warn!(site = %self.site.name, %error, "the registry cannot be written");
            }
        }
    }

    fn ours(&self) -> std::sync::MutexGuard<'_, Vec<Option<String>>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers which values under the app's names are orch's.
    fn claim(&self, written: Vec<Option<String>>) {
        let mut ours = self.ours();
        if ours.len() < written.len() {
            ours.resize(written.len(), None);
        }
        for (ours, written) in ours.iter_mut().zip(written) {
            if written.is_some() {
                *ours = written;
            }
        }
    }

    /// The last word in the registry; and what is left of a job that has failed must not go on beside a next attempt or run: a
    /// dispatch task may raise when it has started a chord.
    async fn tidy_up(&self, ending: &Ending) {
        let client = &self.context.celery.with_deadline(TIDYING);
        if ending.failure.is_some() {
            let first = [ending.root.clone()].into_iter().chain(ending.job.callback());
            let unfinished = ending.unfinished.iter().cloned();
            let ended = end_work(self.context, self.desk, first, unfinished, Manner::GENTLE).await;
            if let Some(left) = ended.left {
                tracing::warn!(site = %self.site.name, left, "not all of the site's job is known to be gone");
            }
        }
        let job_id = ending.job.job_id.as_ref().unwrap_or(&self.job_id);
        let end = AttemptEnd::of(
            ending.failure.clone(),
            ending.counts,
            self.standing,
            self.site.on_degraded,
        );
        let status = match &end.verdict {
            Verdict::Complete(_) | Verdict::Degraded(_) => RegistryStatus::Complete,
            Verdict::Failed(_) => RegistryStatus::Failed,
        };
        let registry = self.registry(job_id);
        let written = async {
            // First: who sees that it is complete finds this as well.
            if let Verdict::Degraded(short) = &end.verdict {
                registry.tell_degraded(client, &short.why).await?;
            }
            registry.write(client, status, ending.counts).await
        };
        if let Err(error) = written.await {
            tracing::warn!(site = %self.site.name, %error, "the registry cannot be written");
        }
    }
}

fn allowance(context: &Context, site: &SiteConfig) -> Option<Allowance> {
    match site.timeout {
        SiteTimeout::Fixed(_) => None,
        SiteTimeout::Auto => Some(Allowance {
            begun: Instant::now(),
            usual: context.usual.get(&site.name).copied(),
        }),
    }
}

fn limits(context: &Context, site: &SiteConfig) -> Limits {
    let usual = context.usual.get(&site.name).map(|usual| usual.elapsed);
    Limits {
        max_error_rate: site.health.max_error_rate,
        stall_after: site.health.stall_after,
        slow: usual.zip(site.health.slow_factor),
    }
}
