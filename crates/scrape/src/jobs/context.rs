//! Everything that the parts for sites and proxies need from the rest of orch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::failures::failure_log::FirstFailure;
use super::failures::log_excerpt;
use super::failures::site_failures::SiteFailures;
use super::in_flight::InFlight;
use super::refresh_requests::RefreshRequests;
use super::shared_tick::SharedTick;
use super::site_requests::SiteRequests;
use super::stale_executions::StaleExecutions;
use super::stop_requests::StopRequests;
use super::worker_logs::WorkerLogs;
use orch_celery::{Client, SharedWorkers};
use orch_journal::{EventKind, InterruptedJob, Recorder, Resumption, SiteBaseline, SiteName};

/// Question whether all workers are up and settled, for the part that supervises them. Without such a part the answer
/// is yes.
#[derive(Clone)]
pub struct SettledCheck(Arc<dyn Fn() -> bool + Send + Sync>);

impl SettledCheck {
    pub fn new(is_settled: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_settled))
    }

    pub fn is_settled(&self) -> bool {
        (self.0)()
    }
}

impl Default for SettledCheck {
    fn default() -> Self {
        Self::new(|| true)
    }
}

/// Handles of one run that all jobs share. Cheap to clone; clones share the jobs in flight.
#[derive(Clone)]
pub struct JobContext {
    pub celery: Client,
    pub recorder: Recorder,
    /// Queues that workers consume; a task that names no queue goes to the first one.
    pub queues: Vec<String>,
    /// Queues of workers that execute the tasks of one site only.
    pub own_queues: Arc<BTreeSet<String>>,
    /// Question whether every worker that orch owns is up and settled. A worker in a warm shutdown does not answer any
    /// more and still runs the tasks that it has taken: a task that is not found during this time may still end
    /// normally.
    pub workers_settled: SettledCheck,
    /// Count of the deaths of workers that orch owns or shares.
    pub worker_exits: watch::Receiver<u64>,
    /// Count of the gaps in the event stream. A gap means that connections broke, and a worker does not acknowledge a
    /// task that came over a connection that is gone.
    pub event_gaps: watch::Sender<u64>,
    /// Workers that the run does not own.
    pub shared_workers: SharedWorkers,
    /// Count of the failed tasks of this run, for readers that look for the reason at once.
    pub task_failures: watch::Sender<u64>,
    /// Executions that workers list as running and that do not run.
    pub stale_executions: StaleExecutions,
    /// Jobs by site that an earlier run has published and that this run picks up.
    pub earlier_jobs: Arc<BTreeMap<SiteName, InterruptedJob>>,
    /// Fencing tokens of the leases under which that run last worked on unfinished sites.
    pub earlier_tokens: Arc<BTreeMap<SiteName, u64>>,
    /// Usual times of sites.
    pub usual_times: Arc<BTreeMap<SiteName, SiteBaseline>>,
    /// Sites that have requested fresh proxies.
    pub refresh_requests: RefreshRequests,
    /// Sites that are to be stopped while the others go on.
    pub stop_requests: StopRequests,
    /// Requests about the admission of sites, and about sites that wait or have ended.
    pub site_requests: SiteRequests,
    pub in_flight: InFlight,
    /// Failed tasks of the sites.
    pub failures: SiteFailures,
    pub worker_logs: Arc<WorkerLogs>,
    /// Moments at which requests of all jobs travel together.
    pub tick: SharedTick,
}

impl JobContext {
    pub fn new(celery: Client, recorder: Recorder, queues: Vec<String>, worker_deaths: watch::Receiver<u64>) -> Self {
        let task_failures = watch::Sender::new(0);
        Self {
            celery,
            recorder,
            queues,
            own_queues: Arc::default(),
            workers_settled: SettledCheck::default(),
            worker_exits: worker_deaths,
            event_gaps: watch::Sender::new(0),
            shared_workers: SharedWorkers::default(),
            task_failures,
            stale_executions: StaleExecutions::default(),
            earlier_jobs: Arc::default(),
            earlier_tokens: Arc::default(),
            usual_times: Arc::default(),
            refresh_requests: RefreshRequests::default(),
            stop_requests: StopRequests::default(),
            site_requests: SiteRequests::default(),
            in_flight: InFlight::default(),
            failures: SiteFailures::default(),
            worker_logs: Arc::default(),
            tick: SharedTick::starting_at(Instant::now()),
        }
    }

    /// Sets the queues of workers that execute the tasks of one site only.
    #[must_use]
    pub fn with_own_queues(self, queues: BTreeSet<String>) -> Self {
        Self {
            own_queues: Arc::new(queues),
            ..self
        }
    }

    /// Sets the jobs and fencing tokens of the run that this run resumes.
    #[must_use]
    pub fn continuing(self, resumption: &Resumption) -> Self {
        let jobs = resumption.jobs().map(|(site, job)| (site.clone(), job.clone()));
        let tokens = resumption.fencing_tokens();
        Self {
            earlier_jobs: Arc::new(jobs.collect()),
            earlier_tokens: Arc::new(tokens.map(|(site, token)| (site.clone(), token)).collect()),
            ..self
        }
    }

    /// Returns the queue that the call names, or else the first queue that workers consume.
    pub(crate) fn queue_of(&self, call: &orch_config::TaskCall) -> Option<String> {
        call.queue.clone().or_else(|| self.queues.first().cloned())
    }

    /// Records the first failed task with its signature, of a site's job or, without a site, of a proxy refresh.
    pub(crate) fn record_failed_task(
        &self,
        site: Option<&SiteName>,
        attempt: u32,
        failure: FirstFailure,
        chunk: Option<u64>,
    ) {
        let log = self.worker_logs.of(site);
        let log = log.and_then(|log| log_excerpt::before_failure(log, &failure.task));
        let failed = failure.into_fact(site.cloned(), attempt, chunk, log);
        self.recorder.emit(EventKind::TaskFailed(Box::new(failed)));
    }

    pub(crate) fn task_failed(&self) {
        self.task_failures.send_modify(|count| *count += 1);
    }
}
