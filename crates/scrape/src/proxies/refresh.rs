//! Refresh of the proxy pool: counts the usable proxies, refreshes the pool through the app's own tasks, and counts
//! again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::judge::PoolRules;
use super::pool::count_settled;
use super::pool_count::PoolCount;
use super::suspect::SuspectPool;
use super::verdict::{ProxyVerdict, RefreshEnd, cannot_end, verdict};
use crate::jobs::{
    CancelLimits, FailureLog, FileStamp, FollowRequest, FollowRules, JobContext, JobEnd, JobFact, JobFailure,
    JobFollower, JobUpdate, KeptMonitor, WorkerMonitor, cancel_jobs, publish,
};
use orch_celery::{Task, TaskLink};
use orch_config::template::fill_text;
use orch_config::{ProxiesConfig, TaskCall};
use orch_journal::{EventKind, JobId, ProxyPoolCount, ProxyRefreshJob};

/// Number of times that a failed refresh is started again.
const RESTARTS: u32 = 1;

/// Failure to begin a refresh.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The chain cannot be put on the queue.
    #[error("could not publish the proxy refresh (first task `{task}`)")]
    Publish { task: String, source: orch_celery::Error },
}

/// Configured refresh of the pool.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyRefresh {
    pub config: ProxiesConfig,
    /// Usual duration of a refresh in earlier runs.
    pub usual: Option<Duration>,
    /// Suspicion of the last run against the pool.
    pub suspect: Option<SuspectPool>,
}

/// Counts the usable proxies, and refreshes the pool if they are too few, or if a site of the last run had no results
/// with them.
///
/// Takes at most `config.timeout` and a few seconds. Events report the progress. This is a plain future: dropping it
/// stops following the refresh.
///
/// # Errors
/// The refresh cannot be published. All later failures are part of the verdict.
pub async fn ensure(
    context: &JobContext,
    kept: &KeptMonitor,
    refresh: &ProxyRefresh,
) -> Result<ProxyVerdict, RefreshError> {
    let config = &refresh.config;
    let deadline = Instant::now() + config.timeout;
    let counted = count(context, config).await;
    let suspect = refresh.suspect.as_ref();
    let suspect = suspect.filter(|suspect| !config.refresh.is_empty() && suspect.is_still(&config.file));
    if counted.usable >= config.min_usable {
        let Some(SuspectPool { site, run_id, .. }) = suspect else {
            return Ok(ProxyVerdict::Enough { usable: counted.usable });
        };
        context.recorder.emit(EventKind::ProxyPoolSuspected {
            site: site.clone(),
            run_id: run_id.clone(),
        });
    }
    if config.refresh.is_empty() {
        return Ok(judged(context, config, &counted, &RefreshEnd::Impossible));
    }
    if let Some(reason) = cannot_end(config.timeout, refresh.usual) {
        return Ok(judged(context, config, &counted, &RefreshEnd::NotBegun(reason)));
    }
    let monitor = kept.open(context).await;
    let verdict = tokio::select! {
        verdict = refresh.run(context, &monitor, deadline) => verdict,
        never = monitor.serve() => match never {},
    };
    kept.take();
    verdict
}

impl ProxyRefresh {
    /// Refreshes the pool, and once again if that fails for a reason that may have passed.
    pub(crate) async fn run(
        &self,
        context: &JobContext,
        monitor: &WorkerMonitor,
        deadline: Instant,
    ) -> Result<ProxyVerdict, RefreshError> {
        let config = &self.config;
        let left = || deadline.saturating_duration_since(Instant::now());
        // The deadline has just been set, so that the time left is the whole limit.
        if let Some(reason) = cannot_end(config.timeout, self.usual) {
            let counted = count(context, config).await;
            return Ok(judged(context, config, &counted, &RefreshEnd::NotBegun(reason)));
        }
        let mut attempt = 1;
        loop {
            let begun = Instant::now();
            let ending = follow(context, monitor, config, attempt, deadline).await?;
            // The file counts, whatever is known about the refresh.
            let counted = count(context, config).await;
            let Some(failure) = ending.failure else {
                context.recorder.emit(EventKind::ProxyRefreshFinished {
                    elapsed_ms: EventKind::millis(begun.elapsed()),
                });
                return Ok(judged(context, config, &counted, &RefreshEnd::Finished));
            };
            let is_unconsumed = monitor.has_unconsumed(&ending.root);
            if matches!(failure, JobFailure::TimedOut(_)) {
                let unfinished = ending.unfinished.iter().cloned();
                let ended = cancel_jobs(
                    context,
                    monitor,
                    [ending.root.clone()],
                    unfinished,
                    CancelLimits::GENTLE,
                )
                .await;
                if let Some(left) = ended.remaining {
                    tracing::warn!(left, "some tasks of the proxy refresh may still exist");
                }
            }
            let mut reason = failure.reason().to_owned();
            // Another refresh does not make a worker consume the queue.
            let is_worth_it = attempt <= RESTARTS
                && !is_unconsumed
                && counted.usable < config.min_usable
                && match failure {
                    JobFailure::TimedOut(_) => false,
                    // An app that cannot read the pool now cannot read it the next time.
                    JobFailure::Reported(_) => !counted.is_unreadable,
                    JobFailure::Lost(_) | JobFailure::Unknown(_) | JobFailure::Unhealthy { .. } => true,
                };
            let too_late = cannot_end(left(), self.usual).filter(|_| is_worth_it);
            if let Some(too_late) = &too_late {
                reason.push_str(&format!("; it is not begun again: {too_late}"));
            }
            let will_retry = is_worth_it && too_late.is_none();
            context.recorder.emit(EventKind::ProxyRefreshFailed {
                reason: reason.clone(),
                will_retry,
            });
            if !will_retry {
                let end = match is_unconsumed {
                    true => RefreshEnd::Unconsumed(reason),
                    false => RefreshEnd::Failed(reason),
                };
                return Ok(judged(context, config, &counted, &end));
            }
            attempt += 1;
        }
    }
}

async fn count(context: &JobContext, config: &ProxiesConfig) -> PoolCount {
    let counted = count_settled(&config.file, &PoolRules::of(config)).await;
    context.recorder.emit(EventKind::ProxiesCounted(ProxyPoolCount {
        file: config.file.clone(),
        total: counted.total,
        usable: counted.usable,
        min_usable: config.min_usable,
        left_out: counted.left_out,
        problem: counted.problem.clone(),
    }));
    counted
}

/// Judges the pool, and continues with few proxies if that is allowed.
fn judged(context: &JobContext, config: &ProxiesConfig, counted: &PoolCount, end: &RefreshEnd) -> ProxyVerdict {
    let verdict = verdict(config, counted, end);
    let reason = match &verdict {
        ProxyVerdict::TooFew { reason, .. } if config.allow_few => reason.clone(),
        ProxyVerdict::Unreadable { reason, hint } if config.allow_few => {
            format!("{} cannot be read: {reason}; {hint}", config.file.display())
        }
        _ => return verdict,
    };
    let usable = counted.usable;
    context.recorder.emit(EventKind::ProxyShortageAccepted {
        usable,
        min_usable: config.min_usable,
        reason,
    });
    ProxyVerdict::Enough { usable }
}

/// Follows one refresh from the publication to the end.
async fn follow(
    context: &JobContext,
    monitor: &WorkerMonitor,
    config: &ProxiesConfig,
    attempt: u32,
    deadline: Instant,
) -> Result<JobEnd, RefreshError> {
    let links: Vec<TaskLink> = config.refresh.iter().map(|call| link(context, call)).collect();
    let (Some(first), Some(last)) = (links.first(), links.last()) else {
        unreachable!("a refresh without tasks is not begun");
    };
    let (root, dispatch) = (first.task.id.clone(), last.task.id.clone());
    let template = config.keys.clone();
    let pool_file: (PathBuf, Option<FileStamp>) = (config.file.clone(), FileStamp::of(&config.file));
    let request = FollowRequest {
        slots: None,
        root,
        dispatch: dispatch.clone(),
        rules: FollowRules {
            pool_file: true,
            picked_up: false,
            own_job_id: None,
            pace: config.dynamic_timeout,
            deadline,
            auto_timeout: None,
        },
        keys_prefix: Box::new(move |job_id| keys_prefix(&template, job_id)),
        pool_file: Some(pool_file),
        poll_workers_after: None,
        ends_at_loss_until: None,
        ends_at_failure: false,
        failures: FailureLog::default(),
        own_key_values: Default::default(),
    };
    monitor.watch_queues(links.iter().filter_map(|link| link.task.queue.clone()));
    let follower = JobFollower::new(context, monitor, request);
    if let Err(source) = publish(context, &links, deadline).await {
        follower.abandon();
        return Err(RefreshError::Publish {
            task: first.task.name.clone(),
            source,
        });
    }
    context.recorder.emit(EventKind::ProxyRefreshStarted {
        attempt,
        task_id: dispatch.as_str().to_owned(),
    });
    Ok(follower
        .follow(&mut |update| record_update(context, attempt, update))
        .await)
}

fn link(context: &JobContext, call: &TaskCall) -> TaskLink {
    let mut task = Task::new(&call.task);
    task.args.clone_from(&call.args);
    task.kwargs.clone_from(&call.kwargs);
    task.queue = context.queue_of(call);
    TaskLink {
        task,
        immutable: call.immutable,
    }
}

fn keys_prefix(template: &str, job_id: &JobId) -> Option<String> {
    let values = Map::from_iter([("job_id".to_owned(), Value::from(job_id.as_str()))]);
    fill_text(template, &values).ok()
}

fn record_update(context: &JobContext, attempt: u32, update: JobUpdate) {
    let kind = match update {
        JobUpdate::Fact(JobFact::JobStarted { job, timeout }) => EventKind::ProxyRefreshDispatched(ProxyRefreshJob {
            job_id: job.job_id,
            chord_id: job.chord_id,
            total_chunks: job.counts.total_chunks,
            timeout_ms: EventKind::millis(timeout),
        }),
        JobUpdate::Fact(JobFact::StageEntered { stage, reason }) => EventKind::ProxyStageEntered { stage, reason },
        JobUpdate::Fact(JobFact::HeaderLost { loss, ends_job: _ }) => {
            EventKind::ProxyChunksLost { loss: (&loss).into() }
        }
        JobUpdate::TaskFailed { failure, chunk } => {
            return context.record_failed_task(None, attempt, failure, chunk);
        }
        // The event at the end of the refresh covers these.
        JobUpdate::Fact(JobFact::ChordCompleted { .. }) | JobUpdate::Signal(_) => return,
        JobUpdate::Progressed { counts, .. } => match counts.completed_chunks {
            Some(done) => EventKind::ProxyRefreshProgressed {
                done,
                total: counts.total_chunks,
            },
            None => return,
        },
    };
    context.recorder.emit(kind);
}
