//! Waits that may not exist: in a `select!`, nothing to wait for means waiting for ever. All are safe to cancel.

use std::future::pending;
use std::pin::Pin;

use crate::celery::{self, ResultWatch, TaskResult};
use crate::file_watch::FileWatch;

/// Something under way that goes on while other things are waited for.
pub type UnderWay<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The final state of a watched task; never, when none is watched.
pub async fn finished(watch: &mut Option<ResultWatch>) -> celery::Result<TaskResult> {
    match watch {
        Some(watch) => watch.finished().await,
        None => pending().await,
    }
}

/// The outcome of what is under way; never, when nothing is. It goes on at the next call.
pub async fn done<T>(under_way: &mut Option<UnderWay<'_, T>>) -> T {
    let Some(future) = under_way else {
        return pending().await;
    };
    let outcome = future.as_mut().await;
    *under_way = None;
    outcome
}

/// A watch that fails is given up for polling.
pub async fn file_changed(watch: &mut Option<FileWatch>) {
    let Some(open) = watch else { return pending().await };
    if let Err(error) = open.changed().await {
        tracing::debug!(%error, "the pool file cannot be watched");
        *watch = None;
    }
}
