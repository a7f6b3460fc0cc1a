//! `orch celery ping`: are the workers there? Fit for an exec probe and for cron.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::connect::{ConnectArgs, converse};
use crate::celery::{Client, ConsumedQueue, ConsumptionWatch, DEFAULT_QUEUE, NodeName, Replies, Target, Verdict};
use crate::cli::duration;
use crate::cli::output::{print, print_json};
use crate::duration_text::shown;
use crate::printable::one_line;

/// Pings the workers: exit code 0 healthy, 1 unhealthy with the reason in one line, 2 usage
#[derive(Args, Debug)]
pub struct PingArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// A node that must answer, such as `celery@host`; may be given again [default: any]
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    /// Queues that must each be consumed by a worker that answers
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    queues: Vec<String>,
    /// How many workers must answer
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_workers: usize,
    /// Also see that they consume: work that waits must be taken while slots are free
    #[arg(long)]
    consuming: bool,
    /// How long a worker may leave work waiting while it has room
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration, requires = "consuming")]
    patience: Duration,
    /// How long to wait for answers
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    timeout: Duration,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Between two looks at a worker that leaves work waiting.
const PAUSE: Duration = Duration::from_millis(250);

/// How long others are waited for to see whether they have the name of a node that was asked for.
const SHARED_NAME_TIMEOUT: Duration = Duration::from_millis(500);

/// What was seen.
struct Seen {
    /// How many listen to control requests.
    listeners: u64,
    nodes: BTreeSet<NodeName>,
    /// Names that several workers have, with their number.
    shared: BTreeMap<NodeName, u64>,
    /// Prefixes and control exchanges of other mailboxes in the broker; looked for only where nobody listens.
    others: BTreeSet<(String, String)>,
    /// None: was not asked.
    queues: Option<BTreeSet<String>>,
    /// Who does not consume, and why.
    not_consuming: Vec<String>,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &PingArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?.with_deadline(args.timeout);
    let started = Instant::now();
    let seen = converse(look(&client, args))?;
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

async fn look(client: &Client, args: &PingArgs) -> crate::celery::Result<Seen> {
    let target = match args.node.as_slice() {
        [] => Target::All,
        nodes => Target::Nodes(nodes.iter().map(NodeName::new).collect()),
    };
    let control = client.control();
    let pong = control.ping(&target, args.timeout).await?;
    let nodes: BTreeSet<NodeName> = pong.good().map(|(node, ())| node.clone()).collect();
    let mut seen = Seen {
        listeners: pong.listeners,
        nodes,
        shared: pong.shared,
        others: match pong.listeners {
            // A user without this right is no less healthy.
            0 => client.other_mailboxes().await.unwrap_or_default(),
            _ => BTreeSet::new(),
        },
        queues: None,
        not_consuming: Vec::new(),
    };
    // A call to nodes ends with the first answer of each.
    if !args.node.is_empty() && seen.listeners > args.node.len() as u64 {
        let all = control
            .ping(&Target::All, args.timeout.min(SHARED_NAME_TIMEOUT))
            .await?;
        seen.shared = all.shared;
        seen.shared.retain(|node, _| seen.nodes.contains(node));
    }
    if seen.nodes.is_empty() || (args.queues.is_empty() && !args.consuming) {
        return Ok(seen);
    }
    let target = Target::Nodes(seen.nodes.iter().cloned().collect());
    let replies = control.active_queues(&target, args.timeout).await?;
    if args.consuming {
        for node in &seen.nodes {
            // A fleet shares the queues out; where nothing is consumed the default is what is left waiting.
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

/// Looks at a worker until it is certain whether it consumes; why not, if so.
async fn watch(
    client: &Client,
    node: &NodeName,
    queues: &[String],
    args: &PingArgs,
) -> crate::celery::Result<Option<String>> {
    let mut watch = ConsumptionWatch::new(node.clone(), args.patience);
    loop {
        match watch.look(&client.observe(node, queues, args.timeout).await?) {
            Verdict::Consuming => return Ok(None),
            Verdict::NotConsuming { reason, .. } => return Ok(Some(reason)),
            Verdict::Silent => return Ok(Some(format!("{node} has stopped answering"))),
            // No event tells that nothing happens.
            Verdict::Watching => tokio::time::sleep(PAUSE.min(args.patience)).await,
        }
    }
}

fn consumed(replies: &Replies<Vec<ConsumedQueue>>) -> BTreeSet<String> {
    replies
        .good()
        .flat_map(|(_, queues)| queues)
        .map(|queue| queue.name.clone())
        .collect()
}

/// Warns of workers that cannot be told from each other.
fn shared_names(shared: &BTreeMap<NodeName, u64>) -> Vec<String> {
    let warning = |(node, workers): (&NodeName, &u64)| {
        one_line(&format!(
            "{workers} workers have the same name {node}: what is sent to one reaches all of them, give each its own (`-n`)"
        ))
    };
    shared.iter().map(warning).collect()
}

/// Says that nobody listens, and which settings of the app may be why.
fn nobody_listens(others: &BTreeSet<(String, String)>) -> String {
    match others.first() {
        None => "no worker listens".to_owned(),
        Some((prefix, exchange)) if !prefix.is_empty() => format!(
            "no worker listens; the broker has keys of workers with the prefix `{prefix}` and `control_exchange` \
             `{exchange}`: try `--key-prefix {prefix}`"
        ),
        Some((_, exchange)) => format!(
            "no worker listens; the broker has keys of workers whose `control_exchange` is `{exchange}`: orch reaches \
             those where its instance runs them"
        ),
    }
}

/// The verdict: the first thing that is wrong, in one line.
fn judge(seen: &Seen, args: &PingArgs) -> Result<(), String> {
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
    // Workers of one name are still as many.
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
        (None, idle) => Err(format!("nobody consumes {}", idle.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        args: PingArgs,
    }

    fn verdict(words: &str, nodes: &[&str], queues: &[&str]) -> Result<(), String> {
        let words = Words::parse_from(std::iter::once("ping").chain(words.split_whitespace()));
        let queues = (!words.args.queues.is_empty()).then(|| queues.iter().map(|queue| (*queue).to_owned()).collect());
        let nodes = nodes.iter().map(|node| NodeName::new(*node)).collect();
        judge(
            &Seen {
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
            "nobody consumes y"
        );
        assert_eq!(verdict("--queues x,y", &["a@h"], &["x", "y"]), Ok(()));
    }
}
