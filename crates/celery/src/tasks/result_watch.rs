//! Watch of the result of one task.

use std::sync::Arc;

use tokio::sync::watch;

use super::result_dispatcher::{DispatcherHandle, WatchReport, WatchRequest};
use super::task_result::TaskResult;
use crate::error::{Error, Result};
use crate::wire::ids::TaskId;

/// Watch of one task; dropping the value ends the watch.
pub struct ResultWatch {
    id: TaskId,
    channel: String,
    number: u64,
    reports: watch::Receiver<WatchReport>,
    dispatcher: Arc<DispatcherHandle>,
}

impl ResultWatch {
    /// Starts to watch a task; the channel is the key of the task's result.
    pub(crate) fn start(dispatcher: &Arc<DispatcherHandle>, id: &TaskId, channel: String) -> Self {
        let number = dispatcher.next_number();
        let (sender, reports) = watch::channel(None);
        dispatcher.send(WatchRequest::Watch {
            channel: channel.clone(),
            id: id.clone(),
            number,
            reports: sender,
        });
        Self {
            id: id.clone(),
            channel,
            number,
            reports,
            dispatcher: Arc::clone(dispatcher),
        }
    }

    /// Returns the id of the watched task.
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// Waits for the next state. A slow caller sees only the latest state. If the state is final, every further call
    /// returns it again. Cancel-safe.
    ///
    /// Fails if the result cannot be read (too large, not JSON) or if the server refuses the client permanently.
    pub async fn next(&mut self) -> Result<TaskResult> {
        let sender_is_alive = self.reports.changed().await.is_ok();
        match self.reports.borrow_and_update().as_ref() {
            Some(Ok(result)) if sender_is_alive || result.state.is_final() => Ok(result.clone()),
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(_)) | None => Err(Error::unreachable(
                format!("wait for task {}", self.id),
                self.dispatcher.endpoint(),
                "the runtime that held the subscription has ended",
            )),
        }
    }

    /// Waits for the final state. Cancel-safe.
    pub async fn finished(&mut self) -> Result<TaskResult> {
        loop {
            let result = self.next().await?;
            if result.state.is_final() {
                return Ok(result);
            }
        }
    }
}

impl Drop for ResultWatch {
    fn drop(&mut self) {
        let request = WatchRequest::Unwatch {
            channel: std::mem::take(&mut self.channel),
            number: self.number,
        };
        self.dispatcher.send(request);
    }
}
