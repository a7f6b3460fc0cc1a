//! Optional waits for `select!`: a wait that does not exist never ends. All are safe to cancel.

use std::future::pending;
use std::pin::Pin;

use orch_base::files::watch::FileWatch;
use orch_celery::{ResultWatch, TaskResult};

/// Operation in progress that continues while other events are awaited.
pub type PendingOperation<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Waits for the final state of a watched task; forever if no task is watched.
pub async fn finished(watch: &mut Option<ResultWatch>) -> orch_celery::Result<TaskResult> {
    match watch {
        Some(watch) => watch.finished().await,
        None => pending().await,
    }
}

/// Waits for the output of an operation in progress; forever if there is none. The operation continues at the next
/// call.
pub async fn done<T>(under_way: &mut Option<PendingOperation<'_, T>>) -> T {
    let Some(future) = under_way else {
        return pending().await;
    };
    let outcome = future.as_mut().await;
    *under_way = None;
    outcome
}

/// Waits for a change of the watched file. A watch that fails is given up, and polling takes over.
pub async fn file_changed(watch: &mut Option<FileWatch>) {
    let Some(open) = watch else { return pending().await };
    if let Err(error) = open.changed().await {
        tracing::debug!(%error, "could not watch the pool file");
        *watch = None;
    }
}
