//! Command line of `orch logs`, and the printing and following of the selected logs.

use std::time::Duration;

use clap::Args;
use jiff::tz::TimeZone;
use regex::bytes::Regex;

use super::line_filter::LineFilter;
use super::line_printer::LinePrinter;
use super::log_choice::LogChoice;
use super::log_source::{LogSource, StartLimit};
use crate::commands::follow_end::FollowEnd;
use crate::commands::output::print_message;
use crate::commands::run_choice::{ChosenRuns, RunChoice};
use crate::commands::{CommandError, ConfigArgs, duration};
use crate::orchestrator::instance::living_runs::{life, lock_files};
use orch_base::files::path_watch::PathWatch;
use orch_base::wall_clock::unix_now;
use orch_config::Config;
use orch_journal::RunOutcome;

/// Number of lines of each log without `-n` and `--since`.
const DEFAULT_LINES: u64 = 50;
/// Exit code if there is no run.
const NO_RUN: u8 = 3;
/// Time in which lines are collected, so that lines that follow each other closely are written together.
const GATHER_INTERVAL: Duration = Duration::from_millis(20);
/// Time between two looks without a change, in case the watch misses one.
const RECHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Prints the logs of services, merged by the times of their lines
#[derive(Args, Debug)]
#[command(
    after_help = "A line has a time if it begins as those of Celery, Redis, HTTP servers or ISO 8601; other lines belong to the \
line before. `orch` and `guard` are logs, too, if they are named. Exit codes: 0 the logs were printed; 2 usage or \
configuration error; 3 there is no run."
)]
pub struct LogsArgs {
    /// Services (such as `celery`), or sites (`site:NAME`: the lines of worker logs that name the site, its job or one of its
    /// tasks) [default: all services]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print further lines as they come, until the run ends, or Ctrl+C; goes on after a truncation or rotation
    #[arg(short, long)]
    follow: bool,
    /// Number of last lines of each log that are printed first, or `all` [default: 50; with --since: all]
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_lines)]
    lines: Option<LineCount>,
    /// Print only lines of this last time, such as `2h`
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    /// Print only lines that this regular expression matches; `(?i)` at its start ignores case
    #[arg(long, value_name = "RE")]
    grep: Option<String>,
    #[command(flatten)]
    run: RunChoice,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Number of lines on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineCount {
    All,
    Last(u64),
}

fn parse_lines(text: &str) -> Result<LineCount, String> {
    match text {
        "all" => Ok(LineCount::All),
        number => match number.parse() {
            Ok(number) => Ok(LineCount::Last(number)),
            Err(_) => Err("it is neither a number nor `all`".to_owned()),
        },
    }
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &LogsArgs) -> anyhow::Result<u8> {
    let pattern = args.grep.as_deref().map(parse_pattern).transpose()?;
    let config = args.config.load(&[])?;
    let chosen = args.run.find(&config)?;
    if chosen.runs.is_empty() {
        print_message(&format!("there is no run in {}", config.orch.state_dir.display()));
        return Ok(NO_RUN);
    }
    let mut logs = ShownLogs {
        choice: LogChoice::parse(&args.names, &chosen)?,
        sources: Vec::new(),
        printer: LinePrinter::new(),
        zone: TimeZone::system(),
        pattern,
        chosen: &chosen,
        config: &config,
    };
    logs.open(args.limit())?;
    if args.follow {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(logs.follow())?;
    } else {
        logs.print_available(true)?;
    }
    Ok(RunOutcome::Succeeded.exit_code())
}

/// Parses the pattern of `--grep`.
fn parse_pattern(text: &str) -> anyhow::Result<Regex> {
    Regex::new(text).map_err(|error| {
        let cause = error.to_string();
        let last = cause.lines().last().unwrap_or_default();
        let last = last.strip_prefix("error: ").unwrap_or(last);
        CommandError::usage(format!("`--grep {text}` is no regular expression\n  cause: {last}"))
    })
}

impl LogsArgs {
    /// Returns the part of each log that is printed first.
    fn limit(&self) -> StartLimit {
        let now = unix_now();
        let since = self.since.map(|since| now.saturating_sub(since).as_secs_f64());
        let lines = match (self.lines, since) {
            (Some(LineCount::Last(number)), _) => Some(number),
            (Some(LineCount::All), _) | (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_LINES),
        };
        StartLimit { lines, since }
    }
}

/// Logs that are printed.
struct ShownLogs<'a> {
    choice: LogChoice,
    sources: Vec<LogSource>,
    printer: LinePrinter,
    zone: TimeZone,
    pattern: Option<Regex>,
    chosen: &'a ChosenRuns,
    config: &'a Config,
}

impl ShownLogs<'_> {
    /// Opens the chosen logs that are not open yet, each at the start of the part that is printed first.
    fn open(&mut self, limit: StartLimit) -> anyhow::Result<()> {
        for log in self.choice.logs(self.chosen) {
            if self.sources.iter().any(|source| source.path() == log.path) {
                continue;
            }
            let failed = |error: std::io::Error| {
                anyhow::anyhow!("could not read the log {}\n  cause: {error}", log.path.display())
            };
            let filter = LineFilter::new(self.pattern.clone(), log.site.clone());
            let mut source = LogSource::open(&log.name, &log.path, filter, &self.zone).map_err(failed)?;
            let has_times = source
                .find_start(limit, DEFAULT_LINES, self.choice.sites())
                .map_err(failed)?;
            if !has_times {
                print_message(&format!(
                    "the lines of {} have no times: the last {DEFAULT_LINES} are printed",
                    log.path.display()
                ));
            }
            self.sources.push(source);
        }
        self.printer.set_names(self.sources.iter().map(LogSource::name));
        Ok(())
    }

    /// Prints the available lines, merged by their times; returns false if nobody reads any more. With `is_end` also
    /// prints a last line without a line break.
    fn print_available(&mut self, is_end: bool) -> anyhow::Result<bool> {
        self.choice.read_journals()?;
        loop {
            let mut earliest: Option<(f64, usize)> = None;
            for (number, source) in self.sources.iter_mut().enumerate() {
                let sites = self.choice.sites();
                let next = source.peek(is_end, sites).map_err(|error| {
                    anyhow::anyhow!("could not read the log {}\n  cause: {error}", source.path().display())
                })?;
                let Some(time) = next else { continue };
                // A log without times comes first, as a whole.
                let time = time.unwrap_or(f64::NEG_INFINITY);
                if earliest.is_none_or(|(earliest, _)| time < earliest) {
                    earliest = Some((time, number));
                }
            }
            let Some((_, number)) = earliest else {
                return Ok(self.printer.flush());
            };
            let line = self.sources.get_mut(number).and_then(LogSource::take);
            if !self.printer.print(number, &line.unwrap_or_default()) {
                return Ok(false);
            }
        }
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        let state_dir = &self.config.orch.state_dir;
        if !self.print_available(false)? {
            return Ok(());
        }
        let mut end = FollowEnd::listen()?;
        let mut watch = PathWatch::new()?;
        for source in &mut self.sources {
            source.remove_limit();
        }
        loop {
            // The watch begins before the look, so that no change is lost between them.
            for (_, directory) in &self.chosen.runs {
                watch.add_directory(directory.path()).ok();
                watch.add_file(&directory.journal()).ok();
            }
            let logs = self.sources.iter().map(|source| source.path().to_owned());
            for path in logs.chain(lock_files(state_dir)) {
                // A log may be missing between the two steps of a rotation.
                watch.add_file(&path).ok();
            }
            // This order matters: the lines then include everything that was written before the end.
            let mut is_over = true;
            for (run_id, directory) in &self.chosen.runs {
                is_over &= !life(state_dir, run_id, directory)?.is_running();
            }
            self.open(StartLimit::default())?;
            loop {
                if !self.print_available(is_over)? {
                    return Ok(());
                }
                let mut has_changed = false;
                for source in &mut self.sources {
                    has_changed |= source.follow_changes()?;
                }
                if !has_changed {
                    break;
                }
            }
            if is_over {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = end.come() => return Ok(()),
                changed = watch.changed() => changed?,
                () = tokio::time::sleep(RECHECK_INTERVAL) => {}
            }
            tokio::select! {
                biased;
                () = end.come() => return Ok(()),
                () = tokio::time::sleep(GATHER_INTERVAL) => {}
            }
        }
    }
}
