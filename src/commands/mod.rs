//! The subcommands. Each subcommand has a file that parses the options, calls the library and maps the outcome to an
//! exit code.

mod active_run;
mod admission;
mod celery;
mod clean;
mod demo;
mod down;
mod errors;
mod events;
mod exec;
mod follow_end;
mod init;
mod list;
mod logging;
mod logs;
mod output;
mod plan;
mod plan_preview;
mod redis;
mod refresh;
mod restart;
mod retry;
mod run;
mod run_choice;
mod service_manager;
mod service_request;
mod session;
mod setup;
mod shell;
mod signals;
mod simulate;
mod simulation;
mod site_request;
mod sites;
mod start;
mod status;
mod stderr;
mod stop;
mod table;
mod up;

use std::ffi::OsStr;
use std::process::ExitCode;
use std::sync::Once;

use clap::{Args, Parser, Subcommand};

use crate::commands::output::{print_config_errors, print_message};
use crate::orchestrator::instance::state_directory;
use orch_base::text::printable;
use orch_base::text::redaction::redacted;
use orch_config::{Config, ConfigErrors, LoadOptions, SiteConfig};
use orch_journal::{History, RunOutcome};

/// Starts the services of a nightly scrape, runs the scrape, and stops all services again.
#[derive(Parser, Debug)]
#[command(name = "orch", version, about, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 all sites finished; 1 a site failed; 2 usage or configuration error; 3 infrastructure \
failed; 4 not enough proxies; 75 another run holds the instance or its sites; 130, 143, 129 ended by SIGINT, SIGTERM, SIGHUP."
)]
struct CommandLine {
    #[command(subcommand)]
    command: OrchCommand,
}

#[derive(Subcommand, Debug)]
enum OrchCommand {
    Run(run::RunArgs),
    Up(up::UpArgs),
    Down(down::DownArgs),
    Plan(plan::PlanArgs),
    Simulate(simulate::SimulateArgs),
    Sites(sites::ListArgs),
    Errors(errors::ErrorsArgs),
    Status(status::StatusArgs),
    Events(events::JournalArgs),
    Logs(logs::LogsArgs),
    List(list::InstancesArgs),
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Restart(restart::RestartArgs),
    Retry(retry::RetryArgs),
    Pause(admission::PauseArgs),
    Resume(admission::ResumeArgs),
    Drain(admission::DrainArgs),
    Refresh(refresh::RefreshArgs),
    Exec(exec::ExecArgs),
    Clean(clean::CleanArgs),
    Setup(setup::SetupArgs),
    Init(init::InitArgs),
    Demo(demo::DemoArgs),
    Redis(redis::RedisArgs),
    Celery(Box<celery::CeleryArgs>),
}

/// Options that locate the configuration and override keys.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration file [default: $ORCH_CONFIG, ./orch.toml, ./config/orch.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
    /// Override a key, such as `celery.concurrency=4`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Options that select sites.
#[derive(Args, Clone, Debug, Default)]
pub struct SitesArgs {
    /// Sites, separated by commas: names, globs (`shop-*`), groups (`@nightly`), tags (`tag:fast`) [default: all]
    #[arg(long, value_delimiter = ',', value_name = "SITES")]
    pub sites: Vec<String>,
    /// Include the dependencies of the selected sites (otherwise unselected dependencies count as succeeded)
    #[arg(long, requires = "sites")]
    pub with_deps: bool,
}

impl SitesArgs {
    /// Returns the selected sites in the order of the configuration; no selected site is an error.
    fn select<'c>(&self, config: &'c Config) -> anyhow::Result<Vec<&'c SiteConfig>> {
        let selected = config.sites_selected(&self.sites).map_err(CommandError::usage)?;
        if selected.is_empty() {
            let file = config.file.display();
            let text = match self.sites.as_slice() {
                [] => format!("{file} configures no site\n  hint:  add a section `[sites.\"<name>\"]`"),
                // A group without members.
                given => format!("`--sites {}` selects no site of {file}", given.join(",")),
            };
            return Err(CommandError::usage(text));
        }
        Ok(match self.with_deps {
            true => config.with_dependencies(&selected),
            false => selected,
        })
    }
}

/// Checks that the state directory exists and belongs to this configuration.
fn check_state_directory(config: &Config) -> anyhow::Result<()> {
    state_directory::check(&config.orch.state_dir, &config.file)
        .map_err(|failure| CommandError::because(failure.kind.outcome(), failure))
}

/// Reads the history from the state directory; the history is empty if the directory does not exist yet.
fn history(config: &Config) -> anyhow::Result<History> {
    let state_dir = &config.orch.state_dir;
    if !state_dir.exists() {
        return Ok(History::default());
    }
    check_state_directory(config)?;
    History::read(state_dir).map_err(|error| {
        anyhow::anyhow!(
            "could not read the earlier runs in {}\n  cause: {error}",
            state_dir.display()
        )
    })
}

/// Options that decide how a run is shown.
#[derive(Args, Clone, Debug, Default)]
pub struct ViewArgs {
    /// Output format: for people, or one JSON object per line
    #[arg(long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Print nothing on success; otherwise only failures, the outcome and the paths of the logs
    #[arg(short, long)]
    pub quiet: bool,
    /// Print more details; -vv also prints debug logs
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Values of `--output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people: a live view in a terminal, otherwise plain lines
    #[default]
    Human,
    /// One JSON object per line; standard output contains nothing else
    Json,
}

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    signals::unblock_signals();
    let cli = match CommandLine::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            show_usage(&error);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match cli.command {
        OrchCommand::Run(args) => run::main(&args),
        OrchCommand::Up(args) => up::main(&args),
        OrchCommand::Down(args) => down::main(&args),
        OrchCommand::Plan(args) => plan::main(&args),
        OrchCommand::Simulate(args) => simulate::main(&args),
        OrchCommand::Sites(args) => sites::main(&args),
        OrchCommand::Errors(args) => errors::main(&args),
        OrchCommand::Status(args) => status::main(&args),
        OrchCommand::Events(args) => events::main(&args),
        OrchCommand::Logs(args) => logs::main(&args),
        OrchCommand::List(args) => list::main(&args),
        OrchCommand::Start(args) => start::main(&args),
        OrchCommand::Stop(args) => stop::main(&args),
        OrchCommand::Restart(args) => restart::main(&args),
        OrchCommand::Retry(args) => retry::main(&args),
        OrchCommand::Pause(args) => admission::pause(&args),
        OrchCommand::Resume(args) => admission::resume(&args),
        OrchCommand::Drain(args) => admission::drain(&args),
        OrchCommand::Refresh(args) => refresh::main(&args),
        OrchCommand::Exec(args) => exec::main(&args),
        OrchCommand::Clean(args) => clean::main(&args),
        OrchCommand::Setup(args) => setup::main(&args),
        OrchCommand::Init(args) => init::main(&args),
        OrchCommand::Demo(args) => demo::main(&args),
        OrchCommand::Redis(args) => redis::main(&args),
        OrchCommand::Celery(args) => celery::main(&args),
    };
    let code = match result {
        Ok(code) => code,
        Err(error) => {
            let text = format!("{error:#}");
            if !text.is_empty() {
                print_message(&format!("error: {text}"));
            }
            let outcome = error
                .downcast_ref::<CommandError>()
                .map_or(RunOutcome::InfrastructureFailed, |refusal| refusal.outcome);
            outcome.exit_code()
        }
    };
    stderr::flush();
    ExitCode::from(code)
}

/// Error that ends a subcommand before a run has begun, with the outcome that decides the exit code. Any other error of a
/// subcommand means that the infrastructure failed.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct CommandError {
    outcome: RunOutcome,
    text: String,
}

impl CommandError {
    /// Creates an error without a text, because the user has already seen the message.
    fn already_reported(outcome: RunOutcome) -> anyhow::Error {
        Self::because(outcome, "")
    }

    /// Creates the error of a wrong command line or configuration.
    fn usage(text: impl std::fmt::Display) -> anyhow::Error {
        Self::because(RunOutcome::ConfigurationError, text)
    }

    /// Creates the error that a subcommand returns.
    fn because(outcome: RunOutcome, text: impl std::fmt::Display) -> anyhow::Error {
        anyhow::Error::new(Self {
            outcome,
            text: text.to_string(),
        })
    }
}

/// Prints clap's message: help and version go to standard output, usage errors to standard error. A closed pipe is
/// ignored.
fn show_usage(error: &clap::Error) {
    let text = error.to_string();
    if text == printable::text(&redacted(&text)) {
        drop(error.print());
    } else {
        // The message repeats an argument with secrets or control characters, such as in `orch celery result "$ID"`.
        // `say` removes both, so the message loses the colours.
        print_message(text.trim_end());
    }
}

/// Parses a duration of the command line; the syntax is that of the configuration.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    orch_base::text::duration::parse_duration(text).map_err(|error| error.to_string())
}

impl ConfigArgs {
    /// Loads the configuration with the overrides of `--set` and those of the subcommand's own flags.
    pub fn load(&self, further: &[String]) -> anyhow::Result<Config> {
        let mut overrides = self.set.clone();
        overrides.extend_from_slice(further);
        let options = LoadOptions {
            file: self.config.clone(),
            overrides,
            environment: caller_environment(),
            directory: working_directory(self.config.as_deref())?,
            color: color(std::io::IsTerminal::is_terminal(&std::io::stderr())),
            ..LoadOptions::default()
        };
        let config = load(options.clone())?;
        if config.ports.is_empty() {
            return Ok(config);
        }
        // A running instance has chosen its ports, and a run that joins the instance must use the same ports. Otherwise
        // the ports of the last run are the first choice.
        let state_dir = &config.orch.state_dir;
        let known_ports = match orch_supervisor::shared::instance_file::read(state_dir) {
            Ok(Some(instance)) if instance.is_alive() => instance.ports,
            _ => orch_supervisor::shared::instance_file::remembered_ports(state_dir),
        };
        load(LoadOptions { known_ports, ..options })
    }
}

/// Returns the working directory. If the directory cannot be found and `config` is an absolute path, returns `/`.
fn working_directory(config: Option<&std::path::Path>) -> anyhow::Result<std::path::PathBuf> {
    match std::env::current_dir() {
        Ok(directory) => Ok(directory),
        Err(_) if config.is_some_and(std::path::Path::is_absolute) => Ok("/".into()),
        Err(error) => Err(CommandError::usage(format!(
            "could not find the working directory\n  cause: {error}: it was removed, or you have no permission to look it \
                 up\n  hint:  change into the project's directory, or use the absolute path of its configuration (--config /.../orch.toml)"
        ))),
    }
}

fn load(options: LoadOptions) -> anyhow::Result<Config> {
    Config::load(options).map_err(|errors: ConfigErrors| {
        // `errors` is printed as one block for each error, each with a headline, and a last line with their number.
        print_config_errors(&errors);
        CommandError::already_reported(RunOutcome::ConfigurationError)
    })
}

/// Returns the caller's environment variables. Orders to the guard cannot carry variables that are not UTF-8; these are
/// left out with one warning per process.
fn caller_environment() -> Vec<(String, String)> {
    static SAID: Once = Once::new();
    let mut dropped = Vec::new();
    let variables = std::env::vars_os()
        .filter(|(name, _)| service_manager::VARIABLES.iter().all(|own| name != own))
        .filter_map(|(name, value)| match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => Some((name, value)),
            (name, _) => {
                dropped.push(name.unwrap_or_else(|name| name.to_string_lossy().into_owned()));
                None
            }
        })
        .collect();
    if !dropped.is_empty() {
        SAID.call_once(|| {
            print_message(&format!(
                "warning: services do not get these environment variables, because they are not UTF-8: {}",
                dropped.join(", ")
            ));
        });
    }
    variables
}

/// Decides whether output is coloured: only on a terminal, and never if the user has set `NO_COLOR`.
fn color(terminal: bool) -> bool {
    let of_variable = std::env::var_os;
    terminal && may_color(of_variable("TERM").as_deref(), of_variable("NO_COLOR").as_deref())
}

/// Decides from `TERM` and `NO_COLOR` whether colours are allowed. Without `TERM` the terminal is unknown: no colours.
fn may_color(term: Option<&OsStr>, no_color: Option<&OsStr>) -> bool {
    let supports_colors = term.is_some_and(|term| !term.is_empty() && term != "dumb");
    supports_colors && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_that_are_known_to_have_them() {
        for (term, no_color, colors) in [
            (Some("xterm-256color"), None, true),
            (Some("xterm-256color"), Some(""), true),
            (Some("xterm-256color"), Some("1"), false),
            (Some("dumb"), None, false),
            (Some(""), None, false),
            (None, None, false),
        ] {
            let found = may_color(term.map(OsStr::new), no_color.map(OsStr::new));
            assert_eq!(found, colors, "{term:?} {no_color:?}");
        }
    }
}
