//! The start of a run: takes the locks, ends what dead runs have left, starts the guard and opens the journal.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::lifecycle::{Orchestrator, StopState};
use super::service_plan::ServicePlan;
use super::state_directory_watch::StateDirectoryWatch;
use super::unfinished_run;
use crate::orchestrator::instance::locks::{InstanceClaim, RunOptions, StartError, holder, take_locks};
use crate::orchestrator::instance::{resume, stale_files, state_directory};
use crate::orchestrator::requests::RequestReader;
use orch_config::Config;
use orch_guard::{Guard, GuardEvent, GuardFiles, GuardOptions, GuardReport, InstanceLock, why_unended};
use orch_journal::failure::ServiceFailure;
use orch_journal::{
    EventKind, GuardProblem, JOURNAL_FORMAT, LeftoverProcess, LeftoverProcesses, PlannedService, Recorder, RunCommand,
    RunDirectory, RunFile, RunFileFailure, RunId, RunOutcome, RunRetention, RunStart,
};
use orch_scrape::jobs::{SiteRequests, StopRequests};
use orch_scrape::sites::{KeptMonitor, WorkersAfterRun};
use orch_supervisor::shared::instance_file;
use orch_supervisor::{GuardInbox, LogKeeper, ProcessLauncher, ProcessName, SupervisorInbox};

impl Orchestrator {
    /// Takes the instance and starts the guard. Services do not start yet.
    ///
    /// # Errors
    /// The instance is held by a living run, the state directory cannot be used, or the guard does not start.
    pub fn start(config: Config, mut options: RunOptions) -> Result<Self, StartError> {
        let wait_until = Instant::now() + options.wait;
        check_proc().map_err(StartError::Failed)?;
        let run_id = RunId::random();
        let could_not_start = |error: orch_guard::Error| {
            ServiceFailure::infrastructure("could not start the guard process").with_source(&error)
        };
        let owns_all_children = options.owns_all_children;
        let start_guard = || {
            let run_id = run_id.as_str().to_owned();
            Guard::start(GuardOptions {
                run_id,
                owns_all_children,
            })
            .map_err(|error| StartError::Failed(could_not_start(error)))
        };
        // Starts early, so that the guard's program loads while the state directory is prepared. A run that waits for
        // another run starts the guard later, because the turn of the run may never come.
        let early_guard = options.wait.is_zero().then(start_guard).transpose()?;
        let state_dir = config.orch.state_dir.clone();
        state_directory::prepare(&state_dir, &config.file).map_err(StartError::Failed)?;
        let InstanceClaim { mut locks, joined } = take_locks(&config, &options, &run_id)?;
        let failed = |headline: &str, error: &dyn std::error::Error| {
            StartError::Failed(ServiceFailure::infrastructure(headline).with_source(error))
        };
        let ended = match joined {
            Some(_) => orch_guard::Leftovers::default(),
            None => orch_guard::end_leftovers(&state_dir)
                .map_err(|error| failed("could not end the processes that dead runs have left", &error))?,
        };
        let resumption = match &options.resume {
            Some(target) => Some(resume::find(&config, target).map_err(StartError::Failed)?),
            None => None,
        };
        if let Some(resumption) = &resumption {
            if resumption.is_complete() {
                // A run whose guard was killed with it, after its sites had ended, has left its files.
                if joined.is_none()
                    && let Err(error) = stale_files::remove_stale_files(&state_dir)
                {
                    tracing::warn!(%error, "could not remove the files of dead runs");
                }
                let run_id = resumption.run_id.clone();
                let outcome = RunOutcome::of_sites(resumption.kept(), config.orch.strict);
                return Err(StartError::NothingLeft { run_id, outcome });
            }
            options.sites = resumption.sites.iter().map(|so_far| so_far.site.clone()).collect();
        }
        // Looks for an unfinished run before this run creates its own journal.
        let unfinished = match (options.command, &resumption) {
            (RunCommand::Run, None) => unfinished_run::find(&state_dir).unwrap_or_else(|error| {
                tracing::warn!(%error, "could not look for an unfinished run");
                None
            }),
            _ => None,
        };
        let directory = RunDirectory::create(&state_dir, &run_id).map_err(|error| {
            failed(
                &format!("could not create the run's directory in {}", state_dir.display()),
                &error,
            )
        })?;
        directory.remove_old_runs(RunRetention {
            runs: config.orch.keep.runs,
            days: config.orch.keep.days,
            size: config.orch.keep.size,
        });
        let recorder = Recorder::create(&directory.journal())
            .map_err(|error| failed("could not create the run's journal", &error))?;

        let mut kept = vec![directory.path().to_owned()];
        let lock_files = ["run.lock", "services.lock"].map(|name| state_dir.join(name));
        kept.extend(
            lock_files
                .into_iter()
                .filter(|file| locks.iter().any(|lock| lock.is_at(file))),
        );
        let presence = StateDirectoryWatch::of(&state_dir, &kept)
            .map_err(|error| failed("could not inspect the state directory", &error))?;

        let mut notices = Vec::new();
        if !ended.is_empty() {
            notices.push(EventKind::LeftoverProcessesEnded(LeftoverProcesses {
                ended: leftover_processes(ended.ended, |_| None),
                alive: leftover_processes(ended.alive, |pid| Some(why_unended(pid).to_owned())),
            }));
        }
        if joined.is_none() {
            let failure = |file, error: std::io::Error| {
                EventKind::RunFileFailed(RunFileFailure {
                    file,
                    path: state_dir.clone(),
                    reason: error.to_string(),
                })
            };
            if let Err(error) = stale_files::remove_stale_files(&state_dir) {
                notices.push(failure(RunFile::DeadRuns, error));
            }
            if let Err(error) = instance_file::remember_ports(&state_dir, &config.ports) {
                notices.push(failure(RunFile::Ports, error));
            }
        }
        notices.extend(unfinished.map(EventKind::UnfinishedRunFound));

        let (inbox, guard_inbox) = SupervisorInbox::new();
        let stop = Arc::new(StopState::default());
        let on_event = report_to(guard_inbox, Arc::clone(&stop), recorder.clone());
        let inherited = locks
            .iter()
            .map(InstanceLock::duplicate_for_guard)
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|error| failed("could not pass the instance lock to the guard", &error))?;
        let guard = early_guard.map_or_else(start_guard, Ok)?;
        let files = GuardFiles {
            state_dir: state_dir.clone(),
            log: directory.log("guard"),
            lock: inherited,
        };
        let guard = guard
            .begin(&files, on_event)
            .map_err(|error| StartError::Failed(could_not_start(error).with_log(&files.log)))?;
        for lock in &mut locks {
            let holder = holder(
                &config,
                &options,
                &run_id,
                Some(guard.pid()),
                guard.handle().stop_bound(),
            );
            lock.update(&holder)
                .map_err(|error| failed("could not record the holder of the instance lock", &error))?;
        }
        let launcher = ProcessLauncher::new(guard.handle());
        recorder.emit(EventKind::RunStarted(RunStart {
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
        }));
        for notice in notices {
            recorder.emit(notice);
        }
        let logs = LogKeeper::start(recorder.clone());
        logs.keep_within(&files.log, config.orch.log);
        let requests = RequestReader::new(directory.requests());
        Ok(Self {
            config: Arc::new(config),
            options,
            resumption: resumption.map(Arc::new),
            run_id,
            recorder,
            directory,
            presence,
            launcher,
            logs,
            inbox: Some(inbox),
            joined,
            stop,
            wait_until,
            in_flight: Arc::default(),
            monitor: KeptMonitor::default(),
            workers: WorkersAfterRun::End,
            requests,
            site_stops: StopRequests::default(),
            site_requests: SiteRequests::default(),
            stopped_workers: None,
            guard,
            locks,
        })
    }
}

/// Returns the function that handles the guard's reports: passes them to the supervisor while the run is active, and
/// records them as events during the stop.
fn report_to(inbox: GuardInbox, stop: Arc<StopState>, recorder: Recorder) -> impl Fn(GuardEvent) + Send + 'static {
    move |event| {
        if !stop.stopping.load(Ordering::SeqCst) {
            inbox.deliver(event);
            return;
        }
        match event {
            GuardEvent::Report(GuardReport::Exited { service, ended, .. }) => {
                if let ProcessName::Service(name) = ProcessName::read(&service) {
                    recorder.emit(EventKind::ServiceStopped {
                        service: name.into(),
                        status: orch_supervisor::exit_status(ended),
                    });
                }
            }
            GuardEvent::Report(_) => {}
            GuardEvent::Lost { unsure } => {
                let problem = GuardProblem::LostInStop { unsure };
                recorder.emit(EventKind::GuardProblemFound { problem });
            }
        }
    }
}

/// Checks that `/proc` shows this process. Without `/proc` orch could not find out whether a process has ended.
fn check_proc() -> Result<(), ServiceFailure> {
    // Reads only the metadata, which needs no file descriptor.
    match std::fs::metadata("/proc/self/stat") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(ServiceFailure::infrastructure(
            "could not list the processes of this machine",
        )
        .with_cause("`/proc` is not mounted, or does not show the processes of this namespace")
        .hint("mount it (`mount -t proc proc /proc`): orch uses it to find the processes to end")),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn leftover_processes(processes: Vec<(i32, String)>, reason: impl Fn(i32) -> Option<String>) -> Vec<LeftoverProcess> {
    let named = |(pid, service): (i32, String)| LeftoverProcess {
        reason: reason(pid),
        pid,
        service: service.into(),
    };
    processes.into_iter().map(named).collect()
}

fn planned_services(config: &Config) -> Vec<PlannedService> {
    ServicePlan::order(config)
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
