//! One run from nothing to nothing: locks, guard, services, then the work, then the stop.
//!
//! [`Orchestrator`] owns the guard; dropping it, also by a panic, runs [`Orchestrator::stop_all`].

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::celery::{Client, Transport};
use crate::claim::{Claim, holder, take_locks};
pub use crate::claim::{Options, StartError};
use crate::clean;
use crate::config::{Config, RestartPolicy};
use crate::guard::{self, Guard, GuardEvent, GuardOptions, HurrySwitch, InstanceLock, Report};
use crate::instance::{self, InstanceFile};
use crate::memory::program_pages;
use crate::plan::{Plan, PlanContext};
use crate::presence::Presence;
use crate::proxies::SuspectPool;
use crate::resume;
pub use crate::resume::ResumeTarget;
use crate::run::{
    Command, EventKind, History, JOURNAL_FORMAT, Level, Outcome, PlannedService, Recorder, Resumption, RunDirectory,
    RunId, ServiceName, StopReason,
};
pub use crate::scrape::Ending;
use crate::scrape::Scrape;
use crate::services::{
    Failure, GuardInbox, Inbox, Launcher, RedisConnection, Supervisor, WorkerNudge, base_environment,
};
use crate::shared_services::{SharedWorkers, WatchTerms, WorkerWatch, partner, worker_timeout};
use crate::sites::{self, AllHeld, LeaseStore, Outage, Terms, Workers};
use crate::state_directory;
use crate::unfinished_night::UnfinishedNight;
use crate::unread_env_file;

/// A Redis of others is waited for at least this long: a restart by hand takes some seconds.
const REDIS_TIMEOUT: Duration = Duration::from_secs(30);

/// Owner of one run: of its guard, and through it of every process.
///
/// ```standalone_crate
/// use orch::config::{Config, LoadOptions};
/// use orch::orchestrator::{Options, Orchestrator};
/// use orch::run::{Command, Outcome, StopReason};
/// use std::time::Duration;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     // The guard is this very program, started again: without this line there is none.
///     orch::guard::init();
///     let directory = tempfile::tempdir()?;
///     let text = "[redis]\nmode = \"off\"\n[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"60\"]\n";
///     std::fs::write(directory.path().join("orch.toml"), text)?;
///     let config = Config::load(LoadOptions {
///         directory: directory.path().to_owned(),
///         ..LoadOptions::of_this_process()
///     })?;
///     let options = Options {
///         command: Command::Up,
///         sites: Vec::new(),
///         resume: None,
///         wait: Duration::ZERO,
///         force: false,
///         environment: std::env::vars().collect(),
///         sole_spawner: false,
///     };
///     let mut orchestrator = Orchestrator::start(config, options)?;
///     // From here on, whatever happens, a panic included, ends with nothing left.
///     let (stop, asked) = tokio::sync::watch::channel(None);
///     let ask = std::thread::spawn(move || {
///         std::thread::sleep(Duration::from_millis(100));
///         stop.send(Some(StopReason::Finished))
///     });
///     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
///     let ending = runtime.block_on(orchestrator.run(asked));
///     assert_eq!(orchestrator.finish(&ending), Outcome::Succeeded);
///     ask.join().expect("the thread that asks")?;
///     Ok(())
/// }
/// ```
pub struct Orchestrator {
    config: Arc<Config>,
    options: Options,
    /// What an earlier run has left to do.
    resumption: Option<Arc<Resumption>>,
    run_id: RunId,
    recorder: Recorder,
    directory: RunDirectory,
    presence: Presence,
    launcher: Launcher,
    inbox: Option<Inbox>,
    /// The instance that is up and used by this run, instead of services of its own.
    joined: Option<InstanceFile>,
    stop: Arc<StopState>,
    /// Until when sites that another run has are waited for.
    wait_until: Instant,
    /// Set once sites may be in flight.
    in_flight: Arc<OnceLock<sites::Context>>,
    /// What becomes of those that have the sites' tasks.
    workers: Workers,
    /// Speaks to the workers that the stop ends.
    stopped_workers: Option<Client>,
    // Dropped in this order: the guard before the locks, so that nobody starts while something is left.
    guard: Guard,
    locks: Vec<InstanceLock>,
}

/// What the guard's reader thread needs to know of the stop.
#[derive(Default)]
struct StopState {
    stopping: AtomicBool,
    reason: Mutex<Option<StopReason>>,
}

impl Orchestrator {
    /// Takes the instance and starts the guard; no service yet.
    ///
    /// # Errors
    /// The instance is held by a living run, the state directory cannot be used, or the guard does not start.
    pub fn start(config: Config, mut options: Options) -> Result<Self, StartError> {
        let wait_until = Instant::now() + options.wait;
        see_processes().map_err(StartError::Failed)?;
        let state_dir = config.orch.state_dir.clone();
        state_directory::prepare(&state_dir, &config.file).map_err(StartError::Failed)?;
        let run_id = RunId::random();
        let Claim { mut locks, joined } = take_locks(&config, &options, &run_id)?;
        let failed = |what: &str, error: &dyn std::error::Error| {
            StartError::Failed(Failure::infrastructure(what).caused_by(error))
        };
        let ended = match joined {
            Some(_) => guard::Leftovers::default(),
            None => guard::end_leftovers(&state_dir).map_err(|error| failed("end what dead runs have left", &error))?,
        };
        let resumption = match &options.resume {
            Some(target) => Some(resume::find(&config, target).map_err(StartError::Failed)?),
            None => None,
        };
        if let Some(resumption) = &resumption {
            if resumption.is_complete() {
                let run_id = resumption.run_id.clone();
                let outcome = Outcome::of_sites(resumption.kept(), config.orch.strict);
                return Err(StartError::NothingLeft { run_id, outcome });
            }
            options.sites = resumption.sites.iter().map(|so_far| so_far.site.clone()).collect();
        }
        // Before this run is one of them.
        let unfinished = match (options.command, &resumption) {
            (Command::Run, None) => UnfinishedNight::find(&state_dir).unwrap_or_else(|error| {
                tracing::warn!(%error, "could not look for an unfinished run");
                None
            }),
            _ => None,
        };
        let directory = RunDirectory::create(&state_dir, &run_id)
            .map_err(|error| failed(&format!("make the run's directory in {}", state_dir.display()), &error))?;
        let recorder =
            Recorder::create(&directory.journal()).map_err(|error| failed("make the run's journal", &error))?;

        let mut kept = vec![directory.path().to_owned()];
        let lock_files = ["run.lock", "services.lock"].map(|name| state_dir.join(name));
        kept.extend(
            lock_files
                .into_iter()
                .filter(|file| locks.iter().any(|lock| lock.is_at(file))),
        );
        let presence =
            Presence::of(&state_dir, &kept).map_err(|error| failed("could not look at the state directory", &error))?;

        let mut warnings = Vec::new();
        if !ended.is_empty() {
            warnings.push(ended.to_string());
        }
        if joined.is_none() {
            if let Err(error) = clean::recover(&state_dir) {
                warnings.push(format!("remove what dead runs have left: {error}"));
            }
            if let Err(error) = instance::remember_ports(&state_dir, &config.ports) {
                warnings.push(format!(
                    "the next run may choose other ports, as these cannot be remembered: {error}"
                ));
            }
        }

        let (inbox, guard_inbox) = Inbox::new();
        let stop = Arc::new(StopState::default());
        let on_event = report_to(guard_inbox, Arc::clone(&stop), recorder.clone());
        let inherited = locks
            .iter()
            .map(InstanceLock::duplicate_for_guard)
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|error| failed("hand the instance lock to the guard", &error))?;
        let guard_options = GuardOptions {
            run_id: run_id.as_str().to_owned(),
            state_dir: state_dir.clone(),
            log: directory.log("guard"),
            lock: inherited,
            sole_spawner: options.sole_spawner,
        };
        let guard = Guard::start(guard_options, on_event).map_err(|error| {
            let failure = Failure::infrastructure("start the process that owns all others").caused_by(&error);
            StartError::Failed(failure.with_log(&directory.log("guard")))
        })?;
        for lock in &mut locks {
            let holder = holder(
                &config,
                &options,
                &run_id,
                Some(guard.pid()),
                guard.handle().stop_bound(),
            );
            lock.update(&holder)
                .map_err(|error| failed("write who holds the instance", &error))?;
        }
        let launcher = Launcher::new(guard.handle());
        recorder.emit(EventKind::RunStarted {
            format: JOURNAL_FORMAT,
            run_id: run_id.clone(),
            command: options.command,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: config.orch.instance.clone(),
            config: config.file.clone(),
            directory: directory.path().to_owned(),
            pid: std::process::id().cast_signed(),
            guard_pid: guard.pid(),
            services: planned_services(&config),
            sites: options.sites.clone(),
            resumes: resumption.clone(),
        });
        for message in warnings {
            recorder.emit(EventKind::Noticed {
                level: Level::Warning,
                message,
            });
        }
        if let Some(unfinished) = unfinished {
            recorder.emit(EventKind::Noticed {
                level: Level::Info,
                message: unfinished.notice(),
            });
        }
        Ok(Self {
            config: Arc::new(config),
            options,
            resumption: resumption.map(Arc::new),
            run_id,
            recorder,
            directory,
            presence,
            launcher,
            inbox: Some(inbox),
            joined,
            stop,
            wait_until,
            in_flight: Arc::default(),
            workers: Workers::End,
            stopped_workers: None,
            guard,
            locks,
        })
    }

    /// Waits until then for sites that another run has, instead of as long as the options say.
    pub fn wait_for_sites_until(&mut self, moment: Instant) {
        self.wait_until = moment;
    }

    /// The run's facts so far and to come.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Where the run's logs and summary are.
    pub fn directory(&self) -> &RunDirectory {
        &self.directory
    }

    /// Pid of the guard.
    pub fn guard_pid(&self) -> i32 {
        self.guard.pid()
    }

    /// A switch that skips the grace periods of the stop, usable from a signal's thread.
    ///
    /// # Errors
    /// No descriptor is left to duplicate the guard's socket.
    pub fn hurry_switch(&self) -> Result<HurrySwitch, guard::Error> {
        self.guard.handle().hurry_switch()
    }

    /// Brings the services up and does the work, until it is done, fails, or `stop` holds a reason. Where workers go on
    /// without this run the sites' work is ended then, some five seconds at most, or until a reason is sent once more.
    ///
    /// Services are left running: [`Orchestrator::finish`] or the drop ends them.
    pub async fn run(&mut self, mut stop: watch::Receiver<Option<StopReason>>) -> Ending {
        let asked_to_stop = async {
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
            recorder.emit(EventKind::Noticed {
                level: Level::Error,
                message: format!(
                    "{loss} while this orch uses it: its services run on, but none can be started again, and what is \
                     logged from now on is lost\n  hint:  end this orch (pid {}) and start it again; until then no other \
                     one starts here",
                    std::process::id()
                ),
            });
        });
        let ending = tokio::select! {
            biased;
            reason = asked_to_stop => Ending::Stopped(reason),
            ending = self.work() => ending,
            never = watching => match never {},
        };
        if let (Ending::Stopped(_) | Ending::Failed(..), Some(context)) = (&ending, self.in_flight.get()) {
            stop.mark_unchanged();
            tokio::select! {
                biased;
                _ = sites::cancel(context, self.workers) => {}
                Ok(()) = stop.changed() => {}
            }
        }
        ending
    }

    async fn work(&mut self) -> Ending {
        let Some(mut inbox) = self.inbox.take() else {
            return Ending::Failed(
                Outcome::InfrastructureFailed,
                Failure::infrastructure("a run can be run once only"),
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
            plan = Plan::make(context) => plan,
            // A plan may have to ask the app first.
            never = inbox.serve_commands(&self.launcher) => match never {},
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(failure) => return Ending::failed(failure),
        };
        let Plan {
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
                return Ending::failed(
                    Failure::infrastructure("write who holds the instance").because(error.to_string()),
                );
            }
        }
        if self.shares_what_is_there(connection.as_ref()) {
            self.workers = Workers::GoOn;
        }
        let leases = self.lease_store(connection.as_ref(), client.as_ref());
        if let Some(leases) = &leases
            && self.shares_what_is_there(connection.as_ref())
        {
            tokio::select! {
                biased;
                failure = self.partner_failed() => return Ending::failed(failure),
                free = self.wait_for_a_free_site(leases) => if let Err(held) = free {
                    return Ending::busy(&held);
                },
            }
        }
        let shares = self.shares_what_is_there(connection.as_ref());
        let (shared, dead_workers) = match shares {
            true => {
                let (shared, dead) = SharedWorkers::new();
                (shared, Some(tokio::sync::Mutex::new(dead)))
            }
            false => (SharedWorkers::default(), None),
        };
        // Where `orch up` beside this run has the workers they go on.
        self.stopped_workers = client.clone().filter(|_| self.joined.is_none());
        let mut supervisor = Supervisor::new(programs, order, self.launcher.clone(), self.recorder.clone(), inbox);
        let worker_watch = self.worker_watch(&supervisor, connection.as_ref(), client.as_ref(), &shared, shares);
        let job = Scrape {
            config: Arc::clone(&self.config),
            sites: self.options.sites.clone(),
            resumption: self.resumption.clone(),
            recorder: self.recorder.clone(),
            usable: supervisor.usable(),
            workers: supervisor.on_demand(),
            task_holder_deaths: supervisor.task_holder_deaths(),
            connection,
            client,
            leases,
            wait_until: self.wait_until,
            history: self.history(),
            suspect_pool: self.suspect_pool(),
            force: self.options.force,
            in_flight: Arc::clone(&self.in_flight),
            directory: self.directory.clone(),
            stop_requests: self.directory.stop_requests(),
            shared,
            dead_workers,
            is_joined: self.joined.is_some(),
        };
        let this = &*self;
        let address = job
            .connection
            .as_ref()
            .map(RedisConnection::address)
            .unwrap_or_default();
        tokio::select! {
            biased;
            whose = port_alarm.wait() => this.give_up_to(&whose, &address),
            ending = this.serve(&mut supervisor, &job, worker_watch) => ending,
        }
    }

    /// Another user listens where workers look for their broker: each moment more they may execute what he wants.
    fn give_up_to(&self, whose: &str, address: &str) -> Ending {
        match self.hurry_switch() {
            Ok(switch) => switch.hurry(),
            Err(error) => tracing::warn!(%error, "services are ended with their grace periods"),
        }
        Ending::failed(
            Failure::infrastructure(format!(
                "another user has taken the port of Redis, {address}, while it was down"
            ))
            .because(format!(
                "it is held by {whose}; all services are killed, since workers would trust him"
            ))
            .hint("end that process, then start again (`orch run --resume`); `[redis] port = 0` chooses another port"),
        )
    }

    async fn serve(&self, supervisor: &mut Supervisor, job: &Scrape, worker_watch: Option<WorkerWatch>) -> Ending {
        match self.options.command {
            Command::Run => {
                let this = self;
                let work = async {
                    job.wait_until_usable().await;
                    if let Err(failure) = this.publish_instance(job, &[]) {
                        return Ending::failed(failure);
                    }
                    job.run().await
                };
                let watching = async {
                    // One that starts is not absent.
                    job.wait_until_usable().await;
                    match worker_watch {
                        Some(watch) => watch.run().await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    given_up = supervisor.run() => Ending::failed(given_up.failure),
                    failure = this.partner_failed() => Ending::failed(failure),
                    failure = watching => Ending::failed(failure),
                    ending = work => ending,
                }
            }
            Command::Up => self.keep_up(supervisor, job).await,
            Command::Prepare => tokio::select! {
                biased;
                given_up = supervisor.run() => Ending::failed(given_up.failure),
                () = job.wait_until_usable() => Ending::Done(Outcome::Succeeded),
            },
        }
    }

    /// Waits until the `orch up` beside this run is of no use any more; for ever where there is none.
    async fn partner_failed(&self) -> Failure {
        match &self.joined {
            Some(partner) => partner::failed(&self.config.orch.state_dir, partner).await,
            None => pending().await,
        }
    }

    /// The watch over services that this run shares.
    fn worker_watch(
        &self,
        supervisor: &Supervisor,
        connection: Option<&RedisConnection>,
        client: Option<&Client>,
        shared: &SharedWorkers,
        shares: bool,
    ) -> Option<WorkerWatch> {
        let (connection, client) = (connection?, client.filter(|_| shares)?);
        let (celery, redis) = (&self.config.celery, &self.config.redis);
        // A partner restarts its services after pauses.
        let pauses = |restart: &RestartPolicy| match self.joined {
            Some(_) => restart.backoff_max,
            None => Duration::ZERO,
        };
        Some(WorkerWatch {
            client: client.clone(),
            recorder: self.recorder.clone(),
            shared: shared.clone(),
            terms: WatchTerms {
                worker_timeout: worker_timeout(celery),
                redis_timeout: redis.start_timeout.max(REDIS_TIMEOUT) + pauses(&redis.restart),
            },
            queues: celery.queues.clone(),
            address: connection.address(),
            guard_pid: self.guard.pid(),
            deaths: supervisor.task_holder_death_counter(),
            names_are_unwatched: self.joined.is_some(),
        })
    }

    /// What earlier runs tell of its sites.
    fn history(&self) -> History {
        if self.options.command != Command::Run {
            return History::default();
        }
        History::read_before(&self.config.orch.state_dir, &self.run_id).unwrap_or_else(|error| {
            tracing::warn!(%error, "earlier runs tell nothing of the sites");
            History::default()
        })
    }

    /// What the last run says against the pool of proxies.
    fn suspect_pool(&self) -> Option<SuspectPool> {
        if self.options.command != Command::Run || !self.config.proxies.enabled {
            return None;
        }
        let found = SuspectPool::find(&self.config.orch.state_dir, &self.run_id);
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "earlier runs tell nothing of the proxies");
            None
        })
    }

    /// Where the leases of the sites are, as seen by this run.
    fn lease_store(&self, connection: Option<&RedisConnection>, client: Option<&Client>) -> Option<LeaseStore> {
        let terms = Terms {
            duration: self.config.orch.lease,
            outage: if connection?.owned {
                Outage::IsWaitedOut
            } else {
                Outage::EndsTheWork
            },
        };
        // Of `orch run` the first is the one that each run of the state directory takes.
        let lock = self.locks.first().and_then(InstanceLock::identity);
        let me = sites::Holder::of_this_process(&self.run_id, lock);
        Some(LeaseStore::new(client?.clone(), &self.config.orch.instance, me, terms))
    }

    /// Whether the Redis is there before this run starts anything, so that others may be at its sites.
    fn shares_what_is_there(&self, connection: Option<&RedisConnection>) -> bool {
        self.options.command == Command::Run
            && (self.joined.is_some() || connection.is_some_and(|connection| !connection.owned))
    }

    /// A worker that was started for nothing would take tasks of the run that is at work.
    async fn wait_for_a_free_site(&self, leases: &LeaseStore) -> Result<(), AllHeld> {
        sites::wait_for_a_free_site(&self.recorder, leases, &self.options.sites, self.wait_until).await
    }

    /// `orch up`: a failed start ends it; later, what is given up is left and the others are kept, while there are any.
    async fn keep_up(&self, supervisor: &mut Supervisor, job: &Scrape) -> Ending {
        tokio::select! {
            biased;
            given_up = supervisor.run() => return Ending::failed(given_up.failure),
            () = job.wait_until_usable() => {}
        }
        if let Err(failure) = self.publish_instance(job, &[]) {
            return Ending::failed(failure);
        }
        let mut all_given_up = Vec::new();
        let mut settled = pin!(async {
            sleep(program_pages::SETTLED_AFTER).await;
            // Another program may unmap what it has loaded: its pages are its own matter.
            if self.options.sole_spawner {
                program_pages::give_back();
            }
            pending::<Infallible>().await
        });
        loop {
            let given_up = tokio::select! {
                biased;
                given_up = supervisor.run() => given_up,
                never = &mut settled => match never {},
            };
            if given_up.service.as_str() == "guard" {
                return Ending::failed(given_up.failure);
            }
            if !supervisor.keeps_anything() {
                return Ending::failed(given_up.failure);
            }
            self.recorder.emit(EventKind::Noticed {
                level: Level::Error,
                message: format!("{}\n  the other services are kept up", self.told(&given_up.failure)),
            });
            // For runs that use them.
            all_given_up.push(given_up.service);
            if let Err(failure) = self.publish_instance(job, &all_given_up) {
                let (level, message) = (Level::Warning, failure.to_string());
                self.recorder.emit(EventKind::Noticed { level, message });
            }
        }
    }

    fn publish_instance(&self, job: &Scrape, given_up: &[ServiceName]) -> Result<(), Failure> {
        if self.joined.is_some() {
            return Ok(());
        }
        let file = InstanceFile {
            run_id: self.run_id.clone(),
            pid: std::process::id().cast_signed(),
            start_time: guard::own_start_time(),
            redis: job.connection.clone(),
            transport: job
                .client
                .as_ref()
                .map(|client| Transport::clone(&client.transport()))
                .unwrap_or_default(),
            ports: self.config.ports.clone(),
            given_up: given_up.to_vec(),
        };
        instance::write(&self.config.orch.state_dir, &file).map_err(|error| {
            Failure::infrastructure(format!(
                "write the instance's file in {}",
                self.config.orch.state_dir.display()
            ))
            .because(error.to_string())
        })
    }

    /// Tells what the tasks of failed sites may have missed.
    fn explain_failed_sites(&self) {
        let reasons = self.recorder.with_state(|state| {
            let reasons = state.sites.iter().filter_map(|site| site.reason.as_deref());
            reasons.collect::<Vec<_>>().join("\n")
        });
        if let Some(message) = unread_env_file::hint(&self.config, &self.options.environment, &reasons) {
            let level = Level::Warning;
            self.recorder.emit(EventKind::Noticed { level, message });
        }
    }

    /// A failure with what is known of its cause besides.
    fn told(&self, failure: &Failure) -> String {
        let text = failure.to_string();
        match unread_env_file::hint(&self.config, &self.options.environment, &text) {
            Some(hint) => format!("{text}\n  hint:  {hint}"),
            None => text,
        }
    }

    /// Ends everything, tells how the run ended, writes the summary. The last thing to be called.
    pub fn finish(self, ending: &Ending) -> Outcome {
        self.note_reason(ending.reason());
        if let Ending::Done(_) = ending {
            self.explain_failed_sites();
        }
        let left = self.stop_all();
        let outcome = match left {
            // A stop that failed is the worse news.
            Err(_) if ending.outcome() != Outcome::ConfigurationError => Outcome::InfrastructureFailed,
            _ => ending.outcome(),
        };
        let error = match (ending, left) {
            (Ending::Failed(_, failure), _) => Some(self.told(failure)),
            (_, Err(failure)) => Some(failure.to_string()),
            _ => None,
        };
        let finished = EventKind::RunFinished {
            outcome,
            exit_code: outcome.exit_code(),
            error,
        };
        // Before the last event, which ends the views and tells others that the summary is there.
        let state = self.recorder.state_after(finished.clone());
        if let Err(error) = self.directory.write_summary(&state) {
            let path = self.directory.summary();
            self.recorder.emit(EventKind::Noticed {
                level: Level::Error,
                message: format!("the summary cannot be written: {}: {error}", path.display()),
            });
        }
        self.recorder.emit(finished);
        outcome
    }

    /// Remembers why the stop begins; a greater reason replaces a lesser one.
    pub fn note_reason(&self, reason: StopReason) {
        let mut noted = self.stop.reason.lock().unwrap_or_else(PoisonError::into_inner);
        *noted = (*noted).max(Some(reason));
    }

    /// Ends every process that this run started: dependents first, each with its stop signal and grace period, then
    /// SIGKILL to all that is left. Synchronous, idempotent, bounded by the printed stop bound.
    ///
    /// # Errors
    /// Something could not be ended within its bound; the text names it.
    pub fn stop_all(&self) -> Result<(), Failure> {
        if self.stop.stopping.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        if let Err(error) = instance::remove(&self.config.orch.state_dir, &self.run_id) {
            // Harmless, since it names a process that has ended.
            self.recorder.emit(EventKind::Noticed {
                level: Level::Warning,
                message: format!("{error}\n  hint:  `orch clean` removes it"),
            });
        }
        let reason = self
            .stop
            .reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or(StopReason::Failure);
        let started = Instant::now();
        let bound = self.guard.handle().stop_bound();
        self.recorder.emit(EventKind::StopStarted {
            reason,
            bound_ms: EventKind::millis(bound),
        });
        let nudge = self.stopped_workers.as_ref().and_then(WorkerNudge::begin);
        let stopped = self.guard.stop_all();
        drop(nudge);
        // It says that nothing is left.
        if !matches!(stopped, Err(guard::Error::Unsure(_))) {
            self.recorder.emit(EventKind::StopFinished {
                elapsed_ms: EventKind::millis(started.elapsed()),
            });
        }
        stopped.map(|_summary| ()).map_err(|error| {
            Failure::infrastructure("end the services")
                .because(error.to_string())
                .with_log(&self.directory.log("guard"))
                .hint("the next start of this state directory ends what is recorded there")
        })
    }
}

impl Drop for Orchestrator {
    fn drop(&mut self) {
        // An error has no one to go to here; it stands in the guard's log, and the next start ends what is left.
        drop(self.stop_all());
    }
}

/// What the guard's reader does with a report: the supervisor's while the run runs, an event while it stops.
fn report_to(inbox: GuardInbox, stop: Arc<StopState>, recorder: Recorder) -> impl Fn(GuardEvent) + Send + 'static {
    move |event| {
        if !stop.stopping.load(Ordering::SeqCst) {
            inbox.deliver(event);
            return;
        }
        match event {
            GuardEvent::Report(Report::Exited { service, ended, .. }) => {
                // Probes and other commands are not services of the run.
                if !service.contains(':') {
                    let status = crate::services::exit_status(ended);
                    recorder.emit(EventKind::ServiceStopped {
                        service: ServiceName::new(service),
                        status,
                    });
                }
            }
            GuardEvent::Report(_) => {}
            GuardEvent::Lost { unsure: None } => recorder.emit(EventKind::Noticed {
                level: Level::Error,
                message: "the guard was killed during the stop; what was left has been ended without grace".to_owned(),
            }),
            GuardEvent::Lost { unsure: Some(why) } => recorder.emit(EventKind::Noticed {
                level: Level::Error,
                message: format!("the guard was killed during the stop, and something may be left: {why}"),
            }),
        }
    }
}

/// Whether `/proc` shows this process: without it nothing could be said to be gone.
fn see_processes() -> Result<(), Failure> {
    // Needs no descriptor.
    match std::fs::metadata("/proc/self/stat") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Failure::infrastructure("look at the processes of this machine")
                .because("`/proc` is not mounted, or shows other processes than those of this namespace")
                .hint("orch finds by it what it has to end: `mount -t proc proc /proc`"))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

fn planned_services(config: &Config) -> Vec<PlannedService> {
    Plan::order(config)
        .sorted()
        .into_iter()
        .map(|name| {
            let oneshot = config
                .services
                .iter()
                .any(|service| service.name == name && service.is_oneshot());
            PlannedService { name, oneshot }
        })
        .collect()
}
