//! Which workers are asked, and what they answered.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::celery::{NodeName, Replies, Target};
use crate::cli::duration;
use crate::cli::output::{print, print_json};
use crate::duration_text::shown;
use crate::printable::one_line;

/// Which workers are meant.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// A node, such as `celery@host`; may be given again [default: all]
    #[arg(long, global = true, value_name = "NODE")]
    node: Vec<String>,
    /// All nodes whose name matches, such as `scrape-*@*`
    #[arg(long, global = true, value_name = "GLOB", conflicts_with = "node")]
    pattern: Option<String>,
    /// How long to wait for answers
    #[arg(long, global = true, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub timeout: Duration,
}

impl TargetArgs {
    pub fn target(&self) -> Target {
        match (&self.pattern, self.node.as_slice()) {
            (Some(pattern), _) => Target::Glob(pattern.clone()),
            (None, []) => Target::All,
            (None, nodes) => Target::Nodes(nodes.iter().map(NodeName::new).collect()),
        }
    }

    /// Nodes that were named and have not answered.
    pub fn silent<T>(&self, replies: &Replies<T>) -> Vec<&str> {
        self.node
            .iter()
            .map(String::as_str)
            .filter(|node| !replies.nodes.keys().any(|known| known.as_str() == *node))
            .collect()
    }
}

/// The exit code of a request: 0 when somebody has carried it out and nobody failed or was missed.
pub fn code<T>(replies: &Replies<T>, silent: &[&str]) -> u8 {
    let good = replies.good().count();
    u8::from(good == 0 || good < replies.nodes.len() || !silent.is_empty())
}

/// Prints who has carried a request out; the exit code.
pub fn report(what: &str, replies: &Replies<()>, target: &TargetArgs, as_json: bool) -> u8 {
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

/// Prints who has carried a request out as one JSON object, with further fields; the exit code.
pub fn report_with<const N: usize>(replies: &Replies<()>, target: &TargetArgs, further: [(&str, Value); N]) -> u8 {
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

/// One line about who has not answered, if anybody.
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
