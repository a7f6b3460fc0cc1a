//! One file per subcommand: it parses, calls the library, and maps the outcome to an exit code.

mod celery;
mod clean;
mod demo;
mod exec;
mod init;
mod logging;
mod output;
mod plan;
mod redis;
mod run;
mod session;
mod shell;
mod signals;
mod simulate;
mod sites;
mod stderr;
mod stop;
mod table;
mod up;

use std::ffi::OsStr;
use std::process::ExitCode;
use std::sync::Once;

use clap::{Args, Parser, Subcommand};

use self::output::{say, say_errors};
use crate::config::{Config, ConfigErrors, LoadOptions, SiteConfig};
use crate::printable;
use crate::redaction::redacted;
use crate::run::{History, Outcome};
use crate::state_directory;

/// Brings up what a nightly scrape needs, runs it, and leaves nothing behind.
#[derive(Parser, Debug)]
#[command(name = "orch", version, about, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 all sites finished; 1 a site failed; 2 usage or configuration error; 3 infrastructure \
failed; 4 not enough proxies; 75 another run holds the instance or its sites; 130, 143, 129 ended by SIGINT, SIGTERM, SIGHUP."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::RunArgs),
    Up(up::UpArgs),
    Plan(plan::PlanArgs),
    Simulate(simulate::SimulateArgs),
    Sites(sites::ListArgs),
    Stop(stop::StopArgs),
    Exec(exec::ExecArgs),
    Clean(clean::CleanArgs),
    Init(init::InitArgs),
    Demo(demo::DemoArgs),
    Redis(redis::RedisArgs),
    Celery(Box<celery::CeleryArgs>),
}

/// Where the configuration is and what overrides it.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration file [default: $ORCH_CONFIG, ./orch.toml, ./config/orch.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
    /// Override a key, such as `celery.concurrency=4`; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Which sites are meant.
#[derive(Args, Clone, Debug, Default)]
pub struct SitesArgs {
    /// Sites, separated by commas: names, globs (`shop-*`), groups (`@nightly`), tags (`tag:fast`) [default: all]
    #[arg(long, value_delimiter = ',', value_name = "SITES")]
    pub sites: Vec<String>,
    /// Also those that the given sites depend on; without it what is not among them is taken as met
    #[arg(long, requires = "sites")]
    pub with_deps: bool,
}

impl SitesArgs {
    /// The sites that are meant, in the order of the configuration; at least one.
    fn select<'c>(&self, config: &'c Config) -> anyhow::Result<Vec<&'c SiteConfig>> {
        let selected = config
            .sites_selected(&self.sites)
            .map_err(|error| Refusal::because(Outcome::ConfigurationError, error))?;
        if selected.is_empty() {
            let file = config.file.display();
            let text = match self.sites.as_slice() {
                [] => format!("{file} configures no site\n  hint:  add a section `[sites.\"<name>\"]`"),
                // A group without members.
                given => format!("`--sites {}` means no site of {file}", given.join(",")),
            };
            return Err(Refusal::because(Outcome::ConfigurationError, text));
        }
        Ok(match self.with_deps {
            true => config.with_dependencies(&selected),
            false => selected,
        })
    }
}

/// What earlier runs of the state directory tell; nothing where there is none yet.
fn history(config: &Config) -> anyhow::Result<History> {
    let state_dir = &config.orch.state_dir;
    if !state_dir.exists() {
        return Ok(History::default());
    }
    state_directory::check(state_dir, &config.file)
        .map_err(|failure| Refusal::because(failure.kind.outcome(), failure))?;
    History::read(state_dir).map_err(|error| {
        let text = format!("look for earlier runs in {}\n  cause: {error}", state_dir.display());
        Refusal::because(Outcome::InfrastructureFailed, text)
    })
}

/// How a run is shown.
#[derive(Args, Clone, Debug, Default)]
pub struct ViewArgs {
    /// How to print: for people, or one JSON object a line
    #[arg(long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Print nothing if all goes well, else the failures, the outcome and where the logs are
    #[arg(short, long)]
    pub quiet: bool,
    /// Print more; twice: debug logs
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// `--output`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people: live in a terminal, plain lines elsewhere
    #[default]
    Human,
    /// One JSON object a line on standard output, nothing else there
    Json,
}

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    signals::hear();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            show_usage(&error);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match cli.command {
        Command::Run(args) => run::main(&args),
        Command::Up(args) => up::main(&args),
        Command::Plan(args) => plan::main(&args),
        Command::Simulate(args) => simulate::main(&args),
        Command::Sites(args) => sites::main(&args),
        Command::Stop(args) => stop::main(&args),
        Command::Exec(args) => exec::main(&args),
        Command::Clean(args) => clean::main(&args),
        Command::Init(args) => init::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Redis(args) => redis::main(&args),
        Command::Celery(args) => celery::main(&args),
    };
    let code = match result {
        Ok(code) => code,
        Err(error) => {
            let text = format!("{error:#}");
            if !text.is_empty() {
                say(&format!("error: {text}"));
            }
            let outcome = error
                .downcast_ref::<Refusal>()
                .map_or(Outcome::InfrastructureFailed, |refusal| refusal.outcome);
            outcome.exit_code()
        }
    };
    stderr::flush();
    ExitCode::from(code)
}

/// An end before a run began, with the exit code that it means.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    outcome: Outcome,
    text: String,
}

impl Refusal {
    /// One that has been told to the user already.
    fn told(outcome: Outcome) -> anyhow::Error {
        Self::because(outcome, "")
    }

    /// As the error that a subcommand returns.
    fn because(outcome: Outcome, text: impl std::fmt::Display) -> anyhow::Error {
        anyhow::Error::new(Self {
            outcome,
            text: text.to_string(),
        })
    }
}

/// Help and version go to standard output and are no error; a closed pipe is nobody's fault.
fn show_usage(error: &clap::Error) {
    let text = error.to_string();
    if text == printable::text(&redacted(&text)) {
        drop(error.print());
    } else {
        // An argument that comes from elsewhere (`orch celery result "$ID"`): without colours, made safe as all talk.
        say(text.trim_end());
    }
}

/// A duration on the command line, written as in the configuration.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    crate::config::parse_duration(text).map_err(|error| error.to_string())
}

impl ConfigArgs {
    /// Loads the configuration, with further overrides of the command's own flags.
    pub fn load(&self, further: &[String]) -> anyhow::Result<Config> {
        let mut overrides = self.set.clone();
        overrides.extend_from_slice(further);
        let options = LoadOptions {
            file: self.config.clone(),
            overrides,
            environment: caller_environment(),
            directory: std::env::current_dir()?,
            color: color(std::io::IsTerminal::is_terminal(&std::io::stderr())),
            ..LoadOptions::default()
        };
        let config = load(options.clone())?;
        if config.ports.is_empty() {
            return Ok(config);
        }
        // An instance that is up has chosen its ports; a run beside it must mean the same. Else those of the last run
        // are the first choice.
        let state_dir = &config.orch.state_dir;
        let known_ports = match crate::instance::read(state_dir) {
            Ok(Some(instance)) if instance.is_alive() => instance.ports,
            _ => crate::instance::remembered_ports(state_dir),
        };
        load(LoadOptions { known_ports, ..options })
    }
}

fn load(options: LoadOptions) -> anyhow::Result<Config> {
    Config::load(options).map_err(|errors: ConfigErrors| {
        // Each error is a block of its own, with its own headline, and the last line counts them.
        say_errors(&errors);
        Refusal::told(Outcome::ConfigurationError)
    })
}

/// The caller's variables; what is not text cannot be handed on in the guard's orders, which is said once.
fn caller_environment() -> Vec<(String, String)> {
    static SAID: Once = Once::new();
    let mut dropped = Vec::new();
    let variables = std::env::vars_os()
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
            say(&format!(
                "warning: services do not get these variables, which are no UTF-8: {}",
                dropped.join(", ")
            ));
        });
    }
    variables
}

/// Colour only for a terminal, and never against the user's wish (`NO_COLOR`).
fn color(terminal: bool) -> bool {
    let of_variable = std::env::var_os;
    terminal && may_color(of_variable("TERM").as_deref(), of_variable("NO_COLOR").as_deref())
}

/// Whether a terminal of this kind knows colours, and the user wants them: without `TERM` nothing is known of it.
fn may_color(term: Option<&OsStr>, no_color: Option<&OsStr>) -> bool {
    let knows_colors = term.is_some_and(|term| !term.is_empty() && term != "dumb");
    knows_colors && no_color.is_none_or(OsStr::is_empty)
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
