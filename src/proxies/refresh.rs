//! Makes sure that there are enough usable proxies: counts, refreshes the pool through the app's own tasks, counts again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::judge::PoolRules;
use super::pool::{PoolCount, count_settled};
use super::suspect::SuspectPool;
use super::verdict::{ProxyVerdict, RefreshEnd, cannot_end, verdict};
use crate::celery::{self, Link, Task};
use crate::config::{ProxiesConfig, TaskCall};
use crate::follow::{
    Context, Desk, Ending, Errand, Fact, Failure, FileStamp, Follower, KeptDesk, Manner, Rules, Told, end_work,
    fill_text, publish,
};
use crate::run::{EventKind, JobId, Level};

/// A refresh that failed is started again so often.
const RESTARTS: u32 = 1;

/// The refresh could not even be tried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain cannot be put on its queue.
    #[error("publish the proxy refresh, whose first task is `{task}`")]
    Publish { task: String, source: celery::Error },
}

/// How the pool is refreshed.
#[derive(Clone, Debug, PartialEq)]
pub struct Refresh {
    pub config: ProxiesConfig,
    /// How long a refresh usually takes, as earlier runs tell.
    pub usual: Option<Duration>,
    /// What the last run says against the pool.
    pub suspect: Option<SuspectPool>,
}

/// Counts the usable proxies and refreshes the pool when they are too few, or when a site of the last run had no results with
/// them.
///
/// Takes at most `config.timeout` and a few seconds. Events report what is going on. A plain future: dropping it ends
/// the following of the refresh.
///
/// # Errors
/// The refresh cannot be published. Everything that happens to it afterwards is part of the verdict.
pub async fn ensure(context: &Context, refresh: &Refresh) -> Result<ProxyVerdict, Error> {
    let config = &refresh.config;
    let deadline = Instant::now() + config.timeout;
    let counted = count(context, config).await;
    let suspect = refresh.suspect.as_ref();
    let suspect = suspect.filter(|suspect| !config.refresh.is_empty() && suspect.is_still(&config.file));
    if counted.usable >= config.min_usable {
        let Some(SuspectPool { site, run_id, .. }) = suspect else {
            return Ok(ProxyVerdict::Enough { usable: counted.usable });
        };
        context.recorder.emit(EventKind::Noticed {
            level: Level::Info,
            message: format!("the proxies are refreshed, as {site} had no results with them in run {run_id}"),
        });
    }
    if config.refresh.is_empty() {
        return Ok(judged(context, config, &counted, &RefreshEnd::Impossible));
    }
    if let Some(reason) = cannot_end(config.timeout, refresh.usual) {
        return Ok(judged(context, config, &counted, &RefreshEnd::NotBegun(reason)));
    }
    let desk = KeptDesk::open(context).await;
    tokio::select! {
        verdict = refresh.run(context, &desk, deadline) => verdict,
        never = desk.serve() => match never {},
    }
}

impl Refresh {
    /// Refreshes the pool, and a second time where that fails for a reason that may have passed.
    pub(super) async fn run(&self, context: &Context, desk: &Desk, deadline: Instant) -> Result<ProxyVerdict, Error> {
        let config = &self.config;
        let left = || deadline.saturating_duration_since(Instant::now());
        // The deadline has just been set: what it leaves is the limit itself.
        if let Some(reason) = cannot_end(config.timeout, self.usual) {
            let counted = count(context, config).await;
            return Ok(judged(context, config, &counted, &RefreshEnd::NotBegun(reason)));
        }
        let mut attempt = 1;
        loop {
            let begun = Instant::now();
            let ending = follow(context, desk, config, attempt, deadline).await?;
            // Whatever is known of the refresh, what counts is in the file.
            let counted = count(context, config).await;
            let Some(failure) = ending.failure else {
                context.recorder.emit(EventKind::ProxyRefreshFinished {
                    elapsed_ms: EventKind::millis(begun.elapsed()),
                });
                return Ok(judged(context, config, &counted, &RefreshEnd::Finished));
            };
            let is_unconsumed = desk.has_unconsumed(&ending.root);
            if matches!(failure, Failure::TimedOut(_)) {
                let unfinished = ending.unfinished.iter().cloned();
                let ended = end_work(context, desk, [ending.root.clone()], unfinished, Manner::GENTLE).await;
                if let Some(left) = ended.left {
                    tracing::warn!(left, "not all of the proxy refresh is known to be gone");
                }
            }
            let mut reason = failure.reason().to_owned();
            // A worker does not begin to consume a queue by that.
            let is_worth_it = attempt <= RESTARTS
                && !is_unconsumed
                && counted.usable < config.min_usable
                && match failure {
                    Failure::TimedOut(_) => false,
                    // What the app cannot read now it cannot read the next time.
                    Failure::Told(_) => !counted.is_unreadable,
                    Failure::Lost(_) | Failure::Unknown(_) | Failure::Unhealthy { .. } => true,
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

async fn count(context: &Context, config: &ProxiesConfig) -> PoolCount {
    let counted = count_settled(&config.file, &PoolRules::of(config)).await;
    context.recorder.emit(EventKind::ProxiesCounted {
        file: config.file.clone(),
        total: counted.total,
        usable: counted.usable,
        min_usable: config.min_usable,
        left_out: counted.left_out,
        problem: counted.problem.clone(),
    });
    counted
}

/// Judges the pool, and goes on with few proxies where that is allowed.
fn judged(context: &Context, config: &ProxiesConfig, counted: &PoolCount, end: &RefreshEnd) -> ProxyVerdict {
    let verdict = verdict(config, counted, end);
    let reason = match &verdict {
        ProxyVerdict::TooFew { reason, .. } if config.allow_few => reason.clone(),
        ProxyVerdict::Unreadable { reason, hint } if config.allow_few => {
            format!("{} cannot be read: {reason}; {hint}", config.file.display())
        }
        _ => return verdict,
    };
    let usable = counted.usable;
    context.recorder.emit(EventKind::Noticed {
        level: Level::Warning,
        message: format!(
            "going on with {usable} usable proxies instead of {}: {reason}",
            config.min_usable
        ),
    });
    ProxyVerdict::Enough { usable }
}

/// One refresh from its publication to its end.
async fn follow(
    context: &Context,
    desk: &Desk,
    config: &ProxiesConfig,
    attempt: u32,
    deadline: Instant,
) -> Result<Ending, Error> {
    let links: Vec<Link> = config.refresh.iter().map(|call| link(context, call)).collect();
    let (Some(first), Some(last)) = (links.first(), links.last()) else {
        unreachable!("a refresh without tasks is not begun");
    };
    let (root, dispatch) = (first.task.id.clone(), last.task.id.clone());
    let template = config.keys.clone();
    let pool_file: (PathBuf, Option<FileStamp>) = (config.file.clone(), FileStamp::of(&config.file));
    let errand = Errand {
        slots: None,
        root,
        dispatch: dispatch.clone(),
        rules: Rules {
            pool_file: true,
            picked_up: false,
            own_job_id: None,
            pace: config.pace,
            deadline,
            allowance: None,
        },
        keys_prefix: Box::new(move |job_id| keys_prefix(&template, job_id)),
        pool_file: Some(pool_file),
        look_after: None,
        ends_at_loss_until: None,
        ends_at_failure: false,
        ours: Default::default(),
    };
    desk.watch_queues(links.iter().filter_map(|link| link.task.queue.clone()));
    let follower = Follower::new(context, desk, errand);
    if let Err(source) = publish(context, &links, deadline).await {
        follower.abandon();
        return Err(Error::Publish {
            task: first.task.name.clone(),
            source,
        });
    }
    context.recorder.emit(EventKind::ProxyRefreshStarted {
        attempt,
        task_id: dispatch.as_str().to_owned(),
    });
    Ok(follower.follow(&mut |told| tell(context, told)).await)
}

fn link(context: &Context, call: &TaskCall) -> Link {
    let mut task = Task::new(&call.task);
    task.args.clone_from(&call.args);
    task.kwargs.clone_from(&call.kwargs);
    task.queue = context.queue_of(call);
    Link {
        task,
        immutable: call.immutable,
    }
}

fn keys_prefix(template: &str, job_id: &JobId) -> Option<String> {
    let values = Map::from_iter([("job_id".to_owned(), Value::from(job_id.as_str()))]);
    fill_text(template, &values).ok()
}

fn tell(context: &Context, told: Told) {
    let kind = match told {
        Told::Fact(Fact::JobStarted { job, timeout }) => EventKind::ProxyRefreshDispatched {
            job_id: job.job_id,
            chord_id: job.chord_id,
            total_chunks: job.counts.total_chunks,
            timeout_ms: EventKind::millis(timeout),
        },
        Told::Fact(Fact::StageEntered { stage, reason }) => EventKind::ProxyStageEntered { stage, reason },
        Told::Fact(Fact::HeaderLost { loss, ends_job: _ }) => EventKind::Noticed {
            level: Level::Warning,
            message: format!("the refresh of the proxies: {}; its other chunks go on", loss.reason()),
        },
        // The end of the refresh says it.
        Told::Fact(Fact::ChordCompleted { .. }) | Told::Vital(_) => return,
        Told::Progressed { counts, .. } => match counts.completed_chunks {
            Some(done) => EventKind::ProxyRefreshProgressed {
                done,
                total: counts.total_chunks,
            },
            None => return,
        },
    };
    context.recorder.emit(kind);
}
