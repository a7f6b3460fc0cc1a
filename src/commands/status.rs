//! `orch status`: shows the services, sites and proxies of the active runs, from another terminal.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;

use super::follow_end::FollowEnd;
use super::output::print_until_closed;
use super::run_choice::{ChosenRuns, RunChoice};
use super::{CommandError, ConfigArgs, color};
use crate::orchestrator::instance::living_runs::lock_files;
use crate::orchestrator::run_observer::RunObserver;
use orch_base::files::path_watch::PathWatch;
use orch_base::text::printable;
use orch_base::text::redaction::redacted;
use orch_config::{Config, nearest};
use orch_journal::RunOutcome;
use orch_views::{LiveScreen, ObservedRun, StatusJson, StatusPart, StyledLine, TextTone};

/// Time between two redraws at least.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two redraws of a terminal without an event: ages and processor shares change all the time.
const TICK_INTERVAL: Duration = Duration::from_secs(2);
/// Time between two looks without an event if the output is no terminal, in case a watch misses a change.
const RECHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Exit code if nothing runs.
const NOTHING_RUNS: u8 = 3;

/// Shows the active runs: services, sites, proxies; from any terminal, without touching them
#[derive(Args, Debug)]
#[command(
    after_help = "CPU is the share of one processor since the start of a service; with --watch, since the last look. RSS is \
the sum over the processes of a service. Exit codes: 0 all is well; 1 something is not (a service or a site has failed, is not \
ready yet, or the run is stopping or has died); 2 usage or configuration error; 3 nothing runs."
)]
pub struct StatusArgs {
    /// Show only this service or site, with all details
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print one JSON object; with --watch, one at each change
    #[arg(long)]
    json: bool,
    /// Redraw at each change until the run ends, or Ctrl+C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    run: RunChoice,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &StatusArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let mut status = StatusCommand::new(args, &config)?;
    if args.watch {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(status.watch());
    }
    let look = status.look()?;
    status.print(&look);
    Ok(look.exit_code)
}

/// Observers of the chosen runs.
struct StatusCommand<'a> {
    args: &'a StatusArgs,
    config: &'a Config,
    observers: Vec<RunObserver>,
    are_living: bool,
}

/// One look at the runs.
struct StatusLook {
    runs: Vec<ObservedRun>,
    exit_code: u8,
}

impl<'a> StatusCommand<'a> {
    fn new(args: &'a StatusArgs, config: &'a Config) -> anyhow::Result<Self> {
        let ChosenRuns { runs, are_living } = args.run.find(config)?;
        let observers = runs.into_iter();
        Ok(Self {
            args,
            config,
            observers: observers
                .map(|(run_id, directory)| RunObserver::new(run_id, directory))
                .collect(),
            are_living,
        })
    }

    fn look(&mut self) -> anyhow::Result<StatusLook> {
        let state_dir = &self.config.orch.state_dir;
        let mut runs = Vec::new();
        for observer in &mut self.observers {
            let run = observer
                .look(state_dir)
                .map_err(|error| anyhow::anyhow!("could not observe run {}\n  cause: {error}", observer.run_id()))?;
            runs.push(run);
        }
        let exit_code = self.judge(&runs)?;
        Ok(StatusLook { runs, exit_code })
    }

    /// Returns the exit code.
    ///
    /// # Errors
    /// No run has the named service or site.
    fn judge(&self, runs: &[ObservedRun]) -> anyhow::Result<u8> {
        let is_running = |run: &&ObservedRun| run.life.is_running();
        let is_well = match &self.args.name {
            None => runs.iter().filter(is_running).all(ObservedRun::is_well),
            Some(name) => {
                if !runs.is_empty() && runs.iter().all(|run| run.parts(name).is_empty()) {
                    return Err(unknown_name(name, runs));
                }
                let running = runs.iter().filter(is_running);
                let parts = running.flat_map(|run| run.parts(name).into_iter().map(move |part| (run, part)));
                parts.into_iter().all(|(run, part)| run.is_part_well(part))
            }
        };
        Ok(match (runs.iter().any(|run| run.life.is_running()), is_well) {
            (false, _) => NOTHING_RUNS,
            (true, true) => RunOutcome::Succeeded.exit_code(),
            (true, false) => RunOutcome::SitesFailed.exit_code(),
        })
    }

    /// Makes the lines for people; `width` is that of the terminal.
    fn lines(&self, look: &StatusLook, width: Option<usize>) -> Vec<StyledLine> {
        let state_dir = self.config.orch.state_dir.display();
        let plain = |text: String| StyledLine::of(TextTone::Plain, text);
        let mut lines = Vec::new();
        // The end of a watched run is shown as that run, not as "nothing runs".
        if !self.are_living && self.args.run.id.is_none() {
            lines.push(plain(format!("nothing runs in {state_dir}")));
        }
        for run in &look.runs {
            if let Some(name) = &self.args.name {
                let parts = run.parts(name);
                lines.extend(parts.into_iter().flat_map(|part: StatusPart<'_>| run.part_lines(part)));
                continue;
            }
            if !lines.is_empty() && self.are_living {
                lines.push(StyledLine::default());
            }
            match self.are_living || self.args.run.id.is_some() {
                true => lines.extend(run.lines(width)),
                false => lines.extend(run.end_lines()),
            }
        }
        lines
    }

    /// Prints a look; returns false if nobody reads any more.
    fn print(&self, look: &StatusLook) -> bool {
        if self.args.json {
            return print_json_until_closed(&look.runs);
        }
        let is_terminal = std::io::stdout().is_terminal();
        let width = is_terminal.then(|| LiveScreen::size().0);
        let lines = self.lines(look, width);
        print_lines(&lines, color(is_terminal))
    }

    async fn watch(&mut self) -> anyhow::Result<u8> {
        let mut end = FollowEnd::listen()?;
        let is_terminal = std::io::stdout().is_terminal() && !self.args.json;
        let mut watch = PathWatch::new()?;
        let mut screen = None;
        let mut shown = None;
        loop {
            // The watch begins before the look, so that no change is lost between them.
            let journals = self.observers.iter().map(|observer| observer.directory().journal());
            for path in journals.chain(lock_files(&self.config.orch.state_dir)) {
                // A run that joins an `orch up` has no lock of its own on the services.
                watch.add_file(&path).ok();
            }
            for observer in &self.observers {
                watch.add_directory(observer.directory().path()).ok();
            }
            let look = self.look()?;
            if !look.runs.iter().any(|run| run.life.is_running()) {
                drop(screen.take());
                self.print(&look);
                return Ok(look.exit_code);
            }
            if is_terminal {
                let screen = screen.get_or_insert_with(LiveScreen::take);
                if self.draw(screen, &look).is_err() {
                    return Ok(look.exit_code);
                }
            } else {
                let seen: Vec<_> = look.runs.iter().map(|run| (run.state.seq, run.life.word())).collect();
                if shown.as_ref() != Some(&seen) {
                    if shown.is_some() && !self.args.json && !print_until_closed("") {
                        return Ok(look.exit_code);
                    }
                    if !self.print(&look) {
                        return Ok(look.exit_code);
                    }
                    shown = Some(seen);
                }
            }
            let interval = if is_terminal { TICK_INTERVAL } else { RECHECK_INTERVAL };
            tokio::select! {
                biased;
                () = end.come() => return Ok(RunOutcome::Succeeded.exit_code()),
                changed = watch.changed() => changed?,
                () = tokio::time::sleep(interval) => {}
            }
            // Events that follow each other closely are shown together.
            tokio::select! {
                biased;
                () = end.come() => return Ok(RunOutcome::Succeeded.exit_code()),
                () = tokio::time::sleep(REDRAW_INTERVAL) => {}
            }
        }
    }

    fn draw(&self, screen: &mut LiveScreen, look: &StatusLook) -> std::io::Result<()> {
        let size = LiveScreen::size();
        let mut lines = self.lines(look, Some(size.0));
        lines.truncate(size.1.saturating_sub(1));
        let painted = lines.iter().map(|line| line.paint(size.0, color(true)));
        screen.draw(&[], painted.collect(), size)
    }
}

fn print_json_until_closed(runs: &[ObservedRun]) -> bool {
    print_until_closed(&printable::json(&StatusJson::of(runs)))
}

/// Prints lines at once; returns false if nobody reads any more.
fn print_lines(lines: &[StyledLine], color: bool) -> bool {
    use std::io::Write;
    let text: String = lines.iter().map(|line| format!("{}\n", line.whole(color))).collect();
    let mut output = std::io::stdout().lock();
    output
        .write_all(redacted(&text).as_bytes())
        .and_then(|()| output.flush())
        .is_ok()
}

fn unknown_name(name: &str, runs: &[ObservedRun]) -> anyhow::Error {
    let names = || runs.iter().flat_map(ObservedRun::names);
    let hint = match nearest(name, names()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "`orch status` lists the services and sites".to_owned(),
    };
    CommandError::usage(format!("no service or site is named `{name}`\n  hint:  {hint}"))
}
