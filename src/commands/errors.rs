//! `orch errors`: the errors of a run by site, most frequent first, each with the first failure.

use std::path::PathBuf;

use clap::Args;

use super::output::{print, print_json};
use super::run_choice::RunChoice;
use super::{CommandError, ConfigArgs};
use orch_config::{Config, nearest};
use orch_journal::{RunId, RunOutcome, SiteName, each_event, past_runs};
use orch_views::ErrorReport;

/// Shows why sites failed: the errors of their tasks by number, each with its first traceback and the log before it
#[derive(Args, Debug)]
#[command(
    after_help = "Shows the active run, or else the latest one. Failures that differ only in numbers, URLs and quoted texts count as \
one error. Without task events and stored results no failed task is recorded."
)]
pub struct ErrorsArgs {
    /// Site [default: all sites with errors]
    site: Option<String>,
    #[command(flatten)]
    run: RunChoice,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &ErrorsArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let (run_id, journal) = find_run(&config, &args.run)?;
    let mut report = ErrorReport::default();
    each_event(&journal, |event| report.apply(&event))
        .map_err(|error| anyhow::anyhow!("could not read the journal {}\n  cause: {error}", journal.display()))?;
    let site = args.site.as_deref().map(SiteName::from);
    if let Some(site) = &site
        && !report.has_site(site)
    {
        let meant = nearest(site.as_str(), config.sites.iter().map(|site| site.name.as_str()));
        let meant = meant.map_or_else(String::new, |meant| format!("\n  hint:  did you mean `{meant}`?"));
        return Err(CommandError::usage(format!("run {run_id} has no site `{site}`{meant}")));
    }
    if args.json {
        print_json(&report.json(site.as_ref()));
    } else {
        print(&report.lines(site.as_ref()).join("\n"));
    }
    Ok(RunOutcome::Succeeded.exit_code())
}

/// Finds the run with the given id, or else the active `orch run`, or else the latest one that began a site.
fn find_run(config: &Config, choice: &RunChoice) -> anyhow::Result<(RunId, PathBuf)> {
    let chosen = choice.find(config)?;
    if choice.id.is_some() {
        let run = chosen.runs.into_iter().next();
        return run
            .map(|(run_id, directory)| (run_id, directory.journal()))
            .ok_or_else(|| anyhow::anyhow!("could not find the run"));
    }
    // An `orch up` has no sites.
    let state_dir = &config.orch.state_dir;
    let runs = past_runs(state_dir)
        .map_err(|error| anyhow::anyhow!("could not list the runs in {}\n  cause: {error}", state_dir.display()))?;
    let found = runs.into_iter().rev().find(|run| run.is_alive() || run.has_begun());
    found
        .map(|run| (run.run_id, run.journal))
        .ok_or_else(|| CommandError::usage(format!("no `orch run` in {} has begun a site", state_dir.display())))
}
