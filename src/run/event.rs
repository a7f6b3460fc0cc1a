//! What can happen in a run, as typed facts in the past tense.
//!
//! An event is the only source of what is shown or remembered: the journal keeps each as one JSON line, [`RunState`]
//! folds them, views draw the state. Fields are added with `#[serde(default)]`, so that an older journal stays readable.
//! Not here: decisions (the parts that emit take those) and words (the views choose those).
//!
//! [`RunState`]: super::RunState

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::end_cause::EndCause;
use super::health::{HealthAction, SiteHealth, SiteVitals};
use super::ids::{JobId, RunId, ServiceName, SiteName};
use super::left_out::LeftOutProxies;
use super::resumption::Resumption;

/// One fact with its place in the run's order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// 1 for the first event of the run, without gaps.
    pub seq: u64,
    /// Wall clock, seconds since the Unix epoch with microseconds.
    pub at: f64,
    /// Seconds since the run's first event on the monotonic clock (the wall clock may jump).
    pub elapsed: f64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Which command produced the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// `orch run`: ends when its sites have ended.
    Run,
    /// `orch up`: ends when it is told to.
    Up,
    /// Ends when its services are ready (its oneshots have completed): the preparation of the example.
    Prepare,
}

/// How a process ended, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal {
        /// Number of the signal.
        signal: i32,
        /// A core file was written.
        core_dumped: bool,
    },
    /// The guard that would have told is gone.
    Unknown,
}

/// How a proxy refresh or a site's job is being followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowStage {
    /// Waiting for the result of the dispatch task (for a chain: of its dispatcher).
    Dispatch,
    /// Waiting for the result of the chord's callback, by subscription.
    Chord,
    /// Reading the app's progress keys.
    ProgressKeys,
    /// Watching the modification time of the pool file (proxies only).
    FileTime,
    /// Following the task's own events, its result being ignored.
    TaskEvents,
}

/// How a site's job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteStatus {
    /// Everything that was dispatched has been processed.
    Complete,
    /// Complete, and less came of it than should have.
    Degraded,
    /// It ended with an error, or could not be followed to its end.
    Failed,
    /// Whether it did its work cannot be known: nothing of it is left, and evidence is missing.
    Unknown,
    /// orch gave it up: Ctrl+C or a stop of the run.
    Cancelled,
    /// Never begun: what it depends on has not succeeded, or it has failed too often in the last runs.
    Skipped,
}

impl SiteStatus {
    /// Complete, degraded or not: it has done its work.
    pub fn is_success(self) -> bool {
        match self {
            SiteStatus::Complete | SiteStatus::Degraded => true,
            SiteStatus::Failed | SiteStatus::Unknown | SiteStatus::Cancelled | SiteStatus::Skipped => false,
        }
    }
}

/// Counts of one site's job as far as they are known; `None` is "not known", never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteCounts {
    /// Pages or listings that the dispatch task found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_urls: Option<u64>,
    /// Chunks (header tasks of the chord).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_chunks: Option<u64>,
    /// Chunks that have ended, failed ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_chunks: Option<u64>,
    /// Records saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<u64>,
    /// Errors that the app or Celery counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<u64>,
}

/// Where progress figures come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressSource {
    /// The chord's counters in the result backend.
    Chord,
    /// The app's own progress keys.
    Keys,
    /// Celery's task events.
    Events,
}

/// Why a stop began; a later reason replaces an earlier one only when it is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The work is done.
    Finished,
    /// A part failed that the run cannot do without.
    Failure,
    /// The terminal went away.
    Hangup,
    /// SIGTERM.
    Terminate,
    /// Ctrl+C.
    Interrupt,
}

/// How loud a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Good to know.
    Info,
    /// Degraded, but going on.
    Warning,
    /// A person must act.
    Error,
}

/// How a run ended; the exit code follows from it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All sites finished (or `orch up` was asked to end and did).
    Succeeded,
    /// At least one site failed, or has no results where there should be some.
    SitesFailed,
    /// The configuration or the command line is wrong, also when only the running system could show it.
    ConfigurationError,
    /// Redis, Celery, a service, the guard or the disk failed.
    InfrastructureFailed,
    /// Fewer usable proxies than required.
    NotEnoughProxies,
    /// Another run holds the instance, or others hold all of its sites.
    Busy,
    /// SIGINT, after a clean stop.
    Interrupted,
    /// SIGTERM, after a clean stop.
    Terminated,
    /// SIGHUP, after a clean stop.
    HungUp,
}

impl Outcome {
    /// The process exit code (README, "Exit codes").
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Succeeded => 0,
            Outcome::SitesFailed => 1,
            Outcome::ConfigurationError => 2,
            Outcome::InfrastructureFailed => 3,
            Outcome::NotEnoughProxies => 4,
            Outcome::Busy => 75,
            Outcome::HungUp => 129,
            Outcome::Interrupted => 130,
            Outcome::Terminated => 143,
        }
    }
}

/// A planned service, in start order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedService {
    /// Its name.
    pub name: ServiceName,
    /// Runs to its end before its dependents start, instead of being kept running.
    pub oneshot: bool,
}

/// The facts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    // ----- the run
    /// First event of every run.
    RunStarted {
        /// Version of the journal's format; readers refuse a greater one.
        format: u32,
        run_id: RunId,
        command: Command,
        /// Version of orch.
        version: String,
        instance: String,
        config: PathBuf,
        /// `<state>/runs/<run id>`.
        directory: PathBuf,
        pid: i32,
        guard_pid: i32,
        services: Vec<PlannedService>,
        sites: Vec<SiteName>,
        /// The run that this one continues, with what it had done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resumes: Option<Resumption>,
    },
    /// Something a person should read that no other event says.
    Noticed {
        level: Level,
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
        outcome: Outcome,
        exit_code: u8,
        /// Why, when it is not `succeeded`: the error as the user sees it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },

    // ----- services
    ServiceStarting {
        service: ServiceName,
        /// 1 for the first start.
        attempt: u32,
    },
    /// The process exists; it is not ready yet.
    ServiceSpawned {
        service: ServiceName,
        pid: i32,
    },
    ServiceReady {
        service: ServiceName,
        /// Since `ServiceStarting`, milliseconds.
        elapsed_ms: u64,
        /// Such as `redis 7.0.15 on 127.0.0.1:6379`.
        detail: String,
    },
    /// It was there and healthy before orch came; it is used and never stopped.
    ServiceReused {
        service: ServiceName,
        detail: String,
    },
    /// A oneshot ran to its successful end.
    ServiceCompleted {
        service: ServiceName,
        elapsed_ms: u64,
    },
    ServiceUnhealthy {
        service: ServiceName,
        reason: String,
    },
    /// What the processes of a service that is needed no more have held of memory together, at most, as far as was looked.
    ServicePeaked {
        service: ServiceName,
        memory_bytes: u64,
    },
    /// A worker that answers but does not consume was told to consume again.
    ConsumerAdded {
        service: ServiceName,
        queue: String,
        reason: String,
    },
    /// Its main process ended without having been asked to.
    ServiceExited {
        service: ServiceName,
        status: ExitStatus,
        log: PathBuf,
    },
    ServiceRestarting {
        service: ServiceName,
        /// 1 for the first restart.
        attempt: u32,
        backoff_ms: u64,
        reason: String,
    },
    /// orch gave it up.
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
    /// What dead runs left in Redis before this one began.
    LeftoversFound {
        /// Messages on the consumed queues, all priorities.
        queued: u64,
        /// Messages a dead worker had taken and not acknowledged.
        unacked: u64,
        /// Chord, control-reply and progress keys of dead jobs.
        keys: u64,
        /// Removed (owned Redis), or left where they are (anything else).
        removed: bool,
    },

    // ----- proxies
    ProxiesCounted {
        file: PathBuf,
        total: u64,
        usable: u64,
        min_usable: u64,
        #[serde(default, skip_serializing_if = "LeftOutProxies::is_none")]
        left_out: LeftOutProxies,
        /// Why the count is what it is, when the file could not be read whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
    },
    ProxyRefreshStarted {
        /// 1 for the first.
        attempt: u32,
        /// Task whose result tells the job.
        task_id: String,
    },
    ProxyRefreshDispatched {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job_id: Option<JobId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chord_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total_chunks: Option<u64>,
        /// Dynamic timeout of the chord, milliseconds.
        timeout_ms: u64,
    },
    ProxyStageEntered {
        stage: FollowStage,
        /// Why this stage and not the one before.
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
    /// When the last site should end, as the schedule and what is known of the sites tell; told again when that changes.
    EndExpected {
        /// From now, milliseconds.
        in_ms: u64,
    },
    /// It depends on sites of this run, which have to end first.
    SiteWaiting {
        site: SiteName,
        waits_for: Vec<SiteName>,
    },
    /// What it depends on is met: it waits for its turn.
    SiteQueued {
        site: SiteName,
    },
    /// Journalled before its dispatch task is published, so that no job is under way of which the journal does not know.
    SiteDispatched {
        site: SiteName,
        /// 1 for the first.
        attempt: u32,
        task_id: String,
        /// The job id that the task was given, if it takes one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job_id: Option<JobId>,
        /// Token of the site's lease.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fencing_token: Option<u64>,
    },
    /// The job that an earlier run had dispatched is followed further; nothing is published.
    SitePickedUp {
        site: SiteName,
        /// That of the earlier run.
        attempt: u32,
        task_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job_id: Option<JobId>,
        /// Token of the site's lease, which is new.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fencing_token: Option<u64>,
    },
    /// The dispatch task answered: the job is known.
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
    /// The chord's callback result was noticed; journalled at once, before anything is read because of it.
    SiteChordCompleted {
        site: SiteName,
        chord_id: String,
    },
    /// It does better or worse than before.
    SiteVerdict {
        site: SiteName,
        health: SiteHealth,
        reason: String,
        /// What is done about it; nothing about a healthy one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        action: Option<HealthAction>,
        vitals: SiteVitals,
    },
    /// Somebody has asked for its stop; its end says when that is done.
    SiteStopRequested {
        site: SiteName,
        /// Such as `pid 12 of user alice`.
        by: String,
    },
    SiteRetrying {
        site: SiteName,
        /// The attempt that will follow.
        attempt: u32,
        backoff_ms: u64,
        reason: String,
    },
    SiteFinished {
        site: SiteName,
        status: SiteStatus,
        counts: SiteCounts,
        elapsed_ms: u64,
        /// Why, unless it is complete.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Of a skipped one: the site by whose end that was decided.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dependency: Option<SiteName>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<EndCause>,
    },
}

impl EventKind {
    /// The site that it tells of, if it tells of one.
    pub fn site(&self) -> Option<&SiteName> {
        match self {
            EventKind::SiteWaiting { site, .. }
            | EventKind::SiteQueued { site }
            | EventKind::SiteDispatched { site, .. }
            | EventKind::SitePickedUp { site, .. }
            | EventKind::SiteJobStarted { site, .. }
            | EventKind::SiteStageEntered { site, .. }
            | EventKind::SiteProgressed { site, .. }
            | EventKind::SiteChordCompleted { site, .. }
            | EventKind::SiteVerdict { site, .. }
            | EventKind::SiteStopRequested { site, .. }
            | EventKind::SiteRetrying { site, .. }
            | EventKind::SiteFinished { site, .. } => Some(site),
            EventKind::RunStarted { .. }
            | EventKind::Noticed { .. }
            | EventKind::StopStarted { .. }
            | EventKind::StopHurried
            | EventKind::StopFinished { .. }
            | EventKind::RunFinished { .. }
            | EventKind::ServiceStarting { .. }
            | EventKind::ServiceSpawned { .. }
            | EventKind::ServiceReady { .. }
            | EventKind::ServiceReused { .. }
            | EventKind::ServiceCompleted { .. }
            | EventKind::ServiceUnhealthy { .. }
            | EventKind::ConsumerAdded { .. }
            | EventKind::ServiceExited { .. }
            | EventKind::ServiceRestarting { .. }
            | EventKind::ServiceFailed { .. }
            | EventKind::ServiceStopping { .. }
            | EventKind::ServiceStopped { .. }
            | EventKind::ServicePeaked { .. }
            | EventKind::LeftoversFound { .. }
            | EventKind::ProxiesCounted { .. }
            | EventKind::ProxyRefreshStarted { .. }
            | EventKind::ProxyRefreshDispatched { .. }
            | EventKind::ProxyStageEntered { .. }
            | EventKind::ProxyRefreshProgressed { .. }
            | EventKind::ProxyRefreshFinished { .. }
            | EventKind::ProxyRefreshFailed { .. }
            | EventKind::EndExpected { .. } => None,
        }
    }

    /// The bound or span `duration` in whole milliseconds, as events carry it.
    pub fn millis(duration: Duration) -> u64 {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
    }
}
