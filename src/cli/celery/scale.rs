//! `orch celery scale`: more or fewer pool slots.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use serde_json::json;

use super::answers::TargetArgs;
use super::connect::{ConnectArgs, converse};
use crate::celery::{Control, NodeName, Replies, Result, Target};
use crate::cli::Refusal;
use crate::cli::output::{print, print_json};
use crate::duration_text::shown;
use crate::printable::one_line;
use crate::run::Outcome;

/// A worker looks after its pool every five seconds: only then there are more processes, or fewer.
const PATIENCE: Duration = Duration::from_secs(12);
const PAUSE: Duration = Duration::from_millis(50);

/// Changes the number of pool slots of workers, and shows what came of it
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("change").required(true).args(["grow", "shrink", "to", "autoscale"])))]
#[command(after_help = "Exit code 1: a worker refused (only prefork pools change their size), or nobody answered.")]
pub struct ScaleArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// Add so many slots to each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    grow: Option<u32>,
    /// Take so many slots from each; what runs there ends first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    shrink: Option<u32>,
    /// Make it so many slots each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    to: Option<u32>,
    /// New bounds for workers that were started with `--autoscale`
    #[arg(long, value_name = "MIN,MAX", value_parser = bounds)]
    autoscale: Option<(u32, u32)>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn bounds(text: &str) -> std::result::Result<(u32, u32), String> {
    let numbers = text
        .split_once(',')
        .and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    match numbers {
        Some((min, max)) if min <= max && max > 0 => Ok((min, max)),
        _ => Err("two numbers, such as `2,8`, the first not above the second".to_owned()),
    }
}

/// What came of it at one node.
struct Change {
    before: u64,
    after: u64,
    refused: Option<String>,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &ScaleArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?.with_deadline(args.target.timeout);
    let changes = converse(scale(&client.control(), args))?
        .map_err(|error| Refusal::because(Outcome::InfrastructureFailed, error.to_string()))?;
    let failed = changes.is_empty() || changes.values().any(|change| change.refused.is_some());
    if args.json {
        let nodes: serde_json::Map<String, serde_json::Value> = changes
            .iter()
            .map(|(node, change)| {
                let fields = json!({ "before": change.before, "after": change.after, "error": change.refused });
                (node.to_string(), fields)
            })
            .collect();
        print_json(&json!({ "nodes": nodes }));
        return Ok(u8::from(failed));
    }
    for (node, change) in &changes {
        let node = one_line(node.as_str());
        match &change.refused {
            Some(why) => print(&format!("{node}: {} slots, refused: {}", change.after, one_line(why))),
            None => print(&format!("{node}: {} slots, before {}", change.after, change.before)),
        }
    }
    if changes.is_empty() {
        print(&format!("no worker answers within {}", shown(args.target.timeout)));
    }
    Ok(u8::from(failed))
}

async fn scale(control: &Control, args: &ScaleArgs) -> Result<BTreeMap<NodeName, Change>> {
    let within = args.target.timeout;
    let before = slots(control, &args.target.target(), within).await?;
    let mut changes = BTreeMap::new();
    for (node, before) in before {
        let target = Target::from(&node);
        let wanted = wanted(args, before);
        let replies = match (args.autoscale, wanted) {
            (Some((min, max)), _) => Some(control.autoscale(min, max, &target, within).await?),
            (None, wanted) if wanted > before => Some(control.pool_grow(step(wanted, before), &target, within).await?),
            (None, wanted) if wanted < before => {
                Some(control.pool_shrink(step(before, wanted), &target, within).await?)
            }
            (None, _) => None,
        };
        let mut refused = replies.and_then(|replies| refusal(&replies, &node));
        let after = if refused.is_some() {
            before
        } else {
            let reached = |now: u64| args.autoscale.is_some() || now == wanted;
            settled(control, &target, &node, before, within, reached).await?
        };
        if refused.is_none() && args.autoscale.is_none() && after != wanted {
            refused = Some(format!(
                "it does not reach {wanted}: such a pool may not change its size"
            ));
        }
        changes.insert(node, Change { before, after, refused });
    }
    Ok(changes)
}

/// How many slots a node shall have.
fn wanted(args: &ScaleArgs, before: u64) -> u64 {
    let (grow, shrink) = (args.grow.map(u64::from), args.shrink.map(u64::from));
    match (args.to, grow, shrink) {
        (Some(to), _, _) => u64::from(to),
        (None, Some(more), _) => before.saturating_add(more),
        // A pool without slots would never run anything again.
        (None, None, Some(fewer)) => before.saturating_sub(fewer).max(1),
        (None, None, None) => before,
    }
}

fn step(larger: u64, smaller: u64) -> u32 {
    u32::try_from(larger - smaller).unwrap_or(u32::MAX)
}

fn refusal(replies: &Replies<()>, node: &NodeName) -> Option<String> {
    match replies.nodes.get(node) {
        Some(Ok(())) => None,
        Some(Err(error)) => Some(error.clone()),
        None => Some("no answer".to_owned()),
    }
}

async fn slots(control: &Control, target: &Target, within: Duration) -> Result<BTreeMap<NodeName, u64>> {
    let stats = control.stats(target, within).await?;
    Ok(stats
        .good()
        .map(|(node, stats)| (node.clone(), stats.pool_slots))
        .collect())
}

/// The number of slots once it is what was asked for, or at the end of the time.
async fn settled(
    control: &Control,
    target: &Target,
    node: &NodeName,
    before: u64,
    within: Duration,
    reached: impl Fn(u64) -> bool,
) -> Result<u64> {
    let deadline = Instant::now() + within.max(PATIENCE);
    let mut now = before;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Some(slots) = slots(control, target, left.max(PAUSE)).await?.get(node) {
            now = *slots;
        }
        if reached(now) || Instant::now() >= deadline {
            return Ok(now);
        }
        // No event tells it.
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_two_numbers_in_order() {
        assert_eq!(bounds("2,8"), Ok((2, 8)));
        for text in ["8,2", "0,0", "2", "a,b", "-1,3", ""] {
            assert!(bounds(text).is_err(), "{text}");
        }
    }
}
