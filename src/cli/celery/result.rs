//! `orch celery result`: what became of tasks.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::connect::{ConnectArgs, converse};
use crate::celery::{Client, Error, GroupId, Results, TaskFailure, TaskId, TaskResult, TaskState};
use crate::cli::output::{print, print_json};
use crate::cli::{Refusal, duration};
use crate::large_integer;
use crate::printable::{self, one_line};
use crate::run::Outcome;

/// Shows what became of tasks (exit code 0: all succeeded; 1: one failed, has no result, or not in time)
#[derive(Args, Debug)]
pub struct ResultArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The tasks
    #[arg(required_unless_present = "group", value_name = "ID")]
    id: Vec<String>,
    /// Show how far a group is that Python saved (`GroupResult.save`), instead of tasks
    #[arg(long, value_name = "ID", conflicts_with_all = ["id", "wait", "forget"])]
    group: Option<String>,
    /// Wait until they have ended
    #[arg(long)]
    wait: bool,
    /// How long to wait for all of them
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, requires = "wait")]
    timeout: Duration,
    /// Delete what is stored about them, once it is shown
    #[arg(long)]
    forget: bool,
    /// Print one JSON object a task
    #[arg(long)]
    json: bool,
}

/// What is known of a task.
pub type Known = Result<Option<TaskResult>, Error>;

/// Runs the subcommand; the exit code.
pub fn main(args: &ResultArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    if let Some(group) = &args.group {
        let group = GroupId::new(group);
        return converse(progress(&client, &group, args.json))?
            .map_err(|error| Refusal::because(Outcome::InfrastructureFailed, error.to_string()));
    }
    converse(async {
        let mut code = 0;
        let ids: Vec<TaskId> = args.id.iter().map(TaskId::new).collect();
        let results = client.results();
        for (id, known) in ids.iter().zip(look(&results, &ids, args).await) {
            let known = match known {
                // No answer at all is not about a task.
                Err(error) if error.is_transient() => {
                    return Err(Refusal::because(Outcome::InfrastructureFailed, error.to_string()));
                }
                known => known,
            };
            let ended = matches!(&known, Ok(Some(result)) if result.state.is_final());
            let succeeded = matches!(&known, Ok(Some(result)) if matches!(result.state, TaskState::Success(_)));
            code = code.max(u8::from(!succeeded));
            if args.json {
                print_json(&as_json(id, &known));
            } else {
                print(&human(id, &known));
            }
            if args.forget && ended {
                forget(&client, id).await?;
            }
        }
        Ok(code)
    })?
}

/// Prints how far a group is; the exit code: 0 when all have succeeded.
async fn progress(client: &Client, group: &GroupId, as_json: bool) -> Result<u8, Error> {
    let results = client.results();
    let Some(members) = results.group_members(group).await? else {
        print(&match as_json {
            true => printable::json(&json!({ "group": group, "saved": false })),
            false => one_line(&format!("{group}: nothing is saved of such a group")),
        });
        return Ok(1);
    };
    let progress = results.progress(&members).await?;
    print(&match as_json {
        true => printable::json(&json!({
            "group": group, "saved": true, "total": progress.total, "succeeded": progress.succeeded,
            "failed": progress.failed, "ready": progress.is_complete(), "tasks": members,
        })),
        false => one_line(&format!(
            "{group}: {} of {} done, {} failed",
            progress.succeeded + progress.failed,
            progress.total,
            progress.failed
        )),
    });
    Ok(u8::from(progress.succeeded != progress.total))
}

async fn look(results: &Results, ids: &[TaskId], args: &ResultArgs) -> Vec<Known> {
    if !args.wait {
        let mut known = Vec::new();
        for id in ids {
            known.push(results.get(id).await);
        }
        return known;
    }
    let mut watches: Vec<_> = ids.iter().map(|id| results.watch(id)).collect();
    let all = futures_util::future::join_all(watches.iter_mut().map(|watch| watch.finished()));
    match tokio::time::timeout(args.timeout, all).await {
        Ok(known) => known.into_iter().map(|known| known.map(Some)).collect(),
        Err(_) => {
            let mut known = Vec::new();
            for id in ids {
                known.push(results.get(id).await);
            }
            known
        }
    }
}

async fn forget(client: &Client, id: &TaskId) -> anyhow::Result<()> {
    client
        .results()
        .forget(id)
        .await
        .map(|_| ())
        .map_err(|error| Refusal::because(Outcome::InfrastructureFailed, error.to_string()))
}

/// The state's name as Celery writes it.
fn name(state: &TaskState) -> &str {
    match state {
        TaskState::Started { .. } => "STARTED",
        TaskState::Retry(_) => "RETRY",
        TaskState::Success(_) => "SUCCESS",
        TaskState::Failure(_) => "FAILURE",
        TaskState::Revoked(_) => "REVOKED",
        TaskState::Custom { name, .. } => name,
    }
}

/// The first line of a task's result for people.
pub fn head(id: &TaskId, known: &Known) -> String {
    human(id, known).lines().next().unwrap_or_default().to_owned()
}

/// A task's result for people: id, state, value or exception, then the traceback.
pub fn human(id: &TaskId, known: &Known) -> String {
    let head = |state: &str, rest: &str| one_line(format!("{id} {state} {rest}").trim_end());
    let result = match known {
        Ok(Some(result)) => result,
        Ok(None) => return head("PENDING", "(waiting, running, ignored, expired, or never heard of)"),
        Err(error) => return head("UNREADABLE", &error.to_string()),
    };
    let state = name(&result.state);
    match &result.state {
        TaskState::Success(value) => head(state, &large_integer::to_string(value)),
        TaskState::Custom { meta, .. } => head(state, &large_integer::to_string(meta)),
        TaskState::Started { pid, node } => {
            let pid = pid.map(|pid| format!("pid {pid}")).unwrap_or_default();
            let node = node.as_ref().map(|node| format!("on {node}")).unwrap_or_default();
            head(state, format!("{node} {pid}").trim())
        }
        TaskState::Failure(failure) | TaskState::Retry(failure) | TaskState::Revoked(failure) => {
            let mut text = head(state, &failure.to_string());
            if let Some(traceback) = &failure.traceback {
                for line in printable::text(traceback).trim_end().lines() {
                    text.push_str("\n  ");
                    text.push_str(line);
                }
            }
            text
        }
    }
}

/// A task's result for programs.
pub fn as_json(id: &TaskId, known: &Known) -> Value {
    let result = match known {
        Ok(Some(result)) => result,
        Ok(None) => return json!({ "id": id, "state": "PENDING", "ready": false }),
        Err(error) => return json!({ "id": id, "state": "UNREADABLE", "ready": true, "error": error.to_string() }),
    };
    let (value, failure): (Option<&Value>, Option<&TaskFailure>) = match &result.state {
        TaskState::Success(value) | TaskState::Custom { meta: value, .. } => (Some(value), None),
        TaskState::Failure(failure) | TaskState::Retry(failure) | TaskState::Revoked(failure) => (None, Some(failure)),
        TaskState::Started { .. } => (None, None),
    };
    let groups: Vec<Value> = result
        .children
        .groups
        .iter()
        .map(|group| json!({ "id": group.id, "tasks": group.tasks }))
        .collect();
    json!({
        "id": id,
        "state": name(&result.state),
        "ready": result.state.is_final(),
        "result": value,
        "exception": failure.map(|failure| json!({
            "type": failure.exc_type,
            "message": failure.exc_message,
            "module": failure.exc_module,
            "traceback": failure.traceback,
        })),
        "parent_id": result.parent_id,
        "group_id": result.group_id,
        "children": result.children.tasks,
        "child_groups": groups,
    })
}
