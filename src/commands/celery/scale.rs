//! `orch celery scale`: changes the number of pool slots.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use serde_json::json;

use super::connect::block_on;
use super::replies::TargetArgs;
use crate::commands::output::{print, print_json};
use orch_base::text::duration_text::shown;
use orch_base::text::printable::one_line;
use orch_celery::{ControlReplies, ControlTarget, NodeName, RemoteControl, Result};

/// Minimum time in which the pool must reach the new size: a worker adjusts the pool only every five seconds.
const SCALE_TIMEOUT: Duration = Duration::from_secs(12);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Changes the number of pool slots of workers and shows the new number
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("change").required(true).args(["grow", "shrink", "to", "autoscale"])))]
#[command(
    after_help = "Exit code 1: a worker refused (only prefork pools can change their size), or no worker replied."
)]
pub struct ScaleArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Number of slots to add to each worker
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    grow: Option<u32>,
    /// Number of slots to remove from each worker; their running tasks finish first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    shrink: Option<u32>,
    /// New number of slots of each worker
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
        _ => Err("two numbers are expected, such as `2,8`, the first not above the second".to_owned()),
    }
}

/// Change of the number of slots at one worker.
struct SlotChange {
    before: u64,
    after: u64,
    refused: Option<String>,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &ScaleArgs) -> anyhow::Result<u8> {
    let client = args.target.client()?;
    let changes = block_on(scale(&client.control(), args))?;
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

async fn scale(control: &RemoteControl, args: &ScaleArgs) -> anyhow::Result<BTreeMap<NodeName, SlotChange>> {
    let within = args.target.timeout;
    let before = slots(control, &args.target.target(), within).await?;
    let mut changes = BTreeMap::new();
    for (node, before) in before {
        let target = ControlTarget::from(&node);
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
                "the pool does not reach {wanted} slots: this kind of pool may not be able to change its size"
            ));
        }
        changes.insert(node, SlotChange { before, after, refused });
    }
    Ok(changes)
}

/// Returns the number of slots that a worker shall have.
fn wanted(args: &ScaleArgs, before: u64) -> u64 {
    let (grow, shrink) = (args.grow.map(u64::from), args.shrink.map(u64::from));
    match (args.to, grow, shrink) {
        (Some(to), _, _) => u64::from(to),
        (None, Some(more), _) => before.saturating_add(more),
        // Keeps one slot, because a pool without slots never executes a task again.
        (None, None, Some(fewer)) => before.saturating_sub(fewer).max(1),
        (None, None, None) => before,
    }
}

fn step(larger: u64, smaller: u64) -> u32 {
    u32::try_from(larger - smaller).unwrap_or(u32::MAX)
}

fn refusal(replies: &ControlReplies<()>, node: &NodeName) -> Option<String> {
    match replies.nodes.get(node) {
        Some(Ok(())) => None,
        Some(Err(error)) => Some(error.clone()),
        None => Some("no answer".to_owned()),
    }
}

async fn slots(control: &RemoteControl, target: &ControlTarget, within: Duration) -> Result<BTreeMap<NodeName, u64>> {
    let stats = control.stats(target, within).await?;
    Ok(stats
        .good()
        .map(|(node, stats)| (node.clone(), stats.pool_slots))
        .collect())
}

/// Waits until the number of slots is the wanted one, or until the timeout, and returns the number.
async fn settled(
    control: &RemoteControl,
    target: &ControlTarget,
    node: &NodeName,
    before: u64,
    within: Duration,
    reached: impl Fn(u64) -> bool,
) -> Result<u64> {
    let deadline = Instant::now() + within.max(SCALE_TIMEOUT);
    let mut now = before;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Some(slots) = slots(control, target, left.max(POLL_INTERVAL)).await?.get(node) {
            now = *slots;
        }
        if reached(now) || Instant::now() >= deadline {
            return Ok(now);
        }
        // Polls, because no event reports the change.
        tokio::time::sleep(POLL_INTERVAL).await;
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
