//! `orch celery ping`: are the workers there? Fit for an exec probe and for cron.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::connect::{ConnectArgs, converse, print};
use crate::celery::{Client, ConsumedQueue, NodeName, Replies, Target};
use crate::cli::duration;
use crate::ui::one_line;

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
    /// How long to wait for answers
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    timeout: Duration,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was seen.
struct Seen {
    nodes: BTreeSet<NodeName>,
    /// None: was not asked.
    queues: Option<BTreeSet<String>>,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &PingArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?.with_deadline(args.timeout);
    let started = Instant::now();
    let seen = converse(look(&client, args))?;
    let elapsed = started.elapsed();
    let (nodes, verdict) = match seen {
        Ok(seen) => {
            let verdict = judge(&seen, args);
            (seen.nodes, verdict)
        }
        Err(error) => (BTreeSet::new(), Err(error.to_string())),
    };
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    let milliseconds = elapsed.as_secs_f64() * 1000.0;
    let reason = verdict.as_ref().err().map(|reason| one_line(reason));
    if args.json {
        let object =
            json!({ "healthy": reason.is_none(), "nodes": names, "reason": reason, "elapsed_ms": milliseconds });
        print(&object.to_string());
    } else {
        match &reason {
            None => print(&format!(
                "healthy: {} in {milliseconds:.1} ms",
                one_line(&names.join(", "))
            )),
            Some(reason) => print(&format!("unhealthy: {reason}")),
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
    let queues = if args.queues.is_empty() || nodes.is_empty() {
        None
    } else {
        let target = Target::Nodes(nodes.iter().cloned().collect());
        Some(consumed(&control.active_queues(&target, args.timeout).await?))
    };
    Ok(Seen { nodes, queues })
}

fn consumed(replies: &Replies<Vec<ConsumedQueue>>) -> BTreeSet<String> {
    replies
        .good()
        .flat_map(|(_, queues)| queues)
        .map(|queue| queue.name.clone())
        .collect()
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
            "no answer from {} within {:?}",
            silent.join(", "),
            args.timeout
        ));
    }
    if seen.nodes.len() < args.min_workers {
        let answered = seen.nodes.len();
        return Err(match answered {
            0 => format!("no worker answers within {:?}", args.timeout),
            _ => format!(
                "{answered} of {} workers answer within {:?}",
                args.min_workers, args.timeout
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
    if idle.is_empty() {
        Ok(())
    } else {
        Err(format!("nobody consumes {}", idle.join(", ")))
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
        judge(&Seen { nodes, queues }, &words.args)
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
