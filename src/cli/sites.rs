//! `orch sites`: the sites, where each is now, how it ended last, and how that compares with the runs before.

use clap::Args;
use serde_json::{Value, json};

use super::output::{print, print_json};
use super::table::table;
use super::{ConfigArgs, Refusal, SitesArgs, history};
use crate::config::{Config, SiteConfig};
use crate::printable::one_line;
use crate::run::{
    History, Outcome, PastSite, RunState, SiteStatus, SiteView, Trend, each_event, local_time, past_runs,
};
use crate::sites::{Standing, Tries};
use crate::ui::{site_word, span};
use crate::unfinished_night::UnfinishedNight;

const HEADINGS: [&str; 8] = ["SITE", "NOW", "LAST", "ENDED", "TIME", "RESULTS", "RUNS", "REASON"];

/// Lists the sites: where each is now, its last result and time against the runs before, how the last runs ended
#[derive(Args, Debug)]
#[command(
    after_help = "RUNS, the latest last: . complete, d degraded, 0 without any results, F failed, S skipped, C cancelled"
)]
pub struct ListArgs {
    #[command(flatten)]
    sites: SitesArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &ListArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let selected = args.sites.select(&config)?;
    let history = history(&config)?;
    let living = living(&config)?;
    let unfinished = UnfinishedNight::find(&config.orch.state_dir).map_err(|error| cannot_look(&config, &error))?;
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
                "at": night.at,
                "complete": night.complete,
                "sites": night.sites,
                "continue_with": UnfinishedNight::COMMAND,
            })
        });
        print_json(&json!({ "run_id": run_id, "unfinished_run": unfinished, "sites": sites }));
    } else {
        let rows: Vec<Vec<String>> = selected.iter().map(|site| row(site, now(site), &history)).collect();
        let mut lines = table(&HEADINGS, &rows);
        lines.extend(unfinished.iter().map(|night| one_line(&night.status())));
        print(&lines.join("\n"));
    }
    Ok(Outcome::Succeeded.exit_code())
}

/// The run that is under way, as its journal tells so far.
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
    let text = format!("could not look at the runs in {state_dir}\n  cause: {error}");
    Refusal::because(Outcome::InfrastructureFailed, text)
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

/// The letter of a run's end in the column RUNS.
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
    // A trend is that of the last result that was complete: beside another it would mislead.
    let with = |text: String, change: Option<f64>, last: &PastSite| match change {
        Some(change) if last.status.is_success() => {
            format!("{text} ({:+.0}%)", 100.0 * change)
        }
        _ => text,
    };
    vec![
        site.name.to_string(),
        now.map_or("-", |view| site_word(view.phase)).to_owned(),
        of_last(&|last| site_word(last.status.into()).to_owned()),
        of_last(&|last| local_time(seconds(last.at))),
        of_last(&|last| with(span(last.elapsed.as_secs_f64()), trend.time, last)),
        of_last(&|last| match last.counts.known_results() {
            Some(results) => with(results.to_string(), trend.results, last),
            None => "-".to_owned(),
        }),
        results.iter().rev().map(mark).collect(),
        reason(results.first(), &Standing::of(site, results, false)),
    ]
}

/// Why it ended so, and how the next run will try it where that is not as configured.
fn reason(last: Option<&PastSite>, next: &Standing) -> String {
    let last = last.map_or("-", |last| last.reason.as_deref().unwrap_or_default());
    let last = last.lines().next().unwrap_or_default();
    match &next.tries {
        Tries::Closed => last.to_owned(),
        Tries::Once => format!("{last}; next run: one attempt, since it failed in its last runs"),
        // It says the last reason too.
        Tries::Skipped(skip) => format!("next run: skipped: {}", skip.why),
    }
}

fn next(standing: &Standing) -> Value {
    let reason = match &standing.tries {
        Tries::Skipped(skip) => Some(&skip.why),
        Tries::Closed | Tries::Once => None,
    };
    json!({ "tries": standing.tries.word(), "reason": reason })
}

/// Whole seconds of a wall clock; what is no time of ours is the first one.
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
        // The latest first.
        "runs": runs,
        "time_change": trend.time,
        "results_change": trend.results,
        // How a run that begins now would try it.
        "next": next(&Standing::of(site, results, false)),
    })
}
