//! Publishes a task to a Celery worker and waits for its result: `publish BROKER_URL
//! RESULT_BACKEND_URL TASK [JSON ARGUMENT ...]`.

use std::error::Error;
use std::time::Duration;

use orch_celery::{Client, Endpoints, Task, TaskState};
use serde_json::Value;

/// Publishes a task and returns the task's value, or the task's failure as an error.
///
/// # Errors
/// Redis does not answer, the task fails, or no result arrives within 30 s.
pub async fn publish_and_wait(
    [broker, backend]: [&str; 2],
    name: &str,
    arguments: Vec<Value>,
) -> Result<Value, Box<dyn Error>> {
    let client = Client::connect(Endpoints::from_urls(broker, backend)?)?;
    let task = Task::new(name).args(arguments);
    // The watch starts before the task is published, so that no result is missed.
    let mut watch = client.results().watch(&task.id);
    client.publish(&task).await?;
    let result = tokio::time::timeout(Duration::from_secs(30), watch.finished()).await??;
    match result.state {
        TaskState::Success(value) => Ok(value),
        other => Err(format!("the task did not succeed: {other:?}").into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(broker), Some(backend), Some(name)) = (words.next(), words.next(), words.next()) else {
        return Err("publish BROKER_URL RESULT_BACKEND_URL TASK [JSON ARGUMENT ...]".into());
    };
    let arguments = words
        .map(|word| serde_json::from_str(&word))
        .collect::<Result<_, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!(
        "{}",
        runtime.block_on(publish_and_wait([&broker, &backend], &name, arguments))?
    );
    Ok(())
}
