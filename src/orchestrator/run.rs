//! The work of a run: first the proxies, then the sites. At the same time the supervisor keeps the services running.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::own_workers::own_workers;
use super::unacknowledged_search::UnacknowledgedSearch;
use orch_base::wall_clock::unix_now;
use orch_celery::{Client, DeadWorker, RestoreReport, SharedWorkers, TaskId};
use orch_config::{Config, SiteConfig};
use orch_journal::failure::ServiceFailure;
use orch_journal::{
    EventKind, History, NoticeLevel, Recorder, Resumption, RunDirectory, RunOutcome, ServiceName, SiteName,
    SiteRemainder, StopReason,
};
use orch_scrape::jobs::{SiteRequests, StopRequests};
use orch_scrape::proxies;
use orch_scrape::proxies::{ProxyVerdict, SuspectPool};
use orch_scrape::sites;
use orch_scrape::sites::{AllSitesHeld, LeaseStore};
use orch_supervisor::shared::RedisOutage;
use orch_supervisor::worker::site_worker::service_name as site_service_name;
use orch_supervisor::{OnDemand, RedisConnection, RefusalWatch, UsableServices};

/// Time between two attempts to put back the messages of one dead worker.
const RESTORE_INTERVAL: Duration = Duration::from_secs(1);

/// Time limit for putting back the messages of one dead worker; long enough for a restart of Redis.
const RESTORE_DEADLINE: Duration = Duration::from_secs(60);

/// End of the work of a run.
#[derive(Clone, Debug)]
pub enum RunEnd {
    /// The work is finished, with this outcome.
    Done(RunOutcome),
    /// The work could not be finished.
    Failed(RunOutcome, ServiceFailure),
    /// A signal or another command requested the stop.
    Stopped(StopReason),
}

impl RunEnd {
    /// Creates a failed end with the outcome of the failure.
    pub fn failed(failure: ServiceFailure) -> Self {
        RunEnd::Failed(failure.kind.outcome(), failure)
    }

    /// Creates the end of a run if other runs hold all sites.
    pub fn busy(held: &AllSitesHeld) -> Self {
        let failure = ServiceFailure::infrastructure(format!("other runs hold all of the sites: {held}"))
            .hint("wait for them (`--wait 10m`); for another project on the same broker set another `[orch] instance`");
        RunEnd::Failed(RunOutcome::Busy, failure)
    }

    /// Returns the outcome of the run.
    pub fn outcome(&self) -> RunOutcome {
        match self {
            RunEnd::Done(outcome) | RunEnd::Failed(outcome, _) => *outcome,
            RunEnd::Stopped(StopReason::Interrupt) => RunOutcome::Interrupted,
            RunEnd::Stopped(StopReason::Terminate | StopReason::Requested) => RunOutcome::Terminated,
            RunEnd::Stopped(StopReason::Hangup) => RunOutcome::HungUp,
            RunEnd::Stopped(StopReason::Finished) => RunOutcome::Succeeded,
            RunEnd::Stopped(StopReason::Failure) => RunOutcome::InfrastructureFailed,
        }
    }

    /// Returns the reason for the stop of the services.
    pub fn reason(&self) -> StopReason {
        match self {
            RunEnd::Done(RunOutcome::Succeeded | RunOutcome::SitesFailed) => StopReason::Finished,
            RunEnd::Done(_) | RunEnd::Failed(..) => StopReason::Failure,
            RunEnd::Stopped(reason) => *reason,
        }
    }
}

/// Inputs of the work of a run.
pub struct RunWork {
    pub config: Arc<Config>,
    pub sites: Vec<SiteName>,
    /// Remaining work of the run that this run continues.
    pub resumption: Option<Arc<Resumption>>,
    pub recorder: Recorder,
    pub usable: watch::Receiver<UsableServices>,
    pub worker_exits: watch::Receiver<u64>,
    pub connection: Option<RedisConnection>,
    pub client: Option<Client>,
    /// Store of the sites' leases; present whenever `client` is.
    pub leases: Option<LeaseStore>,
    /// End of the wait for sites that another run holds.
    pub wait_until: Instant,
    /// History of the sites from earlier runs.
    pub history: History,
    /// Evidence of the last run against the proxy pool.
    pub suspect_pool: Option<SuspectPool>,
    /// Switches the circuit breaker off: sites run even if they have failed often.
    pub force: bool,
    /// Handle that starts and stops the sites' own workers.
    pub workers: OnDemand,
    /// Context of the sites; set as soon as sites may run, so that a stop can cancel them.
    pub in_flight: Arc<OnceLock<sites::JobContext>>,
    /// Worker monitor of the jobs, for the same purpose.
    pub monitor: sites::KeptMonitor,
    /// Directory with the logs of the services.
    pub directory: RunDirectory,
    /// Sites that are to be stopped by request.
    pub site_stops: StopRequests,
    /// Requests about the admission of sites.
    pub site_requests: SiteRequests,
    /// Workers that the run uses and does not own.
    pub shared: SharedWorkers,
    pub redis_outage: RedisOutage,
    /// Receiver of the deaths of shared workers; `None` if no worker is shared.
    pub dead_workers: Option<tokio::sync::Mutex<mpsc::UnboundedReceiver<DeadWorker>>>,
    /// Run of the joined `orch up` that owns Redis and the workers.
    pub joined: Option<RunDirectory>,
}

impl RunWork {
    /// Waits until every service can be used.
    pub async fn wait_until_usable(&self) {
        let mut usable = self.usable.clone();
        if usable.wait_for(|usable| usable.all).await.is_err() {
            // The supervisor has ended, and the caller's `select!` returns its result.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until every service can be used, or stays down until a request starts it.
    pub async fn wait_until_settled(&self) {
        let mut usable = self.usable.clone();
        if usable.wait_for(|usable| usable.settled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Refreshes the proxies, then runs the sites. Ends early if there is evidence that the app uses Redis without its
    /// password.
    pub async fn run(&self) -> RunEnd {
        let (Some(client), Some(leases)) = (&self.client, &self.leases) else {
            return RunEnd::failed(
                ServiceFailure::configuration("sites cannot run: Redis or Celery is switched off")
                    .hint("`orch run` needs `[redis]` and `[celery]`; `orch up` does not"),
            );
        };
        let context = sites::JobContext::new(
            client.clone(),
            self.recorder.clone(),
            self.config.celery.queues.clone(),
            self.worker_exits.clone(),
        )
        .with_own_queues(self.config.own_queues().map(str::to_owned).collect());
        let context = match &self.resumption {
            Some(resumption) => context.continuing(resumption),
            None => context,
        };
        let usable = self.usable.clone();
        let context = sites::JobContext {
            stop_requests: self.site_stops.clone(),
            site_requests: self.site_requests.clone(),
            shared_workers: self.shared.clone(),
            usual_times: Arc::new(self.history.baselines()),
            worker_logs: Arc::new(self.logs_of_workers()),
            workers_settled: sites::SettledCheck::new(move || usable.borrow().all),
            ..context
        };
        // Cannot fail, because the work of a run is executed only once.
        self.in_flight.set(context.clone()).ok();
        let guarded = self.connection.as_ref().is_some_and(RedisConnection::guards_password);
        let refusals = guarded.then(|| RefusalWatch::new(client.clone(), &self.worker_logs()));
        let refused = async {
            let mut failures = context.task_failures.subscribe();
            match &refusals {
                Some(refusals) => refusals.until_refused(&mut failures).await,
                None => std::future::pending().await,
            }
        };
        let mut reasons = Vec::new();
        let ending = tokio::select! {
            never = self.restore_after_restarts(client, &context) => match never {},
            never = self.restore_of_dead_workers(client, &context) => match never {},
            failure = refused => return RunEnd::failed(failure),
            ending = self.proxies_then_sites(&context, leases, &mut reasons) => ending,
        };
        // During an outage of an external Redis the sites lose their leases before the outage ends the run. The outage
        // is then the cause to report.
        if let (RunEnd::Done(RunOutcome::SitesFailed), Some(away)) = (&ending, self.redis_outage.failure()) {
            return RunEnd::failed(away);
        }
        let Some(refusals) = &refusals else { return ending };
        if let RunEnd::Failed(_, failure) = &ending {
            reasons.push(failure.to_string());
        }
        // An app may ignore the refusal and report a finished job that has saved nothing.
        match refusals.final_failure(&reasons, &self.recorder).await {
            Some(failure) => RunEnd::failed(failure),
            None => ending,
        }
    }

    /// Returns the log of the worker of each site.
    fn logs_of_workers(&self) -> sites::WorkerLogs {
        let owner = self.joined.as_ref().unwrap_or(&self.directory);
        let own = self.config.sites.iter().filter(|site| site.worker.is_some());
        sites::WorkerLogs {
            shared: Some(owner.log("celery")),
            own: own
                .map(|site| {
                    (
                        site.name.clone(),
                        self.directory.log(site_service_name(&site.name).as_str()),
                    )
                })
                .collect(),
        }
    }

    /// Returns the logs of all workers and of beat.
    fn worker_logs(&self) -> Vec<PathBuf> {
        let own = self.config.sites.iter().filter(|site| site.worker.is_some());
        let own = own.map(|site| site_service_name(&site.name).to_string());
        let names = ["celery".to_owned(), "beat".to_owned()].into_iter().chain(own);
        names.map(|name| self.directory.log(&name)).collect()
    }

    /// Puts back the messages of each worker with a process that was seen to end, in any Redis, owned or external.
    /// Never ends.
    ///
    /// For the jobs of this run also puts back messages that no worker reports to hold (`Client::restore_of_jobs`).
    /// Messages of other jobs are not moved, because a silent worker may still be alive.
    async fn restore_of_dead_workers(&self, client: &Client, context: &sites::JobContext) -> std::convert::Infallible {
        let Some(dead) = &self.dead_workers else {
            return std::future::pending().await;
        };
        let mut dead = dead.lock().await;
        // The worker of the continued run died with that run.
        for job in context.earlier_jobs.values() {
            self.shared.record_job(&TaskId::from(job.task_id.as_str()));
        }
        // That worker may have taken more messages than the events show, because events are sent a moment later.
        let mut search =
            (!context.earlier_jobs.is_empty()).then(|| UnacknowledgedSearch::after_death(unix_now().as_secs_f64()));
        // A worker does not acknowledge messages that were taken before a broken connection.
        let mut returns = self.redis_outage.returns();
        let mut gaps = context.event_gaps.subscribe();
        loop {
            let pause = search.as_mut().map(UnacknowledgedSearch::next_delay);
            let worker = tokio::select! {
                () = changed(&mut returns) => {
                    search = Some(UnacknowledgedSearch::after_cut(Instant::now()));
                    continue;
                }
                Ok(()) = gaps.changed() => {
                    search = Some(UnacknowledgedSearch::after_cut(Instant::now()));
                    continue;
                }
                worker = dead.recv() => worker,
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {
                    let jobs = self.shared.jobs();
                    let until = search.as_ref().map_or(0.0, |search| search.taken_until);
                    let living = self.shared.living();
                    match client.restore_of_jobs(&jobs, until, &living, &context.stale_executions.all()).await {
                        Ok(restored) => {
                            self.report_restored(&restored);
                            search = search.filter(|search| !search.is_over(&restored, Instant::now()));
                        }
                        Err(error) => tracing::warn!(%error, "could not search for messages that no worker acknowledges"),
                    }
                    continue;
                }
            };
            let Some(worker) = worker else { break };
            let Some(seen_at) = worker.seen_at else { continue };
            search = Some(UnacknowledgedSearch::after_death(seen_at));
            let tasks = self.shared.take_tasks_of(&worker.node);
            let give_up = Instant::now() + RESTORE_DEADLINE;
            loop {
                match client
                    .restore_held(&tasks, seen_at, &context.stale_executions.all())
                    .await
                {
                    Ok(restored) => {
                        tracing::info!(node = %worker.node, pid = worker.pid, tasks = tasks.len(), "a worker died");
                        self.report_restored(&restored);
                        if restored.postponed == 0 || Instant::now() >= give_up {
                            break;
                        }
                        tokio::time::sleep(RESTORE_INTERVAL).await;
                    }
                    Err(error) if Instant::now() >= give_up => {
                        tracing::warn!(%error, node = %worker.node, "could not put back the messages of a dead worker");
                        break;
                    }
                    Err(_) => tokio::time::sleep(RESTORE_INTERVAL).await,
                }
            }
        }
        std::future::pending().await
    }

    /// Puts back messages that a dead or disconnected worker can no longer acknowledge: after each restart of a
    /// service, and at the start of a run that continues another. Never ends.
    ///
    /// Acts only in a Redis that this run or the joined `orch up` owns: an external Redis may have workers that cannot
    /// be asked for their messages.
    async fn restore_after_restarts(&self, client: &Client, context: &sites::JobContext) -> std::convert::Infallible {
        let mut usable = self.usable.clone();
        let mut deaths = context.worker_exits.clone();
        let mut returns = self.redis_outage.returns().filter(|_| self.joined.is_some());
        let mut seen = 0;
        let mut due = !context.earlier_jobs.is_empty();
        let mut gaps = context.event_gaps.subscribe();
        while self.connection.as_ref().is_some_and(|connection| connection.owned) {
            let mut search = UnacknowledgedSearch::after_death(unix_now().as_secs_f64());
            tokio::select! {
                restarted = usable.wait_for(|usable| usable.all && (due || usable.restarts > seen)) => {
                    let Ok(now) = restarted.map(|usable| usable.restarts) else {
                        break;
                    };
                    seen = now;
                }
                Ok(()) = gaps.changed() => search = UnacknowledgedSearch::after_cut(Instant::now()),
                // The joined `orch up` does not report restarts of its services, but deaths of workers are seen.
                Ok(()) = deaths.changed(), if self.joined.is_some() => {}
                () = changed(&mut returns) => {}
            }
            due = false;
            loop {
                // A worker in a warm shutdown no longer replies, but still executes tasks.
                if usable.wait_for(|usable| usable.all).await.is_err() {
                    break;
                }
                match client.restore_unacked(&context.stale_executions.all()).await {
                    Ok(restored) if search.is_over(&restored, Instant::now()) => break,
                    Ok(restored) => self.report_restored(&restored),
                    Err(error) => tracing::warn!(%error, "could not search for messages that no worker acknowledges"),
                }
                tokio::time::sleep(search.next_delay()).await;
            }
        }
        std::future::pending().await
    }

    fn report_restored(&self, restored: &RestoreReport) {
        if *restored != RestoreReport::default() {
            tracing::info!(?restored, "found messages that no worker acknowledges");
        }
        if restored.requeued + restored.acknowledged > 0 {
            self.recorder.emit(EventKind::MessagesRestored {
                requeued: restored.requeued,
                acknowledged: restored.acknowledged,
            });
        }
    }

    /// Returns the sites to run in the order of the configuration, without sites that the continued run had completed.
    fn chosen(&self) -> Vec<SiteConfig> {
        let mut wanted: HashSet<&SiteName> = self.sites.iter().collect();
        for so_far in self.resumption.iter().flat_map(|resumption| &resumption.sites) {
            if let SiteRemainder::Kept { .. } = so_far.progress {
                wanted.remove(&so_far.site);
            }
        }
        let sites = self.config.sites.iter();
        sites.filter(|site| wanted.contains(&site.name)).cloned().collect()
    }

    /// Returns the expected memory peaks of the sites that have their own worker.
    fn expected_peaks(&self) -> BTreeMap<SiteName, u64> {
        let peaks: BTreeMap<&ServiceName, u64> = self.history.peaks().collect();
        let own = self.config.sites.iter().filter(|site| site.worker.is_some());
        own.filter_map(|site| {
            let peak = peaks.get(&site_service_name(&site.name))?;
            Some((site.name.clone(), *peak))
        })
        .collect()
    }

    /// Refreshes the proxies, then runs the sites; adds the reasons of failed sites to `reasons`.
    async fn proxies_then_sites(
        &self,
        context: &sites::JobContext,
        leases: &LeaseStore,
        reasons: &mut Vec<String>,
    ) -> RunEnd {
        let at_once = self.config.orch.max_parallel_sites;
        let expected = self.history.expected();
        let refresh = proxies::ProxyRefresh {
            config: self.config.proxies.clone(),
            usual: self.history.usual_refresh(),
            suspect: self.suspect_pool.clone(),
        };
        let work = match sites::RunPlan::new(self.chosen(), at_once, &self.config.resources, &expected) {
            // A job that continues from the earlier run is not subject to the circuit breaker.
            Ok(work) => work
                .with_history(&self.history, |site| {
                    self.force || context.earlier_jobs.contains_key(site)
                })
                .with_proxy_refresh(refresh.clone())
                .with_workers(own_workers(&self.workers))
                .with_memory(self.config.orch.memory_reserve, &self.expected_peaks()),
            Err(error) => {
                let failure = ServiceFailure::configuration("could not order the sites").with_source(&error);
                return RunEnd::failed(failure);
            }
        };
        let proxies = &self.config.proxies;
        let file = proxies.file.display();
        if proxies.enabled && work.has_site_to_run() {
            let ensured = tokio::select! {
                biased;
                ensured = proxies::ensure(context, &self.monitor, &refresh) => ensured,
                absence = self.shared.until_absent(true) => {
                    let failure = ServiceFailure::infrastructure(absence.reason).with_cause("the pool refresh needs a worker");
                    return RunEnd::failed(failure.hint("start a worker, then this run again"));
                }
            };
            match ensured {
                Ok(ProxyVerdict::Enough { .. }) => {}
                Ok(ProxyVerdict::Unreadable { reason, hint }) => {
                    let failure = ServiceFailure::infrastructure(format!("could not read the proxy pool {file}"))
                        .with_cause(reason)
                        .hint(hint);
                    return RunEnd::Failed(RunOutcome::NotEnoughProxies, failure);
                }
                Ok(ProxyVerdict::TooFew { usable, reason, hint }) => {
                    let needed = proxies.min_usable;
                    let failure = ServiceFailure::infrastructure(format!(
                        "{usable} usable proxies in {file}, {needed} are required"
                    ))
                    .with_cause(reason)
                    .hint(hint);
                    return RunEnd::Failed(RunOutcome::NotEnoughProxies, failure);
                }
                Err(error) => {
                    return RunEnd::failed(
                        ServiceFailure::infrastructure("could not refresh the proxies").with_cause(error.to_string()),
                    );
                }
            }
        }
        let reports = sites::run_all(context, &self.monitor, work, leases.clone(), self.wait_until).await;
        reasons.extend(reports.iter().filter_map(|report| report.reason.clone()));
        if let Some(held) = AllSitesHeld::from_reports(&reports) {
            return RunEnd::busy(&held);
        }
        if let Some(message) = sites::hint_at_empty_sites(&self.config, &reports) {
            // The text is advice for the configuration, which no other event states.
            let level = NoticeLevel::Info;
            self.recorder.emit(EventKind::Noticed { level, message });
        }
        let kept = self.resumption.iter().flat_map(|resumption| resumption.kept());
        let ends = reports.iter().map(|report| (report.status, report.counts));
        RunEnd::Done(RunOutcome::of_sites(ends.chain(kept), self.config.orch.strict))
    }
}

/// Waits for the next change; waits for ever without a receiver, or if the sender has ended.
async fn changed(receiver: &mut Option<watch::Receiver<u64>>) {
    if let Some(receiver) = receiver
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
