//! `orch plan`: shows the expected course of a run.

use clap::Args;

use super::output::{print, print_json};
use super::plan_preview::PlanPreview;
use super::table::table;
use super::{CommandError, ConfigArgs, SitesArgs, history};
use orch_journal::RunOutcome;

/// Shows when each site would begin, after which other sites, the expected times, and the longest path; starts nothing
#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    sites: SitesArgs,
    /// Print the graph in the DOT language, for Graphviz
    #[arg(long, conflicts_with = "json")]
    dot: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &PlanArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let selected = args.sites.select(&config)?;
    let history = history(&config)?;
    let outlook = PlanPreview::new(&config, &selected, &history).map_err(CommandError::usage)?;
    if args.json {
        print_json(&outlook.json());
    } else if args.dot {
        print(&outlook.dot());
    } else {
        let rows: Vec<Vec<String>> = outlook.rows().into_iter().map(Vec::from).collect();
        let mut lines = outlook.head();
        lines.push(String::new());
        lines.extend(table(&PlanPreview::HEADINGS, &rows));
        print(&lines.join("\n"));
    }
    Ok(RunOutcome::Succeeded.exit_code())
}
