//! `orch errors`: the errors of a run by site, most frequent first, each with the first failure.

use clap::Args;

use super::output::{print, print_json};
use super::{CommandError, ConfigArgs, check_state_directory};
use orch_config::{Config, nearest};
use orch_journal::{PastRun, RunOutcome, SiteName, each_event, past_runs};
use orch_views::ErrorReport;

/// Number of runs that are named to a person who asked for an unknown one.
const MAX_NAMED: usize = 5;

/// Shows why sites failed: the errors of their tasks by number, each with its first traceback and the log before it
#[derive(Args, Debug)]
#[command(
    after_help = "Shows the active run, or else the latest one. Failures that differ only in numbers, URLs and quoted texts count as \
one error. Without task events and stored results no failed task is recorded."
)]
pub struct ErrorsArgs {
    /// Site [default: all sites with errors]
    site: Option<String>,
    /// Show this run [default: the active run, or else the latest one]
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &ErrorsArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let run = find_run(&config, args.run.as_deref())?;
    let mut report = ErrorReport::default();
    each_event(&run.journal, |event| report.apply(&event))
        .map_err(|error| anyhow::anyhow!("could not read the journal {}\n  cause: {error}", run.journal.display()))?;
    let site = args.site.as_deref().map(SiteName::from);
    if let Some(site) = &site
        && !report.has_site(site)
    {
        let meant = nearest(site.as_str(), config.sites.iter().map(|site| site.name.as_str()));
        let meant = meant.map_or_else(String::new, |meant| format!("\n  hint:  did you mean `{meant}`?"));
        return Err(CommandError::usage(format!(
            "run {} has no site `{site}`{meant}",
            run.run_id
        )));
    }
    if args.json {
        print_json(&report.json(site.as_ref()));
    } else {
        print(&report.lines(site.as_ref()).join("\n"));
    }
    Ok(RunOutcome::Succeeded.exit_code())
}

/// Finds the run with this id, or else the active run, or else the latest run that began a site.
fn find_run(config: &Config, wanted: Option<&str>) -> anyhow::Result<PastRun> {
    let state_dir = &config.orch.state_dir;
    let mut runs = Vec::new();
    if state_dir.exists() {
        check_state_directory(config)?;
        runs = past_runs(state_dir)
            .map_err(|error| anyhow::anyhow!("could not list the runs in {}\n  cause: {error}", state_dir.display()))?;
    }
    let found = match wanted {
        Some(id) => runs.iter().rev().find(|run| run.run_id.as_str() == id),
        None => runs.iter().rev().find(|run| run.is_alive() || run.has_begun()),
    };
    if let Some(run) = found {
        return Ok(run.clone());
    }
    let known: Vec<&str> = runs
        .iter()
        .rev()
        .take(MAX_NAMED)
        .map(|run| run.run_id.as_str())
        .collect();
    let text = match (wanted, known.is_empty()) {
        (Some(id), false) => format!(
            "no run `{id}` is kept\n  hint:  the latest runs are {}",
            known.join(", ")
        ),
        (Some(id), true) => format!("no run `{id}` is kept in {}", state_dir.display()),
        (None, _) => format!("no `orch run` in {} has begun a site", state_dir.display()),
    };
    Err(CommandError::usage(text))
}
