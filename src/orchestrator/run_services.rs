//! The middle of a run: assembles the plan, then runs the services next to the work of the command, until one of them
//! ends the run.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::Instrument;

use super::lifecycle::Orchestrator;
use super::run::{RunEnd, RunWork};
use super::service_plan::{PlanContext, ServicePlan};
use crate::orchestrator::instance::locks::holder;
use crate::orchestrator::requests::RequestReceiver;
use orch_celery::{Client, SharedWorkers, TransportSettings};
use orch_config::RestartPolicy;
use orch_guard::InstanceLock;
use orch_journal::failure::ServiceFailure;
use orch_journal::{
    EventKind, History, RunCommand, RunDirectory, RunFile, RunFileFailure, RunOutcome, ServiceName, StopReason,
};
use orch_scrape::proxies::SuspectPool;
use orch_scrape::sites;
use orch_scrape::sites::{AllSitesHeld, LeaseStore, LeaseTerms, OutagePolicy, WorkersAfterRun};
use orch_supervisor::shared::instance_file;
use orch_supervisor::shared::instance_file::InstanceFile;
use orch_supervisor::shared::{RedisOutage, WatchTerms, WorkerWatch, partner, worker_timeout};
use orch_supervisor::{GivenUp, RedisConnection, Supervisor, UsableServices, base_environment};

/// Minimum time to wait for an external Redis that does not answer: a restart by hand takes some seconds.
const REDIS_TIMEOUT: Duration = Duration::from_secs(30);

impl Orchestrator {
    /// Starts the services and does the work, until the work is finished, fails, or `stop` contains a reason. If the
    /// workers outlive this run, a failure or a stop then cancels the sites' tasks. That takes at most about five
    /// seconds and is cut short when a reason is sent again.
    ///
    /// The services keep running: [`Orchestrator::finish`] or the drop stops them.
    pub async fn run(&mut self, stop: watch::Receiver<Option<StopReason>>) -> RunEnd {
        let span = tracing::info_span!("run", id = %self.run_id);
        self.run_until(stop).instrument(span).await
    }

    async fn run_until(&mut self, mut stop: watch::Receiver<Option<StopReason>>) -> RunEnd {
        let stop_requested = async {
            loop {
                if let Some(reason) = *stop.borrow_and_update() {
                    return reason;
                }
                if stop.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let recorder = self.recorder.clone();
        let watching = self.presence.clone().watch(move |loss| {
            recorder.emit(EventKind::StateDirectoryLost(loss));
        });
        let end = watch::Sender::new(false);
        let mut end_requests = end.subscribe();
        let end_requested = async {
            if end_requests.wait_for(|is_requested| *is_requested).await.is_err() {
                pending::<()>().await;
            }
        };
        let receiver = self.inbox.as_ref().map(|inbox| RequestReceiver {
            recorder: self.recorder.clone(),
            command: self.options.command,
            services: inbox.service_requests(),
            site_stops: self.site_stops.clone(),
            sites: self.site_requests.clone(),
            end: end.clone(),
        });
        let mut requests = self.requests.clone();
        let receiving = async {
            match &receiver {
                Some(receiver) => receiver.receive(&mut requests).await,
                None => pending().await,
            }
        };
        let ending = tokio::select! {
            biased;
            reason = stop_requested => RunEnd::Stopped(reason),
            ending = self.work() => ending,
            never = watching => match never {},
            never = receiving => match never {},
            () = end_requested => RunEnd::Stopped(StopReason::Requested),
        };
        self.requests = requests;
        if let (RunEnd::Stopped(reason @ StopReason::Requested), RunCommand::Up) = (&ending, self.options.command) {
            // `orch up` runs until somebody ends it: that is its normal end.
            self.note_reason(*reason);
            return RunEnd::Done(RunOutcome::Succeeded);
        }
        if let (RunEnd::Stopped(_) | RunEnd::Failed(..), Some(context)) = (&ending, self.in_flight.get()) {
            stop.mark_unchanged();
            tokio::select! {
                biased;
                _ = sites::cancel(context, &self.monitor, self.workers) => {}
                Ok(()) = stop.changed() => {}
            }
        }
        ending
    }

    async fn work(&mut self) -> RunEnd {
        let Some(mut inbox) = self.inbox.take() else {
            return RunEnd::Failed(
                RunOutcome::InfrastructureFailed,
                ServiceFailure::infrastructure("a run can be executed only once"),
            );
        };
        let context = PlanContext {
            config: Arc::clone(&self.config),
            run_id: self.run_id.clone(),
            sites: self.options.sites.clone(),
            resumption: self.resumption.clone(),
            base: base_environment(&self.config.orch.env_file_variables, &self.options.environment),
            directory: self.directory.clone(),
            launcher: self.launcher.clone(),
            recorder: self.recorder.clone(),
            joined: self.joined.clone(),
        };
        let plan = tokio::select! {
            biased;
            plan = ServicePlan::assemble(context) => plan,
            // The plan may have to start a command that reads the app's settings.
            never = inbox.serve_commands(&self.launcher) => match never {},
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(failure) => return RunEnd::failed(failure),
        };
        let ServicePlan {
            programs,
            order,
            connection,
            client,
            stop_bound,
            port_alarm,
        } = plan;
        for lock in &mut self.locks {
            let guard_pid = Some(self.guard.pid());
            let holder = holder(&self.config, &self.options, &self.run_id, guard_pid, stop_bound);
            if let Err(error) = lock.update(&holder) {
                return RunEnd::failed(
                    ServiceFailure::infrastructure("could not record the holder of the instance lock")
                        .with_cause(error.to_string()),
                );
            }
        }
        if self.shares_services(connection.as_ref()) {
            self.workers = WorkersAfterRun::Continue;
        }
        let leases = self.lease_store(connection.as_ref(), client.as_ref());
        if let Some(leases) = &leases
            && self.shares_services(connection.as_ref())
        {
            tokio::select! {
                biased;
                failure = self.joined_instance_failed() => return RunEnd::failed(failure),
                never = inbox.serve_commands(&self.launcher) => match never {},
                free = self.wait_for_a_free_site(leases) => if let Err(held) = free {
                    return RunEnd::busy(&held);
                },
            }
        }
        let shares = self.shares_services(connection.as_ref());
        let (shared, dead_workers, redis_outage) = match shares {
            true => {
                let (shared, dead) = SharedWorkers::new();
                (shared, Some(tokio::sync::Mutex::new(dead)), RedisOutage::new())
            }
            false => (SharedWorkers::default(), None, RedisOutage::default()),
        };
        // Workers of a joined `orch up` outlive this run.
        self.stopped_workers = client.clone().filter(|_| self.joined.is_none());
        let mut supervisor = Supervisor::new(
            programs,
            order,
            self.launcher.clone(),
            self.recorder.clone(),
            self.logs.clone(),
            inbox,
        );
        let worker_watch = self.worker_watch(
            &supervisor,
            connection.as_ref(),
            client.as_ref(),
            shares.then_some((&shared, &redis_outage)),
        );
        let job = RunWork {
            config: Arc::clone(&self.config),
            sites: self.options.sites.clone(),
            resumption: self.resumption.clone(),
            recorder: self.recorder.clone(),
            usable: supervisor.usable(),
            workers: supervisor.on_demand(),
            worker_exits: supervisor.worker_exits(),
            connection,
            client,
            leases,
            wait_until: self.wait_until,
            history: self.history(),
            suspect_pool: self.suspect_pool(),
            force: self.options.force,
            in_flight: Arc::clone(&self.in_flight),
            monitor: self.monitor.clone(),
            directory: self.directory.clone(),
            site_stops: self.site_stops.clone(),
            site_requests: self.site_requests.clone(),
            shared,
            redis_outage,
            dead_workers,
            joined: self
                .joined
                .as_ref()
                .map(|instance| RunDirectory::of(&self.config.orch.state_dir, &instance.run_id)),
        };
        let this = &*self;
        let address = job
            .connection
            .as_ref()
            .map(RedisConnection::address)
            .unwrap_or_default();
        tokio::select! {
            biased;
            taker = port_alarm.wait() => this.end_for_taken_port(&taker, &address),
            ending = this.serve(&mut supervisor, &job, worker_watch) => ending,
        }
    }

    /// Ends the run at once, because another user listens on the port of Redis. Workers would reconnect to that port
    /// and execute any task of that user.
    fn end_for_taken_port(&self, taker: &str, address: &str) -> RunEnd {
        match self.hurry_switch() {
            Ok(switch) => switch.hurry(),
            Err(error) => tracing::warn!(%error, "could not skip the grace periods of the stop"),
        }
        RunEnd::failed(
            ServiceFailure::infrastructure(format!(
                "another user has taken the port of Redis, {address}, while it was down"
            ))
            .with_cause(format!(
                "the port is held by {taker}; all services are killed, because workers would execute tasks of that user"
            ))
            .hint("end that process, then start again (`orch run --resume`); `[redis] port = 0` chooses another port"),
        )
    }

    async fn serve(&self, supervisor: &mut Supervisor, job: &RunWork, worker_watch: Option<WorkerWatch>) -> RunEnd {
        match self.options.command {
            RunCommand::Run => {
                let this = self;
                let work = async {
                    job.wait_until_usable().await;
                    if let Err(failure) = this.announce_instance(job) {
                        return RunEnd::failed(failure);
                    }
                    job.run().await
                };
                let watching = async {
                    // Begins only when the services are usable, because a worker that starts is not absent.
                    job.wait_until_usable().await;
                    match worker_watch {
                        Some(watch) => watch.run().await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    given_up = supervisor.run() => RunEnd::failed(given_up.into_failure()),
                    failure = this.joined_instance_failed() => RunEnd::failed(failure),
                    failure = watching => RunEnd::failed(failure),
                    ending = work => ending,
                }
            }
            RunCommand::Up => self.run_up(supervisor, job).await,
        }
    }

    /// Waits until the joined `orch up` has failed and returns the failure; waits for ever if no instance is joined.
    async fn joined_instance_failed(&self) -> ServiceFailure {
        match &self.joined {
            Some(partner) => partner::until_failed(&self.config.orch.state_dir, partner).await,
            None => pending().await,
        }
    }

    /// Creates the watch over the shared workers and the shared Redis; `None` if this run owns them.
    fn worker_watch(
        &self,
        supervisor: &Supervisor,
        connection: Option<&RedisConnection>,
        client: Option<&Client>,
        shared: Option<(&SharedWorkers, &RedisOutage)>,
    ) -> Option<WorkerWatch> {
        let (connection, client, (shared, redis_outage)) = (connection?, client?, shared?);
        let (celery, redis) = (&self.config.celery, &self.config.redis);
        // The joined `orch up` restarts its services with a backoff.
        let pauses = |restart: &RestartPolicy| match self.joined {
            Some(_) => restart.backoff_max,
            None => Duration::ZERO,
        };
        Some(WorkerWatch {
            client: client.clone(),
            recorder: self.recorder.clone(),
            shared: shared.clone(),
            redis_outage: redis_outage.clone(),
            terms: WatchTerms {
                worker_timeout: worker_timeout(celery),
                redis_timeout: redis.start_timeout.max(REDIS_TIMEOUT) + pauses(&redis.restart),
            },
            queues: celery.queues.clone(),
            address: connection.address(),
            guard_pid: self.guard.pid(),
            worker_exits: supervisor.worker_exit_counter(),
            checks_shared_names: self.joined.is_some(),
        })
    }

    /// Reads the history of earlier runs; an unreadable history counts as empty.
    fn history(&self) -> History {
        if self.options.command != RunCommand::Run {
            return History::default();
        }
        History::read_before(&self.config.orch.state_dir, &self.run_id).unwrap_or_else(|error| {
            tracing::warn!(%error, "could not read the history of the sites");
            History::default()
        })
    }

    /// Reads the evidence of the last run against the proxy pool, if there is any.
    fn suspect_pool(&self) -> Option<SuspectPool> {
        if self.options.command != RunCommand::Run || !self.config.proxies.enabled {
            return None;
        }
        let found = SuspectPool::find(&self.config.orch.state_dir, &self.run_id);
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not read what earlier runs recorded about the proxies");
            None
        })
    }

    /// Creates the store of the sites' leases for this run.
    fn lease_store(&self, connection: Option<&RedisConnection>, client: Option<&Client>) -> Option<LeaseStore> {
        let terms = LeaseTerms {
            duration: self.config.orch.lease,
            outage: if connection?.owned {
                OutagePolicy::WaitForRedis
            } else {
                OutagePolicy::StopWork
            },
        };
        // The first lock of `orch run` is `run.lock`, which every run of the state directory takes.
        let lock = self.locks.first().and_then(InstanceLock::identity);
        let me = sites::LeaseHolder::of_this_process(&self.run_id, lock);
        Some(LeaseStore::new(client?.clone(), &self.config.orch.instance, me, terms))
    }

    /// Returns whether this run uses a Redis that was already running, so that other runs may hold the sites.
    fn shares_services(&self, connection: Option<&RedisConnection>) -> bool {
        self.options.command == RunCommand::Run
            && (self.joined.is_some() || connection.is_some_and(|connection| !connection.owned))
    }

    /// Waits until no other run holds at least one of the sites. This comes before the start of a worker, which would
    /// take tasks of the other run.
    async fn wait_for_a_free_site(&self, leases: &LeaseStore) -> Result<(), AllSitesHeld> {
        sites::wait_for_a_free_site(&self.recorder, leases, &self.options.sites, self.wait_until).await
    }

    /// Runs `orch up`, or ends it when the services are ready, as the options say. A failed start of a service ends the
    /// run. Later, a service that is given up stays down and the others are kept running, until none is left.
    async fn run_up(&self, supervisor: &mut Supervisor, job: &RunWork) -> RunEnd {
        tokio::select! {
            biased;
            given_up = supervisor.run() => return RunEnd::failed(given_up.into_failure()),
            () = job.wait_until_settled() => {}
        }
        if self.options.ends_when_ready {
            return RunEnd::Done(RunOutcome::Succeeded);
        }
        if let Err(failure) = self.announce_instance(job) {
            return RunEnd::failed(failure);
        }
        tokio::select! {
            biased;
            ending = self.keep_services_up(supervisor) => ending,
            never = self.publish_given_up_services(job) => match never {},
        }
    }

    async fn keep_services_up(&self, supervisor: &mut Supervisor) -> RunEnd {
        loop {
            let given_up = supervisor.run().await;
            let (service, failure) = match given_up {
                GivenUp::Guard(failure) => return RunEnd::failed(failure),
                GivenUp::Service(_, failure) if !supervisor.has_managed_services() => return RunEnd::failed(failure),
                GivenUp::Service(service, failure) => (service, failure),
            };
            let reason = failure.to_string();
            self.recorder.emit(EventKind::ServiceGivenUp {
                service,
                unread: self.unread_env_file(&reason),
                reason,
            });
        }
    }

    /// Keeps the list of the given-up services in the instance file, from which runs that join this instance read it. A
    /// service that a request starts again leaves the list.
    async fn publish_given_up_services(&self, job: &RunWork) -> Infallible {
        let mut usable = job.usable.clone();
        let mut published = Vec::new();
        loop {
            let has_changed = |usable: &UsableServices| usable.failed != published;
            let Ok(changed) = usable.wait_for(has_changed).await.map(|usable| usable.failed.clone()) else {
                // The supervisor has ended.
                return pending().await;
            };
            if let Err(error) = self.publish_instance(job, &changed) {
                self.recorder.emit(EventKind::RunFileFailed(RunFileFailure {
                    file: RunFile::Instance,
                    path: self.config.orch.state_dir.clone(),
                    reason: error.to_string(),
                }));
            }
            published = changed;
        }
    }

    /// Writes the instance file at the time when the services are usable.
    fn announce_instance(&self, job: &RunWork) -> Result<(), ServiceFailure> {
        self.publish_instance(job, &[]).map_err(|error| {
            ServiceFailure::infrastructure(format!(
                "could not write the instance file in {}",
                self.config.orch.state_dir.display()
            ))
            .with_cause(error.to_string())
        })
    }

    fn publish_instance(&self, job: &RunWork, given_up: &[ServiceName]) -> std::io::Result<()> {
        if self.joined.is_some() {
            return Ok(());
        }
        let file = InstanceFile {
            run_id: self.run_id.clone(),
            pid: std::process::id().cast_signed(),
            start_time: orch_base::system::processes::own_start_time(),
            redis: job.connection.clone(),
            transport: job
                .client
                .as_ref()
                .map(|client| TransportSettings::clone(&client.transport()))
                .unwrap_or_default(),
            ports: self.config.ports.clone(),
            given_up: given_up.to_vec(),
        };
        instance_file::write(&self.config.orch.state_dir, &file)
    }
}
