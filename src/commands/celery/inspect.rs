//! `orch celery inspect`: prints the replies of workers to a question about themselves.

use clap::Args;
use serde_json::{Map, Value, json};

use super::connect::block_on;
use super::replies::{TargetArgs, code, say_silent};
use crate::commands::output::{plain, print, print_json};
use orch_base::text::printable;
use orch_base::text::printable::one_line;

/// Asks workers about their tasks, queues and settings (exit code 1: a worker failed to reply, or none replied)
#[derive(Args, Debug)]
pub struct InspectArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Subject of the question
    #[arg(value_enum)]
    question: InspectSubject,
    /// Print one JSON object with the workers' replies, by node name
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum InspectSubject {
    /// Running tasks
    Active,
    /// Tasks that a worker has taken and not yet started
    Reserved,
    /// Tasks that wait for their ETA
    Scheduled,
    /// Names of the tasks that a worker can execute
    Registered,
    /// Statistics: pool, broker, counters
    Stats,
    /// Consumed queues
    Queues,
    /// Settings of the app that differ from the defaults; the worker masks passwords
    Conf,
    /// Ids of revoked tasks
    Revoked,
    /// Versions and settings, as text
    Report,
}

impl InspectSubject {
    fn method(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Reserved => "reserved",
            Self::Scheduled => "scheduled",
            Self::Registered => "registered",
            Self::Stats => "stats",
            Self::Queues => "active_queues",
            Self::Conf => "conf",
            Self::Revoked => "revoked",
            Self::Report => "report",
        }
    }

    fn arguments(self) -> Value {
        match self {
            Self::Registered => json!({ "taskinfoitems": [] }),
            Self::Conf => json!({ "with_defaults": false }),
            _ => json!({}),
        }
    }
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &InspectArgs) -> anyhow::Result<u8> {
    let client = args.target.client()?;
    let (target, within) = (args.target.target(), args.target.timeout);
    let control = client.control();
    let asked = control.call(args.question.method(), args.question.arguments(), &target, within);
    let replies = block_on(async { Ok(asked.await?) })?;
    let silent = args.target.silent(&replies);
    if args.json {
        let nodes: Map<String, Value> = replies
            .nodes
            .iter()
            .map(|(node, answer)| {
                let answer = answer.clone().unwrap_or_else(|error| json!({ "error": error }));
                (node.to_string(), answer)
            })
            .collect();
        print_json(&json!({ "nodes": nodes, "silent": silent }));
        return Ok(code(&replies, &silent));
    }
    for (node, answer) in &replies.nodes {
        print(&format!("{}:", one_line(node.as_str())));
        match answer {
            Ok(answer) => lines(answer).iter().for_each(|line| print(&format!("  {line}"))),
            Err(error) => print(&format!("  refused: {}", one_line(error))),
        }
    }
    say_silent(&silent, replies.nodes.is_empty(), within);
    Ok(code(&replies, &silent))
}

/// Formats a reply as lines of text: one line for each item of a list, or for each field of an object.
fn lines(answer: &Value) -> Vec<String> {
    match answer {
        Value::Array(items) if items.is_empty() => vec!["nothing".to_owned()],
        Value::Array(items) => items.iter().map(item).collect(),
        Value::Object(fields) => match (fields.len(), fields.get("ok").and_then(Value::as_str)) {
            (1, Some(text)) => printable::text(text).lines().map(str::to_owned).collect(),
            _ => fields
                .iter()
                .map(|(name, value)| one_line(&format!("{name}: {}", plain(value))))
                .collect(),
        },
        other => vec![one_line(&plain(other))],
    }
}

/// Formats an item of a list: a task as `id name args kwargs`, a queue as its name, other values as JSON.
fn item(item: &Value) -> String {
    let task = item.get("request").unwrap_or(item);
    let text = |name: &str| task.get(name).map(plain).unwrap_or_default();
    let line = if task.get("id").is_some() {
        let eta = item
            .get("eta")
            .map(|eta| format!(" at {}", plain(eta)))
            .unwrap_or_default();
        format!(
            "{} {}{} {}{eta}",
            text("id"),
            text("name"),
            text("args"),
            text("kwargs")
        )
    } else if task.get("name").is_some() {
        text("name")
    } else {
        plain(item)
    };
    one_line(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_every_shape_become_lines() {
        for (answer, expected) in [
            (json!([]), vec!["nothing"]),
            (json!(["app.add", "app.sub"]), vec!["app.add", "app.sub"]),
            (
                json!([{"id": "1", "name": "app.add", "args": [1, 2], "kwargs": {}}]),
                vec!["1 app.add[1,2] {}"],
            ),
            (
                json!([{"eta": "soon", "request": {"id": "1", "name": "a", "args": [], "kwargs": {}}}]),
                vec!["1 a[] {} at soon"],
            ),
            (json!([{"name": "celery", "exchange": {}}]), vec!["celery"]),
            (json!({"ok": "a\nb"}), vec!["a", "b"]),
            (json!({"pid": 7, "pool": {"n": 1}}), vec!["pid: 7", r#"pool: {"n":1}"#]),
            (json!({"x": "\u{1b}[31m"}), vec!["x: \u{fffd}[31m"]),
        ] {
            assert_eq!(lines(&answer), expected, "{answer}");
        }
    }
}
