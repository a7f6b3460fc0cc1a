//! `orch celery result`: shows the results of tasks.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::connect::{ConnectArgs, block_on};
use crate::commands::duration;
use crate::commands::output::{print, print_json};
use orch_base::text::large_integer;
use orch_base::text::printable;
use orch_base::text::printable::one_line;
use orch_celery::{Client, Error, GroupId, TaskFailure, TaskId, TaskResult, TaskState};

/// Time to read the states of tasks that have not ended in time.
const LAST_LOOK_TIMEOUT: Duration = Duration::from_millis(500);

/// Shows the results of tasks (exit code 0: all succeeded; 1: a task failed, has no result, or did not end in time)
#[derive(Args, Debug)]
pub struct ResultArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Ids of the tasks
    #[arg(required_unless_present = "group", value_name = "ID")]
    id: Vec<String>,
    /// Show the progress of a group that Python has saved (`GroupResult.save`), instead of tasks
    #[arg(long, value_name = "ID", conflicts_with_all = ["id", "wait", "forget"])]
    group: Option<String>,
    /// Wait until the tasks have ended
    #[arg(long)]
    wait: bool,
    /// Time to wait for all tasks together
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, requires = "wait")]
    timeout: Duration,
    /// Delete the stored results after they are shown
    #[arg(long)]
    forget: bool,
    /// Print one JSON object per task
    #[arg(long)]
    json: bool,
}

/// Stored result of a task; `Ok(None)` if nothing is stored.
pub type StoredResult = Result<Option<TaskResult>, Error>;

/// Runs the subcommand and returns the exit code.
pub fn main(args: &ResultArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?;
    if let Some(group) = &args.group {
        let group = GroupId::new(group);
        return block_on(progress(&client, &group, args.json));
    }
    block_on(async {
        let mut code = 0;
        let ids: Vec<TaskId> = args.id.iter().map(TaskId::new).collect();
        for (id, known) in ids.iter().zip(look(&client, &ids, args).await) {
            let known = match known {
                // A missing answer of Redis is a failure of the infrastructure, not the state of a task.
                Err(error) if error.is_transient() => return Err(error.into()),
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
                client.results().forget(id).await?;
            }
        }
        Ok(code)
    })
}

/// Prints the progress of a group and returns the exit code: 0 if all tasks have succeeded.
async fn progress(client: &Client, group: &GroupId, as_json: bool) -> anyhow::Result<u8> {
    let results = client.results();
    let Some(members) = results.group_members(group).await? else {
        print(&match as_json {
            true => printable::json(&json!({ "group": group, "saved": false })),
            false => one_line(&format!("{group}: no such group is saved")),
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

async fn look(client: &Client, ids: &[TaskId], args: &ResultArgs) -> Vec<StoredResult> {
    let results = client.results();
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
            // The time is over. If Redis does not answer at once now, the missing answer is the result.
            let look = async |id| {
                let known = tokio::time::timeout(LAST_LOOK_TIMEOUT, results.get(id)).await;
                known.unwrap_or_else(|_| {
                    Err(Error::DeadlineExceeded {
                        action: "read task results".to_owned(),
                        endpoint: client.endpoints().backend.to_string(),
                        after: args.timeout + LAST_LOOK_TIMEOUT,
                    })
                })
            };
            futures_util::future::join_all(ids.iter().map(look)).await
        }
    }
}

/// Returns Celery's name of the state.
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

/// Returns the first line of [`human`].
pub fn head(id: &TaskId, known: &StoredResult) -> String {
    human(id, known).lines().next().unwrap_or_default().to_owned()
}

/// Formats a task's result for people: id, state, value or exception, then the traceback.
pub fn human(id: &TaskId, known: &StoredResult) -> String {
    let head = |state: &str, rest: &str| one_line(format!("{id} {state} {rest}").trim_end());
    let result = match known {
        Ok(Some(result)) => result,
        Ok(None) => {
            return head(
                "PENDING",
                "(waiting, running, result ignored, result expired, or no such task)",
            );
        }
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

/// Formats a task's result for programs.
pub fn as_json(id: &TaskId, known: &StoredResult) -> Value {
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
