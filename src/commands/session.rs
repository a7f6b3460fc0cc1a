//! The common part of `orch run`, `orch up` and `orch demo`: signals, view, orchestrator, stop, exit code.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::output::print_message;
use super::{CommandError, OutputFormat, ViewArgs, caller_environment, color, logging, service_manager, signals};
use crate::orchestrator::instance::locks::{RunOptions, StartError};
use crate::orchestrator::instance::resume::ResumeTarget;
use crate::orchestrator::lifecycle::Orchestrator;
use orch_base::text::duration_text::shown;
use orch_config::Config;
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, RunCommand, RunFile, RunFileFailure, SiteName};
use orch_views::{ViewFormat, ViewOptions};

/// Time in which the view must print the remaining events: a blocked pipe must not delay the end.
const VIEW_TIMEOUT: Duration = Duration::from_secs(2);

/// One run and the options of its view.
pub struct RunSession<'a> {
    pub command: RunCommand,
    /// Value of [`RunOptions::ends_when_ready`].
    pub ends_when_ready: bool,
    pub sites: Vec<SiteName>,
    pub resume: Option<ResumeTarget>,
    pub wait: Duration,
    pub force: bool,
    pub view: &'a ViewArgs,
}

impl RunSession<'_> {
    /// Runs the session to the end and returns the exit code.
    ///
    /// # Errors
    /// The run could not begin.
    pub fn run(self, config: Config) -> anyhow::Result<u8> {
        // Comes before the first child process and the first lock, so that any later signal leads to a clean stop.
        let (stop, armed) = signals::start_signal_thread().map_err(|error| {
            let failure =
                ServiceFailure::infrastructure("could not start the thread that receives signals").with_source(&error);
            CommandError::because(failure.kind.outcome(), failure)
        })?;
        let options = RunOptions {
            command: self.command,
            ends_when_ready: self.ends_when_ready,
            sites: self.sites,
            resume: self.resume,
            wait: self.wait,
            force: self.force,
            environment: caller_environment(),
            owns_all_children: true,
        };
        let mut orchestrator = match start_in_turn(config, options) {
            Ok(orchestrator) => orchestrator,
            // `--resume` found no site left to run, which is a success.
            Err(nothing @ StartError::NothingLeft { .. }) => {
                print_message(&nothing.to_string());
                return Ok(nothing.outcome().exit_code());
            }
            Err(error) => return Err(CommandError::because(error.outcome(), error)),
        };
        let log = orchestrator.directory().orch_log();
        match logging::open_log_file(&log) {
            Ok(()) => orchestrator.keep_within_bound(&log),
            Err(error) => orchestrator.recorder().emit(EventKind::RunFileFailed(RunFileFailure {
                file: RunFile::Log,
                path: log,
                reason: error.to_string(),
            })),
        }
        armed.set_run(signals::StoppableRun {
            hurry: orchestrator.hurry_switch()?,
            recorder: orchestrator.recorder().clone(),
            guard_pid: orchestrator.guard_pid(),
        });
        let terminal = std::io::stdout().is_terminal();
        let shown = ViewOptions {
            format: match self.view.output {
                OutputFormat::Human => ViewFormat::Human,
                OutputFormat::Json => ViewFormat::Json,
            },
            // The live view would overwrite log lines on the same terminal.
            terminal: terminal && !(logging::is_on_stderr(self.view.verbose) && std::io::stderr().is_terminal()),
            color: color(terminal),
            quiet: self.view.quiet,
            verbose: self.view.verbose > 0,
        };
        if shown.terminal {
            restore_terminal_after_kill(&orchestrator);
        }
        let recorder = orchestrator.recorder().clone();
        let view = orch_views::start(shown, recorder.subscribe());
        service_manager::follow(&recorder);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| {
                let failure = ServiceFailure::infrastructure("could not start the async runtime").with_source(&error);
                CommandError::because(failure.kind.outcome(), failure)
            })?;
        let ending = runtime.block_on(async {
            tokio::select! {
                ending = orchestrator.run(stop) => ending,
                never = service_manager::keep_watchdog() => match never {},
            }
        });
        // Probes and connections end with the runtime, before the services at their other end.
        drop(runtime);
        let outcome = orchestrator.finish(&ending);
        match view {
            Ok(view) => view.finish(VIEW_TIMEOUT),
            Err(error) => {
                print_message(&format!("could not start the view ({error}); the events of the run:"));
                orch_views::show_afterwards(shown, recorder.subscribe());
            }
        }
        Ok(outcome.exit_code())
    }
}

/// Lets the guard restore the terminal if this process is killed while the live view uses it.
fn restore_terminal_after_kill(orchestrator: &Orchestrator) {
    match orchestrator.terminal_switch() {
        Ok(switch) => orch_views::watch_terminal(move |reset| match reset {
            Some(text) => switch.arm(text),
            None => switch.disarm(),
        }),
        Err(error) => tracing::warn!(%error, "could not let the guard watch the terminal"),
    }
}

/// Takes the instance. Prints a message before it waits for the end of another run.
fn start_in_turn(config: Config, options: RunOptions) -> Result<Orchestrator, StartError> {
    // The time of `--wait` covers both the wait for the instance and the wait for its sites.
    let wait_until = Instant::now() + options.wait;
    let at_once = RunOptions {
        wait: Duration::ZERO,
        ..options.clone()
    };
    let started = match Orchestrator::start(config.clone(), at_once) {
        Err(StartError::Busy {
            command, pid, run_id, ..
        }) if !options.wait.is_zero() => {
            let limit = shown(options.wait);
            print_message(&format!(
                "waiting up to {limit} for `orch {command}` (pid {pid}, run {run_id}) to end"
            ));
            Orchestrator::start(config, options)
        }
        result => result,
    };
    started.map(|mut orchestrator| {
        orchestrator.wait_for_sites_until(wait_until);
        orchestrator
    })
}
