//! `orch simulate`: computes how long the last nights would have taken with other limits and in another order.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::output::{print, print_json};
use super::simulation::{PastNight, PolicyResult, SimulatedNight, nights, replay};
use super::table::table;
use super::{CommandError, ConfigArgs, SitesArgs, history};
use orch_base::text::counted::plural;
use orch_journal::{RunOutcome, local_time};
use orch_views::span;

const HEADINGS: [&str; 9] = [
    "NIGHT",
    "AT ONCE",
    "SITES",
    "TOOK",
    "BOUND",
    "AS CONFIGURED",
    "BY HISTORY",
    "ORACLE",
    "LONGEST WAIT",
];

/// Simulates the last runs with other numbers of parallel sites and other orders; starts nothing
#[derive(Args, Debug)]
#[command(after_help = "\
Each row is a night (a past run), simulated with one number of parallel sites (AT ONCE). TOOK: real length of the night. BOUND: \
lower bound of any order. AS CONFIGURED: length in the order of the configuration, without known durations. BY HISTORY: length \
with the durations of the nights before, as `orch run` does. ORACLE: length with the actual durations known in advance. LONGEST \
WAIT: longest time that a site waited although its dependencies had ended, in the simulation by history. Each site takes as long \
and ends as it did that night, even if more sites run in parallel.")]
pub struct SimulateArgs {
    #[command(flatten)]
    sites: SitesArgs,
    /// Numbers of parallel sites to compare, such as `4,8,16` [default: orch.max_parallel_sites]
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS", value_parser = clap::value_parser!(u16).range(1..))]
    parallel: Vec<u16>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &SimulateArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let selected = args.sites.select(&config)?;
    let history = history(&config)?;
    let nights = nights(&history);
    if nights.is_empty() {
        let text = format!(
            "there is no night to simulate: no run in {} has finished a site\n  hint:  `orch plan` shows the expected course of the \
             first run",
            config.orch.state_dir.display()
        );
        return Err(CommandError::usage(text));
    }
    let parallel: Vec<usize> = match args.parallel.as_slice() {
        [] => vec![config.orch.max_parallel_sites],
        given => given.iter().map(|number| usize::from(*number)).collect(),
    };
    let replays = parallel.iter().map(|at_once| {
        let replays = replay(&config, &selected, &nights, *at_once);
        let replays = replays.map_err(CommandError::usage)?;
        Ok((*at_once, replays))
    });
    let replays = replays.collect::<anyhow::Result<Vec<(usize, Vec<SimulatedNight>)>>>()?;
    if args.json {
        print_json(&object(&nights, &replays));
    } else {
        let mut lines = vec![format!(
            "{}, {}; dependencies and resources of the sites as configured now",
            plural(nights.len() as u64, "night"),
            plural(selected.len() as u64, "site"),
        )];
        lines.push(String::new());
        lines.extend(table(&HEADINGS, &rows(&nights, &replays)));
        print(&lines.join("\n"));
    }
    Ok(RunOutcome::Succeeded.exit_code())
}

/// Returns one row for each night and each number of parallel sites. If there are several nights, rows with their sums
/// follow.
fn rows(nights: &[PastNight<'_>], replays: &[(usize, Vec<SimulatedNight>)]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (index, night) in nights.iter().enumerate() {
        for (at_once, of_nights) in replays {
            let name = local_time(Duration::try_from_secs_f64(night.at).map_or(0, |at| at.as_secs()));
            rows.extend(
                of_nights
                    .get(index)
                    .map(|replay| row(name, *at_once, night.took, replay)),
            );
        }
    }
    if nights.len() > 1 {
        let took = nights.iter().map(|night| night.took).sum();
        let summed = |(at_once, of_nights): &(usize, Vec<SimulatedNight>)| {
            let mut sum = sum(of_nights);
            // The nights run mostly the same sites, so a sum of the numbers would have no meaning.
            sum.sites = of_nights.iter().map(|replay| replay.sites).max().unwrap_or(0);
            row("all".to_owned(), *at_once, took, &sum)
        };
        rows.extend(replays.iter().map(summed));
    }
    rows
}

fn row(name: String, at_once: usize, took: Duration, replay: &SimulatedNight) -> Vec<String> {
    let long = |length: Duration| span(length.as_secs_f64());
    let against_bound = |trial: PolicyResult| {
        let bound = replay.lower_bound.as_secs_f64();
        match bound > 0.0 {
            true => format!("{} ({:.2}x)", long(trial.length), trial.length.as_secs_f64() / bound),
            false => long(trial.length),
        }
    };
    vec![
        name,
        at_once.to_string(),
        replay.sites.to_string(),
        long(took),
        long(replay.lower_bound),
        against_bound(replay.as_configured),
        against_bound(replay.by_history),
        against_bound(replay.oracle),
        long(replay.by_history.longest_wait),
    ]
}

fn sum(replays: &[SimulatedNight]) -> SimulatedNight {
    let trial = |of: fn(&SimulatedNight) -> PolicyResult| PolicyResult {
        length: replays.iter().map(|replay| of(replay).length).sum(),
        longest_wait: replays
            .iter()
            .map(|replay| of(replay).longest_wait)
            .max()
            .unwrap_or_default(),
    };
    SimulatedNight {
        sites: 0,
        lower_bound: replays.iter().map(|replay| replay.lower_bound).sum(),
        as_configured: trial(|replay| replay.as_configured),
        by_history: trial(|replay| replay.by_history),
        oracle: trial(|replay| replay.oracle),
    }
}

fn object(nights: &[PastNight<'_>], replays: &[(usize, Vec<SimulatedNight>)]) -> Value {
    let trial = |trial: PolicyResult| {
        json!({
            "seconds": trial.length.as_secs_f64(),
            "longest_wait_seconds": trial.longest_wait.as_secs_f64(),
        })
    };
    let of_night = |(index, night): (usize, &PastNight<'_>)| {
        let simulated: Vec<Value> = replays
            .iter()
            .filter_map(|(at_once, of_nights)| {
                let replay = of_nights.get(index)?;
                Some(json!({
                    "max_parallel_sites": at_once,
                    "sites": replay.sites,
                    "lower_bound_seconds": replay.lower_bound.as_secs_f64(),
                    "as_configured": trial(replay.as_configured),
                    "by_history": trial(replay.by_history),
                    "foreseen": trial(replay.oracle),
                }))
            })
            .collect();
        json!({
            "run_id": night.run_id,
            "at": night.at,
            "took_seconds": night.took.as_secs_f64(),
            "simulated": simulated,
        })
    };
    // The oldest night comes first.
    json!({ "nights": nights.iter().enumerate().map(of_night).collect::<Vec<_>>() })
}
