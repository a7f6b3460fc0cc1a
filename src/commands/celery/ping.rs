//! `orch celery ping`: checks whether the workers are healthy. Suits an exec probe and cron.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::connect::{ConnectArgs, block_on};
use crate::commands::duration;
use crate::commands::output::{print, print_json};
use orch_base::text::duration_text::shown;
use orch_base::text::printable::one_line;
use orch_celery::{
    Client, ConsumedQueue, ConsumptionVerdict, ConsumptionWatch, ControlReplies, ControlTarget, DEFAULT_QUEUE, NodeName,
};

/// Pings the workers (exit code 0: healthy; 1: unhealthy, with the reason in one line; 2: usage error)
#[derive(Args, Debug)]
pub struct PingArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Node name of a worker that must reply, such as `celery@host`; may be repeated [default: any worker]
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    /// Queues, separated by commas; each must be consumed by a worker that replies
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    queues: Vec<String>,
    /// Number of workers that must reply
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_workers: usize,
    /// Also check that the workers consume: they must take waiting messages while slots are free
    #[arg(long)]
    consuming: bool,
    /// Time that messages may wait while a worker has free slots
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration, requires = "consuming")]
    patience: Duration,
    /// Time to wait for replies
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    timeout: Duration,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Time between two observations of a worker that leaves messages waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Time to wait for further workers that have the same node name as a named worker.
const SHARED_NAME_TIMEOUT: Duration = Duration::from_millis(500);

/// Observed state of the workers.
struct ObservedWorkers {
    /// Number of workers that listen to control commands.
    listeners: u64,
    nodes: BTreeSet<NodeName>,
    /// Node names that several workers share, with the number of these workers.
    shared: BTreeMap<NodeName, u64>,
    /// Key prefixes and control exchanges of other mailboxes in the broker; read only if no worker listens.
    others: BTreeSet<(String, String)>,
    /// Consumed queues; `None` if the options do not need them.
    queues: Option<BTreeSet<String>>,
    /// Texts about the workers that do not consume, with the reasons.
    not_consuming: Vec<String>,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &PingArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?.with_deadline(args.timeout);
    let started = Instant::now();
    let seen = block_on(async { Ok(look(&client, args).await) })?;
    let elapsed = started.elapsed();
    let (nodes, warnings, verdict) = match seen {
        Ok(seen) => {
            let verdict = judge(&seen, args);
            let warnings = shared_names(&seen.shared);
            (seen.nodes, warnings, verdict)
        }
        Err(error) => (BTreeSet::new(), Vec::new(), Err(error.to_string())),
    };
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    let milliseconds = elapsed.as_secs_f64() * 1000.0;
    let reason = verdict.as_ref().err().map(|reason| one_line(reason));
    if args.json {
        let object = json!({
            "healthy": reason.is_none(),
            "nodes": names,
            "reason": reason,
            "warnings": warnings,
            "elapsed_ms": milliseconds,
        });
        print_json(&object);
    } else {
        let warnings: String = warnings.iter().map(|warning| format!("; {warning}")).collect();
        match &reason {
            None => print(&format!(
                "healthy: {} in {milliseconds:.1} ms{warnings}",
                one_line(&names.join(", "))
            )),
            Some(reason) => print(&format!("unhealthy: {reason}{warnings}")),
        }
    }
    Ok(u8::from(reason.is_some()))
}

async fn look(client: &Client, args: &PingArgs) -> orch_celery::Result<ObservedWorkers> {
    let target = match args.node.as_slice() {
        [] => ControlTarget::All,
        nodes => ControlTarget::Nodes(nodes.iter().map(NodeName::new).collect()),
    };
    let control = client.control();
    let pong = control.ping(&target, args.timeout).await?;
    let nodes: BTreeSet<NodeName> = pong.good().map(|(node, ())| node.clone()).collect();
    let mut seen = ObservedWorkers {
        listeners: pong.listeners,
        nodes,
        shared: pong.shared_names,
        others: match pong.listeners {
            // A Redis user without the permission to search for mailboxes must not make the result unhealthy.
            0 => client.other_mailboxes().await.unwrap_or_default(),
            _ => BTreeSet::new(),
        },
        queues: None,
        not_consuming: Vec::new(),
    };
    // A call to named nodes ends with the first reply from each node and misses further workers with the same name.
    if !args.node.is_empty() && seen.listeners > args.node.len() as u64 {
        let all = control
            .ping(&ControlTarget::All, args.timeout.min(SHARED_NAME_TIMEOUT))
            .await?;
        seen.shared = all.shared_names;
        seen.shared.retain(|node, _| seen.nodes.contains(node));
    }
    if seen.nodes.is_empty() || (args.queues.is_empty() && !args.consuming) {
        return Ok(seen);
    }
    let target = ControlTarget::Nodes(seen.nodes.iter().cloned().collect());
    let replies = control.active_queues(&target, args.timeout).await?;
    if args.consuming {
        for node in &seen.nodes {
            // Several workers may share the wanted queues, so only a single or named worker must consume all of them.
            // For a worker without queues the default queue is checked.
            let own = replies.of(node).map(Vec::as_slice).unwrap_or_default();
            let mut queues: Vec<String> = own.iter().map(|queue| queue.name.clone()).collect();
            if args.node.contains(&node.to_string()) || replies.nodes.len() == 1 {
                queues.extend(
                    args.queues
                        .iter()
                        .filter(|queue| !queues.contains(queue))
                        .cloned()
                        .collect::<Vec<_>>(),
                );
            }
            if queues.is_empty() {
                queues.push(DEFAULT_QUEUE.to_owned());
            }
            seen.not_consuming.extend(watch(client, node, &queues, args).await?);
        }
    }
    seen.queues = (!args.queues.is_empty()).then(|| consumed(&replies));
    Ok(seen)
}

/// Observes a worker until the verdict is certain; returns the reason if the worker does not consume.
async fn watch(
    client: &Client,
    node: &NodeName,
    queues: &[String],
    args: &PingArgs,
) -> orch_celery::Result<Option<String>> {
    let mut watch = ConsumptionWatch::new(node.clone(), args.patience);
    loop {
        match watch.add_observation(&client.observe(node, queues, args.timeout).await?) {
            ConsumptionVerdict::Consuming => return Ok(None),
            ConsumptionVerdict::NotConsuming { reason, .. } => return Ok(Some(reason)),
            ConsumptionVerdict::Silent => return Ok(Some(format!("{node} has stopped answering"))),
            // Polls, because no event reports that nothing happens.
            ConsumptionVerdict::Watching => tokio::time::sleep(POLL_INTERVAL.min(args.patience)).await,
        }
    }
}

fn consumed(replies: &ControlReplies<Vec<ConsumedQueue>>) -> BTreeSet<String> {
    replies
        .good()
        .flat_map(|(_, queues)| queues)
        .map(|queue| queue.name.clone())
        .collect()
}

/// Returns a warning for each node name that several workers share.
fn shared_names(shared: &BTreeMap<NodeName, u64>) -> Vec<String> {
    let warning = |(node, workers): (&NodeName, &u64)| {
        one_line(&format!(
            "{workers} workers have the same name {node}: a command to one of them reaches all, give each a different name (`-n`)"
        ))
    };
    shared.iter().map(warning).collect()
}

/// Returns the reason "no worker listens", with the settings of the app that may be the cause.
fn nobody_listens(others: &BTreeSet<(String, String)>) -> String {
    match others.first() {
        None => "no worker listens".to_owned(),
        Some((prefix, exchange)) if !prefix.is_empty() => format!(
            "no worker listens; the broker has keys of workers with the prefix `{prefix}` and `control_exchange` \
             `{exchange}`: try `--key-prefix {prefix}`"
        ),
        Some((_, exchange)) => format!(
            "no worker listens; the broker has keys of workers whose `control_exchange` is `{exchange}`: orch reaches \
             such workers only if its own instance runs them"
        ),
    }
}

/// Decides whether the workers are healthy. The error is the first problem, in one line.
fn judge(seen: &ObservedWorkers, args: &PingArgs) -> Result<(), String> {
    let silent: Vec<&str> = args
        .node
        .iter()
        .map(String::as_str)
        .filter(|wanted| seen.nodes.iter().all(|node| node.as_str() != *wanted))
        .collect();
    if !silent.is_empty() {
        return Err(format!(
            "no answer from {} within {}",
            silent.join(", "),
            shown(args.timeout)
        ));
    }
    // Workers that share a name count separately.
    let others: u64 = seen.shared.values().map(|workers| workers.saturating_sub(1)).sum();
    let answered = seen
        .nodes
        .len()
        .saturating_add(usize::try_from(others).unwrap_or(usize::MAX));
    if answered < args.min_workers {
        return Err(match answered {
            0 if seen.listeners == 0 => nobody_listens(&seen.others),
            0 => format!("no worker answers within {}", shown(args.timeout)),
            _ => format!(
                "{answered} of {} workers answer within {}",
                args.min_workers,
                shown(args.timeout)
            ),
        });
    }
    let consumed = seen.queues.as_ref();
    let idle: Vec<&str> = args
        .queues
        .iter()
        .map(String::as_str)
        .filter(|queue| !consumed.is_some_and(|consumed| consumed.contains(*queue)))
        .collect();
    match (seen.not_consuming.first(), idle.as_slice()) {
        (Some(reason), _) => Err(reason.clone()),
        (None, []) => Ok(()),
        (None, idle) => Err(format!("no worker consumes {}", idle.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct PingCommandLine {
        #[command(flatten)]
        args: PingArgs,
    }

    fn verdict(words: &str, nodes: &[&str], queues: &[&str]) -> Result<(), String> {
        let words = PingCommandLine::parse_from(std::iter::once("ping").chain(words.split_whitespace()));
        let queues = (!words.args.queues.is_empty()).then(|| queues.iter().map(|queue| (*queue).to_owned()).collect());
        let nodes = nodes.iter().map(|node| NodeName::new(*node)).collect();
        judge(
            &ObservedWorkers {
                listeners: 9,
                nodes,
                shared: BTreeMap::new(),
                others: BTreeSet::new(),
                queues,
                not_consuming: Vec::new(),
            },
            &words.args,
        )
    }

    #[test]
    fn verdicts() {
        assert_eq!(verdict("", &["a@h"], &[]), Ok(()));
        assert_eq!(verdict("", &[], &[]).unwrap_err(), "no worker answers within 2s");
        assert_eq!(
            verdict("--min-workers 2", &["a@h"], &[]).unwrap_err(),
            "1 of 2 workers answer within 2s"
        );
        assert_eq!(
            verdict("--node b@h --timeout 5s", &["a@h"], &[]).unwrap_err(),
            "no answer from b@h within 5s"
        );
        assert_eq!(
            verdict("--queues x,y", &["a@h"], &["x"]).unwrap_err(),
            "no worker consumes y"
        );
        assert_eq!(verdict("--queues x,y", &["a@h"], &["x", "y"]), Ok(()));
    }
}
