//! `orch plan`: what a run would look like.

use clap::Args;

use super::output::{print, print_json};
use super::table::table;
use super::{ConfigArgs, Refusal, SitesArgs, history};
use crate::outlook::Outlook;
use crate::run::Outcome;

/// Shows which site begins when and after what, how long that should take, and the longest path; starts nothing
#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    sites: SitesArgs,
    /// The graph in the DOT language, for Graphviz
    #[arg(long, conflicts_with = "json")]
    dot: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &PlanArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let selected = args.sites.select(&config)?;
    let history = history(&config)?;
    let outlook = Outlook::new(&config, &selected, &history)
        .map_err(|error| Refusal::because(Outcome::ConfigurationError, error))?;
    if args.json {
        print_json(&outlook.json());
    } else if args.dot {
        print(&outlook.dot());
    } else {
        let rows: Vec<Vec<String>> = outlook.rows().into_iter().map(Vec::from).collect();
        let mut lines = outlook.head();
        lines.push(String::new());
        lines.extend(table(&Outlook::HEADINGS, &rows));
        print(&lines.join("\n"));
    }
    Ok(Outcome::Succeeded.exit_code())
}
