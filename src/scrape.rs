//! The work of a run: proxies, then sites; beside it the supervisor keeps the services up.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::celery::{Client, Restored, TaskId};
use crate::config::{Config, SiteConfig};
use crate::proxies::{self, ProxyVerdict, SuspectPool};
use crate::run::{
    EventKind, History, Level, Outcome, Progress, Recorder, Resumption, RunDirectory, ServiceName, SiteName, StopReason,
};
use crate::services::{Failure, OnDemand, RedisConnection, RefusalWatch, Usable, site_service_name};
use crate::shared_services::{DeadWorker, SharedWorkers};
use crate::sites::{self, AllHeld, LeaseStore};
use crate::stop_requests;
use crate::unacknowledged_search::{UnacknowledgedSearch, now_unix};

/// Between two attempts to put back what one dead worker held.
const RESTORE_PAUSE: Duration = Duration::from_secs(1);

/// For putting back what one dead worker held, through a restart of Redis.
const RESTORE_DEADLINE: Duration = Duration::from_secs(60);

/// How the work of a run came to its end.
#[derive(Clone, Debug)]
pub enum Ending {
    /// It was done; the outcome says how well.
    Done(Outcome),
    /// It could not be done.
    Failed(Outcome, Failure),
    /// A signal asked for the end.
    Stopped(StopReason),
}

impl Ending {
    /// It could not be done, for a reason that says whose fault it is.
    pub fn failed(failure: Failure) -> Self {
        Ending::Failed(failure.kind.outcome(), failure)
    }

    /// Others are at all of its sites.
    pub fn busy(held: &AllHeld) -> Self {
        let failure = Failure::infrastructure(format!("other runs hold all of the sites: {held}"))
            .hint("wait for them (`--wait 10m`); another `[orch] instance` is for another project on the same broker");
        Ending::Failed(Outcome::Busy, failure)
    }

    /// How the run counts as having ended.
    pub fn outcome(&self) -> Outcome {
        match self {
            Ending::Done(outcome) | Ending::Failed(outcome, _) => *outcome,
            Ending::Stopped(StopReason::Interrupt) => Outcome::Interrupted,
            Ending::Stopped(StopReason::Terminate) => Outcome::Terminated,
            Ending::Stopped(StopReason::Hangup) => Outcome::HungUp,
            Ending::Stopped(StopReason::Finished) => Outcome::Succeeded,
            Ending::Stopped(StopReason::Failure) => Outcome::InfrastructureFailed,
        }
    }

    /// Why the stop begins.
    pub fn reason(&self) -> StopReason {
        match self {
            Ending::Done(Outcome::Succeeded | Outcome::SitesFailed) => StopReason::Finished,
            Ending::Done(_) | Ending::Failed(..) => StopReason::Failure,
            Ending::Stopped(reason) => *reason,
        }
    }
}

/// What the work needs.
pub struct Scrape {
    pub config: Arc<Config>,
    pub sites: Vec<SiteName>,
    /// What an earlier run has left to do.
    pub resumption: Option<Arc<Resumption>>,
    pub recorder: Recorder,
    pub usable: watch::Receiver<Usable>,
    pub task_holder_deaths: watch::Receiver<u64>,
    pub connection: Option<RedisConnection>,
    pub client: Option<Client>,
    /// Where the sites' leases are; there is one wherever there is a client.
    pub leases: Option<LeaseStore>,
    /// Until when sites that another run has are waited for.
    pub wait_until: Instant,
    /// What earlier runs tell of the sites.
    pub history: History,
    /// What the last run says against the pool of proxies.
    pub suspect_pool: Option<SuspectPool>,
    /// Sites are tried however often they have failed.
    pub force: bool,
    /// By whom the sites' own workers are had.
    pub workers: OnDemand,
    /// Set once sites may be in flight, so that a stop can cancel them.
    pub in_flight: Arc<OnceLock<sites::Context>>,
    /// Where the services log.
    pub directory: RunDirectory,
    /// Where others ask for the stop of a site.
    pub stop_requests: PathBuf,
    /// Workers that the run does not own.
    pub shared: SharedWorkers,
    /// Deaths of workers where some are shared.
    pub dead_workers: Option<tokio::sync::Mutex<mpsc::UnboundedReceiver<DeadWorker>>>,
    /// Redis and the workers are those of an `orch up`.
    pub is_joined: bool,
}

impl Scrape {
    /// Waits until every service can be used.
    pub async fn wait_until_usable(&self) {
        let mut usable = self.usable.clone();
        if usable.wait_for(|usable| usable.all).await.is_err() {
            // The supervisor is gone: its end is what the caller's `select!` returns.
            std::future::pending::<()>().await;
        }
    }

    /// Proxies, then sites; ended early when there is evidence that the app uses Redis without its password.
    pub async fn run(&self) -> Ending {
        let (Some(client), Some(leases)) = (&self.client, &self.leases) else {
            return Ending::failed(
                Failure::configuration("there is nothing to run the sites with: Redis or Celery is switched off")
                    .hint("`orch run` needs `[redis]` and `[celery]`; `orch up` does not"),
            );
        };
        let context = sites::Context::new(
            client.clone(),
            self.recorder.clone(),
            self.config.celery.queues.clone(),
            self.task_holder_deaths.clone(),
        )
        .with_own_queues(self.config.own_queues().map(str::to_owned).collect());
        let context = match &self.resumption {
            Some(resumption) => context.continuing(resumption),
            None => context,
        };
        let usable = self.usable.clone();
        let context = sites::Context {
            shared: self.shared.clone(),
            usual: Arc::new(self.history.usual()),
            workers_settled: sites::Settled::new(move || usable.borrow().all),
            ..context
        };
        // Once a process: a scrape is run once.
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
            never = self.put_back(client, &context) => match never {},
            never = self.put_back_of_the_dead(client, &context) => match never {},
            never = stop_requests::hear(&self.stop_requests, &context.stops) => match never {},
            failure = refused => return Ending::failed(failure),
            ending = self.proxies_then_sites(&context, leases, &mut reasons) => ending,
        };
        // Sites lose their leases before the outage of another's Redis ends the run.
        if let (Ending::Done(Outcome::SitesFailed), Some(away)) = (&ending, self.shared.redis_away()) {
            return Ending::failed(away);
        }
        let Some(refusals) = &refusals else { return ending };
        if let Ending::Failed(_, failure) = &ending {
            reasons.push(failure.to_string());
        }
        // An app may swallow the refusal and report a job done that saved nothing.
        match refusals.at_the_end(&reasons, &self.recorder).await {
            Some(failure) => Ending::failed(failure),
            None => ending,
        }
    }

    /// The logs of whoever runs the app.
    fn worker_logs(&self) -> Vec<PathBuf> {
        let own = self.config.sites.iter().filter(|site| site.worker.is_some());
        let own = own.map(|site| site_service_name(&site.name).to_string());
        let names = ["celery".to_owned(), "beat".to_owned()].into_iter().chain(own);
        names.map(|name| self.directory.log(&name)).collect()
    }

    /// Puts back what a worker held whose process was seen to end, in whichever Redis; never ends. Of the run's own jobs also
    /// what nobody has said to hold (`Client::restore_of_jobs`). The messages of others wait: a worker that fell silent may
    /// live.
    async fn put_back_of_the_dead(&self, client: &Client, context: &sites::Context) -> std::convert::Infallible {
        let Some(dead) = &self.dead_workers else {
            return std::future::pending().await;
        };
        let mut dead = dead.lock().await;
        // The worker of a run that is continued died with it.
        for job in context.earlier.values() {
            self.shared.follows(&TaskId::from(job.task_id.as_str()));
        }
        // It may have taken more than its events told, since it sends those a moment later.
        let mut search = (!context.earlier.is_empty()).then(|| UnacknowledgedSearch::after_death(now_unix()));
        // A worker does not acknowledge what it has taken before its connection broke.
        let mut returns = self.shared.redis_returns();
        let mut gaps = context.event_gaps.subscribe();
        loop {
            let pause = search.as_mut().map(UnacknowledgedSearch::next_pause);
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
                    match client.restore_of_jobs(&jobs, until, &living, &context.ghosts.all()).await {
                        Ok(restored) => {
                            self.tell_restored(&restored);
                            search = search.filter(|search| !search.is_over(&restored, Instant::now()));
                        }
                        Err(error) => tracing::warn!(%error, "could not look for messages that no worker acknowledges"),
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
                match client.restore_held(&tasks, seen_at, &context.ghosts.all()).await {
                    Ok(restored) => {
                        tracing::info!(node = %worker.node, pid = worker.pid, tasks = tasks.len(), "a worker died");
                        self.tell_restored(&restored);
                        if restored.postponed == 0 || Instant::now() >= give_up {
                            break;
                        }
                        tokio::time::sleep(RESTORE_PAUSE).await;
                    }
                    Err(error) if Instant::now() >= give_up => {
                        tracing::warn!(%error, node = %worker.node, "what a dead worker held is not put back");
                        break;
                    }
                    Err(_) => tokio::time::sleep(RESTORE_PAUSE).await,
                }
            }
        }
        std::future::pending().await
    }

    /// After each restart, and at the start of a run that continues another, puts back the messages that a dead worker, or
    /// one that was cut off, can not acknowledge any more. Never ends.
    ///
    /// In an owned Redis only, this run's or that of the `orch up` beside it: another's may have workers that cannot be asked.
    async fn put_back(&self, client: &Client, context: &sites::Context) -> std::convert::Infallible {
        let mut usable = self.usable.clone();
        let mut deaths = context.worker_deaths.clone();
        let mut returns = self.shared.redis_returns().filter(|_| self.is_joined);
        let mut seen = 0;
        let mut due = !context.earlier.is_empty();
        let mut gaps = context.event_gaps.subscribe();
        while self.connection.as_ref().is_some_and(|connection| connection.owned) {
            let mut search = UnacknowledgedSearch::after_death(now_unix());
            tokio::select! {
                restarted = usable.wait_for(|usable| usable.all && (due || usable.restarts > seen)) => {
                    let Ok(now) = restarted.map(|usable| usable.restarts) else {
                        break;
                    };
                    seen = now;
                }
                Ok(()) = gaps.changed() => search = UnacknowledgedSearch::after_cut(Instant::now()),
                // Whoever restarts the services of a partner does not report it.
                Ok(()) = deaths.changed(), if self.is_joined => {}
                () = changed(&mut returns) => {}
            }
            due = false;
            loop {
                // One in its warm stop answers no more, and still runs what it has taken.
                if usable.wait_for(|usable| usable.all).await.is_err() {
                    break;
                }
                match client.restore_unacked(&context.ghosts.all()).await {
                    // Nothing is unacknowledged any more.
                    Ok(restored) if search.is_over(&restored, Instant::now()) => break,
                    Ok(restored) => self.tell_restored(&restored),
                    Err(error) => tracing::warn!(%error, "could not look for messages that no worker acknowledges"),
                }
                tokio::time::sleep(search.next_pause()).await;
            }
        }
        std::future::pending().await
    }

    fn tell_restored(&self, restored: &Restored) {
        if *restored != Restored::default() {
            tracing::info!(?restored, "messages that no worker acknowledges");
        }
        if restored.requeued + restored.acknowledged > 0 {
            let (were, messages) = match restored.requeued {
                1 => ("was", "message"),
                _ => ("were", "messages"),
            };
            let message = format!(
                "{} {messages} that a worker had taken and cannot acknowledge {were} put back; {} more had finished already",
                restored.requeued, restored.acknowledged
            );
            self.recorder.emit(EventKind::Noticed {
                level: Level::Info,
                message,
            });
        }
    }

    /// The sites of the run but for those that the one which it continues had completed, in the order of the configuration.
    fn chosen(&self) -> Vec<SiteConfig> {
        let mut wanted: HashSet<&SiteName> = self.sites.iter().collect();
        for so_far in self.resumption.iter().flat_map(|resumption| &resumption.sites) {
            if let Progress::Kept { .. } = so_far.progress {
                wanted.remove(&so_far.site);
            }
        }
        let sites = self.config.sites.iter();
        sites.filter(|site| wanted.contains(&site.name)).cloned().collect()
    }

    /// What sites with a worker of their own may come to hold of memory.
    fn expected_peaks(&self) -> BTreeMap<SiteName, u64> {
        let peaks: BTreeMap<&ServiceName, u64> = self.history.peaks().collect();
        let own = self.config.sites.iter().filter(|site| site.worker.is_some());
        own.filter_map(|site| {
            let peak = peaks.get(&site_service_name(&site.name))?;
            Some((site.name.clone(), *peak))
        })
        .collect()
    }

    /// `reasons` gets why sites have failed.
    async fn proxies_then_sites(
        &self,
        context: &sites::Context,
        leases: &LeaseStore,
        reasons: &mut Vec<String>,
    ) -> Ending {
        let at_once = self.config.orch.max_parallel_sites;
        let expected = self.history.expected();
        let refresh = proxies::Refresh {
            config: self.config.proxies.clone(),
            usual: self.history.usual_refresh(),
            suspect: self.suspect_pool.clone(),
        };
        let work = match sites::Work::new(self.chosen(), at_once, &self.config.resources, &expected) {
            // What an earlier run has under way is a try already.
            Ok(work) => work
                .in_view_of(&self.history, |site| self.force || context.earlier.contains_key(site))
                .refreshing(refresh.clone())
                .with_workers(self.workers.clone())
                .with_memory(self.config.orch.memory_reserve, &self.expected_peaks()),
            Err(error) => {
                let failure = Failure::configuration("put the sites into an order").caused_by(&error);
                return Ending::failed(failure);
            }
        };
        let proxies = &self.config.proxies;
        let file = proxies.file.display();
        if proxies.enabled && work.tries_any() {
            let ensured = tokio::select! {
                biased;
                ensured = proxies::ensure(context, &refresh) => ensured,
                absence = self.shared.absent(true) => {
                    let failure = Failure::infrastructure(absence.reason).because("the refresh of the proxies waits for one");
                    return Ending::failed(failure.hint("start a worker, then this run again"));
                }
            };
            match ensured {
                Ok(ProxyVerdict::Enough { .. }) => {}
                Ok(ProxyVerdict::Unreadable { reason, hint }) => {
                    let failure = Failure::infrastructure(format!("could not read the proxy pool {file}"))
                        .because(reason)
                        .hint(hint);
                    return Ending::Failed(Outcome::NotEnoughProxies, failure);
                }
                Ok(ProxyVerdict::TooFew { usable, reason, hint }) => {
                    let needed = proxies.min_usable;
                    let failure =
                        Failure::infrastructure(format!("{usable} usable proxies in {file}, {needed} are required"))
                            .because(reason)
                            .hint(hint);
                    return Ending::Failed(Outcome::NotEnoughProxies, failure);
                }
                Err(error) => {
                    return Ending::failed(
                        Failure::infrastructure("make sure of enough proxies").because(error.to_string()),
                    );
                }
            }
        }
        let reports = sites::run_all(context, work, leases.clone(), self.wait_until).await;
        reasons.extend(reports.iter().filter_map(|report| report.reason.clone()));
        if let Some(held) = AllHeld::told_by(&reports) {
            return Ending::busy(&held);
        }
        if let Some(message) = sites::hint_at_empty_sites(&self.config, &reports) {
            let level = Level::Info;
            self.recorder.emit(EventKind::Noticed { level, message });
        }
        let kept = self.resumption.iter().flat_map(|resumption| resumption.kept());
        let ends = reports.iter().map(|report| (report.status, report.counts));
        Ending::Done(Outcome::of_sites(ends.chain(kept), self.config.orch.strict))
    }
}

/// Waits for the next change; for ever where there is nothing to change.
async fn changed(receiver: &mut Option<watch::Receiver<u64>>) {
    if let Some(receiver) = receiver
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
