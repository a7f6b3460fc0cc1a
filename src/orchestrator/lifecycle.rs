//! The owner of one run, and the stop, which ends every process of the run.
//!
//! [`Orchestrator`] owns the guard. Dropping the orchestrator, also by a panic, calls [`Orchestrator::stop_all`].
//! [`super::start`] creates the orchestrator, [`super::run_services`] does the work in between.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::run::RunEnd;
use super::state_directory_watch::StateDirectoryWatch;
use super::unread_env_file;
use crate::orchestrator::instance::locks::RunOptions;
use crate::orchestrator::requests::{RequestReader, RequestReceiver};
use orch_celery::Client;
use orch_config::Config;
use orch_guard::{Guard, HurrySwitch, InstanceLock, TerminalSwitch};
use orch_journal::failure::ServiceFailure;
use orch_journal::{
    EventKind, Recorder, Resumption, RunDirectory, RunFile, RunFileFailure, RunId, RunOutcome, StopReason,
    UnreadEnvFile,
};
use orch_scrape::jobs::{SiteRequests, StopRequests};
use orch_scrape::sites::{JobContext, KeptMonitor, WorkersAfterRun};
use orch_supervisor::shared::instance_file;
use orch_supervisor::shared::instance_file::InstanceFile;
use orch_supervisor::{LogKeeper, ProcessLauncher, StopPing, SupervisorInbox};

/// Owner of one run: of its guard, and through the guard of every process of the run.
///
/// ```standalone_crate
/// use orch::config::{Config, LoadOptions};
/// use orch::orchestrator::{Orchestrator, RunOptions};
/// use orch::journal::{RunCommand, RunOutcome, StopReason};
/// use std::time::Duration;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     // The guard is this program, started a second time. Without this line no guard can start.
///     orch::guard::init();
///     let directory = tempfile::tempdir()?;
///     let text = "[redis]\nmode = \"off\"\n[services.web]\nkind = \"daemon\"\ncommand = [\"sleep\", \"60\"]\n";
///     std::fs::write(directory.path().join("orch.toml"), text)?;
///     let config = Config::load(LoadOptions {
///         directory: directory.path().to_owned(),
///         ..LoadOptions::of_this_process()
///     })?;
///     let options = RunOptions {
///         command: RunCommand::Up,
///         ends_when_ready: false,
///         sites: Vec::new(),
///         resume: None,
///         wait: Duration::ZERO,
///         force: false,
///         environment: std::env::vars().collect(),
///         owns_all_children: false,
///     };
///     let mut orchestrator = Orchestrator::start(config, options)?;
///     // From here on the end of this program stops all services, also after a panic.
///     let (stop, stop_requested) = tokio::sync::watch::channel(None);
///     let requester = std::thread::spawn(move || {
///         std::thread::sleep(Duration::from_millis(100));
///         stop.send(Some(StopReason::Finished))
///     });
///     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
///     let ending = runtime.block_on(orchestrator.run(stop_requested));
///     assert_eq!(orchestrator.finish(&ending), RunOutcome::Succeeded);
///     requester.join().expect("the thread that requests the stop")?;
///     Ok(())
/// }
/// ```
pub struct Orchestrator {
    pub(super) config: Arc<Config>,
    pub(super) options: RunOptions,
    /// Remaining work of the run that this run continues.
    pub(super) resumption: Option<Arc<Resumption>>,
    pub(super) run_id: RunId,
    pub(super) recorder: Recorder,
    pub(super) directory: RunDirectory,
    pub(super) presence: StateDirectoryWatch,
    pub(super) launcher: ProcessLauncher,
    /// Keeps the logs within their bounds, also while the services stop.
    pub(super) logs: LogKeeper,
    pub(super) inbox: Option<SupervisorInbox>,
    /// Running instance with the services that this run uses instead of starting services.
    pub(super) joined: Option<InstanceFile>,
    pub(super) stop: Arc<StopState>,
    /// End of the wait for sites that another run holds.
    pub(super) wait_until: Instant,
    /// Context of the sites; set as soon as sites may run.
    pub(super) in_flight: Arc<OnceLock<JobContext>>,
    /// Worker monitor of the jobs, for their cancellation.
    pub(super) monitor: KeptMonitor,
    /// Decides whether the workers end with this run or continue.
    pub(super) workers: WorkersAfterRun,
    /// Reader of the requests of other commands.
    pub(super) requests: RequestReader,
    /// Sites that are to be stopped by request.
    pub(super) site_stops: StopRequests,
    /// Requests about the admission of sites.
    pub(super) site_requests: SiteRequests,
    /// Client for the workers that the stop ends.
    pub(super) stopped_workers: Option<Client>,
    // These fields drop in this order: the guard before the locks, so that no run can start while a process is left.
    pub(super) guard: Guard,
    pub(super) locks: Vec<InstanceLock>,
}

/// State of the stop, shared with the thread that reads the guard's reports.
#[derive(Default)]
pub(super) struct StopState {
    pub(super) stopping: AtomicBool,
    reason: Mutex<Option<StopReason>>,
}

impl Orchestrator {
    /// Sets the end of the wait for sites that another run holds, instead of the wait of the options.
    pub fn wait_for_sites_until(&mut self, moment: Instant) {
        self.wait_until = moment;
    }

    /// Returns the recorder of the run's events.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Returns the directory with the run's logs and summary.
    pub fn directory(&self) -> &RunDirectory {
        &self.directory
    }

    /// Keeps a log of the run within the bound of `[orch] log` from here on.
    pub fn keep_within_bound(&self, log: &Path) {
        self.logs.keep_within(log, self.config.orch.log);
    }

    /// Returns the pid of the guard.
    pub fn guard_pid(&self) -> i32 {
        self.guard.pid()
    }

    /// Creates a switch that skips the grace periods of the stop and that the signal thread can use.
    ///
    /// # Errors
    /// No file descriptor is left to duplicate the guard's socket.
    pub fn hurry_switch(&self) -> Result<HurrySwitch, orch_guard::Error> {
        self.guard.handle().hurry_switch()
    }

    /// Creates a switch that lets the guard restore the terminal at the standard output when this process is killed.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn terminal_switch(&self) -> std::io::Result<TerminalSwitch> {
        self.guard.handle().terminal_switch(std::io::stdout())
    }

    /// Returns the `.env` file that is not read and has a variable which `text` reports as missing.
    pub(super) fn unread_env_file(&self, text: &str) -> Option<UnreadEnvFile> {
        unread_env_file::find(&self.config, &self.options.environment, text)
    }

    /// Emits a warning if a failed site may lack a variable from a `.env` file that is not read.
    fn explain_failed_sites(&self) {
        let reasons = self.recorder.with_state(|state| {
            let reasons = state.sites.iter().filter_map(|site| site.reason.as_deref());
            reasons.collect::<Vec<_>>().join("\n")
        });
        if let Some(unread) = self.unread_env_file(&reasons) {
            self.recorder.emit(EventKind::EnvFileUnread(unread));
        }
    }

    /// Formats a failure; adds a hint if the cause may be a `.env` file that is not read.
    fn with_hint(&self, failure: &ServiceFailure) -> String {
        let text = failure.to_string();
        match self.unread_env_file(&text) {
            Some(unread) => format!("{text}\n  hint:  {unread}"),
            None => text,
        }
    }

    /// Stops everything, writes the summary, and records how the run ended. Comes last.
    pub fn finish(mut self, ending: &RunEnd) -> RunOutcome {
        self.note_reason(ending.reason());
        if let RunEnd::Done(_) = ending {
            self.explain_failed_sites();
        }
        let left = self.stop_all();
        self.site_requests.refuse_all();
        RequestReceiver::refuse_late_requests(&self.recorder, &mut self.requests);
        let outcome = match left {
            // A failed stop is the more important result.
            Err(_) if ending.outcome() != RunOutcome::ConfigurationError => RunOutcome::InfrastructureFailed,
            _ => ending.outcome(),
        };
        let error = match (ending, left) {
            (RunEnd::Failed(_, failure), _) => Some(self.with_hint(failure)),
            (_, Err(failure)) => Some(failure.to_string()),
            _ => None,
        };
        let finished = EventKind::RunFinished {
            outcome,
            exit_code: outcome.exit_code(),
            error,
        };
        // Comes before the last event, which ends the views and announces to other programs that the summary exists.
        let state = self.recorder.state_after(finished.clone());
        if let Err(error) = self.directory.write_summary(&state) {
            self.recorder.emit(EventKind::RunFileFailed(RunFileFailure {
                file: RunFile::Summary,
                path: self.directory.summary(),
                reason: error.to_string(),
            }));
        }
        self.recorder.emit(finished);
        outcome
    }

    /// Records the reason of the stop; a greater reason replaces a lesser one.
    pub fn note_reason(&self, reason: StopReason) {
        let mut noted = self.stop.reason.lock().unwrap_or_else(PoisonError::into_inner);
        *noted = (*noted).max(Some(reason));
    }

    /// Ends every process that this run started: dependents first, each with its stop signal and grace period, then all
    /// remaining processes with SIGKILL. The call is synchronous, idempotent and limited by the printed stop bound.
    ///
    /// # Errors
    /// A process could not be ended within the bound; the text names the process.
    pub fn stop_all(&self) -> Result<(), ServiceFailure> {
        if self.stop.stopping.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.logs.begin_stop();
        if let Err(error) = instance_file::remove(&self.config.orch.state_dir, &self.run_id) {
            // The remaining file is harmless, because it names a process that has ended.
            self.recorder.emit(EventKind::RunFileFailed(RunFileFailure {
                file: RunFile::EndedInstance,
                path: instance_file::path(&self.config.orch.state_dir),
                reason: error.to_string(),
            }));
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
        let nudge = self.stopped_workers.as_ref().and_then(StopPing::begin);
        let stopped = self.guard.stop_all();
        drop(nudge);
        // The event states that no process is left, and is omitted if the guard is not sure.
        let is_sure = !matches!(
            stopped,
            Err(orch_guard::Error::Uncertain(_) | orch_guard::Error::NotEnded { .. })
        );
        if is_sure {
            self.recorder.emit(EventKind::StopFinished {
                elapsed_ms: EventKind::millis(started.elapsed()),
            });
        }
        stopped.map(|_summary| ()).map_err(|error| {
            ServiceFailure::infrastructure("could not stop the services")
                .with_cause(error.to_string())
                .with_log(&self.directory.log("guard"))
                .hint("the next start in this state directory ends the processes that are recorded there")
        })
    }
}

impl Drop for Orchestrator {
    fn drop(&mut self) {
        // A drop cannot return the error. The error is in the guard's log, and the next start ends the leftovers.
        drop(self.stop_all());
    }
}
