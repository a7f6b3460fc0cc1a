//! `orch celery inspect`: what workers say about themselves.

use clap::Args;
use serde_json::{Map, Value, json};

use super::answers::{TargetArgs, code, say_silent};
use super::connect::{ConnectArgs, converse};
use crate::cli::Refusal;
use crate::cli::output::{print, print_json};
use crate::printable::{self, one_line};
use crate::run::Outcome;

/// Asks workers about themselves (exit code 1: somebody failed to answer, or nobody did)
#[derive(Args, Debug)]
pub struct InspectArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// What to ask
    #[arg(value_enum)]
    question: Question,
    /// Print one JSON object: answers by node, as the workers gave them
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Question {
    /// Tasks being run
    Active,
    /// Tasks taken and not yet running
    Reserved,
    /// Tasks that wait for their time
    Scheduled,
    /// Names of the tasks a worker knows
    Registered,
    /// Pool, broker, counters
    Stats,
    /// Queues being consumed
    Queues,
    /// The app's configuration where it differs from the defaults; passwords are masked by the worker
    Conf,
    /// Ids of revoked tasks
    Revoked,
    /// Versions and settings as text
    Report,
}

impl Question {
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

/// Runs the subcommand; the exit code.
pub fn main(args: &InspectArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?.with_deadline(args.target.timeout);
    let (target, within) = (args.target.target(), args.target.timeout);
    let control = client.control();
    let asked = control.call(args.question.method(), args.question.arguments(), &target, within);
    let replies =
        converse(asked)?.map_err(|error| Refusal::because(Outcome::InfrastructureFailed, error.to_string()))?;
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

/// An answer as lines of text: an item of a list each, a field of an object each.
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

/// A task as `id name(args, kwargs)`, a queue as its name, anything else as it is.
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

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_every_shape_become_lines() {
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
