//! What `orch run`, `orch up` and `orch demo` share: signals, view, orchestrator, stop, exit code.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::output::say;
use super::{OutputFormat, Refusal, ViewArgs, caller_environment, color, logging, signals};
use crate::config::Config;
use crate::duration_text::shown;
use crate::orchestrator::{Options, Orchestrator, ResumeTarget, StartError};
use crate::run::{Command, EventKind, Level, SiteName};
use crate::services::Failure;
use crate::ui::{self, Format, ViewOptions};

/// How long a view may take to print what is left: a blocked pipe must not hold up the end.
const VIEW_PATIENCE: Duration = Duration::from_secs(2);

/// One run, shown.
pub struct Session<'a> {
    pub command: Command,
    pub sites: Vec<SiteName>,
    pub resume: Option<ResumeTarget>,
    pub wait: Duration,
    pub force: bool,
    pub view: &'a ViewArgs,
}

impl Session<'_> {
    /// Runs it to its end; the exit code.
    ///
    /// # Errors
    /// It could not begin.
    pub fn run(self, config: Config) -> anyhow::Result<u8> {
        // Before the first child and the first lock: a signal from here on ends in a clean stop.
        let (stop, armed) = signals::listen().map_err(|error| {
            let failure = Failure::infrastructure("start the thread that hears signals").caused_by(&error);
            Refusal::because(failure.kind.outcome(), failure)
        })?;
        let options = Options {
            command: self.command,
            sites: self.sites,
            resume: self.resume,
            wait: self.wait,
            force: self.force,
            environment: caller_environment(),
            sole_spawner: true,
        };
        let mut orchestrator = match start_in_turn(config, options) {
            Ok(orchestrator) => orchestrator,
            // Good news is no error.
            Err(nothing @ StartError::NothingLeft { .. }) => {
                say(&nothing.to_string());
                return Ok(nothing.outcome().exit_code());
            }
            Err(error) => return Err(Refusal::because(error.outcome(), error)),
        };
        let log = orchestrator.directory().orch_log();
        if let Err(error) = logging::to_file(&log) {
            orchestrator.recorder().emit(EventKind::Noticed {
                level: Level::Warning,
                message: format!("there will be no log of orch's own: {}: {error}", log.display()),
            });
        }
        armed.arm(signals::Running {
            hurry: orchestrator.hurry_switch()?,
            recorder: orchestrator.recorder().clone(),
            guard_pid: orchestrator.guard_pid(),
        });
        let terminal = std::io::stdout().is_terminal();
        let shown = ViewOptions {
            format: match self.view.output {
                OutputFormat::Human => Format::Human,
                OutputFormat::Json => Format::Json,
            },
            // Logs between the lines of a live view would be overdrawn.
            terminal: terminal && !(logging::is_spoken(self.view.verbose) && std::io::stderr().is_terminal()),
            color: color(terminal),
            quiet: self.view.quiet,
            verbose: self.view.verbose > 0,
        };
        let recorder = orchestrator.recorder().clone();
        let view = ui::start(shown, recorder.subscribe());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| {
                let failure = Failure::infrastructure("start the runtime").caused_by(&error);
                Refusal::because(failure.kind.outcome(), failure)
            })?;
        let ending = runtime.block_on(orchestrator.run(stop));
        // Probes and connections end with the runtime, before the services that they talk to.
        drop(runtime);
        let outcome = orchestrator.finish(&ending);
        match view {
            Ok(view) => view.finish(VIEW_PATIENCE),
            Err(error) => {
                say(&format!("no view could be started ({error}); what happened:"));
                ui::show_afterwards(shown, recorder.subscribe());
            }
        }
        Ok(outcome.exit_code())
    }
}

/// Takes the instance; says so before it waits for another run's end.
fn start_in_turn(config: Config, options: Options) -> Result<Orchestrator, StartError> {
    // One wait for all that may be waited for.
    let wait_until = Instant::now() + options.wait;
    let at_once = Options {
        wait: Duration::ZERO,
        ..options.clone()
    };
    let started = match Orchestrator::start(config.clone(), at_once) {
        Err(StartError::Busy {
            command, pid, run_id, ..
        }) if !options.wait.is_zero() => {
            let patience = shown(options.wait);
            say(&format!(
                "waiting up to {patience} for `orch {command}` (pid {pid}, run {run_id}) to end"
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
