//! Recovery after lost events: reads the outcomes of tasks from the stored results.

use std::time::Instant;

use super::tracker::JobTracker;
use crate::client::Client;
use crate::error::Result;

impl Client {
    /// Settles the tasks of all jobs that have a stored result and no event of their end. Returns the number of these
    /// tasks. Tasks without a stored result stay open until the tracker drops them.
    ///
    /// # Errors
    /// The result backend does not answer within the deadline. Tasks that were settled before the error stay settled.
    pub async fn reconcile(&self, tracker: &mut JobTracker) -> Result<u64> {
        let open = tracker.all_open_tasks();
        let outcomes = self.results().outcomes(&open).await?;
        let now = Instant::now();
        let mut settled = 0;
        for (id, outcome) in open.iter().zip(outcomes) {
            if let Some(outcome) = outcome {
                tracker.settle(id, outcome, now);
                settled += 1;
            }
        }
        Ok(settled)
    }
}
