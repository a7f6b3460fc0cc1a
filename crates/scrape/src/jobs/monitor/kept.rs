//! Place of a run for its worker monitor.

use std::sync::{Arc, Mutex, PoisonError};

use super::worker_monitor::WorkerMonitor;
use crate::jobs::context::JobContext;

/// Worker monitor that outlives the followers of jobs when these are dropped: the jobs are cancelled with the facts
/// that the monitor has collected. The run owns this place together with the [`JobContext`]; neither owns the other.
/// Cheap to clone; clones share one place.
#[derive(Clone, Default)]
pub struct KeptMonitor(Arc<Mutex<Option<Arc<WorkerMonitor>>>>);

impl KeptMonitor {
    /// Opens a monitor, and keeps it until it is taken out.
    pub(crate) async fn open(&self, context: &JobContext) -> Arc<WorkerMonitor> {
        let monitor = Arc::new(WorkerMonitor::open(context).await);
        self.replace(Some(Arc::clone(&monitor)));
        monitor
    }

    /// Takes out the monitor: its jobs have ended, or are to be cancelled.
    pub(crate) fn take(&self) -> Option<Arc<WorkerMonitor>> {
        self.replace(None)
    }

    fn replace(&self, monitor: Option<Arc<WorkerMonitor>>) -> Option<Arc<WorkerMonitor>> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, monitor)
    }
}
