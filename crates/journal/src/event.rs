//! Events of a run, as typed facts in the past tense.
//!
//! Events are the only source of everything that is shown or remembered: the journal stores each as one JSON line,
//! [`RunState`] folds them, views draw the state. Fields are added with `#[serde(default)]`, so that older journals
//! stay readable. Decisions belong to the emitters of events, words to the views.
//!
//! [`RunState`]: crate::state::model::RunState

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::chunk_loss::ChunkLoss;
use crate::end_cause::EndCause;
use crate::event_values::{FollowStage, NoticeLevel, ProgressSource, StopReason};
use crate::exit_status::ExitStatus;
use crate::facts::admission_change::AdmissionChange;
use crate::facts::app_problem::AppProblem;
use crate::facts::failed_task::FailedTask;
use crate::facts::guard_problem::GuardProblem;
use crate::facts::leftover_process::LeftoverProcesses;
use crate::facts::log_problem::LogProblem;
use crate::facts::proxy_pool_count::ProxyPoolCount;
use crate::facts::proxy_refresh_job::ProxyRefreshJob;
use crate::facts::redis_leftovers::RedisLeftovers;
use crate::facts::redis_problem::RedisProblem;
use crate::facts::request::{RequestAnswer, RequestReceipt};
use crate::facts::run_file::RunFileFailure;
use crate::facts::run_start::RunStart;
use crate::facts::site_errors::SiteErrors;
use crate::facts::state_directory_loss::StateDirectoryLoss;
use crate::facts::state_snapshot::StateSnapshot;
use crate::facts::unfinished_run::UnfinishedRun;
use crate::facts::unread_env_file::UnreadEnvFile;
use crate::facts::worker_problem::WorkerProblem;
use crate::health::{HealthAction, SiteHealth, SiteMetrics};
use crate::ids::{JobId, RunId, ServiceName, SiteName};
use crate::memory_shortage::MemoryShortage;
use crate::run_outcome::RunOutcome;
use crate::site_counts::SiteCounts;
use crate::site_holder::{HeldSites, SiteHolder};
use crate::site_status::SiteStatus;

/// Version of the journal's format, part of the first event.
pub const JOURNAL_FORMAT: u32 = 1;

/// One fact with a position in the order of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Number of the event, 1 for the first of the run, without gaps.
    pub seq: u64,
    /// Wall clock, seconds since the Unix epoch with microseconds.
    pub at: f64,
    /// Seconds since the run's first event on the monotonic clock (the wall clock may jump).
    pub elapsed: f64,
    /// Kind of the event, with data.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Kinds of events with their data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    // ----- the run
    /// First event of every run.
    RunStarted(RunStart),
    /// In place of the events of earlier segments of the journal; no view receives this event.
    StateTaken(StateSnapshot),
    /// A message for a person that no other event contains.
    Noticed {
        level: NoticeLevel,
        message: String,
    },
    /// The stop began; nothing new is started from here on.
    StopStarted {
        reason: StopReason,
        /// Upper bound of the stop, milliseconds.
        bound_ms: u64,
    },
    /// A further signal skipped the grace periods.
    StopHurried,
    /// Every process that orch started is gone.
    StopFinished {
        elapsed_ms: u64,
    },
    /// Last event of every run that could still write.
    RunFinished {
        outcome: RunOutcome,
        exit_code: u8,
        /// The error as the user sees it, if the outcome is not `succeeded`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },

    /// Another command asked the run for something.
    RequestReceived(RequestReceipt),
    /// The run answered a request; each request has one answer.
    RequestAnswered(RequestAnswer),
    /// A request changed the admission of sites.
    SiteAdmissionChanged(AdmissionChange),

    // ----- services
    ServiceStarting {
        service: ServiceName,
        /// Number of the start, 1 for the first.
        attempt: u32,
    },
    /// The process exists, but is not ready yet.
    ServiceSpawned {
        service: ServiceName,
        pid: i32,
    },
    ServiceReady {
        service: ServiceName,
        /// Time since `ServiceStarting`, milliseconds.
        elapsed_ms: u64,
        /// Description, such as `redis 7.0.15 on 127.0.0.1:6379`.
        detail: String,
    },
    /// The service was running and healthy before orch; orch uses the service and never stops the service.
    ServiceReused {
        service: ServiceName,
        detail: String,
    },
    /// A oneshot ended successfully.
    ServiceCompleted {
        service: ServiceName,
        elapsed_ms: u64,
    },
    ServiceUnhealthy {
        service: ServiceName,
        reason: String,
    },
    /// Largest measured memory use of all processes of a service, emitted when the service is no longer needed.
    ServicePeaked {
        service: ServiceName,
        memory_bytes: u64,
    },
    /// A worker that answered but did not consume was asked to consume again.
    ConsumerAdded {
        service: ServiceName,
        queue: String,
        reason: String,
    },
    /// The main process ended without a request.
    ServiceExited {
        service: ServiceName,
        status: ExitStatus,
        log: PathBuf,
    },
    ServiceRestarting {
        service: ServiceName,
        /// Number of the restart, 1 for the first.
        attempt: u32,
        backoff_ms: u64,
        reason: String,
    },
    /// orch gave up the service.
    ServiceFailed {
        service: ServiceName,
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log: Option<PathBuf>,
    },
    ServiceStopping {
        service: ServiceName,
    },
    ServiceStopped {
        service: ServiceName,
        status: ExitStatus,
    },
    /// Leftovers of dead runs in Redis, found before this run began.
    LeftoversFound(RedisLeftovers),

    // ----- proxies
    ProxiesCounted(ProxyPoolCount),
    ProxyRefreshStarted {
        /// Number of the attempt, 1 for the first.
        attempt: u32,
        /// Task whose result decides the outcome of the job.
        task_id: String,
    },
    ProxyRefreshDispatched(ProxyRefreshJob),
    ProxyStageEntered {
        stage: FollowStage,
        /// Reason for the change to this stage.
        reason: String,
    },
    ProxyRefreshProgressed {
        done: u64,
        total: Option<u64>,
    },
    ProxyRefreshFinished {
        elapsed_ms: u64,
    },
    ProxyRefreshFailed {
        reason: String,
        will_retry: bool,
    },

    // ----- sites
    /// Expected end of the last site, computed from the schedule and the history; emitted again after a change.
    EndExpected {
        /// Time until that end, milliseconds.
        in_ms: u64,
    },
    /// The site depends on sites of this run, which have to end first.
    SiteWaiting {
        site: SiteName,
        waits_for: Vec<SiteName>,
    },
    /// The dependencies are met; the site waits for a turn.
    SiteQueued {
        site: SiteName,
    },
    /// The dispatch task is about to be published. The journal line is written before, so that the journal knows every
    /// job.
    SiteDispatched {
        site: SiteName,
        /// Number of the attempt, 1 for the first.
        attempt: u32,
        task_id: String,
        /// Job id that orch passed to the task, if the task takes one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job_id: Option<JobId>,
        /// Fencing token of the site's lease.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fencing_token: Option<u64>,
    },
    /// The job that an earlier run had dispatched is followed further; nothing is published.
    SitePickedUp {
        site: SiteName,
        /// Number of the attempt in the earlier run.
        attempt: u32,
        task_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job_id: Option<JobId>,
        /// Fencing token of the site's lease, which is new.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fencing_token: Option<u64>,
    },
    /// The dispatch task answered; the job is known.
    SiteJobStarted {
        site: SiteName,
        job_id: JobId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chord_id: Option<String>,
        counts: SiteCounts,
        /// Dynamic timeout, milliseconds.
        timeout_ms: u64,
    },
    SiteStageEntered {
        site: SiteName,
        stage: FollowStage,
        reason: String,
    },
    SiteProgressed {
        site: SiteName,
        counts: SiteCounts,
        source: ProgressSource,
    },
    /// The result of the chord's callback was noticed; written at once, before orch reads anything because of the
    /// result.
    SiteChordCompleted {
        site: SiteName,
        chord_id: String,
    },
    /// The health of the site changed.
    SiteVerdict {
        site: SiteName,
        health: SiteHealth,
        reason: String,
        /// Action that follows; `None` for a healthy site.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        action: Option<HealthAction>,
        vitals: SiteMetrics,
    },
    /// A stop of the site was requested; the end of the site follows later.
    SiteStopRequested {
        site: SiteName,
        /// Requester, such as `pid 12 of user alice`.
        by: String,
    },
    /// A task of a job failed, the first one with its signature.
    TaskFailed(Box<FailedTask>),
    /// Failed tasks of all attempts at a site, before the event of the end.
    SiteErrorsCounted(SiteErrors),
    SiteRetrying {
        site: SiteName,
        /// Number of the attempt that will follow.
        attempt: u32,
        backoff_ms: u64,
        reason: String,
    },
    SiteFinished {
        site: SiteName,
        status: SiteStatus,
        counts: SiteCounts,
        elapsed_ms: u64,
        /// Reason, unless the site is complete.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// For a skipped site: the site whose end decided that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dependency: Option<SiteName>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<EndCause>,
    },

    // ----- notices: facts that are printed with the level that `level` returns
    /// The latest run was cut short and can be continued.
    UnfinishedRunFound(UnfinishedRun),
    /// Processes of dead runs were found at the start.
    LeftoverProcessesEnded(LeftoverProcesses),
    /// A file of the run could not be written or removed; the run goes on.
    RunFileFailed(RunFileFailure),
    /// A log could not be kept within its bound.
    LogProblemFound(LogProblem),
    /// The state directory was removed or replaced; the services keep running.
    StateDirectoryLost(StateDirectoryLoss),
    /// A site failed that may lack a variable of a file which is not read.
    EnvFileUnread(UnreadEnvFile),
    GuardProblemFound {
        problem: GuardProblem,
    },
    /// orch gave up a service of `orch up`; the other services keep running.
    ServiceGivenUp {
        service: ServiceName,
        /// The failure as the user sees it.
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unread: Option<UnreadEnvFile>,
    },
    /// A killed service has left nothing in its log, since Python buffers its output.
    ServiceLogEmpty {
        service: ServiceName,
    },
    RedisProblemFound {
        problem: RedisProblem,
    },
    WorkerProblemFound {
        problem: WorkerProblem,
    },
    /// A worker consumes the queues of the run again.
    ConsumerReturned {
        queues: Vec<String>,
    },
    AppProblemFound {
        problem: AppProblem,
    },
    /// Messages that a worker had taken and cannot acknowledge are no longer unacknowledged.
    MessagesRestored {
        /// Number of messages that are in their queues again.
        requeued: u64,
        /// Number of messages whose tasks had finished already.
        acknowledged: u64,
    },
    /// Other runs hold all sites of the run, which waits for one of them.
    FreeSiteAwaited {
        /// Longest wait, milliseconds.
        timeout_ms: u64,
        held: Vec<HeldSites>,
    },
    /// Another run holds the lease of the site, which waits for the release.
    SiteLeaseAwaited {
        site: SiteName,
        holder: SiteHolder,
    },
    /// The last holder has not released the lease; the work that it left was ended.
    SiteLeaseAbandoned {
        site: SiteName,
        holder: SiteHolder,
        messages_removed: u64,
        tasks_revoked: u64,
    },
    /// The site has only one attempt, since it failed in its last runs.
    SiteRetriesWithheld {
        site: SiteName,
    },
    /// The site is complete, and the app has not reported the number of results, which should be known.
    SiteResultsUnknown {
        site: SiteName,
        reason: String,
    },
    /// Chunks of the site's job are lost or have failed, so that the callback cannot run.
    SiteChunksLost {
        site: SiteName,
        loss: ChunkLoss,
        /// The attempt ends, because another one follows.
        ends_attempt: bool,
    },
    /// The site waits only for memory.
    SiteMemoryAwaited {
        site: SiteName,
        /// Memory that the site used in earlier runs.
        memory_bytes: u64,
    },
    /// The memory cannot be read; sites begin without a check.
    MemoryCheckFailed {
        reason: String,
    },
    /// Memory is short; no further site begins.
    MemoryGateShut {
        shortage: MemoryShortage,
    },
    /// Enough memory is available again.
    MemoryGateOpened,
    /// A site begins although memory is short, because no running site could free memory.
    MemoryGateForced {
        shortage: MemoryShortage,
    },
    /// A site asked for a refresh of the proxies, which begins now.
    ProxyRefreshRequested {
        site: SiteName,
    },
    /// The proxies are refreshed because a site of an earlier run had no results with them.
    ProxyPoolSuspected {
        site: SiteName,
        run_id: RunId,
    },
    /// The pool cannot be read after a requested refresh; the sites go on.
    ProxyPoolUnreadable {
        file: PathBuf,
        reason: String,
        hint: String,
    },
    /// Too few proxies are usable after a requested refresh; the sites go on.
    ProxyRefreshInsufficient {
        usable: u64,
        min_usable: u64,
        reason: String,
    },
    /// A requested refresh could not be published.
    ProxyRefreshNotStarted {
        reason: String,
    },
    /// The run goes on with too few proxies, as configured.
    ProxyShortageAccepted {
        usable: u64,
        min_usable: u64,
        reason: String,
    },
    /// Chunks of a refresh are lost or have failed; the other chunks go on.
    ProxyChunksLost {
        loss: ChunkLoss,
    },
    /// A task was revoked and counts as an error, because it has lost its pool process several times.
    CrashingTaskRevoked {
        task_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        crashes: u32,
    },
    /// A worker lists executions as running that its pool processes have left.
    StaleExecutionsFound {
        worker: String,
        count: u64,
        /// Task ids of the first ones.
        tasks: Vec<String>,
    },
    /// Tasks of the run wait in a queue that no worker consumes.
    QueueUnconsumed {
        queue: String,
        /// Number of the waiting tasks.
        waiting: u64,
        /// A worker has consumed the queue before.
        was_consumed: bool,
        /// Description of the workers, such as `worker w1@host consumes celery`.
        workers: String,
    },
}
