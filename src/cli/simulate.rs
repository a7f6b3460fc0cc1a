//! `orch simulate`: what the last nights would have taken with other limits, and in another order.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::output::{print, print_json};
use super::table::table;
use super::{ConfigArgs, Refusal, SitesArgs, history};
use crate::run::{Outcome, local_time};
use crate::simulation::{Night, Replay, Trial, nights, replay};
use crate::ui::{plural, span};

const HEADINGS: [&str; 9] = [
    "NIGHT",
    "AT ONCE",
    "SITES",
    "TOOK",
    "BOUND",
    "AS CONFIGURED",
    "BY HISTORY",
    "FORESEEN",
    "LONGEST WAIT",
];

/// Runs the last nights again in virtual time, with other numbers of sites at once and other orders; starts nothing
#[derive(Args, Debug)]
#[command(after_help = "\
TOOK: as it was. BOUND: what no order undercuts. AS CONFIGURED: nothing known of how long sites take. BY HISTORY: by what the \
nights before it told, as `orch run` does. FORESEEN: by how long they then took. LONGEST WAIT: by history, of a site that could \
have run. Each site takes as long and ends as it did, also where more run at once than did.")]
pub struct SimulateArgs {
    #[command(flatten)]
    sites: SitesArgs,
    /// Sites at once, such as `4,8,16` [default: orch.max_parallel_sites]
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS", value_parser = clap::value_parser!(u16).range(1..))]
    parallel: Vec<u16>,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &SimulateArgs) -> anyhow::Result<u8> {
    let config = args.config.load(&[])?;
    let selected = args.sites.select(&config)?;
    let history = history(&config)?;
    let nights = nights(&history);
    if nights.is_empty() {
        let text = format!(
            "there is no night to run again: no run in {} has ended a site\n  hint:  `orch plan` shows what the first would look like",
            config.orch.state_dir.display()
        );
        return Err(Refusal::because(Outcome::ConfigurationError, text));
    }
    let parallel: Vec<usize> = match args.parallel.as_slice() {
        [] => vec![config.orch.max_parallel_sites],
        given => given.iter().map(|number| usize::from(*number)).collect(),
    };
    let replays = parallel.iter().map(|at_once| {
        let replays = replay(&config, &selected, &nights, *at_once);
        let replays = replays.map_err(|error| Refusal::because(Outcome::ConfigurationError, error))?;
        Ok((*at_once, replays))
    });
    let replays = replays.collect::<anyhow::Result<Vec<(usize, Vec<Replay>)>>>()?;
    if args.json {
        print_json(&object(&nights, &replays));
    } else {
        let mut lines = vec![format!(
            "{}, {}; what sites depend on and use as configured now",
            plural(nights.len() as u64, "night"),
            plural(selected.len() as u64, "site"),
        )];
        lines.push(String::new());
        lines.extend(table(&HEADINGS, &rows(&nights, &replays)));
        print(&lines.join("\n"));
    }
    Ok(Outcome::Succeeded.exit_code())
}

/// Each night with each number of sites at once; below them, where there are several nights, what they add up to.
fn rows(nights: &[Night<'_>], replays: &[(usize, Vec<Replay>)]) -> Vec<Vec<String>> {
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
        let summed = |(at_once, of_nights): &(usize, Vec<Replay>)| {
            let mut sum = sum(of_nights);
            // The same sites night after night.
            sum.sites = of_nights.iter().map(|replay| replay.sites).max().unwrap_or(0);
            row("all".to_owned(), *at_once, took, &sum)
        };
        rows.extend(replays.iter().map(summed));
    }
    rows
}

fn row(name: String, at_once: usize, took: Duration, replay: &Replay) -> Vec<String> {
    let long = |length: Duration| span(length.as_secs_f64());
    let against_bound = |trial: Trial| {
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
        against_bound(replay.foreseen),
        long(replay.by_history.longest_wait),
    ]
}

fn sum(replays: &[Replay]) -> Replay {
    let trial = |of: fn(&Replay) -> Trial| Trial {
        length: replays.iter().map(|replay| of(replay).length).sum(),
        longest_wait: replays
            .iter()
            .map(|replay| of(replay).longest_wait)
            .max()
            .unwrap_or_default(),
    };
    Replay {
        sites: 0,
        lower_bound: replays.iter().map(|replay| replay.lower_bound).sum(),
        as_configured: trial(|replay| replay.as_configured),
        by_history: trial(|replay| replay.by_history),
        foreseen: trial(|replay| replay.foreseen),
    }
}

fn object(nights: &[Night<'_>], replays: &[(usize, Vec<Replay>)]) -> Value {
    let trial = |trial: Trial| {
        json!({
            "seconds": trial.length.as_secs_f64(),
            "longest_wait_seconds": trial.longest_wait.as_secs_f64(),
        })
    };
    let of_night = |(index, night): (usize, &Night<'_>)| {
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
                    "foreseen": trial(replay.foreseen),
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
    // The oldest first.
    json!({ "nights": nights.iter().enumerate().map(of_night).collect::<Vec<_>>() })
}
