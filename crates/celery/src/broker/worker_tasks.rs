//! Tasks that workers hold, as all workers of the broker report them.

use std::collections::HashSet;
use std::time::Duration;

use crate::client::Client;
use crate::control::inspect::{RunningTask, ScheduledTask, TaskExecution};
use crate::control::mailbox::{ControlReplies, ControlTarget};
use crate::error::Result;

/// Time that workers have to report their tasks.
const WORKER_DEADLINE: Duration = Duration::from_secs(2);

/// Replies of workers about their tasks.
pub(crate) struct WorkerTasks {
    pub scheduled: ControlReplies<Vec<ScheduledTask>>,
    pub reserved: ControlReplies<Vec<RunningTask>>,
    pub active: ControlReplies<Vec<RunningTask>>,
}

impl Client {
    /// Asks all workers for their tasks, except `ended`: stale executions, which workers list although they have ended.
    pub(crate) async fn worker_tasks(&self, ended: &HashSet<TaskExecution>) -> Result<WorkerTasks> {
        let control = self.control();
        let (scheduled, reserved, active) = tokio::join!(
            control.scheduled(&ControlTarget::All, WORKER_DEADLINE),
            control.reserved(&ControlTarget::All, WORKER_DEADLINE),
            control.active(&ControlTarget::All, WORKER_DEADLINE),
        );
        let (scheduled, reserved, mut active) = (scheduled?, reserved?, active?);
        active.remove_ended(ended);
        Ok(WorkerTasks {
            scheduled,
            reserved,
            active,
        })
    }
}
