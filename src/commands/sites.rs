//! `orch sites`: lists the sites with their present state, their last result, and a comparison with the runs before.

use clap::Args;
use serde_json::{Value, json};

use super::output::{print, print_json};
use super::table::table;
use super::{ConfigArgs, SitesArgs, history};
use crate::orchestrator::unfinished_run;
use orch_base::text::printable::one_line;
use orch_config::{Config, SiteConfig};
use orch_journal::{
    History, PastSite, RunOutcome, RunState, SitePhase, SiteStatus, SiteView, Trend, each_event, local_time, past_runs,
};
use orch_scrape::sites::{BreakerState, SiteStanding};
use orch_views::span;
use orch_views::summary::status as site_word;
use orch_views::unfinished_run::{COMMAND, status};

const HEADINGS: [&str; 8] = ["SITE", "NOW", "LAST", "ENDED", "TIME", "RESULTS", "RUNS", "REASON"];

/// Lists the sites: present state, last result and time compared with the runs before, and how the last runs ended
#[derive(Args, Debug)]
#[command(
    after_help = "Column RUNS, the latest run last: . complete, d degraded, 0 degraded without any results, F failed, U unknown, \
S skipped, C cancelled. NOW: state in the active run."
)]
pub struct ListArgs {
    #[command(flatten)]
    sites: SitesArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &ListArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let selected = args.sites.select(&config)?;
    let history = history(&config)?;
    let living = living(&config)?;
    let unfinished = unfinished_run::find(&config.orch.state_dir).map_err(|error| cannot_look(&config, &error))?;
    let now = |site: &SiteConfig| living.as_ref().and_then(|state| state.site_named(&site.name));
    if args.json {
        let sites: Vec<Value> = selected.iter().map(|site| object(site, now(site), &history)).collect();
        let run_id = living
            .as_ref()
            .and_then(|state| state.header.as_ref())
            .map(|header| &header.run_id);
        let unfinished = unfinished.as_ref().map(|night| {
            json!({
                "run_id": night.run_id,
                "how": night.how,
                "at": night.ended_at,
                "complete": night.complete,
                "sites": night.sites,
                "continue_with": COMMAND,
            })
        });
        print_json(&json!({ "run_id": run_id, "unfinished_run": unfinished, "sites": sites }));
    } else {
        let rows: Vec<Vec<String>> = selected.iter().map(|site| row(site, now(site), &history)).collect();
        let mut lines = table(&HEADINGS, &rows);
        lines.extend(unfinished.iter().map(|night| one_line(&status(night))));
        print(&lines.join("\n"));
    }
    Ok(RunOutcome::Succeeded.exit_code())
}

/// Reads the state of the active run from the journal.
fn living(config: &Config) -> anyhow::Result<Option<RunState>> {
    let failed = |error: &dyn std::error::Error| cannot_look(config, error);
    let runs = past_runs(&config.orch.state_dir).map_err(|error| failed(&error))?;
    let Some(run) = runs.iter().rev().find(|run| run.is_alive()) else {
        return Ok(None);
    };
    let mut state = RunState::default();
    each_event(&run.journal, |event| state.apply(&event)).map_err(|error| failed(&error))?;
    Ok(Some(state))
}

fn cannot_look(config: &Config, error: &dyn std::error::Error) -> anyhow::Error {
    let state_dir = config.orch.state_dir.display();
    anyhow::anyhow!("could not read the runs in {state_dir}\n  cause: {error}")
}

fn letter(status: SiteStatus) -> char {
    match status {
        SiteStatus::Complete => '.',
        SiteStatus::Degraded => 'd',
        SiteStatus::Failed => 'F',
        SiteStatus::Unknown => 'U',
        SiteStatus::Cancelled => 'C',
        SiteStatus::Skipped => 'S',
    }
}

/// Returns the letter of a run in the column RUNS.
fn mark(ended: &PastSite) -> char {
    match ended.status {
        SiteStatus::Degraded if ended.counts.has_no_results() => '0',
        status => letter(status),
    }
}

fn row(site: &SiteConfig, now: Option<&SiteView>, history: &History) -> Vec<String> {
    let results = history.of(&site.name);
    let trend = Trend::of(results);
    let of_last = |cell: &dyn Fn(&PastSite) -> String| results.first().map_or_else(|| "-".to_owned(), cell);
    // The trend belongs to the last successful result; next to another result it would mislead.
    let with = |text: String, change: Option<f64>, last: &PastSite| match change {
        Some(change) if last.status.is_success() => {
            format!("{text} ({:+.0}%)", 100.0 * change)
        }
        _ => text,
    };
    vec![
        site.name.to_string(),
        now.map_or("-", |view| site_word(view.phase)).to_owned(),
        of_last(&|last| site_word(SitePhase::Ended(last.status)).to_owned()),
        of_last(&|last| local_time(seconds(last.at))),
        of_last(&|last| with(span(last.elapsed.as_secs_f64()), trend.time, last)),
        of_last(&|last| match last.counts.known_results() {
            Some(results) => with(results.to_string(), trend.results, last),
            None => "-".to_owned(),
        }),
        results.iter().rev().map(mark).collect(),
        reason(results.first(), &SiteStanding::of(site, results, false)),
    ]
}

/// Returns the reason of the last result, and how the next run will treat the site if not as configured.
fn reason(last: Option<&PastSite>, next: &SiteStanding) -> String {
    let last = last.map_or("-", |last| last.reason.as_deref().unwrap_or_default());
    let last = last.lines().next().unwrap_or_default();
    match &next.breaker {
        BreakerState::Closed => last.to_owned(),
        BreakerState::HalfOpen => format!("{last}; next run: only one attempt, because it failed in its last runs"),
        // `skip.why` contains the last reason too.
        BreakerState::Open(skip) => format!("next run: skipped: {}", skip.why),
    }
}

fn next(standing: &SiteStanding) -> Value {
    let reason = match &standing.breaker {
        BreakerState::Open(skip) => Some(&skip.why),
        BreakerState::Closed | BreakerState::HalfOpen => None,
    };
    json!({ "tries": standing.breaker.word(), "reason": reason })
}

/// Converts Unix seconds to whole seconds; a value that is no valid time becomes 0.
fn seconds(at: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(at).map_or(0, |at| at.as_secs())
}

fn object(site: &SiteConfig, now: Option<&SiteView>, history: &History) -> Value {
    let results = history.of(&site.name);
    let trend = Trend::of(results);
    let runs: Vec<Value> = results
        .iter()
        .map(|result| {
            json!({
                "run_id": result.run_id,
                "at": result.at,
                "status": result.status,
                "elapsed_seconds": result.elapsed.as_secs_f64(),
                "counts": result.counts,
                "reason": result.reason,
                "cause": result.cause,
            })
        })
        .collect();
    json!({
        "site": site.name,
        "tags": site.tags,
        "now": now,
        // The latest run comes first.
        "runs": runs,
        "time_change": trend.time,
        "results_change": trend.results,
        // How a run that begins now would treat the site.
        "next": next(&SiteStanding::of(site, results, false)),
    })
}
