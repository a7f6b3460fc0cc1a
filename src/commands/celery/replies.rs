//! Selection of the workers for a control command, and the report of their replies.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::connect::ConnectArgs;
use crate::commands::duration;
use crate::commands::output::{print, print_json};
use orch_base::text::duration_text::shown;
use orch_base::text::printable::one_line;
use orch_celery::{Client, ControlReplies, ControlTarget, NodeName};

/// Options that select workers.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Node name of a worker, such as `celery@host`; may be repeated [default: all workers]
    #[arg(long, global = true, value_name = "NODE")]
    node: Vec<String>,
    /// Pattern of node names, such as `scrape-*@*`
    #[arg(long, global = true, value_name = "GLOB", conflicts_with = "node")]
    pattern: Option<String>,
    /// Time to wait for replies
    #[arg(long, global = true, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub timeout: Duration,
}

impl TargetArgs {
    /// Returns a client of the deployment that waits as long for Redis as for the workers.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(self.connect.client()?.with_deadline(self.timeout))
    }

    pub fn target(&self) -> ControlTarget {
        match (&self.pattern, self.node.as_slice()) {
            (Some(pattern), _) => ControlTarget::Glob(pattern.clone()),
            (None, []) => ControlTarget::All,
            (None, nodes) => ControlTarget::Nodes(nodes.iter().map(NodeName::new).collect()),
        }
    }

    /// Returns the nodes that were named with `--node` and have not replied.
    pub fn silent<T>(&self, replies: &ControlReplies<T>) -> Vec<&str> {
        self.node
            .iter()
            .map(String::as_str)
            .filter(|node| !replies.nodes.keys().any(|known| known.as_str() == *node))
            .collect()
    }
}

/// Returns the exit code of a control command: 0 if at least one worker has executed the command, none has refused, and
/// every named worker has replied.
pub fn code<T>(replies: &ControlReplies<T>, silent: &[&str]) -> u8 {
    let good = replies.good().count();
    u8::from(good == 0 || good < replies.nodes.len() || !silent.is_empty())
}

/// Prints one line for each worker that has replied and returns the exit code.
pub fn report(what: &str, replies: &ControlReplies<()>, target: &TargetArgs, as_json: bool) -> u8 {
    if as_json {
        return report_with(replies, target, []);
    }
    let silent = target.silent(replies);
    for (node, answer) in &replies.nodes {
        match answer {
            Ok(()) => print(&format!("{}: {what}", one_line(node.as_str()))),
            Err(error) => print(&format!("{}: refused: {}", one_line(node.as_str()), one_line(error))),
        }
    }
    say_silent(&silent, replies.nodes.is_empty(), target.timeout);
    code(replies, &silent)
}

/// Prints the replies as one JSON object with further fields and returns the exit code.
pub fn report_with<const N: usize>(
    replies: &ControlReplies<()>,
    target: &TargetArgs,
    further: [(&str, Value); N],
) -> u8 {
    let silent = target.silent(replies);
    let nodes: Map<String, Value> = replies
        .nodes
        .iter()
        .map(|(node, answer)| {
            let answer = match answer {
                Ok(()) => json!({ "ok": true }),
                Err(error) => json!({ "ok": false, "error": error }),
            };
            (node.to_string(), answer)
        })
        .collect();
    let mut object = json!({ "nodes": nodes, "silent": silent });
    for (name, value) in further {
        object[name] = value;
    }
    print_json(&object);
    code(replies, &silent)
}

/// Prints one line about the workers that have not replied, if there are any.
pub fn say_silent(silent: &[&str], nobody: bool, within: Duration) {
    if !silent.is_empty() {
        print(&format!(
            "no answer from {} within {}",
            one_line(&silent.join(", ")),
            shown(within)
        ));
    } else if nobody {
        print(&format!("no worker answers within {}", shown(within)));
    }
}
